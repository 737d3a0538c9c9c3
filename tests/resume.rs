//! Clients whose agent is killed in the middle of their run: a real agent, real kernels (processes of this
//! host and, where there is an engine, containers), `kill -9`.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

#[path = "support/engines.rs"]
mod engines;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use engines::Engine;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes: only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder with an agent, which may be killed and started again. Dropping it ends the agent and every
/// kernel.
struct Node {
    engine: Engine,
    agent: Option<Child>,
    dir: tempfile::TempDir,
}

impl Node {
    /// With a kernel that runs.
    fn with_kernel(engine: Engine) -> Self {
        let mut node = Self::start(engine);
        node.serve();
        node.berth(&["create", "--name", "k1"]);
        node
    }

    fn start(engine: Engine) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-resume-").tempdir_in("/tmp").unwrap();
        Self { engine, agent: None, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.arg("--socket").arg(self.path("berth.sock")).args(words).stdin(Stdio::null());
        command
    }

    /// Starts the agent and waits until it answers.
    fn serve(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let agent = self
            .command(&["serve", "--engine", self.engine.name(), "--policy", "builtin", "--state-dir"])
            .arg(self.path("state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
        wait_until("the agent answers", || {
            assert!(self.agent.as_mut().unwrap().try_wait().unwrap().is_none(), "{}", self.log());
            self.command(&["status"]).output().unwrap().status.success()
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    fn berth(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// A program in the kernel, by a client of its own.
    fn exec(&self, script: &str) -> Client {
        let mut child = self
            .command(&["exec", "k1", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Client { child, stdout, lines: Vec::new() }
    }

    /// The kernel's runs as `inspect` tells them: state, exit code, lost bytes.
    fn runs(&self) -> Vec<(String, Option<i64>, u64)> {
        let view: serde_json::Value =
            serde_json::from_str(&self.berth(&["inspect", "k1", "-o", "json"])).unwrap();
        let run = |run: &serde_json::Value| {
            let state = run["state"].as_str().unwrap().to_owned();
            (state, run["exit_code"].as_i64(), run["lost_bytes"].as_u64().unwrap())
        };
        view["runs"].as_array().unwrap().iter().map(run).collect()
    }

    /// A file in the kernel's work folder: programs wait for it, or make it.
    fn in_kernel(&self, name: &str) -> PathBuf {
        let view: serde_json::Value =
            serde_json::from_str(&self.berth(&["inspect", "k1", "-o", "json"])).unwrap();
        PathBuf::from(view["work_dir"].as_str().unwrap()).join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = self.command(&["rm", "-f", "k1"]).output();
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if self.engine == Engine::Docker {
            engines::remove_containers(&self.path("state"));
        }
        // What is left of kernels: their supervisors, which end all that they started.
        for entry in fs::read_dir(self.path("state/process")).into_iter().flatten().flatten() {
            let pid = fs::read_to_string(entry.path().join("pid")).unwrap_or_default();
            if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw)
                && !entry.path().join("exit.json").exists()
            {
                let _ = kill_process(pid, Signal::QUIT);
            }
        }
    }
}

/// `berth exec` under way.
struct Client {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    lines: Vec<String>,
}

impl Client {
    /// Reads until that line.
    fn until(&mut self, line: &str) {
        while self.lines.last().map(String::as_str) != Some(line) {
            let mut next = String::new();
            assert!(
                self.stdout.read_line(&mut next).unwrap() > 0,
                "it ended before {line}: {:?}",
                self.lines
            );
            self.lines.push(next.trim_end().to_owned());
        }
    }

    /// To its end: exit status and standard error.
    fn end(&mut self) -> (Option<i32>, String) {
        self.lines.extend(self.stdout.by_ref().lines().map(Result::unwrap));
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that the client was told are lost.
fn lost(said: &str) -> usize {
    let bytes = |line: &str| {
        line.strip_prefix("berth: ")?.strip_suffix(" bytes of output were lost here")?.parse::<usize>().ok()
    };
    said.lines().filter_map(bytes).sum()
}

const AWAY: &str = "berth: the agent is away; the program runs on, waiting for it";

fn a_program_that_prints_on_is_followed_across_its_agents_death(engine: Engine) {
    let mut node = Node::with_kernel(engine);
    let go = node.in_kernel("go");
    // One line at a time before the kill, then as fast as it can while nobody reads, then slowly again.
    let script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo $i; sleep 0.01; done; \
                  until [ -e go ]; do sleep 0.01; done; seq 51 20000; \
                  until [ -e end ]; do sleep 0.01; done; echo last; exit 7";
    let mut client = node.exec(script);
    client.until("20");
    node.kill();
    fs::write(&go, "").unwrap();
    node.serve();
    client.until("20000");
    node.kill();
    node.serve();
    fs::write(go.with_file_name("end"), "").unwrap();
    let (code, said) = client.end();
    assert_eq!(code, Some(7), "{said}\n{}", node.log());
    assert!(said.starts_with(AWAY), "{said}");

    let produced: String = (1..=20_000).map(|i| format!("{i}\n")).chain(["last\n".to_owned()]).collect();
    let shown: usize = client.lines.iter().map(|line| line.len() + 1).sum();
    assert_eq!(shown + lost(&said), produced.len(), "{said}");
    if lost(&said) == 0 {
        assert_eq!(client.lines.join("\n") + "\n", produced);
    }
    wait_until("the run is shown", || node.runs().first().is_some_and(|run| run.0 == "finished"));
    assert_eq!(node.runs(), [("finished".to_owned(), Some(7), lost(&said) as u64)]);
}

fn whatever_dies_with_an_agent_that_is_busy_is_counted_to_the_byte(engine: Engine) {
    let mut node = Node::with_kernel(engine);
    let end = node.in_kernel("end");
    // More than three agents can hold of a run (`route::Limits`, windows, sockets): each has some to lose.
    let mut client = node.exec("seq 1 10000000; until [ -e end ]; do sleep 0.01; done; echo last; exit 4");
    let produced: usize = (1..=10_000_000_usize).map(|i| i.to_string().len() + 1).sum();
    let mut shown = Vec::new();
    for _ in 0..3 {
        let mut piece = vec![0; 2 << 20];
        client.stdout.read_exact(&mut piece).unwrap();
        shown.extend_from_slice(&piece);
        node.kill();
        node.serve();
    }
    fs::write(end, "").unwrap();
    client.stdout.read_to_end(&mut shown).unwrap();
    let (code, said) = client.end();
    assert_eq!(code, Some(4), "{said}\n{}", node.log());
    assert_eq!(shown.len() + lost(&said), produced + "last\n".len(), "{said}");
    assert!(shown.ends_with(b"last\n"));
    wait_until("the run is shown", || node.runs().first().is_some_and(|run| run.0 == "finished"));
    assert_eq!(node.runs(), [("finished".to_owned(), Some(4), lost(&said) as u64)]);
}

fn a_program_that_ends_while_no_agent_is_there_keeps_its_output_and_its_exit_code(engine: Engine) {
    let mut node = Node::with_kernel(engine);
    let go = node.in_kernel("go");
    let mut client =
        node.exec("echo begun; until [ -e go ]; do sleep 0.01; done; seq 1 1000; touch ended; exit 3");
    client.until("begun");
    node.kill();
    fs::write(&go, "").unwrap();
    wait_until("the program has ended", || go.with_file_name("ended").exists());
    node.serve();
    let (code, said) = client.end();
    assert_eq!((code, said.trim_end()), (Some(3), AWAY), "{}", node.log());
    let expected = std::iter::once("begun".to_owned()).chain((1..=1000).map(|i| i.to_string()));
    assert_eq!(client.lines, expected.collect::<Vec<_>>());
    assert_eq!(node.runs(), [("finished".to_owned(), Some(3), 0)]);
    let text = node.berth(&["inspect", "k1"]);
    assert!(text.contains("exit code 3, "), "{text}");
    // The kernel is as good as before.
    let Output { status, stdout, .. } = node.command(&["exec", "k1", "--", "echo", "on"]).output().unwrap();
    assert_eq!((status.code(), &stdout[..]), (Some(0), &b"on\n"[..]));
}

fn a_run_whose_client_did_not_wait_is_shown_with_its_end(engine: Engine) {
    let mut node = Node::with_kernel(engine);
    let go = node.in_kernel("go");
    let mut client = node.exec("echo begun; until [ -e go ]; do sleep 0.01; done; exit 9");
    client.until("begun");
    node.kill();
    let mut said = String::new();
    BufReader::new(client.child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim_end(), AWAY);
    kill_process(Pid::from_child(&client.child), Signal::INT).unwrap();
    assert_eq!(client.end().0, Some(130));
    node.serve();
    wait_until("the run is known", || node.runs() == [("running".to_owned(), None, 0)]);
    fs::write(&go, "").unwrap();
    wait_until("its end is shown", || node.runs() == [("finished".to_owned(), Some(9), 0)]);
}

fn a_creation_survives_its_agents_death(engine: Engine) {
    let mut node = Node::start(engine);
    node.serve();
    let mut create = node
        .command(&["create", "--name", "k1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Wherever in the creation it is, or before it: the command ends with a kernel that runs.
    wait_until("the agent has heard of it", || !engines::names(&node.path("state/scratch")).is_empty());
    node.kill();
    node.serve();
    let mut said = String::new();
    create.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let mut problem = String::new();
    create.stderr.take().unwrap().read_to_string(&mut problem).unwrap();
    assert!(create.wait().unwrap().success(), "{problem}\n{}", node.log());
    assert_eq!(said, "k1\n");
    let list: serde_json::Value = serde_json::from_str(&node.berth(&["ps", "-a", "-o", "json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(node.berth(&["exec", "k1", "--", "echo", "fine"]), "fine\n");
}

/// Each on both engines.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_processes {
            $(#[test] fn $name() { super::$name(super::Engine::Process); })*
        }
        mod on_docker {
            $(#[test] fn $name() {
                if super::engines::docker_image().is_some() {
                    super::$name(super::Engine::Docker);
                }
            })*
        }
    };
}

on_both! {
    a_program_that_prints_on_is_followed_across_its_agents_death
    whatever_dies_with_an_agent_that_is_busy_is_counted_to_the_byte
    a_program_that_ends_while_no_agent_is_there_keeps_its_output_and_its_exit_code
    a_run_whose_client_did_not_wait_is_shown_with_its_end
    a_creation_survives_its_agents_death
}
