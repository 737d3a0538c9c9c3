//! Clients whose agent is killed in the middle of their run: a real agent, real kernels (processes of this
//! host and, where there is an engine, containers), `kill -9`.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

#[path = "support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};

use engines::Engine;
use rustix::process::{Pid, Signal, kill_process};
use support::{Agent, until};

/// With a kernel that runs, `k1`.
fn node(engine: Engine) -> Agent {
    let agent = Agent::started(engine, "", &["--policy", "builtin"]);
    agent.ok(&["create", "--name", "k1"]);
    agent
}

/// A program in the kernel, by a client of its own.
fn exec(node: &Agent, script: &str) -> Client {
    let mut child = node
        .command(&["exec", "k1", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    Client { child, stdout, lines: Vec::new() }
}

/// The kernel's runs as `inspect` tells them: state, exit code, lost bytes.
fn runs(node: &Agent) -> Vec<(String, Option<i64>, u64)> {
    let run = |run: &serde_json::Value| {
        let state = run["state"].as_str().unwrap().to_owned();
        (state, run["exit_code"].as_i64(), run["lost_bytes"].as_u64().unwrap())
    };
    node.json(&["inspect", "k1"])["runs"].as_array().unwrap().iter().map(run).collect()
}

/// A file in the kernel's work folder: programs wait for it, or make it.
fn in_kernel(node: &Agent, name: &str) -> PathBuf {
    PathBuf::from(node.json(&["inspect", "k1"])["work_dir"].as_str().unwrap()).join(name)
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

/// Bytes that the client was told are lost.
fn lost(said: &str) -> usize {
    let bytes = |line: &str| {
        line.strip_prefix("berth: ")?.strip_suffix(" bytes of output were lost here")?.parse::<usize>().ok()
    };
    said.lines().filter_map(bytes).sum()
}

const AWAY: &str = "berth: the agent is away; the program runs on, waiting for it";

fn a_program_that_prints_on_is_followed_across_its_agents_death(engine: Engine) {
    let mut node = node(engine);
    let go = in_kernel(&node, "go");
    // One line at a time before the kill, then as fast as it can while nobody reads, then slowly again.
    let script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo $i; sleep 0.01; done; \
                  until [ -e go ]; do sleep 0.01; done; seq 51 20000; \
                  until [ -e end ]; do sleep 0.01; done; echo last; exit 7";
    let mut client = exec(&node, script);
    client.until("20");
    node.kill();
    fs::write(&go, "").unwrap();
    node.start();
    client.until("20000");
    node.kill();
    node.start();
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
    until("the run is shown", || runs(&node).first().is_some_and(|run| run.0 == "finished"));
    assert_eq!(runs(&node), [("finished".to_owned(), Some(7), lost(&said) as u64)]);
}

fn whatever_dies_with_an_agent_that_is_busy_is_counted_to_the_byte(engine: Engine) {
    let mut node = node(engine);
    let end = in_kernel(&node, "end");
    // More than three agents can hold of a run (`route::Limits`, windows, sockets): each has some to lose.
    let mut client = exec(&node, "seq 1 10000000; until [ -e end ]; do sleep 0.01; done; echo last; exit 4");
    let produced: usize = (1..=10_000_000_usize).map(|i| i.to_string().len() + 1).sum();
    let mut shown = Vec::new();
    for _ in 0..3 {
        let mut piece = vec![0; 2 << 20];
        client.stdout.read_exact(&mut piece).unwrap();
        shown.extend_from_slice(&piece);
        node.kill();
        node.start();
    }
    fs::write(end, "").unwrap();
    client.stdout.read_to_end(&mut shown).unwrap();
    let (code, said) = client.end();
    assert_eq!(code, Some(4), "{said}\n{}", node.log());
    assert_eq!(shown.len() + lost(&said), produced + "last\n".len(), "{said}");
    assert!(shown.ends_with(b"last\n"));
    until("the run is shown", || runs(&node).first().is_some_and(|run| run.0 == "finished"));
    assert_eq!(runs(&node), [("finished".to_owned(), Some(4), lost(&said) as u64)]);
}

fn a_program_that_ends_while_no_agent_is_there_keeps_its_output_and_its_exit_code(engine: Engine) {
    let mut node = node(engine);
    let go = in_kernel(&node, "go");
    let mut client =
        exec(&node, "echo begun; until [ -e go ]; do sleep 0.01; done; seq 1 1000; touch ended; exit 3");
    client.until("begun");
    node.kill();
    fs::write(&go, "").unwrap();
    until("the program has ended", || go.with_file_name("ended").exists());
    node.start();
    let (code, said) = client.end();
    assert_eq!((code, said.trim_end()), (Some(3), AWAY), "{}", node.log());
    let expected = std::iter::once("begun".to_owned()).chain((1..=1000).map(|i| i.to_string()));
    assert_eq!(client.lines, expected.collect::<Vec<_>>());
    assert_eq!(runs(&node), [("finished".to_owned(), Some(3), 0)]);
    let text = node.ok(&["inspect", "k1"]);
    assert!(text.contains("exit code 3, "), "{text}");
    // The kernel is as good as before.
    let Output { status, stdout, .. } = node.command(&["exec", "k1", "--", "echo", "on"]).output().unwrap();
    assert_eq!((status.code(), &stdout[..]), (Some(0), &b"on\n"[..]));
}

fn a_run_whose_client_did_not_wait_is_shown_with_its_end(engine: Engine) {
    let mut node = node(engine);
    let go = in_kernel(&node, "go");
    let mut client = exec(&node, "echo begun; until [ -e go ]; do sleep 0.01; done; exit 9");
    client.until("begun");
    node.kill();
    let mut said = String::new();
    BufReader::new(client.child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim_end(), AWAY);
    kill_process(Pid::from_child(&client.child), Signal::INT).unwrap();
    assert_eq!(client.end().0, Some(130));
    node.start();
    until("the run is known", || runs(&node) == [("running".to_owned(), None, 0)]);
    fs::write(&go, "").unwrap();
    until("its end is shown", || runs(&node) == [("finished".to_owned(), Some(9), 0)]);
}

fn a_creation_survives_its_agents_death(engine: Engine) {
    let mut node = Agent::started(engine, "", &["--policy", "builtin"]);
    let mut create = node
        .command(&["create", "--name", "k1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Wherever in the creation it is, or before it: the command ends with a kernel that runs.
    until("the agent has heard of it", || !engines::names(&node.path("state/scratch")).is_empty());
    node.kill();
    node.start();
    let mut said = String::new();
    create.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let mut problem = String::new();
    create.stderr.take().unwrap().read_to_string(&mut problem).unwrap();
    assert!(create.wait().unwrap().success(), "{problem}\n{}", node.log());
    assert_eq!(said, "k1\n");
    let list: serde_json::Value = node.json(&["ps", "-a"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(node.ok(&["exec", "k1", "--", "echo", "fine"]), "fine\n");
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
