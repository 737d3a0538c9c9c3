//! Policies replaced while decisions are made, over a real store and real modules.

use std::collections::BTreeMap;

use super::node::{Node, Running, SCHEDULER, activation, by, last_core, place, trapping};
use super::questions::{self, GIB, ONE};
use super::*;
use crate::policy::swap::{self, Activation, Outcome, Steps, Target};
use crate::policy::worlds::Place;

#[tokio::test]
async fn a_pushed_policy_decides_from_the_next_decision_on_until_it_is_rolled_back() {
    let node = Node::new();
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
    let digest = agent.push(&last_core()).await;
    assert_eq!(agent.asks().await.0, "scheduler", "pushed is not active");

    let swapped = agent.activate(digest).await;
    assert!(swapped.changed && swapped.last_good.as_deref() == Some("scheduler"));
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3));
    assert_eq!(scheduler_of(&agent.policy).source, "pushed");
    assert!(!agent.activate(digest).await.changed, "it is active already");

    let back = agent.roll_back().await.unwrap();
    assert_eq!((back.name.as_str(), back.last_good), ("scheduler", None));
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
    assert_eq!(scheduler_of(&agent.policy).source, "shipped");
    assert_eq!(agent.roll_back().await.unwrap_err().code(), "no-history");

    let shown = agent.swap.show("scheduler", None).await.unwrap();
    let history: Vec<_> = shown[0].history.iter().map(|event| (event.act, &*event.name, event.uid)).collect();
    assert_eq!(
        history,
        [(Act::Activated, "last-core", Some(1000)), (Act::RolledBack, "scheduler", Some(1000))]
    );
    assert_eq!(shown[0].history[0].reason.as_deref(), Some("a test"));
}

#[tokio::test]
async fn the_one_that_was_active_answers_when_the_new_one_fails() {
    let node = Node::new();
    let agent = node.start().await;
    let good = agent.push(&last_core()).await;
    agent.activate(good).await;
    let bad = agent.push(&trapping()).await;
    agent.activate(bad).await;
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::LastGood, 3));
    agent.roll_back().await.unwrap();
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3));
    // Once more: to what is configured, whose second rung is empty.
    assert_eq!(agent.roll_back().await.unwrap().name, "scheduler");
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
}

#[tokio::test]
async fn a_module_is_kept_by_its_digest_and_pushing_it_twice_is_no_error() {
    let node = Node::new();
    let agent = node.start().await;
    let first = agent.swap.push(last_core(), None, 1000).await.unwrap();
    assert_eq!((first.already, first.module.world), (false, SCHEDULER));
    assert_eq!(std::fs::read(node.module(first.module.digest)).unwrap(), last_core());
    assert!(agent.swap.push(last_core(), None, 1000).await.unwrap().already);
    assert_eq!(agent.swap.modules().await.len(), 1);

    let digits = first.module.digest.to_string();
    for text in [&digits[..6], &digits.to_uppercase()[..10], "last-core", &digits] {
        let swapped = agent.activate_target(Target::Pushed(text.into())).await.unwrap();
        assert_eq!(swapped.digest, Some(first.module.digest), "{text}");
    }
    let unknown = [(&digits[..5], "at least 6 digits"), ("000000", "was pushed"), ("nobody", "was pushed")];
    for (text, words) in unknown {
        let error = agent.activate_target(Target::Pushed(text.into())).await.unwrap_err();
        assert!(error.code() == "no-such-policy" && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_module_is_said_with_a_code_and_nothing_changes() {
    let node = Node::new();
    let agent = node.start().await;
    let forbidden = wat::parse_str(r#"(component (import "wasi:cli/stdout@0.2.0" (instance)))"#).unwrap();
    for (bytes, code) in [
        (b"text".to_vec(), "not-a-component"),
        (b"\x7fELF\x02\x01".to_vec(), "precompiled"),
        (vec![0; usize::try_from(swap::MODULE_BYTES).unwrap() + 1], "module-too-large"),
        (forbidden, "forbidden-import"),
        (wat::parse_str("(component)").unwrap(), "no-world"),
        (guests::scheduler_of_version("0.3.0"), "other-interface-version"),
    ] {
        let error = agent.swap.push(bytes, None, 0).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.hint().is_empty() && !error.to_string().contains('\n'), "{error}");
    }
    // The shipped one needs edits that are granted to it only where nobody pushed it.
    let container_config = shipped::module(WorldKind::ContainerConfig).to_vec();
    let error = agent.swap.push(container_config, None, 0).await.unwrap_err();
    assert_eq!(error.code(), "not-granted");
    assert_eq!(agent.swap.push(last_core(), Some(1), 0).await.unwrap_err().code(), "no-such-link");
    assert!(agent.swap.modules().await.is_empty());
    assert_eq!(agent.asks().await.0, "scheduler");
}

#[tokio::test]
async fn settings_of_the_slot_are_given_to_what_is_pushed() {
    let mut node = Node::new();
    let spread = SettingValue::Text("spread".into());
    node.config.scheduler.settings = Settings(BTreeMap::from([("strategy".to_owned(), spread)]));
    let agent = node.start().await;
    let pushed = agent.swap.push(last_core(), None, 0).await.unwrap();
    assert!(pushed.problem.unwrap().contains("`strategy` is unknown"), "told when it is pushed");
    let error = agent.activate_target(Target::Pushed("last-core".into())).await.unwrap_err();
    assert!(
        error.code() == "wrong-settings" && error.to_string().contains("`strategy` is unknown"),
        "{error}"
    );
    let digest = agent.push(shipped::module(SCHEDULER)).await;
    let shown = agent.swap.show(&digest.to_string(), None).await.unwrap();
    assert_eq!(shown[0].settings[0].value.as_deref(), Some("\"spread\""));
    assert_eq!((shown[0].state.as_str(), shown[0].problem.as_deref()), ("pushed", None));
}

#[tokio::test]
async fn a_signature_counts_when_it_is_pushed_and_after_a_restart() {
    let mut node = Node::new();
    let ops = trust::PrivateKey::new("ops", [1; 32]).unwrap();
    node.config.trust = trust::Trust { required: true, keys: vec![ops.public()] };
    let agent = node.start().await;
    assert_eq!(agent.asks().await.0, "scheduler", "what comes with berth needs none");
    let error = agent.swap.push(last_core(), None, 0).await.unwrap_err();
    assert!(error.code() == "unsigned" && error.to_string().contains("berth policy sign"), "{error}");
    let digest = agent.push(&ops.sign(&last_core()).unwrap()).await;
    agent.activate(digest).await;
    let shown = agent.swap.show("scheduler", None).await.unwrap();
    assert_eq!(shown[0].signer.clone().unwrap().name.as_deref(), Some("ops"));
    agent.stop().await;

    // The key is not trusted any more: the next start does without the policy, and says so.
    node.config.trust.keys = vec![trust::PrivateKey::new("new", [2; 32]).unwrap().public()];
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
    assert!(
        agent.policy.problems()[0].contains("signed by a key that is not in"),
        "{:?}",
        agent.policy.problems()
    );
}

#[tokio::test]
async fn a_damaged_cache_costs_time_and_nothing_else() {
    let node = Node::new();
    let agent = node.start().await;
    let digest = agent.push(&last_core()).await;
    agent.activate(digest).await;
    agent.stop().await;
    let cache = node.dir.path().join("policy-cache");
    let entries = || {
        let entries = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap() != "secret").collect::<Vec<_>>()
    };
    // The shipped scheduler and what was pushed.
    assert_eq!(entries().len(), 2);
    for damage in ["cut", "changed", "foreign", "gone"] {
        for path in entries() {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match damage {
                "cut" => bytes.truncate(middle),
                "changed" => bytes[middle] ^= 1,
                // Compiled elsewhere: sealed with another secret.
                "foreign" => std::fs::remove_file(cache.join("secret")).unwrap_or_default(),
                _ => std::fs::remove_dir_all(&cache).unwrap_or_default(),
            }
            if cache.is_dir() {
                std::fs::write(&path, bytes).unwrap();
            } else {
                break;
            }
        }
        let agent = node.start().await;
        assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3), "{damage}");
        assert!(agent.policy.problems().is_empty());
        agent.stop().await;
        assert_eq!(entries().len(), 2, "{damage}: compiled again");
    }
}

#[tokio::test]
async fn a_member_of_a_chain_has_to_be_named() {
    let mut node = Node::new();
    node.config.container_config =
        vec![PolicyConfig { source: Source::Builtin, ..PolicyConfig::default() }; 2];
    for member in &mut node.config.container_config {
        member.grants = worlds::adjust::BUILTIN_NEEDS.map(str::to_owned).to_vec();
    }
    let agent = node.start().await;
    let module = shipped::module(WorldKind::ContainerConfig).to_vec();
    assert_eq!(agent.swap.push(module.clone(), None, 0).await.unwrap_err().code(), "which-link");
    let pushed = agent.swap.push(module, Some(1), 0).await.unwrap().module;
    let target = Target::Pushed(pushed.digest.to_string());
    let swapped = agent.activate_target(target).await.unwrap();
    assert_eq!((swapped.link, swapped.name.as_str()), (1, "container-config"));
    let names: Vec<_> = agent.policy.list().into_iter().filter(|v| v.world == pushed.world).collect();
    assert_eq!((names[0].name.as_str(), names[1].name.as_str()), ("builtin", "container-config"));
    assert_eq!(agent.policy.chain_len(), 2);
}

#[tokio::test]
async fn what_an_operator_activated_survives_a_restart_and_wins_over_the_configuration() {
    let node = Node::new();
    let agent = node.start().await;
    let first = agent.push(&last_core()).await;
    agent.activate(first).await;
    let bad = agent.push(&trapping()).await;
    agent.activate(bad).await;
    agent.stop().await;

    let agent = node.start().await;
    assert_eq!(scheduler_of(&agent.policy).digest, Some(bad));
    // Its second rung is there, too, and so is the way back.
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::LastGood, 3));
    agent.roll_back().await.unwrap();
    let configured = Target::Configured(SCHEDULER);
    assert_eq!(agent.activate_target(configured).await.unwrap().name, "scheduler");
    agent.stop().await;

    let agent = node.start().await;
    let view = scheduler_of(&agent.policy);
    assert_eq!((view.source.as_str(), view.last_good.as_deref()), ("shipped", Some("last-core")));
    assert!(agent.policy.problems().is_empty());
}

#[tokio::test]
async fn a_module_that_does_not_load_any_more_falls_back_and_is_told() {
    let node = Node::new();
    let agent = node.start().await;
    let first = agent.push(&last_core()).await;
    agent.activate(first).await;
    let second = agent.push(&trapping()).await;
    agent.activate(second).await;
    agent.stop().await;

    std::fs::remove_file(node.module(second)).unwrap();
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3));
    let problems = agent.policy.problems();
    let told = |text: &str| text.contains("faulty") && text.contains("it was not loaded: it cannot be read");
    assert!(problems.len() == 1 && told(&problems[0]), "{problems:?}");
    agent.stop().await;

    std::fs::write(node.module(first), b"not what it was").unwrap();
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
    assert_eq!(agent.policy.problems().len(), 1);
    // Once somebody decides, what did not load is no matter any more.
    agent.activate_target(Target::Configured(SCHEDULER)).await.unwrap();
    assert!(agent.policy.problems().is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_demotion_holds_over_a_restart_until_an_operator_acts() {
    let node = Node::new();
    let agent = node.start().await;
    let bad = agent.push(&trapping()).await;
    agent.activate(bad).await;
    let saves = tokio::spawn(agent.swap.clone().guard());
    for _ in 0..6 {
        assert_eq!(agent.asks().await, ("scheduler".into(), Rung::LastGood, 0));
    }
    let demoted = || async {
        let shown = agent.swap.show("scheduler", None).await.unwrap();
        shown[0].history.iter().any(|event| event.act == Act::Demoted)
    };
    while !demoted().await {
        tokio::task::yield_now().await;
    }
    saves.abort();
    agent.stop().await;

    let agent = node.start().await;
    let view = scheduler_of(&agent.policy);
    assert!(view.demoted.unwrap().starts_with("demoted until an operator acts: 5 failures"));
    assert_eq!(agent.policy.problems().len(), 1);
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::LastGood, 0));
    // It does not become the last good one.
    let good = agent.push(&last_core()).await;
    assert_eq!(agent.activate(good).await.last_good.as_deref(), Some("scheduler"));
    agent.activate(bad).await;
    assert_eq!(scheduler_of(&agent.policy).demoted, None, "an operator wants it asked again");
}

#[tokio::test]
async fn a_call_in_flight_ends_on_what_it_began_with() {
    let mut node = Node::new();
    node.config.deadline_ms = 8_000;
    let agent = node.start().await;
    let looping = agent.push(&guests::scheduler(guests::LOOP_WHEN_NOBODY_WAITS)).await;
    agent.activate(looping).await;
    let stuck = question(0);
    let begun = Arc::clone(&stuck.threads);
    let asked = tokio::spawn({
        let policy = agent.policy.clone();
        async move { policy.ask::<TestOrder>(stuck).await }
    });
    while begun.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let other = agent.push(&guests::scheduler(guests::ONCE_ONLY)).await;
    agent.activate(other).await;
    let decided = agent.policy.ask::<TestOrder>(question(1)).await;
    assert_eq!(decided.by.digest, Some(other));
    assert!(!asked.is_finished());
    // The old module, then what was the last good one when it began: not the new one.
    let decided = asked.await.unwrap();
    assert_eq!(decided.by.faults[0].digest, Some(looping));
    assert_ne!(decided.by.digest, Some(other));
}

/// 2,000 placements a second from 8 threads, while two modules take turns every 50 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn placements_go_on_while_two_modules_alternate_and_none_mixes_them() {
    const PLACEMENTS: u64 = 500;
    let node = Node::new();
    let agent = node.start().await;
    let (first, last) = (agent.push(shipped::module(SCHEDULER)).await, agent.push(&last_core()).await);
    agent.activate(first).await;
    let placing: Vec<_> = (0..8)
        .map(|_| {
            let policy = agent.policy.clone();
            tokio::spawn(async move {
                let mut counts = BTreeMap::<Option<Digest>, u64>::new();
                // Behind time it hurries to catch up.
                let mut pace = tokio::time::interval(Duration::from_millis(4));
                for _ in 0..PLACEMENTS {
                    pace.tick().await;
                    let (by, core) = place(&policy).await;
                    assert!(by.faults.is_empty() && by.rung == Rung::Active, "{by:?}");
                    // Whoever says that they decided gave the core that they give.
                    assert_eq!(core, if by.digest == Some(last) { 3 } else { 0 }, "{by:?}");
                    *counts.entry(by.digest).or_default() += 1;
                }
                counts
            })
        })
        .collect();
    let mut turn = tokio::time::interval(Duration::from_millis(50));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swaps = 0;
    while !placing.iter().all(tokio::task::JoinHandle::is_finished) {
        turn.tick().await;
        agent.activate(if swaps % 2 == 0 { last } else { first }).await;
        swaps += 1;
    }
    let mut counts = BTreeMap::<Option<Digest>, u64>::new();
    for placed in placing {
        for (digest, count) in placed.await.unwrap() {
            *counts.entry(digest).or_default() += count;
        }
    }
    assert!(swaps > 1 && counts[&Some(first)] > 0 && counts[&Some(last)] > 0, "{swaps} swaps, {counts:?}");
    assert_eq!(counts.values().sum::<u64>(), 8 * PLACEMENTS, "every decision was made");
    let journal = agent.policy.journal().unwrap();
    journal.settled().await;
    // The ring may have forgotten the oldest; each has a number.
    let last =
        journal.read(&journal::Wanted { most: Some(1), ..journal::Wanted::default() }).unwrap().remove(0);
    let (written, dropped) = (last.seq, journal.dropped());
    assert_eq!(written + dropped, counts.values().sum::<u64>(), "{written} written, {dropped} dropped");
}

#[tokio::test]
async fn a_decision_is_in_the_journal_with_all_that_it_was_made_of() {
    let node = Node::new();
    let agent = node.start().await;
    let question = questions::place(&questions::inventory(2, 0, 1), &[(0, ONE), (1, GIB)], |_| 0);
    let decided = agent.policy.ask_for::<Place>(Purpose::DryRun, 0, question.clone()).await;
    agent.policy.ask::<Place>(question).await;
    let journal = agent.policy.journal().unwrap();
    journal.settled().await;
    let entries = journal.read(&journal::Wanted::default()).unwrap();
    let [rehearsed, real] = &entries[..] else { panic!("{entries:?}") };
    assert!(rehearsed.dry_run && !real.dry_run);
    assert_eq!((rehearsed.digest, rehearsed.rung), (decided.by.digest, Rung::Active));
    assert_eq!(real.kernels, ["8c0f9a6e-54a4-4f6b-8e5b-6a3f4a3c0001"]);
    assert_eq!(
        real.context["settings"][0],
        serde_json::json!({"key": "strategy", "value": {"text": "pack"}})
    );
    assert!(real.context["seed"].is_u64());
    assert_eq!(journal::phrase::placement(real), "cpu: 0; mem: 1g");
    let free = journal::phrase::free(real);
    assert_eq!(free, ["1 cpu (2 free)", "1g mem (16g free)"]);
}

#[tokio::test]
async fn an_agent_of_built_ins_only_takes_nothing_and_does_not_forget() {
    let mut node = Node::new();
    let agent = node.start().await;
    let digest = agent.push(&last_core()).await;
    agent.activate(digest).await;
    agent.stop().await;

    node.config.use_builtin();
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("builtin".into(), Rung::Builtin, 0));
    assert!(agent.policy.problems()[0].contains("built-ins only"), "{:?}", agent.policy.problems());
    assert_eq!(agent.swap.push(last_core(), None, 0).await.unwrap_err().code(), "builtins-only");
    agent.stop().await;

    node.config.scheduler.source = Source::Shipped;
    assert_eq!(node.start().await.asks().await, ("last-core".into(), Rung::Active, 3));
}

#[tokio::test]
async fn what_would_be_decided_otherwise_is_told_and_only_accepted_by_name() {
    let node = Node::new();
    let agent = node.start().await;
    agent.asks().await;
    let digest = agent.push(&last_core()).await;
    let wanted = activation(Target::Pushed(digest.to_string()));
    let error = agent.swap.activate(wanted.clone(), &Steps::default()).await.unwrap_err();
    assert_eq!(error.code(), "decisions-differ");
    assert_eq!(error.to_string(), "it would decide otherwise: 1 decision replayed: 1 differs");
    let change = &error.diff().unwrap().changes[0];
    assert_eq!((change.then.text.as_str(), change.now.text.as_str()), ("cpu: 0", "cpu: 3"));
    assert_eq!(agent.asks().await.0, "scheduler", "nothing has changed");

    // Whoever hung up before it was done has wanted nothing.
    let (says, heard) = tokio::sync::mpsc::channel(1);
    drop(heard);
    let accepted = Activation { accept_diff: true, ..wanted };
    let error = agent.swap.activate(accepted.clone(), &Steps::to(says)).await.unwrap_err();
    assert_eq!((error.code(), agent.asks().await.0.as_str()), ("client-gone", "scheduler"));

    let Outcome::Active(swapped) = agent.swap.activate(accepted, &Steps::default()).await.unwrap() else {
        panic!("it watches")
    };
    assert_eq!(swapped.diff.unwrap().different, 3);
    // Back again: the decisions of then are those that differ now.
    agent.asks().await;
    let error = agent.swap.activate(activation(Target::Configured(SCHEDULER)), &Steps::default()).await;
    assert_eq!(error.unwrap_err().diff().unwrap().different, 1);
}

#[tokio::test]
async fn without_decisions_to_replay_there_is_nothing_to_accept() {
    let mut node = Node::new();
    node.config.replay_last = 0;
    let agent = node.start().await;
    agent.asks().await;
    let digest = agent.push(&last_core()).await;
    let wanted = activation(Target::Pushed(digest.to_string()));
    assert!(agent.swap.activate(wanted, &Steps::default()).await.is_ok());
}

#[tokio::test]
async fn settings_go_with_the_choice_and_come_back_with_it() {
    let mut node = Node::new();
    let spread = SettingValue::Text("spread".into());
    node.config.scheduler.settings = Settings([("strategy".to_owned(), spread.clone())].into());
    let agent = node.start().await;
    let strategy = async |agent: &Running| {
        let setting = agent.swap.show("scheduler", None).await.unwrap().remove(0).settings.remove(0);
        (setting.value.unwrap(), setting.origin)
    };
    let pair = |value: &str, origin: &str| (format!("{value:?}"), origin.to_owned());
    assert_eq!(strategy(&agent).await, pair("spread", "agent.toml"));
    let change = |key: &str, value: SettingValue| swap::SettingsChange {
        world: SCHEDULER,
        link: None,
        set: [(key.to_owned(), value)].into(),
        unset: Vec::new(),
        from_configured: false,
        accept_diff: false,
        order: by("a test"),
    };
    let pack = change("strategy", SettingValue::Text("pack".into()));
    assert!(agent.swap.set(pack.clone(), &Steps::default()).await.unwrap().changed);
    assert!(!agent.swap.set(pack, &Steps::default()).await.unwrap().changed, "they are given already");
    assert_eq!(strategy(&agent).await, pair("pack", "set"));
    let wrong = change("strategy", SettingValue::Integer(3));
    let mut wrong = swap::SettingsChange { unset: Vec::new(), ..wrong };
    wrong.set.insert("colour".to_owned(), spread);
    let error = agent.swap.set(wrong, &Steps::default()).await.unwrap_err().to_string();
    assert!(error.contains("`strategy` must be a text") && error.contains("`colour` is unknown"), "{error}");
    agent.stop().await;

    let agent = node.start().await;
    assert_eq!(strategy(&agent).await, pair("pack", "set"));
    agent.roll_back().await.unwrap();
    assert_eq!(strategy(&agent).await, pair("spread", "agent.toml"));
    agent.stop().await;

    node.config.scheduler.source = Source::Builtin;
    node.config.slot_reporter.source = Source::Shipped;
    let agent = node.start().await;
    let pack = change("strategy", SettingValue::Text("pack".into()));
    assert_eq!(agent.swap.set(pack, &Steps::default()).await.unwrap_err().code(), "builtin-settings");
}

#[tokio::test]
async fn a_policy_that_fails_on_probation_makes_room_for_the_one_before() {
    let mut node = Node::new();
    (node.config.probation_decisions, node.config.probation_failures) = (50, 2);
    let agent = node.start().await;
    let guard = tokio::spawn(agent.swap.clone().guard());
    let good = agent.push(&last_core()).await;
    agent.activate(good).await;
    let bad = agent.push(&trapping()).await;
    agent.activate(bad).await;
    assert_eq!(scheduler_of(&agent.policy).probation.unwrap().failures_allowed, 2);
    for _ in 0..2 {
        assert_eq!(agent.asks().await, ("last-core".into(), Rung::LastGood, 3));
    }
    while scheduler_of(&agent.policy).name != "last-core" {
        tokio::task::yield_now().await;
    }
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3));
    let view = scheduler_of(&agent.policy);
    assert!(view.notices[0].contains("rolled back to last-core") && view.probation.is_none(), "{view:?}");
    let history = agent.swap.show("scheduler", None).await.unwrap().remove(0).history;
    let last = history.last().unwrap();
    assert_eq!((last.act, last.uid, last.digest), (Act::RolledBack, None, Some(good)));
    assert!(last.reason.as_ref().unwrap().contains("failed 2 times on probation"), "{last:?}");
    // It holds over a restart, and an operator may want it all the same.
    guard.abort();
    agent.stop().await;
    let agent = node.start().await;
    assert_eq!(agent.asks().await, ("last-core".into(), Rung::Active, 3));
    agent.activate(bad).await;
    assert!(agent.policy.problems().is_empty());
}

#[tokio::test]
async fn what_agent_toml_said_before_it_was_read_again_is_the_way_back() {
    let mut node = Node::new();
    let agent = node.start().await;
    agent.asks().await;
    let file = node.dir.path().join("mine.wasm");
    std::fs::write(&file, last_core()).unwrap();
    node.config.scheduler.source = Source::File(file);
    agent.swap.reload(node.config.clone()).await;
    let problems = agent.policy.problems();
    assert!(problems.len() == 1 && problems[0].contains("activate --configured scheduler"), "{problems:?}");
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));
    node.config.accept_diff_on_reload = true;
    agent.swap.reload(node.config.clone()).await;
    assert_eq!((agent.policy.problems(), agent.asks().await.2), (Vec::new(), 3));
    assert_eq!(agent.roll_back().await.unwrap().name, "scheduler");
    assert_eq!(agent.asks().await, ("scheduler".into(), Rung::Active, 0));

    // What needs a restart says so.
    node.config.threads = 3;
    node.config.container_config.push(PolicyConfig::default());
    agent.swap.reload(node.config.clone()).await;
    let problems = agent.policy.problems().join("; ");
    assert!(problems.contains("threads of [policy] is taken when"), "{problems}");
    assert!(problems.contains("2 policies for container-config now and the agent runs with 1"), "{problems}");
}
