//! The host with faulty guests: each fault is told apart, the twin answers, nothing else suffers.

mod chain;
pub(super) mod guests;
mod limits;
mod node;
mod swap;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::bindings::{scheduling, types};
use super::guest::Guest;
use super::sandbox::State;
use super::slot::{Line, Member};
use super::worlds::tests::questions;
use super::worlds::{Order, OrderQuestion};
use super::*;

/// `order` with a twin and a check of its own, so that these tests need no shipped logic.
#[derive(Debug)]
struct TestOrder;

#[derive(Debug, Clone)]
struct TestQuestion {
    inner: OrderQuestion,
    /// The threads on which a guest was called.
    threads: Arc<Mutex<Vec<String>>>,
}

const BY_TWIN: usize = 1_000;

impl Decision for TestOrder {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "order";
    type Question = TestQuestion;
    type Raw = Vec<scheduling::Decision>;
    /// How many decisions the guest gave; [`BY_TWIN`] and more for the twin.
    type Answer = usize;

    fn twin(_: &types::Context, _: &TestQuestion) -> Result<Self::Raw, Refusal> {
        Ok(vec![scheduling::Decision { request: u32::MAX, verdict: scheduling::Verdict::Start }])
    }

    fn check(
        _: &types::Context,
        question: &TestQuestion,
        raw: Self::Raw,
    ) -> Result<(usize, Option<String>), String> {
        if let [only] = &raw[..]
            && only.request == u32::MAX
        {
            return Ok((BY_TWIN, Some("by the twin".to_owned())));
        }
        match raw.iter().find(|d| d.request as usize >= question.inner.waiting.len()) {
            Some(decision) => Err(format!("request {} is not waiting", decision.request)),
            None => Ok((raw.len(), None)),
        }
    }
}

impl journal::Told for TestOrder {
    fn kernels(question: &TestQuestion) -> Vec<String> {
        Order::kernels(&question.inner)
    }

    fn question(question: &TestQuestion) -> serde_json::Value {
        Order::question(&question.inner)
    }

    fn read(question: &serde_json::Value) -> Result<TestQuestion, json::Wrong> {
        Ok(TestQuestion { inner: Order::read(question)?, threads: Arc::default() })
    }

    fn answer(answer: &usize) -> serde_json::Value {
        (*answer).into()
    }
}

impl Asked for TestOrder {
    fn weigh(question: &TestQuestion, terms: &guest::Terms) -> usize {
        Order::weigh(&question.inner, terms)
    }

    fn call(
        guest: &Guest,
        store: &mut wasmtime::Store<State>,
        ctx: &types::Context,
        question: &TestQuestion,
        terms: &guest::Terms,
    ) -> wasmtime::Result<Result<Self::Raw, Refusal>> {
        question.threads.lock().unwrap().push(std::thread::current().name().unwrap_or("?").to_owned());
        Order::call(guest, store, ctx, &question.inner, terms)
    }
}

fn question(waiting: usize) -> TestQuestion {
    TestQuestion {
        inner: OrderQuestion {
            waiting: (0..waiting).map(request).collect(),
            node: types::Node { models: vec![], devices: vec![], slots: vec![] },
            load: scheduling::Load {
                starting: 0,
                start_limit: 4,
                cpu_percent: 0,
                memory_free: 0,
                tallies: vec![],
            },
        },
        threads: Arc::default(),
    }
}

fn request(number: usize) -> types::KernelRequest {
    types::KernelRequest {
        kernel_id: format!("k{number}"),
        session_id: "s".into(),
        owner: "ann".into(),
        project: None,
        session_kind: types::SessionKind::Interactive,
        cluster_role: "main".into(),
        cluster_rank: 0,
        cluster_size: 1,
        image: "python".into(),
        image_digest: None,
        image_labels: vec![("a.b".into(), "c".into())],
        wants: vec![],
        may_fragment: true,
        requested_at_ms: 0,
        attributes: vec![],
    }
}

/// A policy file in a directory of its own, and a configuration that uses it as the scheduler. The
/// deadline is long, so that a loaded machine does not look like a slow policy.
struct Bench {
    directory: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn new(module: &[u8]) -> Self {
        let directory = tempfile::Builder::new().prefix("berth-policy-").tempdir().unwrap();
        let path = directory.path().join("test.wasm");
        std::fs::write(&path, module).unwrap();
        let mut config = Config::builtin();
        config.node_name = "node".into();
        config.threads = 2;
        config.deadline_ms = 20_000;
        config.scheduler.source = Source::File(path);
        Self { directory, config }
    }

    fn deadline_ms(mut self, deadline_ms: u64) -> Self {
        self.config.deadline_ms = deadline_ms;
        self
    }

    fn start(&self) -> Handle {
        start(self.config.clone()).unwrap()
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("test.wasm")
    }
}

fn scheduler_of(handle: &Handle) -> PolicyView {
    handle.list().into_iter().find(|view| view.world == WorldKind::Scheduler).unwrap()
}

/// Asks a guest with one fault once: the twin answers and the fault is told.
async fn check_fault(bench: &Bench, fault: Fault, words: &str) {
    let decided = bench.start().ask::<TestOrder>(question(1)).await;
    assert_eq!(decided.answer, Ok(BY_TWIN));
    assert_eq!(
        (decided.by.rung, decided.by.policy.as_str(), decided.by.digest),
        (Rung::Builtin, "builtin", None)
    );
    assert_eq!(decided.by.note.as_deref(), Some("by the twin"));
    let [told] = &decided.by.faults[..] else { panic!("{:?}", decided.by.faults) };
    assert_eq!(told.fault, fault, "{}", told.message);
    assert!(told.message.contains(words), "{}", told.message);
    assert_eq!(told.policy, "faulty");
}

#[tokio::test]
async fn a_good_policy_answers_on_a_policy_thread_and_is_counted() {
    let bench = Bench::new(&guests::scheduler(guests::NOTHING));
    let handle = bench.start();
    let question = question(3);
    let decided = handle.ask::<TestOrder>(question.clone()).await;
    assert_eq!(decided.answer, Ok(0), "{:?}", decided.by);
    assert_eq!((decided.by.rung, decided.by.policy.as_str()), (Rung::Active, "faulty"));
    assert_eq!(decided.by.digest, Some(Digest::of(&guests::scheduler(guests::NOTHING))));
    assert!(decided.by.faults.is_empty());
    let threads = question.threads.lock().unwrap().clone();
    assert!(matches!(threads[..], [ref name] if name == "policy-0" || name == "policy-1"), "{threads:?}");

    let view = scheduler_of(&handle);
    assert_eq!((view.calls, view.fallbacks, view.demoted), (1, 0, None));
    assert_eq!(view.source, bench.path().display().to_string());
    assert!(view.p99_micros > 0);
    assert!(handle.problems().is_empty());
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_deadline() {
    let bench = Bench::new(&guests::scheduler(guests::LOOP)).deadline_ms(1_000);
    check_fault(&bench, Fault::Deadline, "still running").await;
}

#[tokio::test]
async fn growing_without_end_meets_the_memory_limit() {
    let bench = Bench::new(&guests::scheduler(guests::GROW));
    check_fault(&bench, Fault::Memory, "the limit is 33554432").await;
}

#[tokio::test]
async fn a_trap_tells_where_and_the_last_words() {
    let bench = Bench::new(&guests::scheduler(guests::TRAP));
    check_fault(&bench, Fault::Trap, "`unreachable`").await;
    check_fault(&bench, Fault::Trap, "its last words: faulty").await;
}

#[tokio::test]
async fn a_stack_overflow_is_a_trap_that_says_so() {
    check_fault(&Bench::new(&guests::scheduler(guests::DEEP)), Fault::Trap, "its stack overflowed").await;
}

#[tokio::test]
async fn a_huge_answer_stops_at_the_boundary() {
    check_fault(&Bench::new(&guests::scheduler(guests::HUGE)), Fault::Boundary, "larger than").await;
}

#[tokio::test]
async fn a_lying_answer_is_refused_and_the_twin_decides() {
    check_fault(
        &Bench::new(&guests::scheduler(guests::LIE)),
        Fault::InvalidAnswer,
        "request 99 is not waiting",
    )
    .await;
}

#[tokio::test]
async fn an_answer_outside_its_memory_is_invalid() {
    check_fault(&Bench::new(&guests::scheduler(guests::WILD)), Fault::InvalidAnswer, "cannot be read").await;
}

#[tokio::test]
async fn a_question_too_large_is_not_asked() {
    let mut bench = Bench::new(&guests::scheduler(guests::NOTHING));
    bench.config.bytes_in = 64 << 10;
    let mut large = question(1);
    large.inner.waiting[0].attributes = vec![("key".into(), "x".repeat(70_000))];
    let handle = bench.start();
    for _ in 0..6 {
        let decided = handle.ask::<TestOrder>(large.clone()).await;
        assert_eq!(decided.answer, Ok(BY_TWIN));
        assert_eq!(decided.by.faults[0].fault, Fault::Boundary);
    }
    // That was not the policy's doing.
    assert_eq!(scheduler_of(&handle).demoted, None);
    assert_eq!(handle.ask::<TestOrder>(question(1)).await.by.rung, Rung::Active);
}

#[tokio::test]
async fn every_call_gets_a_fresh_instance() {
    let handle = Bench::new(&guests::scheduler(guests::ONCE_ONLY)).start();
    for _ in 0..20 {
        assert_eq!(handle.ask::<TestOrder>(question(1)).await.by.rung, Rung::Active);
    }
}

#[tokio::test]
async fn other_calls_go_on_while_one_loops() {
    let bench = Bench::new(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS)).deadline_ms(6_000);
    let handle = bench.start();
    let looping = question(0);
    let begun = Arc::clone(&looping.threads);
    let stuck = tokio::spawn({
        let handle = handle.clone();
        async move { handle.ask::<TestOrder>(looping).await }
    });
    while begun.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..50 {
        assert_eq!(handle.ask::<TestOrder>(question(1)).await.by.rung, Rung::Active);
    }
    assert!(!stuck.is_finished());
    let decided = stuck.await.unwrap();
    assert_eq!((decided.answer, decided.by.faults[0].fault), (Ok(BY_TWIN), Fault::Deadline));
}

#[tokio::test]
async fn a_busy_host_answers_by_the_twin_and_blames_nobody() {
    let mut bench = Bench::new(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS)).deadline_ms(1_000);
    bench.config.threads = 1;
    let handle = bench.start();
    let looping = question(0);
    let begun = Arc::clone(&looping.threads);
    let stuck = tokio::spawn({
        let handle = handle.clone();
        async move { handle.ask::<TestOrder>(looping).await }
    });
    while begun.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // More than the queue holds, asked at once while the only thread loops.
    let asks = (0..100).map(|_| handle.ask::<TestOrder>(question(1)));
    let all = futures_util::future::join_all(asks).await;
    assert!(all.iter().all(|decided| decided.answer == Ok(BY_TWIN) || decided.answer == Ok(0)));
    let busy = |d: &Decided<usize>| d.by.faults.first().is_some_and(|f| f.fault == Fault::Busy);
    assert!(all.iter().filter(|decided| busy(decided)).count() >= 68);
    stuck.await.unwrap();
    assert_eq!(scheduler_of(&handle).demoted, None);
}

#[tokio::test]
async fn a_policy_that_keeps_failing_is_demoted_and_the_threads_live_on() {
    let bench = Bench::new(&guests::scheduler(guests::TRAP));
    let handle = bench.start();
    for _ in 0..5 {
        let decided = handle.ask::<TestOrder>(question(1)).await;
        assert_eq!(decided.answer, Ok(BY_TWIN));
    }
    let after = question(1);
    let decided = handle.ask::<TestOrder>(after.clone()).await;
    assert_eq!(decided.answer, Ok(BY_TWIN));
    assert!(after.threads.lock().unwrap().is_empty(), "a demoted policy was called");
    assert!(decided.by.faults[0].message.starts_with("demoted until an operator acts: 5 failures"));
    let view = scheduler_of(&handle);
    assert_eq!((view.calls, view.fallbacks), (6, 6));
    assert!(view.demoted.is_some());
    assert_eq!(handle.problems().len(), 1);
}

#[tokio::test]
async fn the_last_good_policy_answers_when_the_active_one_fails() {
    let good = Bench::new(&guests::scheduler(guests::NOTHING));
    let handle = good.start();
    let bad = Bench::new(&guests::scheduler(guests::TRAP));
    let Some(wasm) = &handle.host.wasm else { panic!("no sandbox") };
    let bad = slot::load(&wasm.sandbox, WorldKind::Scheduler, &bad.config.scheduler).unwrap().unwrap();
    let slot = handle.host.chain(WorldKind::Scheduler).next().unwrap();
    let line = slot.line();
    let active = Member::new(Chosen::CONFIGURED, Some(bad), &line.config);
    slot.swap(Line { active, last_good: Some(line.active.clone()), ..(*line).clone() });

    let decided = handle.ask::<TestOrder>(question(1)).await;
    assert_eq!((decided.answer, decided.by.rung), (Ok(0), Rung::LastGood));
    assert_eq!(decided.by.faults.len(), 1);
    assert_eq!((scheduler_of(&handle).calls, scheduler_of(&handle).fallbacks), (1, 1));
}

#[tokio::test]
async fn an_abandoned_question_leaves_the_host_usable() {
    let bench = Bench::new(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS)).deadline_ms(400);
    let handle = bench.start();
    for _ in 0..4 {
        let stuck = tokio::spawn({
            let handle = handle.clone();
            async move { handle.ask::<TestOrder>(question(0)).await }
        });
        tokio::task::yield_now().await;
        stuck.abort();
    }
    while handle.ask::<TestOrder>(question(1)).await.by.rung != Rung::Active {}
}

#[tokio::test]
async fn the_clock_parks_when_nothing_runs() {
    let handle = Bench::new(&guests::scheduler(guests::NOTHING)).start();
    let Some(wasm) = &handle.host.wasm else { panic!("no sandbox") };
    for _ in 0..2 {
        assert_eq!(handle.ask::<TestOrder>(question(1)).await.by.rung, Rung::Active);
        while !wasm.sandbox.clock.is_parked() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn the_builtin_alone_answers_without_wasm_and_without_threads() {
    let handle = Handle::builtin();
    assert!(handle.host.wasm.is_none());
    let decided = handle.ask::<TestOrder>(question(1)).await;
    assert_eq!((decided.answer, decided.by.rung), (Ok(BY_TWIN), Rung::Builtin));
    assert!(decided.by.faults.is_empty());
    let view = scheduler_of(&handle);
    assert_eq!((view.name.as_str(), view.calls, view.fallbacks), ("builtin", 1, 0));
    assert_eq!((handle.chain_len(), handle.list().len()), (1, 3));
}

/// Starts with a module that does not load: the node runs, and the reason is seen.
async fn check_not_loaded(module: &[u8], words: &str) {
    let bench = Bench::new(module);
    let handle = bench.start();
    assert!(handle.ask::<TestOrder>(question(1)).await.answer.is_ok());
    let problems = handle.problems();
    assert!(problems.len() == 1 && problems[0].contains(words), "{problems:?}");
    assert!(problems[0].contains(&bench.path().display().to_string()));
    assert_eq!(scheduler_of(&handle).last_fault.map(|fault| fault.fault), Some(Fault::Link));
    let errors = check_config(&bench.config);
    assert!(errors.len() == 1 && errors[0].to_string().contains(words), "{errors:?}");
}

#[tokio::test]
async fn what_does_not_load_never_keeps_the_node_from_starting() {
    check_not_loaded(b"", "an empty file").await;
    check_not_loaded(b"(component)", "text form").await;
    check_not_loaded(&guests::scheduler_of_version("0.3.0"), "berth:policy@0.2").await;
    check_not_loaded(&guests::scheduler_that_refuses_settings(), "its settings are wrong: faulty").await;
    let forbidden = wat::parse_str(r#"(component (import "wasi:cli/stdout@0.2.0" (instance)))"#).unwrap();
    check_not_loaded(&forbidden, "it imports `wasi:cli/stdout@0.2.0`").await;
}

#[test]
fn a_newer_patch_version_is_spoken() {
    let bench = Bench::new(&guests::scheduler_of_version("0.2.7"));
    let checked = check_file(&bench.path()).unwrap();
    assert_eq!((checked.world, checked.name.as_str()), (WorldKind::Scheduler, "faulty"));
}

/// A module with a manifest that is not by `pack`.
fn with_manifest(module: &[u8], name: &str, fixture: serde_json::Value) -> Vec<u8> {
    let manifest = manifest::Manifest {
        format: 1,
        name: name.to_owned(),
        version: "faulty".to_owned(),
        summary: "faulty".to_owned(),
        world: WorldKind::Scheduler,
        settings: Vec::new(),
        needs: Vec::new(),
        image_labels: Vec::new(),
        fixtures: vec![manifest::ManifestFixture { file: "a.json".to_owned(), fixture }],
    };
    manifest::write(module, &manifest).unwrap()
}

#[test]
fn a_manifest_that_contradicts_its_module_keeps_it_from_loading() {
    let guest = guests::scheduler(guests::NOTHING);
    let other = with_manifest(&guest, "better", serde_json::Value::Null);
    let error = check_file(&Bench::new(&other).path()).unwrap_err();
    assert_eq!(error.problem.code(), "manifest-mismatch");
    assert!(error.to_string().contains("its manifest says name better, the module itself faulty"), "{error}");
    let right = with_manifest(&guest, "faulty", serde_json::Value::Null);
    assert!(check_file(&Bench::new(&right).path()).unwrap().packed);
}

#[test]
fn a_modules_own_fixtures_are_asked_with_its_budgets() {
    let case = serde_json::json!({
        "function": "order", "question": {"waiting": [{}, {}]}, "expect": {"properties": {"start": [0, 1]}},
    });
    let problems = |body: &str| {
        let module = with_manifest(&guests::scheduler(body), "faulty", case.clone());
        let found: Result<_, PolicyError> = on_a_thread(move || {
            let sandbox = host::sandbox(&Config::default(), 1, &Workshop::IN_MEMORY).unwrap();
            let module = load::module(&sandbox, &module).unwrap();
            Ok(fixture::problems(&sandbox, &module))
        });
        found.unwrap()
    };
    assert_eq!(problems(guests::NOTHING), [""; 0]);
    for (body, expected) in [
        (guests::LIE, "a.json: invalid-answer: its answer is wrong: decides about request 99"),
        (guests::TRAP, "a.json: trap: "),
        (guests::GROW, "a.json: memory: it wanted "),
        (guests::LOOP, "a.json: deadline: it was still running"),
    ] {
        let problems = problems(body);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
    }
}

#[test]
fn a_policy_of_another_world_is_told_where_it_belongs() {
    let mut bench = Bench::new(&guests::scheduler(guests::NOTHING));
    bench.config.slot_reporter = std::mem::take(&mut bench.config.scheduler);
    bench.config.scheduler.source = Source::Builtin;
    let errors = check_config(&bench.config);
    assert!(errors[0].to_string().contains("name it under [policy.scheduler]"), "{errors:?}");
}

#[test]
fn types_that_do_not_fit_are_found_when_it_is_loaded() {
    // The same names with a record that has lost a field.
    let module = guests::scheduler_with_wit(
        &guests::WIT
            .replace("record want { slot: slot-index, amount: amount }", "record want { slot: slot-index }"),
    );
    let error = check_file(&Bench::new(&module).path()).unwrap_err().to_string();
    assert!(error.contains("cannot be instantiated"), "{error}");
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let error = start(Config { deadline_ms: 1, ..Config::builtin() }).unwrap_err();
    assert_eq!(error.to_string(), "policy: policy.deadline-ms is 1; it must be from 4 to 60000");
}

#[test]
fn labels_a_policy_did_not_ask_for_are_hidden_from_it() {
    let question = question(2).inner;
    let terms = |patterns: &[&str]| guest::Terms {
        grants: Default::default(),
        image_labels: patterns.iter().map(|p| (*p).to_owned()).collect(),
    };
    assert!(Order::tailored(&question, &terms(&[])).waiting[1].image_labels.is_empty());
    assert_eq!(Order::tailored(&question, &terms(&["a.*"])).waiting[1].image_labels.len(), 1);
    assert_eq!(Order::tailored(&question, &terms(&["a.b"])).waiting[0].image_labels.len(), 1);
}

#[tokio::test]
async fn a_handle_dropped_in_mid_call_ends_its_threads() {
    let handle = Bench::new(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS)).deadline_ms(400).start();
    let host = Arc::downgrade(&handle.host);
    let asked = tokio::time::timeout(Duration::ZERO, handle.ask::<TestOrder>(question(0))).await;
    assert!(asked.is_err());
    drop(handle);
    assert!(host.upgrade().is_none());
}
