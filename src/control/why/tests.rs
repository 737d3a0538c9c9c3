//! The sentences, as a user reads them.

use serde_json::{Value, json};

use super::*;
use crate::ids::{Digest, KernelId, SessionId};
use crate::kernel::Termination;
use crate::policy::{Fault, Refusal};

const ID: &str = "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001";

fn entry(function: &str, time_ms: u64, question: Value, answer: Result<Value, Refusal>) -> Entry {
    let world = if function == "adjust" { WorldKind::ContainerConfig } else { WorldKind::Scheduler };
    let (answer, refusal) = match answer {
        Ok(answer) => (Some(answer), None),
        Err(refusal) => (None, Some(refusal)),
    };
    Entry {
        seq: time_ms,
        time_ms,
        agent: "0.1.0".into(),
        world,
        link: 0,
        function: function.into(),
        kernels: vec![ID.into()],
        dry_run: false,
        policy: "last-core".into(),
        version: "0.1.0".into(),
        digest: Some(Digest::of(b"abc")),
        rung: Rung::Active,
        micros: 24,
        faults: Vec::new(),
        replayable: true,
        context: json!({}),
        question,
        answer,
        refusal,
        note: None,
    }
}

fn place(answer: Result<Value, Refusal>) -> Entry {
    let question = json!({
        "request": {
            "kernel-id": ID, "requested-at-ms": 1_000,
            "wants": [{"slot": 0, "amount": 2_000_000}, {"slot": 1, "amount": 536_870_912}],
        },
        "node": {
            "slots": [{"name": "cpu", "kind": "count"}, {"name": "mem", "kind": "bytes"}],
            "devices": [{"number": 0}, {"number": 1}, {"number": 2}, {"number": 0}],
        },
        "choice": {"stock": [
            {"device": 0, "slot": 0, "free": 1_000_000, "offered": 1_000_000},
            {"device": 1, "slot": 0, "free": 1_000_000, "offered": 1_000_000},
            {"device": 2, "slot": 0, "free": 1_000_000, "offered": 1_000_000},
            {"device": 3, "slot": 1, "free": 1_073_741_824_u64, "offered": 4_294_967_296_u64},
        ]},
    });
    entry("place", 4_200, question, answer)
}

fn placed() -> Entry {
    place(Ok(json!({"shares": [
        {"device": 1, "slot": 0, "amount": 1_000_000},
        {"device": 2, "slot": 0, "amount": 1_000_000},
        {"device": 3, "slot": 1, "amount": 536_870_912},
    ]})))
}

fn order(time_ms: u64, verdict: Value) -> Entry {
    let question = json!({
        "waiting": [{"kernel-id": "another"}, {"kernel-id": ID}],
        "load": {"starting": 4, "start-limit": 4},
    });
    let answer = json!([{"request": 1, "verdict": verdict}, {"request": 0, "verdict": "start"}]);
    entry("order", time_ms, question, Ok(answer))
}

fn adjusted() -> Entry {
    let edits = json!([
        {"set-env": ["TOKEN", "secret"]},
        {"add-mount": {"kind": "bind", "source": "/data", "target": "/mnt", "read-only": true}},
        {"set-pids-limit": 100},
    ]);
    entry("adjust", 6_000, json!({"request": {"kernel-id": ID}}), Ok(edits))
}

fn view() -> KernelView {
    KernelView {
        id: ID.parse().unwrap(),
        session: SessionId::from(ID.parse::<KernelId>().unwrap().as_uuid()),
        name: "k1".parse().unwrap(),
        phase: Phase::Collected,
        image: "python".into(),
        engine: "process".into(),
        container: None,
        container_name: None,
        allocations: Vec::new(),
        cpuset: Vec::new(),
        memory_limit: None,
        runs_as: (1000, 1000),
        created_at_ms: 0,
        starting_at_ms: None,
        runs: Vec::new(),
        ready_at_ms: None,
        runner_boot_ms: None,
        silent_ms: None,
        termination: Some(Termination {
            reason: "user-requested".into(),
            exit_code: Some(0),
            ..Termination::default()
        }),
        decisions: Vec::new(),
        not_enforced: Vec::new(),
        leased: false,
        work_dir: "/w".into(),
        mounts: Vec::new(),
    }
}

fn told(view: Option<&KernelView>, entries: &[Entry]) -> String {
    sentences(ID, view, entries).join("\n")
}

#[test]
fn a_life_is_told_from_its_request_to_its_end() {
    let wait = json!({"wait": "ann starts two already"});
    let entries = [placed(), order(4_300, wait), order(5_900, json!("start")), adjusted()];
    insta::assert_snapshot!(told(Some(&view()), &entries));
}

#[test]
fn values_of_variables_are_not_told() {
    assert!(!told(Some(&view()), &[adjusted()]).contains("secret"));
}

#[test]
fn a_refusal_is_told_with_what_to_do_also_when_the_kernel_is_gone() {
    let refusal =
        Refusal { code: "quota".into(), message: "ann has two kernels already".into(), retry_later: true };
    insta::assert_snapshot!(told(None, &[place(Err(refusal))]));
}

#[test]
fn policies_that_failed_are_named_once_with_the_reason() {
    let mut entries = [placed(), order(4_300, json!("start"))];
    for entry in &mut entries {
        entry.rung = Rung::LastGood;
        entry.faults = vec![crate::policy::PolicyFault {
            policy: "faulty".into(),
            digest: Some(Digest::of(b"faulty")),
            fault: Fault::Trap,
            message: "wasm trap: unreachable".into(),
        }];
    }
    insta::assert_snapshot!(told(Some(&view()), &entries));
}

#[test]
fn what_the_journal_does_not_have_is_taken_from_the_kernel() {
    let mut view = view();
    view.phase = Phase::Running;
    view.termination = None;
    assert_eq!(told(Some(&view), &[]), "nothing has been decided about k1 yet.");
    let by = DecidedBy {
        world: WorldKind::Scheduler,
        function: "place".into(),
        policy: "builtin".into(),
        version: "0.1.0".into(),
        digest: None,
        rung: Rung::Builtin,
        faults: Vec::new(),
        micros: 5,
        note: None,
    };
    view.decisions.push(by);
    assert_eq!(
        told(Some(&view), &[]),
        "The built-in decided `place`; the journal does not have it (any more)."
    );
    let mut rehearsed = placed();
    rehearsed.dry_run = true;
    assert!(told(None, &[rehearsed]).contains("only tried by `berth create --dry-run`"));
}
