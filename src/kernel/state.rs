//! A kernel's life as a pure function: `(State, Input) -> effects` (design §4, invariant 1).
//!
//! ```text
//!  Requested -> Placed -> Waiting -> Prepared -> Created -> Started -> Running -> Stopping -> Collected -> Gone
//!      |           |         |          |           |          |          |          ^            |
//!      +-----------+---------+----------+-----------+----------+----------+----------+            +- removed
//!               stopped, refused, failed, died: the first reason wins
//! ```
//!
//! The actor carries effects out one [`Step`] at a time and feeds their results back. Steps that only wait
//! are cancelled by a stop; steps that speak to the engine run to their end first, so that what they made
//! is known when it has to be removed.
//!
//! An intent is committed before its side effects, and an event with the change that it tells of. So a
//! restart ([`State::recovered`]) goes on where the life was cut off, and leads to the same end.

use super::{Phase, Termination};
use crate::engine::ContainerState;

/// What the actor does next; at most one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Choose the image and take a share.
    Place,
    /// Wait for a start slot.
    AwaitPermit,
    /// Folders, plan, policies, sockets.
    Prepare,
    /// Make the container.
    Create,
    /// Start it.
    Start,
    /// Wait for the runner's first answer.
    AwaitReady,
    /// Ask the container to end.
    Stop,
    /// Detach, give back share and permit, write down how it ended.
    Collect,
    /// Remove container, folders, record.
    Remove,
}

impl Step {
    /// Whether it only waits, so that a stop may drop it.
    fn only_waits(self) -> bool {
        matches!(self, Self::Place | Self::AwaitPermit | Self::AwaitReady)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The step under way ended well.
    Done(Step),
    /// The step under way failed.
    Failed(Step, Termination),
    /// Somebody wants it stopped.
    Stop(Termination),
    /// Somebody wants it removed; a running one is stopped first.
    Remove(Termination),
    /// The engine says that its container has ended.
    Died(Termination),
    /// Time to try a failed removal again.
    RetryRemove,
    /// What should have been committed could not be; the effects behind it were not carried out.
    NotSaved(Termination),
}

/// What a commit tells the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Accepted.
    Preparing,
    /// Its container is there and about to be started.
    Creating,
    /// It runs.
    Started,
    /// It has ended.
    Terminated,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Begin this step.
    Begin(Step),
    /// Drop the step under way.
    Cancel,
    /// Put the record and the event that tells of it on disk, in one transaction, before going on.
    Commit(Option<Notice>),
    /// Tell whoever waits for its creation that it runs.
    TellRunning,
    /// Tell whoever waits for its creation that it came to nothing.
    TellFailed,
    /// Nothing is left; the actor ends.
    Finish,
}

/// Where a kernel is.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Phase.
    pub phase: Phase,
    /// The first reason to end; none while it is wanted.
    pub termination: Option<Termination>,
    /// Whether it is to be removed once it has ended.
    pub remove: bool,
    /// Whether a container was made and is not removed yet, as far as is known.
    pub has_container: bool,
    /// Whether it was committed, and the outbox told of it; only then it is told of its end.
    pub announced: bool,
    /// Whether it ever ran; creations that fail leave nothing behind.
    pub ran: bool,
    /// The step under way.
    pub step: Option<Step>,
}

impl State {
    /// A new kernel, and what to do first.
    #[must_use]
    pub fn requested() -> (Self, Vec<Effect>) {
        let state = Self {
            phase: Phase::Requested,
            termination: None,
            remove: false,
            has_container: false,
            announced: false,
            ran: false,
            step: Some(Step::Place),
        };
        (state, vec![Effect::Begin(Step::Place)])
    }

    /// A kernel found in the records of an earlier agent process, and what to do first. `ran` says whether
    /// its runner had ever answered, `container` what the engine has of it now.
    #[must_use]
    pub fn recovered(
        phase: Phase,
        termination: Option<Termination>,
        (remove, ran): (bool, bool),
        container: Option<&ContainerState>,
    ) -> (Self, Vec<Effect>) {
        let mut state = Self {
            phase,
            termination,
            remove,
            has_container: container.is_some(),
            announced: true,
            ran,
            step: None,
        };
        let effects = match phase {
            Phase::Collected | Phase::Gone => {
                state.phase = Phase::Collected;
                // It had ended; its log is kept until somebody removes it.
                if remove || !ran { state.begin(Step::Remove) } else { vec![] }
            }
            Phase::Stopping => match container {
                Some(ContainerState::Running) => state.begin(Step::Stop),
                _ => state.begin(Step::Collect),
            },
            Phase::Started | Phase::Running => match container {
                Some(ContainerState::Running) => {
                    state.phase = Phase::Started;
                    state.begin(Step::AwaitReady)
                }
                other => {
                    state.phase = Phase::Stopping;
                    state.end(ended(other));
                    state.begin(Step::Collect)
                }
            },
            Phase::Created => state.go_on_from_container(container),
            // Its creation was cut off before a container was known: it goes on.
            Phase::Requested | Phase::Placed | Phase::Waiting | Phase::Prepared => {
                if container.is_some() {
                    state.phase = Phase::Created;
                    let mut effects = vec![Effect::Commit(Some(Notice::Creating))];
                    effects.extend(state.go_on_from_container(container));
                    effects
                } else {
                    state.phase = Phase::Waiting;
                    state.begin(Step::AwaitPermit)
                }
            }
        };
        (state, effects)
    }

    /// From a container that was made and, as far as is known, not started.
    fn go_on_from_container(&mut self, container: Option<&ContainerState>) -> Vec<Effect> {
        match container {
            Some(ContainerState::Created) => self.begin(Step::Start),
            Some(ContainerState::Running) => {
                self.phase = Phase::Started;
                self.begin(Step::AwaitReady)
            }
            other => {
                self.end(Termination { reason: "failed-to-start".to_owned(), ..ended(other) });
                self.wind_down()
            }
        }
    }

    /// Takes an input and says what to do.
    pub fn apply(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Done(step) => {
                self.step = None;
                self.done(step)
            }
            Input::Failed(step, why) => {
                self.step = None;
                self.failed(step, why)
            }
            Input::Stop(why) => self.stop(why),
            Input::Remove(why) => {
                self.remove = true;
                match self.phase {
                    Phase::Collected if self.step.is_none() => {
                        let mut effects = vec![Effect::Commit(None)];
                        effects.extend(self.begin(Step::Remove));
                        effects
                    }
                    Phase::Collected | Phase::Gone => vec![],
                    _ => self.stop(why),
                }
            }
            Input::Died(why) => self.died(why),
            Input::RetryRemove if self.phase == Phase::Collected && self.remove && self.step.is_none() => {
                self.begin(Step::Remove)
            }
            Input::RetryRemove => vec![],
            Input::NotSaved(why) => {
                self.step = None;
                self.end(why);
                self.wind_down()
            }
        }
    }

    fn done(&mut self, step: Step) -> Vec<Effect> {
        match step {
            Step::Place => {
                self.phase = Phase::Placed;
                if self.termination.is_some() {
                    return self.wind_down();
                }
                self.phase = Phase::Waiting;
                self.announced = true;
                let mut effects = vec![Effect::Commit(Some(Notice::Preparing))];
                effects.extend(self.begin(Step::AwaitPermit));
                effects
            }
            Step::AwaitPermit => self.unless_ended(|state| state.begin(Step::Prepare)),
            Step::Prepare => {
                self.phase = Phase::Prepared;
                self.unless_ended(|state| state.begin(Step::Create))
            }
            Step::Create => {
                self.phase = Phase::Created;
                self.has_container = true;
                self.unless_ended(|state| {
                    let mut effects = vec![Effect::Commit(Some(Notice::Creating))];
                    effects.extend(state.begin(Step::Start));
                    effects
                })
            }
            Step::Start => {
                self.phase = Phase::Started;
                self.unless_ended(|state| state.begin(Step::AwaitReady))
            }
            Step::AwaitReady => {
                self.phase = Phase::Running;
                // Of a kernel that was adopted everything is on disk and has been told.
                match std::mem::replace(&mut self.ran, true) {
                    true => vec![Effect::TellRunning],
                    false => vec![Effect::Commit(Some(Notice::Started)), Effect::TellRunning],
                }
            }
            Step::Stop => self.begin(Step::Collect),
            Step::Collect => {
                self.phase = Phase::Collected;
                let mut effects = Vec::new();
                if !self.ran {
                    // Nothing is kept of a kernel that never ran.
                    self.remove = true;
                }
                if self.announced {
                    effects.push(Effect::Commit(Some(Notice::Terminated)));
                }
                if self.remove {
                    effects.extend(self.begin(Step::Remove));
                }
                effects
            }
            Step::Remove => {
                self.phase = Phase::Gone;
                self.has_container = false;
                let mut effects = Vec::new();
                if !self.ran {
                    effects.push(Effect::TellFailed);
                }
                effects.push(Effect::Finish);
                effects
            }
        }
    }

    fn failed(&mut self, step: Step, why: Termination) -> Vec<Effect> {
        match step {
            // The removal is tried again by the reconciler; whoever waits is told once by then.
            Step::Remove => vec![],
            // The engine could not be asked to end it: it may be gone, or be killed by the removal.
            Step::Stop => self.begin(Step::Collect),
            Step::Collect => self.done(Step::Collect),
            _ => {
                // A create that failed at its deadline may still have made the container.
                if step == Step::Create {
                    self.has_container = true;
                }
                self.end(why);
                self.wind_down()
            }
        }
    }

    fn stop(&mut self, why: Termination) -> Vec<Effect> {
        if matches!(self.phase, Phase::Stopping | Phase::Collected | Phase::Gone) {
            return vec![];
        }
        let first = self.termination.is_none();
        self.end(why);
        match self.step {
            Some(step) if step.only_waits() => {
                let mut effects = vec![Effect::Cancel];
                self.step = None;
                effects.extend(self.wind_down());
                effects
            }
            // The step under way ends first; its end winds down.
            Some(_) => vec![],
            None if first => self.wind_down(),
            None => vec![],
        }
    }

    fn died(&mut self, why: Termination) -> Vec<Effect> {
        let exit = (why.exit_code, why.oom);
        match self.phase {
            Phase::Started | Phase::Running => {
                let mut effects = Vec::new();
                if self.step.take().is_some() {
                    effects.push(Effect::Cancel);
                }
                self.end(why);
                self.phase = Phase::Stopping;
                effects.extend(self.begin(Step::Collect));
                effects
            }
            // Died between the engine's start and our knowing of it: the start's end winds down.
            Phase::Created => {
                self.end(why);
                vec![]
            }
            Phase::Stopping => {
                // How it ended belongs to the reason that came first.
                if let Some(termination) = &mut self.termination
                    && termination.exit_code.is_none()
                {
                    (termination.exit_code, termination.oom) = exit;
                }
                vec![]
            }
            _ => vec![],
        }
    }

    fn unless_ended(&mut self, go_on: impl FnOnce(&mut Self) -> Vec<Effect>) -> Vec<Effect> {
        if self.termination.is_some() { self.wind_down() } else { go_on(self) }
    }

    /// On to the end: a container that may run is asked to end first.
    fn wind_down(&mut self) -> Vec<Effect> {
        let may_run =
            self.has_container && matches!(self.phase, Phase::Created | Phase::Started | Phase::Running);
        self.phase = Phase::Stopping;
        let mut effects = Vec::new();
        if self.announced {
            effects.push(Effect::Commit(None));
        }
        effects.extend(self.begin(if may_run { Step::Stop } else { Step::Collect }));
        effects
    }

    fn begin(&mut self, step: Step) -> Vec<Effect> {
        self.step = Some(step);
        vec![Effect::Begin(step)]
    }

    fn end(&mut self, why: Termination) {
        if self.termination.is_none() {
            self.termination = Some(why);
        }
    }
}

/// How a container that does not run has ended, as far as the engine knows it.
fn ended(container: Option<&ContainerState>) -> Termination {
    let (reason, exit_code, oom) = match container {
        Some(ContainerState::Exited { code, oom_killed }) => ("self-terminated", *code, *oom_killed),
        Some(_) => ("self-terminated", None, false),
        None => ("container-not-found", None, false),
    };
    Termination { reason: reason.to_owned(), exit_code, oom, message: None }
}

/// A termination with a reason and a message for people.
#[must_use]
pub fn failed(reason: &str, message: impl Into<String>) -> Termination {
    Termination { reason: reason.to_owned(), message: Some(message.into()), ..Termination::default() }
}

#[cfg(test)]
mod tests {
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
        assert!(
            seen.contains(&Effect::Begin(Step::Remove)) && seen.contains(&Effect::TellFailed),
            "{seen:?}"
        );
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
        assert_eq!(
            seen,
            [Effect::Commit(Some(Notice::Terminated)), Effect::Begin(Step::Remove), Effect::Finish]
        );
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
}
