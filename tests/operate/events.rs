//! `berth events`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::agent::{self, Agent};

/// The kinds and reasons of the events that a command prints.
fn kinds(agent: &Agent, words: &[&str]) -> Vec<String> {
    let text = agent.ok(&[&["events", "-o", "json"], words].concat());
    let kind = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["event"]["event"].as_str().unwrap().to_owned()
    };
    text.lines().map(kind).collect()
}

#[test]
fn a_reader_goes_on_where_it_ended_also_after_a_restart() {
    let Some(mut agent) = agent::on_process() else { return };
    let mut follower = agent
        .command(&["events", "-f", "--from", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    agent.ok(&["create", "--name", "k1"]);
    let made = ["kernel-preparing", "kernel-creating", "kernel-started"];
    assert_eq!(kinds(&agent, &["--reader", "ops"]), made);
    assert_eq!(kinds(&agent, &["--reader", "ops"]), [""; 0]);
    agent.ok(&["stop", "k1"]);

    let mut seen = Vec::new();
    for line in BufReader::new(follower.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let is_last = line.contains("terminated user-requested");
        seen.push(line);
        if is_last {
            break;
        }
    }
    assert!(seen.len() == 4 && seen[2].ends_with(" k1 started"), "{seen:?}");
    follower.kill().unwrap();
    follower.wait().unwrap();

    agent::restart(&mut agent);
    assert_eq!(kinds(&agent, &["--reader", "ops"]), ["kernel-terminated"]);
    assert_eq!(kinds(&agent, &["--reader", "ops"]), [""; 0]);
    assert_eq!(kinds(&agent, &["--from", "2"]).len(), 3);
    assert_eq!(kinds(&agent, &[]).len(), 4);
    assert!(agent.fails(&["events", "--reader", "a b"]).contains("(bad-name)"));
}
