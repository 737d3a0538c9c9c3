//! `berth doctor`, with an agent and without one.

use std::path::Path;

use crate::agent::{self, Agent, until};
use crate::engines::runner;

/// What a look finds, as JSON; it must exit 1 exactly when something should be done.
fn look(agent: &Agent, words: &[&str]) -> serde_json::Value {
    let mut command = agent.command(&[&["doctor", "-o", "json"], words].concat());
    let output = command.env("BERTH_RUNNER", runner().unwrap()).output().unwrap();
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap();
    let bad = checks.iter().filter(|check| check["verdict"] == "bad");
    assert!(bad.clone().all(|check| check["hint"].is_string()), "each with a next step: {report}");
    let well = bad.count() == 0 && report["findings"].as_array().unwrap().is_empty();
    assert_eq!(output.status.code(), Some(i32::from(!well)), "{report}");
    report
}

fn verdict<'a>(report: &'a serde_json::Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    check["verdict"].as_str().unwrap()
}

/// The pid of the one kernel's supervisor, and the file that it writes last.
fn supervisor(state: &Path) -> (i32, std::path::PathBuf) {
    let folder = std::fs::read_dir(state.join("process")).unwrap().next().unwrap().unwrap().path();
    let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
    (pid.trim().parse().unwrap(), folder.join("exit.json"))
}

#[test]
fn what_is_left_over_or_missing_is_found_with_and_without_an_agent() {
    let Some(mut agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let report = look(&agent, &[]);
    assert_eq!((&report["online"], &report["findings"]), (&true.into(), &serde_json::json!([])));
    for name in ["engine", "runner", "policies", "clock", "open files"] {
        assert_eq!(verdict(&report, name), "good", "{name}: {report}");
    }

    let state = agent.path("state");
    let stranger = berth::ids::KernelId::random();
    std::fs::create_dir(state.join("scratch").join(stranger.to_string())).unwrap();
    let found = look(&agent, &[]);
    assert_eq!(found["findings"][0]["finding"], "folders-without-kernel");
    assert_eq!(found["findings"][0]["kernel"], stranger.to_string());

    agent.end();
    let flags = ["--engine", "process", "--state-dir", state.to_str().unwrap(), "--policy", "builtin"];
    let config = agent.path("agent.toml");
    let flags = [&flags[..], &["--config", config.to_str().unwrap()]].concat();
    let found = look(&agent, &flags);
    assert_eq!(found["online"], false);
    assert_eq!(found["findings"].as_array().unwrap().len(), 1, "the kernel runs on: {found}");
    assert_eq!(verdict(&found, "records"), "good");

    let (pid, last) = supervisor(&state);
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
    until("the kernel has ended", || last.exists());
    let found = look(&agent, &flags);
    let findings = found["findings"].as_array().unwrap();
    let ended = findings.iter().find(|finding| finding["finding"] == "container-ended").unwrap();
    assert_eq!(ended["name"], "k1");

    // What was found is what the next agent mends.
    agent.start();
    until("k1 has ended", || !agent.json(&["inspect", "k1"])["termination"].is_null());
    assert_eq!(agent.json(&["inspect", "k1"])["termination"]["reason"], "self-terminated");
}
