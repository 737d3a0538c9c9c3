//! What a policy may use, whose module is taken, and where the node keeps what it compiled.

use super::*;
use crate::policy::trust::{PrivateKey, Trust};

fn outcomes(handle: &Handle) -> Vec<(String, u64)> {
    scheduler_of(handle).outcomes.into_iter().collect()
}

#[tokio::test]
async fn every_way_a_call_can_end_is_counted_under_its_code() {
    for (order, code) in [
        (guests::NOTHING, "answered"),
        (guests::LOOP, "deadline"),
        (guests::GROW, "memory"),
        (guests::HUGE, "boundary"),
        (guests::TRAP, "trap"),
        (guests::DEEP, "trap"),
        (guests::LIE, "invalid-answer"),
    ] {
        let bench = Bench::new(&guests::scheduler(order)).deadline_ms(1_000);
        let handle = bench.start();
        for _ in 0..2 {
            handle.ask::<TestOrder>(question(1)).await;
        }
        assert_eq!(outcomes(&handle), [(code.to_owned(), 2)]);
        assert!(!Fault::sentence(code).is_empty());
    }
    for fault in [Fault::Busy, Fault::Link, Fault::Boundary] {
        assert_eq!(serde_json::to_value(fault).unwrap(), fault.code());
        assert!(!Fault::sentence(fault.code()).is_empty());
    }
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_counted_as_one() {
    let mut config = Config::builtin();
    (config.deadline_ms, config.scheduler.source) = (20_000, Source::Shipped);
    let handle = tokio::task::spawn_blocking(|| start(config)).await.unwrap().unwrap();
    let inventory = questions::inventory(1, 0, 1);
    let place = questions::place(&inventory, &[(0, 5 * questions::ONE)], |_| 0);
    let decided = handle.ask::<worlds::Place>(place).await;
    assert_eq!(
        (decided.by.rung, decided.answer.unwrap_err().code.as_str()),
        (Rung::Active, "not-enough-free")
    );
    assert_eq!(outcomes(&handle), [("refused".to_owned(), 1)]);
    assert_eq!(scheduler_of(&handle).fallbacks, 0);
}

#[tokio::test]
async fn a_world_has_budgets_of_its_own() {
    let mut bench = Bench::new(&guests::scheduler(guests::GROW));
    (bench.config.memory_bytes, bench.config.scheduler.memory_bytes) = (16 << 20, Some(8 << 20));
    check_fault(&bench, Fault::Memory, "the limit is 8388608").await;
    // More than the others may have, too.
    bench.config.scheduler.memory_bytes = Some(64 << 20);
    check_fault(&bench, Fault::Memory, "the limit is 67108864").await;

    let mut bench = Bench::new(&guests::scheduler(guests::LOOP)).deadline_ms(60_000);
    bench.config.scheduler.deadline_ms = Some(500);
    check_fault(&bench, Fault::Deadline, "still running").await;

    let mut bench = Bench::new(&guests::scheduler(guests::HUGE));
    check_fault(&bench, Fault::Boundary, "bytes-out").await;
    bench.config.scheduler.bytes_out = Some(8 << 20);
    // Large enough to be read: 90,000 decisions about the same request.
    assert_eq!(bench.start().ask::<TestOrder>(question(1)).await.answer, Ok(90_000));

    let mut bench = Bench::new(&guests::scheduler(guests::NOTHING));
    bench.config.scheduler.bytes_in = Some(64 << 10);
    let mut large = question(1);
    large.inner.waiting[0].attributes = vec![("key".into(), "x".repeat(70_000))];
    let decided = bench.start().ask::<TestOrder>(large).await;
    assert!(decided.by.faults[0].message.contains("the limit is 65536 (bytes-in)"), "{:?}", decided.by);

    let config = Config {
        scheduler: PolicyConfig { deadline_ms: Some(1), ..PolicyConfig::default() },
        slot_reporter: PolicyConfig { grants: vec!["set-env".into()], ..PolicyConfig::default() },
        container_config: vec![PolicyConfig { grants: vec!["set-evn".into()], ..PolicyConfig::default() }],
        ..Config::default()
    };
    let problems = config.problems();
    assert_eq!(problems[0], "policy.scheduler.deadline-ms is 1; it must be from 4 to 60000");
    assert_eq!(problems[1], "policy.slot-reporter.grants: only policies of container-config make edits");
    assert!(
        problems[2].starts_with("policy.container-config.grants: set-evn is no edit; there are set-env, ")
    );
}

/// Refused when it is loaded, not when a kernel asks.
fn check_does_not_load(bench: &Bench, code: &str, words: &str) {
    let errors = check_config(&bench.config);
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(error.problem.code(), code, "{error}");
    assert!(error.to_string().contains(words) && !error.to_string().contains('\n'), "{error}");
}

#[test]
fn what_no_call_could_hold_is_refused_when_it_is_loaded() {
    // 40 MiB of memory to begin with, of 32.
    let mut bench = Bench::new(&guests::scheduler_of_size(640, 1));
    check_does_not_load(&bench, "does-not-fit", "raise memory-bytes");
    bench.config.scheduler.memory_bytes = Some(64 << 20);
    assert!(check_config(&bench.config).is_empty());
    // Enough for another world's is not enough for this one's.
    bench.config.scheduler.memory_bytes = None;
    bench.config.slot_reporter.memory_bytes = Some(64 << 20);
    check_does_not_load(&bench, "does-not-fit", "the limit is 33554432");
    check_does_not_load(&Bench::new(&guests::scheduler_of_size(1, 70_000)), "does-not-fit", "70000");
}

#[test]
fn a_module_of_200_megabytes_is_refused_unread() {
    let bench = Bench::new(&[]);
    // Without blocks on disk: reading it would take long, and it is not there to be read.
    std::fs::File::create(bench.path()).unwrap().set_len(200 << 20).unwrap();
    check_does_not_load(&bench, "module-too-large", "it has 209715200 bytes, more than the 67108864");
}

#[tokio::test]
async fn where_signatures_are_required_only_known_ones_load() {
    let ops = PrivateKey::new("ops", [1; 32]).unwrap();
    let stranger = PrivateKey::new("stranger", [2; 32]).unwrap();
    let module = guests::scheduler(guests::NOTHING);
    let required = Trust { required: true, keys: vec![ops.public()] };
    let bench = |module: &[u8]| {
        let mut bench = Bench::new(module);
        bench.config.trust = required.clone();
        bench
    };
    check_does_not_load(&bench(&module), "unsigned", "`berth policy sign FILE --key KEY`");
    check_does_not_load(&bench(&stranger.sign(&module).unwrap()), "unknown-signer", "add it there as NAME:");
    let mut changed = ops.sign(&module).unwrap();
    let in_a_text = changed.windows(6).position(|bytes| bytes == b"faulty").unwrap();
    changed[in_a_text] = b'F';
    check_does_not_load(&bench(&changed), "bad-signature", "is not what was signed");

    // What agent.toml names is passed over, and the node starts with what comes with berth: that needs none.
    let handle = bench(&module).start();
    assert_eq!((scheduler_of(&handle).name.as_str(), scheduler_of(&handle).signer), ("scheduler", None));
    assert!(handle.problems()[0].contains("it is not signed"), "{:?}", handle.problems());
    let handle = bench(&ops.sign(&module).unwrap()).start();
    assert_eq!(scheduler_of(&handle).signer.unwrap().name.as_deref(), Some("ops"));
    assert_eq!(handle.ask::<TestOrder>(question(1)).await.by.rung, Rung::Active);
    assert!(handle.problems().is_empty());
}

#[tokio::test]
async fn a_question_waits_for_a_thread_within_its_own_deadline() {
    let mut bench = Bench::new(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS));
    bench.config.threads = 1;
    bench.config.scheduler.deadline_ms = Some(1_000);
    bench.config.slot_reporter.source = Source::Shipped;
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
    // The only thread is taken for half a second; the reporter's deadline is 20.
    let report = worlds::ReportQuestion { inventory: questions::inventory(2, 0, 1) };
    let waited = handle.ask::<worlds::Report>(report).await;
    assert_eq!((waited.by.rung, waited.by.faults.len()), (Rung::Active, 0), "{:?}", waited.by);
    assert_eq!(stuck.await.unwrap().by.faults[0].fault, Fault::Deadline);
}
