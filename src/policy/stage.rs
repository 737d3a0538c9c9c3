//! What a module that is being loaded is at, for whoever waits for it: an 18 MB guest compiles for seconds.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// A step on the way from bytes to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Signature, sections, imports, versions.
    Checking,
    /// Machine code.
    Compiling,
    /// One instance, asked what it is.
    Describing,
    /// Settings and grants.
    Configuring,
}

impl Stage {
    /// For people: what the agent does.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Checking => "checking its signature and what it imports",
            Self::Compiling => "compiling",
            Self::Describing => "asking it what it is",
            Self::Configuring => "giving it its settings",
        }
    }
}

/// A module that is being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loading {
    /// What is done with it now.
    pub stage: Stage,
    /// For how long, in milliseconds.
    pub since_ms: u64,
}

/// Where the one module is that is being loaded; several at once show one of them.
#[derive(Debug, Default)]
pub(super) struct Stages {
    now: Mutex<Option<(Stage, Instant)>>,
}

/// Until it is dropped.
pub(super) struct At<'s>(&'s Stages);

impl Drop for At<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Stages {
    pub fn begin(&self, stage: Stage) -> At<'_> {
        self.set(Some((stage, Instant::now())));
        At(self)
    }

    pub fn now(&self) -> Option<Loading> {
        let now = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.map(|(stage, since)| Loading {
            stage,
            since_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn set(&self, now: Option<(Stage, Instant)>) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl At<'_> {
    /// The next step.
    pub fn next(&self, stage: Stage) {
        self.0.set(Some((stage, Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_shown_until_the_module_is_loaded_or_refused() {
        let stages = Stages::default();
        let at = stages.begin(Stage::Checking);
        at.next(Stage::Compiling);
        assert_eq!(stages.now().map(|loading| loading.stage), Some(Stage::Compiling));
        drop(at);
        assert_eq!(stages.now(), None);
    }
}
