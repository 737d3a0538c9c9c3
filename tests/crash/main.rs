//! `kill -9` at every intent and at random instants, while kernels are created, run code and stop: no kernel
//! is lost, nothing is leaked, no event is told twice, and whoever waits gets a definite end (design §11).
//!
//! `BERTH_CRASH_SEED` repeats a run; `BERTH_CRASH_KILLS` and `BERTH_CRASH_KILLS_DOCKER` say how many random
//! kills there are.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod agent;
mod check;
#[path = "../support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "../support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::{Agent, output, said, was_killed};
use berth::ids::KernelId;
use engines::{Engine, docker_image, runner};

/// A kernel that lives through everything, and its processes.
struct Keeper {
    id: KernelId,
    container: String,
    pids: BTreeMap<u32, u64>,
}

impl Keeper {
    fn make(agent: &Agent) -> Self {
        agent.ok(&["create", "--name", "keeper", "--cpus", "1", "--mem", "256m"]);
        agent.ok(&["exec", "keeper", "--", "sh", "-c", "echo kept > file"]);
        let view = agent.json(&["inspect", "keeper"]);
        let view = view.as_array().map_or(&view, |list| &list[0]);
        let container = view["container"].as_str().unwrap().to_owned();
        let pids = agent::pids(agent, &container);
        assert!(!pids.is_empty());
        Self { id: view["id"].as_str().unwrap().parse().unwrap(), container, pids }
    }

    fn lives(&self, agent: &Agent) {
        assert_eq!(agent::pids(agent, &self.container), self.pids, "the keeper's processes are others");
        assert_eq!(agent.ok(&["exec", "keeper", "--", "cat", "file"]), "kept\n");
    }

    fn alive(&self) -> BTreeSet<KernelId> {
        BTreeSet::from([self.id])
    }
}

#[test]
fn a_kill_at_every_intent_loses_and_leaks_nothing() {
    if runner().is_none() {
        return;
    }
    let mut agent = agent::new(Engine::Process);
    agent.start();
    let keeper = Keeper::make(&agent);
    agent.kill();
    for place in
        berth::failpoint::ALL.iter().filter(|place| !matches!(**place, "admission-step" | "policy-compile"))
    {
        agent::spawn_failing(&mut agent, &format!("{place}=kill"));
        // One life from beginning to end, until the agent dies under it.
        let socket = agent.socket();
        let life = std::thread::spawn(move || {
            let began = Instant::now();
            while !output(&socket, &["status"]).status.success() && began.elapsed() < Duration::from_secs(20)
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            for words in [
                &["create", "--name", "victim", "--cpus", "1"][..],
                &["exec", "victim", "--", "true"],
                &["stop", "victim"],
                &["rm", "victim"],
            ] {
                if !output(&socket, words).status.success() {
                    return;
                }
            }
        });
        let status = agent.wait_end();
        assert!(was_killed(status), "{place}: {status:?}\n{}", agent.log());
        assert!(agent::trace(&agent).contains(*place), "{place} was not reached");
        agent.start();
        life.join().unwrap();
        check::settled(&agent);
        keeper.lives(&agent);
        // Whatever became of it, it can be removed, and then nothing is left of it.
        let removed = agent.output(&["rm", "-f", "victim"]);
        let gone = String::from_utf8_lossy(&removed.stderr).contains("no-such-kernel");
        assert!(removed.status.success() || gone, "{place}: {}", said(&removed));
        check::settled(&agent);
        agent.kill();
    }
    agent.start();
    let mut events = check::Events::default();
    events.read_on(&agent);
    events.came_once(&keeper.alive());
}

#[test]
fn an_agent_whose_core_stands_still_ends_itself_and_its_kernels_live() {
    if runner().is_none() {
        return;
    }
    let mut agent = agent::new(Engine::Process);
    agent.start();
    let keeper = Keeper::make(&agent);
    agent.end();
    // The keeper's share is restored without being placed; the next placement never ends.
    agent::spawn_failing(&mut agent, "admission-step=hang");
    let socket = agent.socket();
    let waiting = std::thread::spawn(move || {
        let began = Instant::now();
        while !output(&socket, &["status"]).status.success() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        output(&socket, &["create", "--name", "stuck"])
    });
    let status = agent.wait_end();
    // abort(3) raises SIGABRT.
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{}", agent.log());
    assert!(agent.log().contains("the task admission stands still"), "{}", agent.log());
    agent.start();
    let _ = waiting.join().unwrap();
    keeper.lives(&agent);
    let _ = agent.output(&["rm", "-f", "stuck"]);
    check::settled(&agent);
}

#[test]
fn kills_at_random_instants_on_processes() {
    if runner().is_some() {
        random_kills(Engine::Process, count("BERTH_CRASH_KILLS", 60), None);
    }
}

#[test]
fn kills_at_random_instants_on_docker() {
    if runner().is_some()
        && let Some(image) = docker_image()
    {
        random_kills(Engine::Docker, count("BERTH_CRASH_KILLS_DOCKER", 10), Some(image));
    }
}

fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What clients do now, one entry each; empty: nothing.
type Doing = Arc<Mutex<Vec<&'static str>>>;

const CLIENTS: usize = 3;

fn random_kills(engine: Engine, kills: usize, image: Option<String>) {
    let seed = count("BERTH_CRASH_SEED", std::process::id() as usize);
    println!("seed {seed}: BERTH_CRASH_SEED={seed} repeats the instants");
    let mut random = Random(seed as u64 | 1);
    let mut agent = agent::new(engine);
    agent.start();
    let keeper = Keeper::make(&agent);

    let doing: Doing = Arc::new(Mutex::new(vec![""; CLIENTS]));
    let (pause, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let finished = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let client = Client {
                at,
                socket: agent.socket(),
                image: image.clone(),
                doing: Arc::clone(&doing),
                pause: Arc::clone(&pause),
                end: Arc::clone(&end),
                finished: Arc::clone(&finished),
            };
            std::thread::spawn(move || client.run())
        })
        .collect();

    let mut events = check::Events::default();
    let mut histogram: BTreeMap<&str, usize> = BTreeMap::new();
    let longest = if engine == Engine::Docker { 1500 } else { 500 };
    for _ in 0..kills {
        pause.store(false, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(random.below(longest)));
        let now = doing.lock().unwrap().clone();
        agent.kill();
        let inside: Vec<&str> = now.into_iter().filter(|what| !what.is_empty()).collect();
        for what in &inside {
            *histogram.entry(what).or_default() += 1;
        }
        if inside.is_empty() {
            *histogram.entry("nothing").or_default() += 1;
        }
        agent.start();
        // Everybody's command comes to an end; then all is as it must be.
        pause.store(true, Ordering::SeqCst);
        let began = Instant::now();
        while doing.lock().unwrap().iter().any(|what| !what.is_empty()) {
            assert!(began.elapsed() < agent::PATIENCE, "a client still waits: {:?}", doing.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        check::settled(&agent);
        events.read_on(&agent);
        assert_eq!(agent::pids(&agent, &keeper.container), keeper.pids, "the keeper's processes are others");
    }
    end.store(true, Ordering::SeqCst);
    pause.store(false, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    keeper.lives(&agent);
    check::settled(&agent);
    events.read_on(&agent);
    let told = events.came_once(&keeper.alive());
    let idle = histogram.get("nothing").copied().unwrap_or(0);
    println!(
        "{kills} kills; clients were at: {histogram:?}; {told} events, {} lives",
        finished.load(Ordering::SeqCst)
    );
    assert!(idle * 10 <= kills, "too many kills met nobody at work: {histogram:?}");
    assert!(finished.load(Ordering::SeqCst) > 0, "no life was ever lived to its end");
}

/// Makes kernels, runs code in them, stops and removes them, until told to end. What fails because the agent
/// is away is tried again from the beginning.
struct Client {
    at: usize,
    socket: std::path::PathBuf,
    image: Option<String>,
    doing: Doing,
    pause: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    finished: Arc<AtomicUsize>,
}

impl Client {
    fn run(&self) {
        let mut number = 0;
        while !self.end.load(Ordering::SeqCst) {
            number += 1;
            let name = format!("c{}-{number}", self.at);
            let mut create = vec!["create", "--name", &name];
            // One client's kernels hold something, so that the books have something to say.
            if self.at == 0 {
                create.extend(["--cpus", "1", "--mem", "64m", "--wait=60"]);
            }
            if let Some(image) = &self.image {
                create.extend(["--image", image]);
            }
            let lived = self.go("create", &create)
                && self.go("exec", &["exec", &name, "--", "sh", "-c", "echo hi; sleep 0.02; exit 0"])
                && self.go("stop", &["stop", "--grace", "1", &name])
                && self.go("rm", &["rm", &name]);
            if lived {
                self.finished.fetch_add(1, Ordering::SeqCst);
            } else {
                // Until the agent says that it is gone.
                while !self.go("rm", &["rm", "-f", &name]) {
                    let outcome = output(&self.socket, &["inspect", &name]);
                    if String::from_utf8_lossy(&outcome.stderr).contains("no-such-kernel") {
                        break;
                    }
                }
            }
        }
        self.doing.lock().unwrap()[self.at] = "";
    }

    fn go(&self, what: &'static str, words: &[&str]) -> bool {
        while self.pause.load(Ordering::SeqCst) {
            self.doing.lock().unwrap()[self.at] = "";
            std::thread::sleep(Duration::from_millis(2));
        }
        self.doing.lock().unwrap()[self.at] = what;
        let outcome = output(&self.socket, words);
        self.doing.lock().unwrap()[self.at] = "";
        outcome.status.success()
    }
}

/// xorshift64*: the same instants for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }
}
