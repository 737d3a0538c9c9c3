//! Every function decided again by other threads and other compilations, and what a diff says of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::diff::{summary, text};
use super::run::{Asked, Run};
use super::*;
use crate::policy::bindings::{configuring, scheduling};
use crate::policy::journal::{Journal, Wanted};
use crate::policy::tests::guests;
use crate::policy::worlds::tests::questions::{self, GIB, ONE};
use crate::policy::worlds::{
    AdjustQuestion, EvictQuestion, OrderQuestion, Place, Report as Reporting, ReportQuestion,
};
use crate::policy::{
    Config, Handle, Kept, SettingValue, Settings, Source, Workshop, WorldKind, host, load, shipped,
    start_kept,
};

/// An agent's policies with a journal.
struct Recorder {
    _dir: tempfile::TempDir,
    policy: Handle,
}

impl Recorder {
    fn new(change: impl FnOnce(&mut Config, &std::path::Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { threads: 1, deadline_ms: 20_000, ..Config::default() };
        change(&mut config, dir.path());
        let kept = Kept {
            rows: Vec::new(),
            pushed: Vec::new(),
            modules: dir.path().join("policies"),
            journal: dir.path().join("journal"),
            workshop: Workshop { cache: Some(dir.path().join("cache")), program: None },
            problems: Vec::new(),
        };
        let policy = start_kept(config, kept).unwrap();
        Self { _dir: dir, policy }
    }

    fn journal(&self) -> &Journal {
        self.policy.journal().unwrap()
    }

    async fn entries(&self) -> Vec<Entry> {
        self.journal().settled().await;
        self.journal().read(&Wanted::default()).unwrap()
    }

    /// One decision of each function, and two more placements: refused, and with an accelerator.
    async fn decide_all(&self) -> Vec<Entry> {
        let inventory = questions::inventory(4, 2, 2);
        let place = |wants: &[(u32, u64)]| questions::place(&inventory, wants, |_| 0);
        self.policy.ask::<Reporting>(ReportQuestion { inventory: inventory.clone() }).await;
        let question = place(&[(0, ONE), (1, GIB)]);
        self.policy.ask::<Place>(question.clone()).await;
        self.policy.ask::<Place>(place(&[(0, 1000 * ONE)])).await.answer.unwrap_err();
        self.policy.ask::<Place>(place(&[(0, 2 * ONE), (2, ONE)])).await;
        let (request, node) = (question.request.clone(), question.node.clone());
        self.policy.ask::<Order>(order_question(&request, &node)).await;
        self.policy.ask::<Evict>(evict_question(&node)).await;
        self.policy.ask::<Adjust>(adjust_question(&request, &node)).await;
        self.entries().await
    }
}

fn order_question(request: &types::KernelRequest, node: &types::Node) -> OrderQuestion {
    let waiting = ["11111111-aaaa", "22222222-bbbb"].into_iter().enumerate();
    let waiting = waiting.map(|(at, id)| types::KernelRequest {
        kernel_id: id.to_owned(),
        requested_at_ms: at as u64,
        ..request.clone()
    });
    OrderQuestion {
        waiting: waiting.collect(),
        node: node.clone(),
        load: scheduling::Load {
            starting: 0,
            start_limit: 4,
            cpu_percent: 0,
            memory_free: GIB,
            tallies: vec![],
        },
    }
}

fn evict_question(node: &types::Node) -> EvictQuestion {
    let running =
        [("33333333-cccc", 10, true), ("44444444-dddd", 90_000, true), ("55555555-eeee", 500, false)];
    let running = running.map(|(id, idle_ms, preemptible)| scheduling::RunningKernel {
        kernel_id: id.to_owned(),
        owner: "ann".to_owned(),
        project: None,
        session_kind: types::SessionKind::Batch,
        shares: vec![],
        memory_used: GIB,
        disk_used: 0,
        pids_used: 3,
        started_at_ms: 0,
        idle_ms,
        preemptible,
    });
    EvictQuestion {
        pressure: scheduling::Pressure::Memory(GIB),
        running: running.to_vec(),
        node: node.clone(),
    }
}

fn adjust_question(request: &types::KernelRequest, node: &types::Node) -> AdjustQuestion {
    AdjustQuestion {
        request: request.clone(),
        node: node.clone(),
        shares: vec![types::Share { device: 0, slot: 0, amount: ONE }],
        plan: configuring::Plan {
            env: vec![],
            mounts: vec![],
            labels: vec![],
            capabilities: vec![],
            ulimits: vec![],
            memory_limit: GIB,
            shm_size: 64 << 20,
            network: None,
            hostname: "main1".to_owned(),
        },
        grants: vec![],
        placed_by_chain: vec![],
    }
}

/// Decides again on a thread of its own, in a sandbox of its own: everything is compiled anew.
fn again_elsewhere(entries: &[Entry], candidate: Option<&[u8]>) -> Report {
    let (entries, module) = (entries.to_vec(), candidate.map(<[u8]>::to_vec));
    std::thread::spawn(move || {
        let sandbox = Arc::new(host::sandbox(&Config::default(), 1, &Workshop::IN_MEMORY).unwrap());
        let bench = Bench { sandbox: Some(Arc::clone(&sandbox)), share: Duration::from_secs(10) };
        let asked = match module {
            Some(bytes) => {
                let policy = load::module(&sandbox, &bytes).unwrap().bare(sandbox.budgets);
                Asked::Candidate(Decider::Module(Arc::new(policy)))
            }
            None => Asked::Makers(Box::new(move |digest| {
                let bytes = offline::shipped_of(digest)?;
                Some(Arc::new(load::module(&sandbox, &bytes).unwrap().bare(sandbox.budgets)))
            })),
        };
        let mut run = Run::new(bench, asked, None);
        entries.iter().for_each(|entry| run.take(entry));
        run.report()
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn every_function_gives_the_same_on_another_thread_and_compiled_anew() {
    let recorder = Recorder::new(|config, _| {
        let spread = SettingValue::Text("spread".to_owned());
        config.scheduler.settings = Settings([("strategy".to_owned(), spread)].into());
    });
    let entries = recorder.decide_all().await;
    let functions: Vec<&str> = entries.iter().map(|entry| entry.function.as_str()).collect();
    assert_eq!(functions, ["report", "place", "place", "place", "order", "evict", "adjust"]);
    assert!(entries.iter().all(|entry| entry.rung == Rung::Active && entry.faults.is_empty()));
    for _ in 0..2 {
        assert_eq!(summary(&again_elsewhere(&entries, None)), "7 decisions replayed: 7 the same");
    }
}

#[tokio::test]
async fn the_built_in_gives_the_same_and_so_does_what_it_fills_in_for_one_that_failed() {
    let recorder = Recorder::new(|config, dir| {
        config.use_builtin();
        let file = dir.join("traps.wasm");
        std::fs::write(&file, guests::scheduler(guests::TRAP)).unwrap();
        config.scheduler.source = Source::File(file);
    });
    let entries = recorder.decide_all().await;
    assert!(entries.iter().all(|entry| entry.rung == Rung::Builtin));
    assert_eq!(entries[1].faults[0].fault, Fault::Trap);
    assert_eq!(summary(&again_elsewhere(&entries, None)), "7 decisions replayed: 7 the same");
}

#[tokio::test]
async fn what_depended_on_the_machine_or_another_agent_is_not_decided_again() {
    let recorder = Recorder::new(|config, dir| {
        config.use_builtin();
        let file = dir.join("recurses.wasm");
        std::fs::write(&file, guests::scheduler(guests::RECURSE)).unwrap();
        config.scheduler.source = Source::File(file);
    });
    let mut entries = recorder.decide_all().await;
    let order = entries.iter().position(|entry| entry.function == "order").unwrap();
    assert_eq!((entries[order].faults[0].fault, entries[order].replayable), (Fault::Trap, false));
    // Another agent's built-in may have filled in something else.
    entries[1].agent = "0.0.1".to_owned();
    entries[1].answer = Some(json!({"shares": []}));
    entries[2].agent = "0.0.1".to_owned();
    entries[3].question = json!({"request": {"colour": 1}});
    let report = again_elsewhere(&entries, None);
    assert_eq!(
        summary(&report),
        "7 decisions replayed: 4 the same, 3 skipped (1 stack overflow, 1 other agent version, 1 unreadable record)"
    );
    assert!(report.is_empty());
}

#[tokio::test]
async fn a_run_out_of_time_says_how_many_it_did_not_reach() {
    let recorder = Recorder::new(|config, _| config.use_builtin());
    let entries = recorder.decide_all().await;
    let bench = Bench { sandbox: None, share: Duration::from_secs(1) };
    let asked = Asked::Candidate(Decider::Builtin(Arc::from([])));
    let mut run = Run::new(bench, asked, Some(Instant::now()));
    entries.iter().for_each(|entry| run.take(entry));
    assert_eq!(summary(&run.report()), "7 decisions replayed: 7 not reached in time");
}

#[tokio::test]
async fn a_candidate_that_fails_is_told_with_the_kind_of_failure() {
    let recorder = Recorder::new(|config, _| config.use_builtin());
    let entries = recorder.decide_all().await;
    let scheduling: Vec<Entry> =
        entries.into_iter().filter(|entry| entry.world == WorldKind::Scheduler).collect();
    let report = again_elsewhere(&scheduling, Some(&guests::scheduler(guests::LIE)));
    assert_eq!(summary(&report), "5 decisions replayed: 4 fail (trap), 1 fails (invalid-answer)");
    assert!(!report.is_empty() && report.changes.len() == 5);
    let waits = again_elsewhere(&scheduling[3..4], Some(&guests::scheduler(guests::WAIT)));
    let moved = ["11111111: starts as number 1 -> waits (faulty) as number 1"];
    assert_eq!(waits.changes[0].details, moved);
    assert_eq!(waits.changes[0].now.text, "11111111 waits (faulty), 22222222 starts");
}

/// An entry about a small node: two cores and memory.
fn entry(function: &str, question: Value, answer: Value) -> Entry {
    serde_json::from_value(json!({
        "seq": 14, "time-ms": 43_201_000_u64, "agent": env!("CARGO_PKG_VERSION"),
        "world": match function { "report" => "slot-reporter", "adjust" => "container-config", _ => "scheduler" },
        "function": function, "kernels": ["8c0f9a6e-54a4-4f6b-8e5b-6a3f4a3c0001"], "policy": "mine", "version": "1",
        "rung": "active", "micros": 20, "context": {"settings": [{"key": "limit", "value": {"integer": 2}}]},
        "question": question, "answer": answer,
    }))
    .unwrap()
}

fn told(entry: &Entry, by: &str, said: Said) -> String {
    let who = run::Who { policy: by.to_owned(), version: "2".to_owned(), digest: None };
    let settings = [types::Setting { key: "limit".into(), value: types::SettingValue::Integer(3) }];
    diff::one(&diff::change(entry, &who, &settings, &Came::Different(said)).unwrap())
}

fn answered(answer: Value) -> Said {
    Said { answer: Some(answer), refusal: None, note: None }
}

#[test]
fn changes_are_told_in_words_for_each_function() {
    let kernel = |id: &str| json!({"kernel-id": id});
    let running = json!([kernel("33333333-cccc"), kernel("44444444-dddd")]);
    let evict = entry(
        "evict",
        json!({"pressure": {"memory": 1}, "running": running, "node": {}}),
        json!([{"kernel": 0, "reason": "idle for an hour"}]),
    );
    let instead = answered(json!([{"kernel": 1, "reason": "not preemptible, but idle"}]));
    let node = json!({
        "models": [{"family": "cpu"}, {"family": "mem"}],
        "devices": [{"model": 0, "number": 0}, {"model": 0, "number": 1}, {"model": 1, "number": 0}],
        "slots": [{"name": "cpu", "kind": "count"}, {"name": "mem", "kind": "bytes"}],
    });
    let place = entry(
        "place",
        json!({"request": {}, "node": node, "choice": {}}),
        json!({"shares": [{"device": 0, "slot": 0, "amount": ONE}, {"device": 2, "slot": 1, "amount": GIB}]}),
    );
    let refusal =
        Refusal { code: "quota".to_owned(), message: "ann has two kernels".to_owned(), retry_later: true };
    let refused = Said { answer: None, refusal: Some(refusal), note: None };
    let report = entry(
        "report",
        json!({"inventory": node}),
        json!({"slots": [{"name": "cpu", "kind": "count", "offers": [
            {"device": 0, "amount": ONE}, {"device": 1, "amount": ONE}
        ]}], "withheld": []}),
    );
    let less = answered(json!({"slots": [
        {"name": "cpu", "kind": "count", "offers": [{"device": 0, "amount": ONE}]},
        {"name": "mem", "kind": "bytes", "offers": [{"device": 2, "amount": GIB}]},
    ], "withheld": [{"device": 1, "reason": "kept for the system"}]}));
    let adjust = entry(
        "adjust",
        json!({"plan": {}}),
        json!([{"set-env": ["OMP_NUM_THREADS", "1"]}, {"set-shm-size": 1_073_741_824_u64}]),
    );
    let edits = answered(json!([
        {"set-env": ["OMP_NUM_THREADS", "2"]}, {"set-shm-size": 1_073_741_824_u64},
        {"add-mount": {"kind": "bind", "source": "/data", "target": "/mnt", "read-only": true}},
    ]));
    let said = [
        told(&evict, "mine", instead),
        told(&place, "other", refused),
        told(&report, "mine", less),
        told(&adjust, "mine", edits),
    ];
    insta::assert_snapshot!(said.concat());
}

#[test]
fn what_admission_refused_by_itself_is_not_decided_again() {
    let mut refused = entry("place", json!({}), json!({}));
    refused.policy = crate::policy::journal::ADMISSION.to_owned();
    let bench = Bench { sandbox: None, share: Duration::from_secs(1) };
    let came = again(&bench, &Decider::Builtin(Arc::from([])), &refused, Compare::Outcome);
    assert_eq!(came, Came::Skipped(Skip::NotAsked));
}

#[test]
fn long_diffs_are_cut_and_say_so() {
    let node =
        json!({"devices": [{"number": 0}, {"number": 1}], "slots": [{"name": "cpu", "kind": "count"}]});
    let place =
        entry("place", json!({"node": node}), json!({"shares": [{"device": 0, "slot": 0, "amount": ONE}]}));
    let who = run::Who { policy: "mine".to_owned(), version: "2".to_owned(), digest: None };
    let other = Came::Different(answered(json!({"shares": [{"device": 1, "slot": 0, "amount": ONE}]})));
    let change = diff::change(&place, &who, &[], &other).unwrap();
    let report =
        Report { replayed: 30, different: 30, changes: vec![change; 30], not_told: 2, ..Report::default() };
    let told = text(&report, 20);
    assert!(told.contains("and 10 more; `-o json` has all\n2 more are counted and not kept\n"), "{told}");
    let back: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(back, report);
    assert_eq!(summary(&Report::default()), "no decisions to replay");
}

#[test]
fn shipped_modules_are_found_by_their_digest() {
    let module = shipped::module(WorldKind::Scheduler);
    assert_eq!(offline::shipped_of(crate::ids::Digest::of(module)).as_deref(), Some(module));
}
