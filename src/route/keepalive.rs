//! When a runner is asked for its `status`, and what an answer is worth.
//!
//! At most one question is open per kernel; callers who ask meanwhile share its answer, so no answer
//! reaches the wrong caller (contracts: kernel §1.6). Each question carries a word that our runner gives
//! back, so that answers to an earlier agent are known as such. Pure: the clocks are arguments.

use std::time::{Duration, Instant};

use super::RunnerStatus;

/// Answers older than the question that are passed over before they count all the same: a runner whose
/// clock is another one than ours must not keep its kernel waiting for ever.
const STALE_ANSWERS: u8 = 2;

/// The open question and what was learned.
#[derive(Debug)]
pub(super) struct Keepalive {
    asked: Option<Asked>,
    /// When the runner last answered; before that, when it was first asked.
    heard: Instant,
    stale: u8,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// By CLOCK_MONOTONIC in seconds, which the runner's answers are stamped with.
    clock: f64,
    by_timer: bool,
}

impl Asked {
    /// The clock goes on from agent to agent, so no two questions have the same.
    fn word(&self) -> String {
        format!("{:016x}", self.clock.to_bits())
    }
}

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was written before it was asked for here: for an earlier agent, which the runner outlived.
    Stale,
    /// It answers the open question.
    Fresh {
        /// That was asked by the keepalive.
        keepalive: bool,
    },
}

impl Keepalive {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, heard: now, stale: 0 }
    }

    /// A question is on its way; the answer gives back its word. Asking again keeps the first one's time
    /// and word.
    pub(super) fn ask(&mut self, now: Instant, clock: f64, by_timer: bool) -> String {
        let asked = self.asked.get_or_insert(Asked { at: now, clock, by_timer });
        asked.by_timer |= by_timer;
        asked.word()
    }

    /// For how long the open question has waited.
    pub(super) fn open_for(&self, now: Instant) -> Option<Duration> {
        self.asked.map(|asked| now.saturating_duration_since(asked.at))
    }

    /// For how long nothing was heard.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, now: Instant, status: &RunnerStatus) -> Answer {
        self.heard = now;
        let answers = |asked: Asked| match &status.question {
            Some(question) => *question == asked.word(),
            None => status.replied_at.is_none_or(|at| at >= asked.clock),
        };
        if !self.asked.is_some_and(answers) && (status.question.is_some() || self.stale < STALE_ANSWERS) {
            self.stale = self.stale.saturating_add(1);
            return Answer::Stale;
        }
        Answer::Fresh { keepalive: self.asked.take().is_some_and(|asked| asked.by_timer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(replied_at: Option<f64>) -> RunnerStatus {
        RunnerStatus {
            started_at: 1.0,
            replied_at,
            protocol: None,
            runner_version: None,
            incarnation: None,
            running: None,
            tasks_done: 0,
            last: None,
            ..RunnerStatus::default()
        }
    }

    #[test]
    fn an_answer_for_an_earlier_agent_is_stale() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(now);
        keepalive.ask(now, 100.0, true);
        assert_eq!(keepalive.answered(now, &status(Some(99.0))), Answer::Stale);
        assert_eq!(keepalive.answered(now, &status(Some(100.5))), Answer::Fresh { keepalive: true });
        assert_eq!(keepalive.open_for(now), None);
    }

    #[test]
    fn a_runner_that_gives_the_question_back_is_believed_by_it_alone() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(now);
        let question = keepalive.ask(now, 100.0, true);
        assert_eq!(keepalive.ask(now, 101.0, false), question, "asked again");
        let answer = |question: &str| RunnerStatus { question: Some(question.into()), ..status(Some(1.0)) };
        for _ in 0..9 {
            assert_eq!(keepalive.answered(now, &answer("of an earlier agent")), Answer::Stale);
        }
        assert_eq!(keepalive.answered(now, &answer(&question)), Answer::Fresh { keepalive: true });
        assert_ne!(keepalive.ask(now, 102.0, true), question);
    }

    #[test]
    fn a_runner_with_another_clock_is_believed_in_the_end() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(now);
        keepalive.ask(now, 100.0, false);
        assert_eq!(keepalive.answered(now, &status(Some(1.0))), Answer::Stale);
        assert_eq!(keepalive.answered(now, &status(Some(2.0))), Answer::Stale);
        assert_eq!(keepalive.answered(now, &status(Some(3.0))), Answer::Fresh { keepalive: false });
    }

    #[test]
    fn the_references_answers_have_no_time_and_count() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(now);
        keepalive.ask(now, 100.0, false);
        keepalive.ask(now, 200.0, true);
        assert_eq!(keepalive.answered(now, &status(None)), Answer::Fresh { keepalive: true });
    }
}
