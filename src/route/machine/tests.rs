//! The machine by tables, and against a model runner with random inputs.

use std::collections::HashMap;

use berth_link::LastTask;
use proptest::prelude::*;

use super::*;

const LOST_CLIENT: Duration = Duration::from_secs(30);

fn run(name: &str) -> RunId {
    name.parse().unwrap()
}

fn request(name: &str) -> RunRequest {
    RunRequest { run: run(name), task: Task::Exec(name.into()), stdin: false, timeout: None }
}

fn with_stdin(name: &str) -> RunRequest {
    RunRequest { stdin: true, ..request(name) }
}

fn status(running: Option<&str>, tasks_done: u64) -> RunnerStatus {
    RunnerStatus {
        started_at: 1.0,
        replied_at: None,
        protocol: Some(1),
        runner_version: None,
        incarnation: Some("one".into()),
        running: running.map(Into::into),
        tasks_done,
        last: Some(LastTask { op: "exec".into(), exit_code: 9 }),
        ..RunnerStatus::default()
    }
}

fn answered(status: &RunnerStatus) -> Input<'_> {
    Input::Answered { status, keepalive: true, task_is_its: false }
}

fn step(machine: &mut Machine, input: Input<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.step(input, &mut effects);
    effects
}

/// A machine whose runner has said that nothing runs.
fn idle() -> Machine {
    let mut machine = Machine::new(LOST_CLIENT);
    assert_eq!(step(&mut machine, answered(&status(None, 0))), []);
    machine
}

fn send(op: Op, payload: &'static str) -> Effect {
    Effect::Send(op, payload.into())
}

fn ended(name: &str, end: RunEnd) -> Effect {
    Effect::Ended { run: run(name), end }
}

fn finished(exit_code: i32) -> Input<'static> {
    Input::Record(Record::Finished(exit_code))
}

fn stdout(text: &'static str) -> Input<'static> {
    Input::Record(Record::Output(Output::Stdout(text.into())))
}

const STARTED: Effect = Effect::Emit(Output::Started);

#[test]
fn runs_have_their_turn_one_after_another() {
    let mut machine = idle();
    assert_eq!(step(&mut machine, Input::Submit(request("a"))), [send(Op::Exec, "a"), STARTED]);
    assert_eq!(step(&mut machine, Input::Submit(request("b"))), []);
    assert_eq!(step(&mut machine, stdout("of a")), [Effect::Emit(Output::Stdout("of a".into()))]);
    assert_eq!(
        step(&mut machine, finished(3)),
        [ended("a", RunEnd::Finished { exit_code: 3 }), send(Op::Exec, "b"), STARTED]
    );
    assert_eq!(step(&mut machine, finished(0)), [ended("b", RunEnd::Finished { exit_code: 0 })]);
    assert_eq!(step(&mut machine, stdout("of nobody")), [Effect::Stray]);
    assert_eq!(step(&mut machine, finished(0)), [Effect::Stray]);
}

#[test]
fn each_task_has_its_op() {
    let mut machine = idle();
    let words = vec!["printf".into(), "a  \"b\"".into()];
    let task = |name: &str, task| Input::Submit(RunRequest { task, ..request(name) });
    let effects = step(&mut machine, task("a", Task::Argv(words)));
    assert_eq!(effects[0], send(Op::Argv, r#"["printf","a  \"b\""]"#));
    step(&mut machine, finished(0));
    let effects = step(&mut machine, task("b", Task::Code("print(1)".into())));
    assert_eq!(effects[0], send(Op::Code, "print(1)"));
}

#[test]
fn nothing_starts_before_the_runner_has_said_what_runs() {
    let mut machine = Machine::new(LOST_CLIENT);
    assert_eq!(step(&mut machine, Input::Submit(request("a"))), []);
    assert_eq!(step(&mut machine, stdout("of an earlier agent's run")), []);
    assert_eq!(step(&mut machine, answered(&status(Some("exec"), 0))), [Effect::Stray], "it has no name");
    assert_eq!(step(&mut machine, stdout("still")), [Effect::Stray]);
    assert_eq!(step(&mut machine, finished(0)), [send(Op::Exec, "a"), STARTED]);
}

#[test]
fn an_end_that_was_already_told_does_not_end_the_next_run() {
    let mut machine = Machine::new(LOST_CLIENT);
    step(&mut machine, Input::Submit(request("a")));
    assert_eq!(step(&mut machine, finished(0)), []);
    assert_eq!(step(&mut machine, answered(&status(None, 1))), [Effect::Stray, send(Op::Exec, "a"), STARTED]);
}

#[test]
fn standard_input_is_announced_and_fed() {
    let mut machine = idle();
    let stdin = |data: &'static str| Input::Stdin { run: run("a"), data: data.into() };
    assert_eq!(
        step(&mut machine, Input::Submit(with_stdin("a"))),
        [send(Op::Stdin, ""), send(Op::Exec, "a"), STARTED]
    );
    assert_eq!(step(&mut machine, stdin("")), [], "an empty one would be an announcement");
    assert_eq!(step(&mut machine, stdin("abc")), [send(Op::Stdin, "abc")]);
    assert_eq!(machine.stdin_room(&run("a")), STDIN_WINDOW - 3);
    let credit = |bytes| Input::Record(Record::Credit(bytes));
    assert_eq!(step(&mut machine, credit(2)), [Effect::Emit(Output::StdinCredit(2))]);
    assert_eq!(step(&mut machine, credit(1 << 40)), [Effect::Emit(Output::StdinCredit(1))]);
    assert_eq!(step(&mut machine, credit(5)), []);
    assert_eq!(machine.stdin_room(&run("a")), STDIN_WINDOW);
    assert_eq!(step(&mut machine, Input::StdinEof { run: run("a") }), [send(Op::StdinEof, "")]);
    assert_eq!(step(&mut machine, stdin("late")), []);
    assert_eq!(step(&mut machine, Input::StdinEof { run: run("a") }), []);
}

#[test]
fn standard_input_that_came_early_waits_for_its_run() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    step(&mut machine, Input::Submit(with_stdin("b")));
    assert_eq!(step(&mut machine, Input::Stdin { run: run("b"), data: "xy".into() }), []);
    assert_eq!(step(&mut machine, Input::StdinEof { run: run("b") }), []);
    assert_eq!(machine.stdin_room(&run("b")), STDIN_WINDOW - 2);
    assert_eq!(
        step(&mut machine, finished(0))[1..],
        [send(Op::Stdin, ""), send(Op::Exec, "b"), STARTED, send(Op::Stdin, "xy"), send(Op::StdinEof, "")]
    );
}

#[test]
fn input_of_an_ended_run_never_reaches_the_next() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(with_stdin("a")));
    step(&mut machine, Input::Submit(with_stdin("b")));
    step(&mut machine, finished(0));
    for input in [
        Input::Stdin { run: run("a"), data: "x".into() },
        Input::StdinEof { run: run("a") },
        Input::Answer { run: run("a"), text: "x".into() },
        Input::Interrupt { run: Some(run("a")) },
        Input::Cancel { run: run("a") },
        Input::ClientGone { run: run("a") },
        Input::Timer { run: run("a"), timer: Timer::Timeout },
    ] {
        assert_eq!(step(&mut machine, input.clone()), [], "{input:?}");
    }
}

#[test]
fn a_run_that_takes_too_long_is_interrupted_and_then_given_up() {
    let mut machine = idle();
    let timeout = Duration::from_secs(7);
    let effects = step(&mut machine, Input::Submit(RunRequest { timeout: Some(timeout), ..request("a") }));
    assert_eq!(effects[2], Effect::Arm { run: run("a"), timer: Timer::Timeout, after: timeout });
    step(&mut machine, Input::Submit(request("b")));
    let fire = |timer| Input::Timer { run: run("a"), timer };
    assert_eq!(
        step(&mut machine, fire(Timer::Timeout)),
        [send(Op::Interrupt, ""), Effect::Arm { run: run("a"), timer: Timer::Grace, after: INTERRUPT_GRACE }]
    );
    assert_eq!(step(&mut machine, fire(Timer::Grace)), [ended("a", RunEnd::TimedOut)]);
    assert_eq!(step(&mut machine, stdout("of a, late")), [Effect::Stray]);
    assert_eq!(step(&mut machine, finished(0)), [send(Op::Exec, "b"), STARTED]);
}

#[test]
fn a_run_that_ends_by_its_timeouts_interrupt_has_timed_out() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    step(&mut machine, Input::Timer { run: run("a"), timer: Timer::Timeout });
    assert_eq!(step(&mut machine, finished(130)), [ended("a", RunEnd::TimedOut)]);
}

#[test]
fn a_waiting_run_is_cancelled_at_once() {
    for input in [
        Input::Cancel { run: run("b") },
        Input::ClientGone { run: run("b") },
        Input::Interrupt { run: Some(run("b")) },
    ] {
        let mut machine = idle();
        step(&mut machine, Input::Submit(request("a")));
        step(&mut machine, Input::Submit(request("b")));
        assert_eq!(step(&mut machine, input), [ended("b", RunEnd::Cancelled)]);
        assert_eq!(step(&mut machine, finished(0)).len(), 1, "b never starts");
    }
}

#[test]
fn a_run_whose_client_is_gone_goes_on_for_a_while() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(with_stdin("a")));
    assert_eq!(
        step(&mut machine, Input::ClientGone { run: run("a") }),
        [Effect::Arm { run: run("a"), timer: Timer::LostClient, after: LOST_CLIENT }]
    );
    assert_eq!(step(&mut machine, stdout("x")).len(), 1);
    assert_eq!(
        step(&mut machine, Input::Timer { run: run("a"), timer: Timer::LostClient }),
        [send(Op::StdinEof, ""), ended("a", RunEnd::Cancelled)]
    );
    assert_eq!(step(&mut machine, Input::Submit(request("b"))), [], "the runner still works on a");
    assert_eq!(step(&mut machine, finished(0)), [send(Op::Exec, "b"), STARTED]);
}

#[test]
fn interrupts_reach_whatever_runs() {
    let mut machine = idle();
    let any = || Input::Interrupt { run: None };
    assert_eq!(step(&mut machine, any()), [], "an idle runner has nothing to interrupt");
    step(&mut machine, Input::Submit(request("a")));
    assert_eq!(step(&mut machine, any()), [send(Op::Interrupt, "")]);
    assert_eq!(step(&mut machine, Input::Interrupt { run: Some(run("a")) }), [send(Op::Interrupt, "")]);
    step(&mut machine, Input::Cancel { run: run("a") });
    assert_eq!(step(&mut machine, any()), [send(Op::Interrupt, "")], "of a run given up, too");
}

#[test]
fn a_runner_started_anew_ends_every_run() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    step(&mut machine, Input::Submit(request("b")));
    let other = RunnerStatus { incarnation: Some("two".into()), ..status(None, 0) };
    assert_eq!(
        step(&mut machine, answered(&other)),
        [ended("a", RunEnd::RunnerRestarted), ended("b", RunEnd::RunnerRestarted)]
    );
    assert_eq!(step(&mut machine, Input::Submit(request("c"))).len(), 2, "and serves new ones");
}

#[test]
fn a_task_that_the_new_runner_was_given_goes_on() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    let other = RunnerStatus { incarnation: Some("two".into()), ..status(Some("exec"), 0) };
    let input = Input::Answered { status: &other, keepalive: true, task_is_its: true };
    assert_eq!(step(&mut machine, input), []);
    assert_eq!(step(&mut machine, finished(0)), [ended("a", RunEnd::Finished { exit_code: 0 })]);
}

#[test]
fn a_missed_end_is_told_with_its_exit_code() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    let done = status(None, 1);
    assert_eq!(step(&mut machine, answered(&done)), [], "its end may be right behind");
    assert_eq!(
        step(&mut machine, answered(&done)),
        [Effect::Emit(Output::Lost(0)), ended("a", RunEnd::Finished { exit_code: 9 })]
    );
}

#[test]
fn a_task_that_never_arrived_does_not_hang_its_run() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    step(&mut machine, answered(&status(None, 0)));
    let pinged = status(None, 0);
    let ping = Input::Answered { status: &pinged, keepalive: false, task_is_its: false };
    assert_eq!(step(&mut machine, ping), [], "callers' questions may follow each other too fast");
    let effects = step(&mut machine, answered(&status(None, 0)));
    assert_eq!(effects[1], ended("a", RunEnd::Detached { reason: "task-lost".into() }));
}

#[test]
fn a_busy_runner_is_believed() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    for _ in 0..3 {
        assert_eq!(step(&mut machine, answered(&status(None, 0))), []);
        assert_eq!(step(&mut machine, answered(&status(Some("exec"), 0))), []);
    }
}

#[test]
fn detaching_ends_every_run_with_its_reason() {
    let mut machine = idle();
    step(&mut machine, Input::Submit(request("a")));
    step(&mut machine, Input::Submit(request("b")));
    let end = RunEnd::Detached { reason: "user-requested".into() };
    assert_eq!(
        step(&mut machine, Input::Detach { reason: "user-requested".into() }),
        [ended("a", end.clone()), ended("b", end)]
    );
}

/// What may happen, with the run it happens to as an index into those submitted.
#[derive(Debug, Clone)]
enum Event {
    Submit {
        stdin: bool,
    },
    Stdin(usize),
    StdinEof(usize),
    Answer(usize),
    Interrupt(usize),
    Cancel(usize),
    ClientGone(usize),
    Timer(usize, u8),
    /// The runner's task writes.
    Write,
    /// The runner's task ends.
    Finish,
    Status,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let any_run = 0..8_usize;
    let event = prop_oneof![
        3 => any::<bool>().prop_map(|stdin| Event::Submit { stdin }),
        1 => any_run.clone().prop_map(Event::Stdin),
        1 => any_run.clone().prop_map(Event::StdinEof),
        1 => any_run.clone().prop_map(Event::Answer),
        1 => any_run.clone().prop_map(Event::Interrupt),
        1 => any_run.clone().prop_map(Event::Cancel),
        1 => any_run.clone().prop_map(Event::ClientGone),
        1 => (any_run, 0..3_u8).prop_map(|(run, timer)| Event::Timer(run, timer)),
        3 => Just(Event::Write),
        3 => Just(Event::Finish),
        1 => Just(Event::Status),
    ];
    proptest::collection::vec(event, 0..80)
}

/// A runner with one FIFO of tasks, and everything that must hold.
#[derive(Default)]
struct World {
    tasks: VecDeque<String>,
    tasks_done: u64,
    submitted: Vec<RunId>,
    started: Vec<RunId>,
    ended: HashMap<RunId, RunEnd>,
    /// The run whose task was sent last.
    head: Option<RunId>,
}

impl World {
    fn check(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(Op::Exec, payload) => {
                    assert!(self.tasks.is_empty(), "a task was sent while the runner was busy");
                    let name = String::from_utf8(payload.to_vec()).unwrap();
                    self.head = Some(run(&name));
                    self.tasks.push_back(name);
                }
                Effect::Send(Op::Stdin, data) if data.is_empty() => {}
                Effect::Send(Op::Stdin | Op::Input, data) => {
                    let head = self.head.as_ref().unwrap();
                    assert_eq!(data, head.as_str(), "input of another run");
                    assert!(!self.ended.contains_key(head), "input after the end");
                }
                Effect::Emit(Output::Started) => {
                    let head = self.head.clone().unwrap();
                    assert!(!self.ended.contains_key(&head));
                    self.started.push(head);
                }
                Effect::Emit(Output::Stdout(tag)) => {
                    let head = self.head.as_ref().unwrap();
                    assert_eq!(tag, head.as_str(), "output of another run");
                    assert!(!self.ended.contains_key(head), "output after the end");
                }
                Effect::Ended { run, end } => {
                    assert!(self.submitted.contains(&run));
                    assert!(self.ended.insert(run, end).is_none(), "a run ended twice");
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn every_run_ends_once_and_gets_what_is_its_own(events in events()) {
        let mut world = World::default();
        let mut machine = idle();
        for event in events {
            let chosen = |at: usize| world.submitted.get(at % world.submitted.len().max(1)).cloned();
            let idle_status = status(None, world.tasks_done);
            let busy_status = status(Some("exec"), world.tasks_done);
            let input = match event {
                Event::Submit { stdin } => {
                    let name = format!("r{}", world.submitted.len());
                    world.submitted.push(run(&name));
                    Some(Input::Submit(RunRequest { stdin, ..request(&name) }))
                }
                Event::Stdin(at) => chosen(at).map(|run| {
                    let data = Bytes::from(run.as_str().to_owned());
                    Input::Stdin { run, data }
                }),
                Event::StdinEof(at) => chosen(at).map(|run| Input::StdinEof { run }),
                Event::Answer(at) => chosen(at).map(|run| {
                    let text = run.as_str().to_owned();
                    Input::Answer { run, text }
                }),
                Event::Interrupt(at) => chosen(at).map(|run| Input::Interrupt { run: Some(run) }),
                Event::Cancel(at) => chosen(at).map(|run| Input::Cancel { run }),
                Event::ClientGone(at) => chosen(at).map(|run| Input::ClientGone { run }),
                Event::Timer(at, timer) => chosen(at).map(|run| Input::Timer {
                    run,
                    timer: [Timer::Timeout, Timer::Grace, Timer::LostClient][usize::from(timer)],
                }),
                Event::Write => world.tasks.front().map(|task| {
                    Input::Record(Record::Output(Output::Stdout(task.clone().into())))
                }),
                Event::Finish => world.tasks.pop_front().map(|_| {
                    world.tasks_done += 1;
                    finished(0)
                }),
                Event::Status if world.tasks.is_empty() => Some(answered(&idle_status)),
                Event::Status => Some(answered(&busy_status)),
            };
            if let Some(input) = input {
                let effects = step(&mut machine, input);
                world.check(effects);
            }
        }
        let effects = step(&mut machine, Input::Detach { reason: "end".into() });
        world.check(effects);
        prop_assert_eq!(world.ended.len(), world.submitted.len());
        let mut order = world.started.clone();
        order.sort_by_key(|run| world.submitted.iter().position(|submitted| submitted == run));
        prop_assert_eq!(order, world.started);
    }
}
