//! The machine of an agent that comes back: whose is what was held, what was lost, and that a run ends once.

use berth_link::EndedTask;
use proptest::prelude::*;

use super::super::Resume;
use super::*;

const LOST_CLIENT: Duration = Duration::from_secs(30);

fn run(name: &str) -> RunId {
    name.parse().unwrap()
}

fn status(running: Option<&str>) -> RunnerStatus {
    RunnerStatus {
        protocol: Some(berth_link::PROTOCOL),
        incarnation: Some("one".into()),
        running: running.map(|_| "exec".into()),
        run: running.map(Into::into),
        ..RunnerStatus::default()
    }
}

fn task(name: &str, exit_code: i32, output_bytes: u64) -> EndedTask {
    EndedTask { run: Some(name.into()), op: "exec".into(), exit_code, output_bytes, ended_at: None }
}

fn step(machine: &mut Machine, input: Input<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    machine.step(input, &mut effects);
    effects
}

fn answer(machine: &mut Machine, status: &RunnerStatus) -> Vec<Effect> {
    step(machine, Input::Answered { status, keepalive: true, task_is_its: false })
}

fn stdout(text: &str) -> Record {
    Record::Output(Output::Stdout(text.to_owned().into()))
}

fn emit(text: &str) -> Effect {
    Effect::Emit(Output::Stdout(text.to_owned().into()))
}

fn resume(received_bytes: u64, incarnation: Option<&str>) -> Resume {
    Resume { received_bytes, lost_bytes: 0, incarnation: incarnation.map(Into::into) }
}

#[test]
fn a_run_of_an_earlier_agent_goes_on_as_if_its_client_were_lost() {
    let mut machine = Machine::new(LOST_CLIENT);
    assert_eq!(machine.place(&run("a"), &resume(0, None)), Place::Unsettled);
    for record in [stdout("held"), Record::Credit(4)] {
        assert_eq!(step(&mut machine, Input::Record(record)), []);
    }
    let busy = RunnerStatus { output_bytes: 10, stdin_bytes: 7, stdin_held: 2, ..status(Some("a")) };
    assert_eq!(
        answer(&mut machine, &busy),
        [
            Effect::Adopt { run: run("a"), at: 6 },
            emit("held"),
            Effect::Arm { run: run("a"), timer: Timer::LostClient, after: LOST_CLIENT },
        ]
    );
    let place = Place::Current { stdin_bytes: 7, stdin_room: STDIN_WINDOW - 2 };
    assert_eq!(machine.place(&run("a"), &resume(3, Some("one"))), place);
    let timeout = Some(Duration::from_secs(9));
    let back = || Input::ClientBack { run: run("a"), timeout };
    let disarm = || Effect::Disarm { run: run("a"), timer: Timer::LostClient };
    let arm = Effect::Arm { run: run("a"), timer: Timer::Timeout, after: Duration::from_secs(9) };
    assert_eq!(step(&mut machine, back()), [disarm(), arm]);
    assert_eq!(step(&mut machine, back()), [disarm()], "its time counts once");
    assert_eq!(step(&mut machine, Input::Record(stdout("more"))), [emit("more")]);
    let end = RunEnd::Finished { exit_code: 3 };
    assert_eq!(
        step(&mut machine, Input::Record(Record::Finished(3))),
        [Effect::Ended { run: run("a"), end: end.clone() }]
    );
    let place = Place::Ended { end, output_bytes: 14 };
    assert_eq!(machine.place(&run("a"), &resume(3, Some("one"))), place);
}

#[test]
fn what_ended_while_no_agent_was_there_is_told_with_its_output() {
    let mut machine = Machine::new(LOST_CLIENT);
    for record in [stdout("of b"), Record::Finished(5)] {
        step(&mut machine, Input::Record(record));
    }
    let recent = vec![task("a", 1, 9), task("b", 5, 6)];
    let end = RunEnd::Finished { exit_code: 5 };
    assert_eq!(
        answer(&mut machine, &RunnerStatus { recent, ..status(None) }),
        [
            Effect::Adopt { run: run("b"), at: 2 },
            emit("of b"),
            Effect::Ended { run: run("b"), end: end.clone() },
        ]
    );
    assert_eq!(machine.place(&run("b"), &resume(0, None)), Place::Ended { end, output_bytes: 6 });
    let end = RunEnd::Finished { exit_code: 1 };
    assert_eq!(machine.place(&run("a"), &resume(0, None)), Place::Ended { end, output_bytes: 9 });
}

#[test]
fn a_run_is_begun_once() {
    let mut machine = Machine::new(LOST_CLIENT);
    answer(&mut machine, &RunnerStatus { recent: vec![task("ended", 0, 0)], ..status(None) });
    let place =
        |machine: &Machine, received, incarnation| machine.place(&run("new"), &resume(received, incarnation));
    assert_eq!(place(&machine, 0, None), Place::Never);
    assert_eq!(place(&machine, 0, Some("one")), Place::Never);
    assert_eq!(place(&machine, 0, Some("another")), Place::Restarted);
    assert_eq!(place(&machine, 1, Some("one")), Place::Unsure, "it ran, for it wrote");
    answer(&mut machine, &RunnerStatus { protocol: Some(1), ..status(None) });
    assert_eq!(place(&machine, 0, None), Place::Unsure, "that runner knows no runs");
}

#[test]
fn a_runner_that_knows_runs_is_told_their_ids() {
    let mut machine = Machine::new(LOST_CLIENT);
    answer(&mut machine, &status(None));
    let request = RunRequest { run: run("a"), task: Task::Exec("x".into()), stdin: true, timeout: None };
    let sent = step(&mut machine, Input::Submit(request));
    let ops: Vec<_> = sent
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(op, payload) => Some((*op, &payload[..])),
            _ => None,
        })
        .collect();
    // The announcement after the id: an id takes back what an agent that died had announced.
    assert_eq!(ops, [(Op::Run, &b"a"[..]), (Op::Stdin, b""), (Op::Exec, b"x")]);
}

#[test]
fn a_waiting_run_whose_client_was_lost_may_be_queued_again() {
    let mut machine = Machine::new(LOST_CLIENT);
    answer(&mut machine, &status(None));
    let submit = |name: &str| {
        let task = Task::Exec("x".into());
        Input::Submit(RunRequest { run: run(name), task, stdin: false, timeout: None })
    };
    for name in ["a", "b", "c"] {
        step(&mut machine, submit(name));
    }
    assert_eq!(machine.place(&run("b"), &resume(0, None)), Place::Waiting);
    step(&mut machine, Input::ClientGone { run: run("b") });
    assert_eq!(machine.place(&run("b"), &resume(0, None)), Place::Never);
    step(&mut machine, Input::Cancel { run: run("c") });
    let cancelled = Place::Ended { end: RunEnd::Cancelled, output_bytes: 0 };
    assert_eq!(machine.place(&run("c"), &resume(0, None)), cancelled);
}

#[test]
fn an_end_missed_by_a_living_agent_says_exactly_what_was_lost() {
    let mut machine = Machine::new(LOST_CLIENT);
    answer(&mut machine, &status(None));
    let request = RunRequest { run: run("a"), task: Task::Exec("x".into()), stdin: false, timeout: None };
    step(&mut machine, Input::Submit(request));
    step(&mut machine, Input::Record(stdout("123")));
    let done = RunnerStatus { tasks_done: 1, recent: vec![task("a", 7, 10)], ..status(None) };
    assert_eq!(answer(&mut machine, &done), []);
    let end = RunEnd::Finished { exit_code: 7 };
    assert_eq!(
        answer(&mut machine, &done),
        [Effect::Emit(Output::Lost(7)), Effect::Ended { run: run("a"), end }]
    );
}

/// A task's messages with where an agent was killed and where the next one's question was answered.
#[derive(Debug, Clone)]
struct Life {
    messages: Vec<Vec<u8>>,
    exit_code: i32,
    /// Messages (the end is the last) that the killed agent had taken from the wire.
    taken: usize,
    /// Of their bytes, those that reached the client.
    delivered: usize,
    /// Messages that the runner had queued when it answered.
    answered: usize,
}

fn life() -> impl Strategy<Value = Life> {
    let messages = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..6), 0..12);
    let at = any::<proptest::sample::Index>;
    (messages, any::<i32>(), at(), at(), at()).prop_map(
        |(messages, exit_code, taken, delivered, answered)| {
            let taken = taken.index(messages.len() + 2);
            let answered = taken + answered.index(messages.len() + 2 - taken);
            let bytes: usize = messages.iter().take(taken).map(Vec::len).sum();
            let delivered = delivered.index(bytes + 1);
            Life { messages, exit_code, taken, delivered, answered }
        },
    )
}

proptest! {
    #[test]
    fn wherever_the_agent_was_killed_all_bytes_are_accounted_for_and_the_run_ends_once(life in life()) {
        let produced: Vec<u8> = life.messages.concat();
        let mut wire: Vec<Record> =
            life.messages.iter().map(|data| Record::Output(Output::Stdout(data.clone().into()))).collect();
        wire.push(Record::Finished(life.exit_code));
        let bytes_of = |records: &[Record]| -> u64 {
            records.iter().map(|r| if let Record::Output(o) = r { o.console_bytes() } else { 0 }).sum()
        };
        let queued = bytes_of(&wire[..life.answered]);
        let over = life.answered == wire.len();
        let told = if over {
            RunnerStatus { recent: vec![task("a", life.exit_code, queued)], ..status(None) }
        } else {
            RunnerStatus { output_bytes: queued, ..status(Some("a")) }
        };

        let mut machine = Machine::new(LOST_CLIENT);
        let mut effects = Vec::new();
        for record in &wire[life.taken..life.answered] {
            machine.step(Input::Record(record.clone()), &mut effects);
        }
        machine.step(
            Input::Answered { status: &told, keepalive: true, task_is_its: false },
            &mut effects,
        );
        for record in &wire[life.answered..] {
            machine.step(Input::Record(record.clone()), &mut effects);
        }

        let resume = resume(life.delivered as u64, Some("one"));
        let (mut at, mut emitted, mut ends) = (None, Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Adopt { at: begin, .. } => {
                    prop_assert_eq!(at.replace(begin), None, "adopted twice");
                }
                Effect::Emit(Output::Stdout(data)) => emitted.extend_from_slice(&data),
                Effect::Ended { run: ended, end } => ends.push((ended, end)),
                Effect::Stray => prop_assert!(false, "something was nobody's"),
                _ => {}
            }
        }
        let end = RunEnd::Finished { exit_code: life.exit_code };
        // Not adopted: the killed agent had taken the end too, and only the end is told.
        prop_assert_eq!(at.is_none(), life.taken == wire.len());
        prop_assert_eq!(ends.len(), usize::from(at.is_some()));
        prop_assert!(ends.iter().all(|told| *told == (run("a"), end.clone())));
        let place = machine.place(&run("a"), &resume);
        prop_assert_eq!(place, Place::Ended { end, output_bytes: produced.len() as u64 });
        let at = at.unwrap_or(produced.len() as u64);
        let lost = usize::try_from(at - resume.received_bytes).unwrap();
        prop_assert_eq!(&produced[life.delivered + lost..], &emitted[..]);
    }
}
