//! What is remembered of a policy's calls: counts, times, the last failure, and whether it was demoted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::probation::Counts;
use super::{Fault, PolicyFault};

/// Calls whose times are kept.
const TIMES: usize = 1_000;
/// So many failures ...
const DEMOTION_FAILURES: usize = 5;
/// ... within this time demote a policy until an operator acts.
const DEMOTION_WINDOW: Duration = Duration::from_secs(60);

/// The record of one module, or of a built-in that was configured.
#[derive(Debug, Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its answer was taken.
    Answered,
    /// It said no, which is an answer, too.
    Refused,
    /// A lower rung answered.
    Failed(Fault),
}

impl End {
    /// Its stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed(fault) => fault.code(),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    calls: u64,
    fallbacks: u64,
    outcomes: BTreeMap<&'static str, u64>,
    times: VecDeque<u32>,
    last_fault: Option<PolicyFault>,
    failures: VecDeque<Instant>,
    /// All failures that were its own doing.
    blamed: u64,
    demoted: Option<PolicyFault>,
}

/// A record as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Snapshot {
    pub calls: u64,
    pub fallbacks: u64,
    pub outcomes: BTreeMap<String, u64>,
    pub p50_micros: u64,
    pub p99_micros: u64,
    pub last_fault: Option<PolicyFault>,
    pub demoted: Option<String>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A decision was asked of it and ended like that; `micros`, when it was really called.
    pub fn asked(&self, outcome: End, micros: Option<u32>) {
        let mut inner = self.lock();
        inner.calls += 1;
        inner.fallbacks += u64::from(matches!(outcome, End::Failed(_)));
        *inner.outcomes.entry(outcome.code()).or_default() += 1;
        if let Some(micros) = micros {
            if inner.times.len() == TIMES {
                inner.times.pop_front();
            }
            inner.times.push_back(micros);
        }
    }

    /// An answer that was taken turned out to be impossible: it counts as one of those after all.
    pub fn overruled(&self) {
        let mut inner = self.lock();
        inner.fallbacks += 1;
        if let Some(answered) = inner.outcomes.get_mut("answered") {
            *answered = answered.saturating_sub(1);
        }
        *inner.outcomes.entry(Fault::InvalidAnswer.code()).or_default() += 1;
    }

    /// A call failed. `blame`: it was the policy's own doing. True when this one demotes it.
    pub fn failed(&self, fault: &PolicyFault, blame: bool, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.last_fault = Some(fault.clone());
        inner.blamed += u64::from(blame);
        if !blame || inner.demoted.is_some() {
            return false;
        }
        inner.failures.push_back(now);
        while inner.failures.front().is_some_and(|first| now.duration_since(*first) > DEMOTION_WINDOW) {
            inner.failures.pop_front();
        }
        if inner.failures.len() < DEMOTION_FAILURES {
            return false;
        }
        inner.demoted = Some(PolicyFault {
            message: format!(
                "demoted until an operator acts: {DEMOTION_FAILURES} failures within {} s, the last: {}",
                DEMOTION_WINDOW.as_secs(),
                fault.message
            ),
            ..fault.clone()
        });
        true
    }

    /// It was demoted in an earlier process of the agent.
    pub fn demote(&self, fault: PolicyFault) {
        let mut inner = self.lock();
        inner.last_fault.get_or_insert_with(|| fault.clone());
        inner.demoted = Some(fault);
    }

    /// An operator wants it to be asked again.
    pub fn pardon(&self) {
        let mut inner = self.lock();
        inner.demoted = None;
        inner.failures.clear();
    }

    /// Why it is not asked any more.
    pub fn demoted(&self) -> Option<PolicyFault> {
        self.lock().demoted.clone()
    }

    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        Counts { calls: inner.calls, failures: inner.blamed }
    }

    /// The last failure, its own doing or not.
    pub fn last_fault(&self) -> Option<PolicyFault> {
        self.lock().last_fault.clone()
    }

    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let mut times: Vec<u32> = inner.times.iter().copied().collect();
        times.sort_unstable();
        let percentile = |hundredths: usize| {
            times
                .get((times.len() * hundredths / 100).min(times.len().saturating_sub(1)))
                .map_or(0, |t| u64::from(*t))
        };
        Snapshot {
            calls: inner.calls,
            fallbacks: inner.fallbacks,
            outcomes: inner.outcomes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            p50_micros: percentile(50),
            p99_micros: percentile(99),
            last_fault: inner.last_fault.clone(),
            demoted: inner.demoted.as_ref().map(|fault| fault.message.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> PolicyFault {
        PolicyFault { policy: "p".into(), digest: None, fault: Fault::Trap, message: "unreachable".into() }
    }

    #[test]
    fn five_failures_in_a_minute_demote_and_stay() {
        let record = Record::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 20, 40, 60] {
            assert!(!record.failed(&fault(), true, at(seconds)));
        }
        // The first is older than a minute now.
        assert!(!record.failed(&fault(), true, at(75)));
        assert!(record.failed(&fault(), true, at(76)));
        assert!(!record.failed(&fault(), true, at(77)));
        assert!(record.snapshot().demoted.unwrap().contains("unreachable"));
        // What was counted before an operator acted counts for nothing after.
        record.pardon();
        assert!(!record.failed(&fault(), true, at(78)));
        assert_eq!(record.demoted(), None);
    }

    #[test]
    fn failures_that_are_not_its_own_never_demote() {
        let record = Record::default();
        for _ in 0..20 {
            assert!(!record.failed(&fault(), false, Instant::now()));
        }
        assert_eq!(record.snapshot().last_fault, Some(fault()));
        assert_eq!(record.demoted(), None);
    }

    #[test]
    fn percentiles_are_of_the_last_thousand_calls() {
        let record = Record::default();
        assert_eq!(record.snapshot(), Snapshot::default());
        record.asked(End::Answered, Some(1_000_000));
        for micros in 1..=1_000 {
            record.asked(if micros == 500 { End::Failed(Fault::Trap) } else { End::Refused }, Some(micros));
        }
        record.asked(End::Failed(Fault::Busy), None);
        let now = record.snapshot();
        assert_eq!((now.calls, now.fallbacks), (1_002, 2));
        let outcomes: Vec<_> = now.outcomes.iter().map(|(code, count)| (code.as_str(), *count)).collect();
        assert_eq!(outcomes, [("answered", 1), ("busy", 1), ("refused", 999), ("trap", 1)]);
        assert_eq!((now.p50_micros, now.p99_micros), (501, 991));
    }
}
