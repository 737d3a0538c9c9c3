//! What an agent that comes back learns of the runs of the one before it.

use std::fs;

use berth_link::{EndedTask, Status};

use crate::peer::{Agent, Kernel, Run, wait_until};

fn exec(agent: &Agent, run: &str, command: &str) {
    agent.send("run", run);
    agent.send("exec", command);
}

/// Asks, and takes what comes before the answer.
fn ask(agent: &Agent, question: &str, run: &mut Run) -> Status {
    agent.send("status", question);
    loop {
        let (kind, payload) = agent.receive();
        if kind == "status" {
            return Status::decode(&payload).unwrap();
        }
        run.take(&kind, payload);
    }
}

fn ended(task: &EndedTask) -> (Option<&str>, i32, u64) {
    (task.run.as_deref(), task.exit_code, task.output_bytes)
}

#[test]
fn a_run_that_ended_without_an_agent_is_told_with_its_code_and_what_it_wrote() {
    let (kernel, agent) = Kernel::start();
    exec(&agent, "first", "echo one; echo two >&2; until [ -e go ]; do sleep 0.01; done; echo three; exit 5");
    let mut run = Run::default();
    agent.until(&mut run, "one\n");
    while run.err() != "two\n" {
        let (kind, payload) = agent.receive();
        run.take(&kind, payload);
    }
    let told = ask(&agent, "q1", &mut run);
    assert_eq!((told.question.as_deref(), told.run.as_deref()), (Some("q1"), Some("first")));
    assert_eq!((told.output_bytes, told.recent.len()), (8, 0));
    drop(agent);
    fs::write(kernel.work("go"), "").unwrap();

    let agent = kernel.agent();
    let mut rest = Run::default();
    let told = loop {
        let told = ask(&agent, "q2", &mut rest);
        if told.running.is_none() {
            break told;
        }
    };
    rest.check("three\n", "", 5);
    assert_eq!(told.recent.iter().map(ended).collect::<Vec<_>>(), [(Some("first"), 5, 14)]);
    assert!(told.recent[0].ended_at >= Some(told.started_at) && told.recent[0].ended_at <= told.replied_at);
    assert_eq!((told.run, told.output_bytes), (None, 0));
    agent.argv(&["true"]);
    agent.run();
    let told = agent.status();
    assert_eq!(ended(told.recent.last().unwrap()), (None, 0, 0), "the id was the first task's only");
}

#[test]
fn standard_input_that_arrived_is_counted_from_the_start_of_its_task() {
    let (kernel, agent) = Kernel::start();
    agent.send("run", "reader");
    agent.send("stdin", "");
    agent.send("exec", "head -c 3 >/dev/null; until [ -e go ]; do sleep 0.01; done; cat");
    agent.send("stdin", "abc");
    agent.send("stdin", "defg");
    let told = agent.status();
    assert_eq!((told.run.as_deref(), told.stdin_bytes), (Some("reader"), 7));
    assert!(told.stdin_held <= 7);
    drop(agent);
    let agent = kernel.agent();
    assert_eq!(agent.status().stdin_bytes, 7);
    agent.send("stdin", "hi");
    agent.send("stdin-eof", "");
    fs::write(kernel.work("go"), "").unwrap();
    assert!(agent.run().out().ends_with("hi"));
}

#[test]
fn an_announcement_of_an_agent_that_died_does_not_reach_the_next_task() {
    let (_kernel, agent) = Kernel::start();
    // Killed before it sent the task.
    agent.send("run", "never");
    agent.send("stdin", "");
    exec(&agent, "next", "cat; echo done");
    agent.run().check("done\n", "", 0);
    assert_eq!(agent.status().recent[0].run.as_deref(), Some("next"));
}

#[test]
fn every_byte_is_counted_wherever_the_agent_went_away() {
    let (kernel, agent) = Kernel::start();
    exec(&agent, "long", "seq 1 400000; touch done; until [ -e go ]; do sleep 0.01; done; exit 3");
    let mut run = Run::default();
    agent.until(&mut run, "\n");
    drop(agent);
    let agent = kernel.agent();
    let mut held = Run::default();
    let told = ask(&agent, "q", &mut held);
    // What the first one had read from the wire is gone; the count says how much.
    let before = told.output_bytes - held.stdout.len() as u64;
    let expected: String = (1..=400_000).map(|i| format!("{i}\n")).collect();
    fs::write(kernel.work("go"), "").unwrap();
    while held.exit_code.is_none() {
        let (kind, payload) = agent.receive();
        held.take(&kind, payload);
    }
    wait_until("all is written", || kernel.work("done").exists());
    assert!(expected.as_bytes()[usize::try_from(before).unwrap()..] == held.stdout[..]);
    let last = agent.status().recent.pop().unwrap();
    assert_eq!(ended(&last), (Some("long"), 3, expected.len() as u64));
}
