//! How a policy that was just activated does: it passes, or what was active before is active again. Pure.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::Config;
use crate::ids::Digest;

/// How long it lasts, and what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Decisions; 0: there is no probation.
    pub decisions: u64,
    /// Or this time, whichever is over first.
    pub time: Duration,
    /// So many failures of its own, and it is lost.
    pub failures: u64,
}

impl Terms {
    pub fn of(config: &Config) -> Self {
        Self {
            decisions: config.probation_decisions,
            time: Duration::from_secs(config.probation_sec),
            failures: config.probation_failures,
        }
    }
}

/// What a policy's record counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Decisions asked of it.
    pub calls: u64,
    /// Failures that were its own doing.
    pub failures: u64,
}

/// One policy's.
#[derive(Debug, Clone)]
pub(super) struct Probation {
    pub digest: Digest,
    terms: Terms,
    began: Instant,
    began_ms: u64,
    before: Counts,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    On,
    Passed,
    Lost,
}

/// A probation as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbationView {
    /// Decisions until it has passed.
    pub decisions_left: u64,
    /// Unix time in milliseconds when it has passed at the latest.
    pub until_ms: u64,
    /// Failures so far.
    pub failures: u64,
    /// Failures that end it.
    pub failures_allowed: u64,
}

impl Probation {
    /// Begins now; `before`: what its record counted already. None where there is to be none.
    pub fn begin(
        terms: Terms,
        digest: Digest,
        before: Counts,
        (now, now_ms): (Instant, u64),
    ) -> Option<Self> {
        (terms.decisions > 0).then_some(Self { digest, terms, began: now, began_ms: now_ms, before })
    }

    fn since(&self, counts: Counts) -> Counts {
        Counts {
            calls: counts.calls.saturating_sub(self.before.calls),
            failures: counts.failures.saturating_sub(self.before.failures),
        }
    }

    pub fn standing(&self, counts: Counts, now: Instant) -> Standing {
        let since = self.since(counts);
        if since.failures >= self.terms.failures {
            Standing::Lost
        } else if since.calls >= self.terms.decisions || now.duration_since(self.began) >= self.terms.time {
            Standing::Passed
        } else {
            Standing::On
        }
    }

    pub fn view(&self, counts: Counts) -> ProbationView {
        let since = self.since(counts);
        let time = u64::try_from(self.terms.time.as_millis()).unwrap_or(u64::MAX);
        ProbationView {
            decisions_left: self.terms.decisions.saturating_sub(since.calls),
            until_ms: self.began_ms.saturating_add(time),
            failures: since.failures,
            failures_allowed: self.terms.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_by_decisions_or_by_time_and_is_lost_by_failures_since_it_began() {
        let terms = Terms { decisions: 10, time: Duration::from_secs(60), failures: 3 };
        let began = Instant::now();
        let before = Counts { calls: 100, failures: 7 };
        let one = Probation::begin(terms, Digest::of(b"p"), before, (began, 1_000)).unwrap();
        let check = |calls, failures, seconds, expected| {
            let counts = Counts { calls, failures };
            assert_eq!(one.standing(counts, began + Duration::from_secs(seconds)), expected, "{counts:?}");
        };
        check(100, 7, 0, Standing::On);
        check(109, 9, 59, Standing::On);
        check(110, 9, 1, Standing::Passed);
        check(101, 7, 60, Standing::Passed);
        check(103, 10, 1, Standing::Lost);
        // Both at once: what fails is not trusted.
        check(110, 10, 60, Standing::Lost);
        let view = one.view(Counts { calls: 104, failures: 8 });
        assert_eq!((view.decisions_left, view.failures, view.until_ms), (6, 1, 61_000));
        let none = Terms { decisions: 0, ..terms };
        assert!(Probation::begin(none, Digest::of(b"p"), before, (began, 0)).is_none());
    }
}
