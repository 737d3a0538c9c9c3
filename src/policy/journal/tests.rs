//! The journal on a real disk: what is in it, that it stays small, and that it never makes anybody wait.

use std::sync::mpsc;

use serde_json::json;

use super::*;
use crate::policy::Fault;
use crate::policy::bindings::types;
use crate::policy::json::Jot as _;
use crate::policy::worlds::{Place, PlaceQuestion};

fn entry(seq: u64, kernel: &str) -> Entry {
    let by = DecidedBy {
        world: WorldKind::Scheduler,
        function: "place".into(),
        policy: "builtin".into(),
        version: "1".into(),
        digest: None,
        rung: Rung::Builtin,
        faults: Vec::new(),
        micros: 7,
        note: None,
    };
    let made = Made {
        link: 0,
        dry_run: false,
        by,
        context: json!({"settings": [], "now-ms": seq}),
        kernels: vec![kernel.to_owned()],
        question: json!({"request": {"kernel-id": kernel}}),
        answer: Ok(json!({"shares": []})),
        time_ms: seq,
    };
    made.entry(seq)
}

fn telling(kernel: &str) -> Telling {
    let kernel = kernel.to_owned();
    Telling { only_changes: false, record: Box::new(move |seq| entry(seq, &kernel)) }
}

fn all(journal: &Journal) -> Vec<u64> {
    journal.read(&Wanted::default()).unwrap().iter().map(|entry| entry.seq).collect()
}

#[tokio::test]
async fn records_are_lines_and_their_numbers_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), 1 << 20).unwrap();
    for kernel in ["a", "b", "a"] {
        journal.tell(telling(kernel));
    }
    journal.settled().await;
    assert_eq!(all(&journal), [1, 2, 3]);
    let about_a = Wanted { kernel: Some("a".into()), ..Wanted::default() };
    assert_eq!(journal.read(&about_a).unwrap().len(), 2);
    let last = Wanted { most: Some(1), ..Wanted::default() };
    assert_eq!(journal.read(&last).unwrap(), [entry(3, "a")]);
    drop(journal);

    // Killed in the middle of a line.
    let file = dir.path().join("0001.jsonl");
    let mut text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 3);
    text.push_str("{\"seq\":4,\"wor");
    std::fs::write(&file, text).unwrap();
    let journal = Journal::open(dir.path(), 1 << 20).unwrap();
    journal.tell(telling("c"));
    journal.settled().await;
    assert_eq!(all(&journal), [1, 2, 3, 4]);
}

#[tokio::test]
async fn the_ring_stays_as_small_as_it_was_told_and_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = 1 << 20;
    let journal = Journal::open(dir.path(), bytes).unwrap();
    let long = "k".repeat(10_000);
    for _ in 0..200 {
        journal.tell(telling(&long));
        journal.settled().await;
    }
    let files = std::fs::read_dir(dir.path()).unwrap();
    let total: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(total <= bytes && total > bytes / 2, "{total}");
    let kept = all(&journal);
    assert_eq!(*kept.last().unwrap(), 200);
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "{kept:?}");
    assert_eq!(journal.dropped(), 0);
}

#[tokio::test]
async fn a_disk_that_hangs_makes_nobody_wait_and_what_is_lost_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), 1 << 20).unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (says, begun) = mpsc::channel();
    let stuck = move |seq| {
        says.send(()).unwrap();
        gate.recv().unwrap();
        entry(seq, "stuck")
    };
    journal.tell(Telling { only_changes: false, record: Box::new(stuck) });
    begun.recv().unwrap();
    for _ in 0..QUEUE + 10 {
        journal.tell(telling("k"));
    }
    assert_eq!(journal.dropped(), 10);
    assert!(journal.problem().unwrap().contains("10 decisions are missing"));
    open.send(()).unwrap();
    journal.settled().await;
    assert_eq!(all(&journal).len(), QUEUE + 1);
}

#[tokio::test]
async fn a_report_is_written_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), 1 << 20).unwrap();
    for offered in [1, 1, 2, 2, 1] {
        let record = move |seq| {
            let mut entry = entry(seq, "");
            entry.function = "report".into();
            entry.answer = Some(json!({ "slots": offered }));
            entry
        };
        journal.tell(Telling { only_changes: true, record: Box::new(record) });
    }
    journal.settled().await;
    assert_eq!(all(&journal), [1, 2, 3]);
}

#[tokio::test]
async fn a_follower_sees_what_comes_after_over_new_files() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), 1 << 20).unwrap();
    journal.tell(telling("before"));
    journal.settled().await;
    let mut follower = journal.follow().unwrap();
    assert_eq!(follower.read_on().unwrap(), []);
    let long = "k".repeat(40_000);
    let mut seen = Vec::new();
    for _ in 0..10 {
        journal.tell(telling(&long));
        assert!(follower.more().await);
        loop {
            let more = follower.read_on().unwrap();
            if more.is_empty() {
                break;
            }
            seen.extend(more.iter().map(|entry| entry.seq));
        }
    }
    assert_eq!(seen, (2..=11).collect::<Vec<u64>>());
    assert!(std::fs::read_dir(dir.path()).unwrap().count() > 1);
}

#[test]
fn what_depends_on_the_machine_is_not_to_be_replayed() {
    for (fault, replayable) in [
        (Fault::Deadline, false),
        (Fault::Memory, false),
        (Fault::Busy, false),
        (Fault::Trap, true),
        (Fault::InvalidAnswer, true),
    ] {
        let fault = PolicyFault { policy: "p".into(), digest: None, fault, message: String::new() };
        let template = entry(1, "k");
        let by = DecidedBy {
            world: template.world,
            function: template.function,
            policy: template.policy,
            version: template.version,
            digest: None,
            rung: Rung::Builtin,
            faults: vec![fault],
            micros: 0,
            note: None,
        };
        let made = Made {
            link: 0,
            dry_run: false,
            by,
            context: Value::Null,
            kernels: Vec::new(),
            question: Value::Null,
            answer: Ok(Value::Null),
            time_ms: 0,
        };
        let text = serde_json::to_value(made.entry(1)).unwrap();
        assert_eq!(text.get("replayable").is_none(), replayable, "{text}");
    }
}

#[test]
fn names_and_cases_are_those_of_the_wit() {
    let request = types::KernelRequest {
        kernel_id: "k".into(),
        session_id: "s".into(),
        owner: "ann".into(),
        project: None,
        session_kind: types::SessionKind::Interactive,
        cluster_role: "main".into(),
        cluster_rank: 0,
        cluster_size: 1,
        image: "python".into(),
        image_digest: Some("sha256:1".into()),
        image_labels: vec![("a".into(), "b".into())],
        wants: vec![types::Want { slot: 0, amount: u64::MAX }],
        may_fragment: true,
        requested_at_ms: 5,
        attributes: vec![],
    };
    let question = PlaceQuestion {
        request,
        node: types::Node { models: vec![], devices: vec![], slots: vec![] },
        choice: crate::policy::bindings::scheduling::Choice { stock: vec![], links: vec![], tenants: vec![] },
    };
    assert_eq!(Place::kernels(&question), ["k"]);
    let told = Place::question(&question);
    assert_eq!(
        told["request"],
        json!({
            "kernel-id": "k", "session-id": "s", "owner": "ann", "session-kind": "interactive",
            "cluster-role": "main", "cluster-rank": 0, "cluster-size": 1, "image": "python",
            "image-digest": "sha256:1", "image-labels": [["a", "b"]],
            "wants": [{"slot": 0, "amount": u64::MAX}], "may-fragment": true, "requested-at-ms": 5,
            "attributes": []
        })
    );
    let setting = types::Setting { key: "quota.a".into(), value: types::SettingValue::Decimal(250_000) };
    assert_eq!(setting.json(), json!({"key": "quota.a", "value": {"decimal": 250_000}}));
    use crate::policy::bindings::configuring::{Edit, Variable};
    assert_eq!(Variable { name: "TOKEN".into(), value: None }.json(), json!({"name": "TOKEN"}));
    assert_eq!(Edit::SetEnv(("A".into(), "b".into())).json(), json!({"set-env": ["A", "b"]}));
    assert_eq!(Edit::SetReadOnlyRoot(true).json(), json!({"set-read-only-root": true}));
}
