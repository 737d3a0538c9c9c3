//! Lives by table and by chance.

use proptest::prelude::*;

use super::*;

fn why(reason: &str) -> Termination {
    Termination { reason: reason.to_owned(), ..Termination::default() }
}

/// Lets every begun step end well until nothing is under way.
fn settle(state: &mut State, effects: Vec<Effect>) -> Vec<Effect> {
    let mut seen = effects;
    while let Some(step) = state.step {
        if step == Step::AwaitReady && state.phase == Phase::Running {
            break;
        }
        seen.extend(state.apply(Input::Done(step)));
    }
    seen
}

fn running() -> State {
    let (mut state, effects) = State::requested();
    settle(&mut state, effects);
    assert_eq!(state.phase, Phase::Running);
    state
}

#[test]
fn an_ordinary_life_saves_twice_before_it_is_started() {
    let (mut state, effects) = State::requested();
    let seen = settle(&mut state, effects);
    assert_eq!(
        seen,
        [
            Effect::Begin(Step::Place),
            Effect::Commit(Some(Notice::Preparing)),
            Effect::Begin(Step::AwaitPermit),
            Effect::Begin(Step::Prepare),
            Effect::Begin(Step::Create),
            Effect::Commit(Some(Notice::Creating)),
            Effect::Begin(Step::Start),
            Effect::Begin(Step::AwaitReady),
            Effect::Commit(Some(Notice::Started)),
            Effect::TellRunning,
        ]
    );
}

#[test]
fn stopping_keeps_the_log_and_removing_leaves_nothing() {
    let mut state = running();
    let effects = state.apply(Input::Stop(why("user-requested")));
    assert_eq!(
        settle(&mut state, effects),
        [
            Effect::Commit(None),
            Effect::Begin(Step::Stop),
            Effect::Begin(Step::Collect),
            Effect::Commit(Some(Notice::Terminated)),
        ]
    );
    assert_eq!(state.phase, Phase::Collected);
    let effects = state.apply(Input::Remove(why("user-requested")));
    assert_eq!(
        settle(&mut state, effects),
        [Effect::Commit(None), Effect::Begin(Step::Remove), Effect::Finish]
    );
}

#[test]
fn a_create_that_is_under_way_ends_before_it_is_undone() {
    let (mut state, _) = State::requested();
    for step in [Step::Place, Step::AwaitPermit, Step::Prepare] {
        state.apply(Input::Done(step));
    }
    assert_eq!(state.apply(Input::Stop(why("cancelled"))), []);
    assert_eq!(state.apply(Input::Done(Step::Create)), [Effect::Commit(None), Effect::Begin(Step::Stop)]);
    let seen = settle(&mut state, vec![]);
    assert!(seen.contains(&Effect::Begin(Step::Remove)) && seen.contains(&Effect::TellFailed), "{seen:?}");
}

#[test]
fn the_first_reason_wins_and_the_exit_code_is_kept() {
    let mut state = running();
    state.apply(Input::Stop(why("user-requested")));
    state.apply(Input::Died(Termination { exit_code: Some(137), ..why("self-terminated") }));
    let ended = state.termination.clone().unwrap();
    assert_eq!((ended.reason.as_str(), ended.exit_code), ("user-requested", Some(137)));
}

#[test]
fn a_removal_that_failed_is_tried_again() {
    let mut state = running();
    state.apply(Input::Remove(why("user-requested")));
    state.apply(Input::Done(Step::Stop));
    state.apply(Input::Done(Step::Collect));
    assert_eq!(state.apply(Input::Failed(Step::Remove, why("x"))), []);
    assert_eq!(state.apply(Input::RetryRemove), [Effect::Begin(Step::Remove)]);
    assert_eq!(state.apply(Input::RetryRemove), []);
}

#[test]
fn recovery_goes_on_where_the_world_is() {
    let exited = ContainerState::Exited { code: Some(3), oom_killed: false };
    let running = ContainerState::Running;
    let created = ContainerState::Created;
    let next = |phase, ran, container| State::recovered(phase, None, (false, ran), container).1;
    let begin = |step| vec![Effect::Begin(step)];
    assert_eq!(next(Phase::Running, true, Some(&running)), begin(Step::AwaitReady));
    assert_eq!(next(Phase::Running, true, Some(&exited)), begin(Step::Collect));
    assert_eq!(next(Phase::Running, true, None), begin(Step::Collect));
    assert_eq!(next(Phase::Created, false, Some(&running)), begin(Step::AwaitReady));
    assert_eq!(next(Phase::Created, false, Some(&created)), begin(Step::Start));
    assert_eq!(next(Phase::Stopping, true, Some(&running)), begin(Step::Stop));
    assert_eq!(next(Phase::Stopping, true, None), begin(Step::Collect));
    assert_eq!(next(Phase::Waiting, false, None), begin(Step::AwaitPermit));
    assert_eq!(
        next(Phase::Waiting, false, Some(&created)),
        [Effect::Commit(Some(Notice::Creating)), Effect::Begin(Step::Start)]
    );
    assert_eq!(next(Phase::Collected, true, Some(&exited)), []);
    assert_eq!(next(Phase::Collected, false, None), begin(Step::Remove));
}

#[test]
fn an_end_that_was_intended_keeps_its_reason_over_a_restart() {
    let user = Some(why("user-requested"));
    let exited = ContainerState::Exited { code: Some(0), oom_killed: false };
    let (mut state, effects) = State::recovered(Phase::Stopping, user, (true, true), Some(&exited));
    assert_eq!(effects, [Effect::Begin(Step::Collect)]);
    let seen = settle(&mut state, vec![]);
    assert_eq!(seen, [Effect::Commit(Some(Notice::Terminated)), Effect::Begin(Step::Remove), Effect::Finish]);
    assert_eq!(state.termination.unwrap().reason, "user-requested");
}

#[test]
fn what_cannot_be_saved_is_not_done() {
    let (mut state, _) = State::requested();
    state.apply(Input::Done(Step::Place));
    let effects = state.apply(Input::NotSaved(why("failed-to-create")));
    assert_eq!(effects, [Effect::Commit(None), Effect::Begin(Step::Collect)]);
}

fn inputs() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0_u8..8, 0..60)
}

proptest! {
    #[test]
    fn every_life_ends_once_and_no_step_overlaps_another(choices in inputs()) {
        let (mut state, mut effects) = State::requested();
        let (mut under_way, mut terminated, mut finished) = (None, 0, false);
        for choice in choices {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Begin(step) => {
                        prop_assert!(under_way.is_none(), "{step:?} begun while {under_way:?}");
                        under_way = Some(step);
                    }
                    Effect::Cancel => prop_assert!(under_way.take().is_some_and(Step::only_waits)),
                    Effect::Commit(Some(Notice::Terminated)) => terminated += 1,
                    Effect::Finish => finished = true,
                    _ => prop_assert!(!finished),
                }
            }
            prop_assert_eq!(state.step, under_way);
            prop_assert!(terminated <= 1);
            effects = match choice {
                0..=2 => match under_way.take() {
                    Some(step) => state.apply(Input::Done(step)),
                    None => vec![],
                },
                3 => match under_way.take() {
                    Some(step) => state.apply(Input::Failed(step, why("failed"))),
                    None => vec![],
                },
                4 => state.apply(Input::Stop(why("user-requested"))),
                5 => state.apply(Input::Remove(why("user-requested"))),
                6 => state.apply(Input::Died(why("self-terminated"))),
                _ => state.apply(Input::RetryRemove),
            };
        }
    }
}
