//! `berth logs -f`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::agent::{self, Agent, until};

fn is_followed_to_its_end(agent: &Agent) {
    agent.ok(&["create", "--name", "k1"]);
    let mut follower =
        agent.command(&["logs", "-f", "k1"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = BufReader::new(follower.stdout.take().unwrap());
    // What code prints goes to the console too.
    agent.ok(&["exec", "k1", "--", "echo", "first words"]);
    let mut line = String::new();
    while !line.contains("first words") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the log ended before anything was said");
    }
    agent.ok(&["exec", "k1", "--", "echo", "last words"]);
    agent.ok(&["stop", "k1"]);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("last words"), "{rest}");
    assert!(follower.wait().unwrap().success());
}

#[test]
fn a_log_is_followed_to_the_kernels_end_on_processes() {
    let Some(agent) = agent::on_process() else { return };
    is_followed_to_its_end(&agent);
}

#[test]
fn hanging_up_ends_the_reader_in_the_agent() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let mut follower =
        agent.command(&["logs", "-f", "k1"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let reads = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.ends_with("console.log"))
    };
    until("it is read", reads);
    follower.kill().unwrap();
    follower.wait().unwrap();
    until("it is not read any more", || !reads());
}
