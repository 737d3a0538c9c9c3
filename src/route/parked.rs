//! Output that waits for a client who may come back: of a client that was lost, or of an earlier agent's.
//!
//! The routing thread owns it. Each tap is given up when its time is over, which gives its bytes back.

use super::flow::Tap;
use super::timers::Key;
use crate::ids::RunId;

/// Taps without a client, of one kernel.
#[derive(Debug, Default)]
pub(super) struct Parked(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    run: RunId,
    tap: Tap,
    /// When it is given up.
    timer: Option<Key>,
}

impl Parked {
    /// Keeps one.
    pub(super) fn put(&mut self, run: RunId, tap: Tap, timer: Option<Key>) {
        self.0.push(Entry { run, tap, timer });
    }

    /// Takes a run's, with the timer that is to be disarmed.
    pub(super) fn take(&mut self, run: &RunId) -> Option<(Tap, Option<Key>)> {
        let at = self.0.iter().position(|entry| entry.run == *run)?;
        let Entry { tap, timer, .. } = self.0.remove(at);
        Some((tap, timer))
    }

    /// Gives up the one whose timer has fired.
    pub(super) fn due(&mut self, key: Key) {
        self.0.retain(|entry| entry.timer != Some(key));
    }

    /// Timers that are armed.
    pub(super) fn timers(&self) -> impl Iterator<Item = Key> {
        self.0.iter().filter_map(|entry| entry.timer)
    }
}
