//! Two policies of the chain that contradict each other: the host's part, what is told and for how long.

use super::*;
use crate::policy::worlds::Adjust;

fn two_links() -> Config {
    let mut config = Config::builtin();
    config.container_config = vec![PolicyConfig { source: Source::Builtin, ..PolicyConfig::default() }; 2];
    config
}

fn refusal() -> Refusal {
    let message = "the container-config policies a (link 0) and b (link 1) both set env P, differently";
    Refusal { code: CHAIN_CONFLICT.into(), message: message.into(), retry_later: false }
}

#[tokio::test]
async fn a_contradiction_is_told_in_the_journal_and_as_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept {
        rows: vec![],
        pushed: vec![],
        modules: dir.path().join("policies"),
        journal: dir.path().join("journal"),
        workshop: Workshop { cache: Some(dir.path().join("cache")), program: None },
        problems: vec![],
    };
    let handle = start_kept(two_links(), kept).unwrap();
    let question = questions::adjust(1, true, questions::plan(&["P"], &[]));
    let by = handle.ask_link::<Adjust>(1, question.clone()).await.by;
    for purpose in [Purpose::DryRun, Purpose::Real, Purpose::Real] {
        handle.conflict::<Adjust>(purpose, (0, 1), question.clone(), &by, &refusal());
    }
    let problems = handle.problems();
    assert_eq!(
        problems,
        [
            "the container-config policies a (link 0) and b (link 1) both set env P, differently: 2 kernel(s) were \
          refused; give one of them other settings, or take it out of the chain"
        ]
    );
    let journal = handle.journal().unwrap();
    journal.settled().await;
    let entries = journal.read(&journal::Wanted::default()).unwrap();
    let told: Vec<_> = entries.iter().filter(|entry| entry.refusal == Some(refusal())).collect();
    assert_eq!(told.len(), 3);
    assert!(
        told.iter().all(|entry| entry.link == 1 && !entry.replayable && entry.question == told[0].question)
    );
    assert!(told[0].dry_run && !told[1].dry_run);
    // It is over when one of the two is replaced.
    let slot = handle.host.chain(WorldKind::ContainerConfig).next().unwrap();
    let Some(wasm) =
        start(Config::default()).unwrap().host.wasm.as_ref().map(|wasm| Arc::clone(&wasm.sandbox))
    else {
        panic!("no sandbox")
    };
    let config = PolicyConfig::default();
    let policy = slot::load(&wasm, WorldKind::ContainerConfig, &config).unwrap();
    let active = Member::new(Chosen::CONFIGURED, policy, &config);
    slot.swap(Line { active, last_good: None, ..(*slot.line()).clone() });
    assert!(handle.problems().is_empty());
}

#[tokio::test]
async fn an_answer_that_cannot_be_carried_out_is_the_policys_failure_and_the_built_in_decides() {
    let mut config = Config::builtin();
    (config.deadline_ms, config.container_config[0].source) = (20_000, Source::Shipped);
    let handle = tokio::task::spawn_blocking(|| start(config)).await.unwrap().unwrap();
    let question = questions::adjust(1, true, questions::plan(&[], &[]));
    let decided = handle.ask::<Adjust>(question.clone()).await;
    assert_eq!(
        (decided.by.rung, &decided.granted[..]),
        (Rung::Active, &worlds::adjust::BUILTIN_NEEDS.map(str::to_owned)[..])
    );
    for _ in 0..5 {
        let instead = handle.overrule::<Adjust>(
            Purpose::Real,
            0,
            question.clone(),
            decided.by.clone(),
            "it lies".into(),
        );
        assert_eq!((instead.by.rung, instead.by.faults[0].fault), (Rung::Builtin, Fault::InvalidAnswer));
        assert_eq!(instead.answer, decided.answer, "the same logic, natively");
    }
    let view = handle.list().into_iter().find(|view| view.world == WorldKind::ContainerConfig).unwrap();
    assert_eq!((view.calls, view.fallbacks, view.outcomes["invalid-answer"]), (1, 5, 5));
    assert!(view.demoted.is_some(), "five times in a minute is too often, as with any failure: {view:?}");
}

#[tokio::test]
async fn a_policy_makes_no_edit_that_it_did_not_say_it_needs() {
    let mut bench = Config::builtin();
    bench.deadline_ms = 20_000;
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/dist/container-config.wasm");
    let member = PolicyConfig { source: Source::File(path), ..PolicyConfig::default() };
    bench.container_config = vec![member];
    let errors = check_config(&bench);
    assert_eq!(errors[0].problem.code(), "not-granted");
    let text = errors[0].to_string();
    assert!(text.contains(r#"write grants = ["set-env", "add-mount", "set-pids-limit""#), "{text}");
    // What is granted beyond its needs it does not get.
    let mut grants = worlds::adjust::BUILTIN_NEEDS.map(str::to_owned).to_vec();
    grants.extend(["set-network:host".to_owned(), "add-capability".to_owned()]);
    bench.container_config[0].grants = grants;
    let handle = tokio::task::spawn_blocking(|| start(bench)).await.unwrap().unwrap();
    let question = questions::adjust(1, true, questions::plan(&[], &[]));
    let decided = handle.ask::<Adjust>(question).await;
    assert_eq!(decided.granted[..], worlds::adjust::BUILTIN_NEEDS.map(str::to_owned));
}
