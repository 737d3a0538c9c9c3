//! What is due when. Timers that are no longer wanted are taken out, so that a thousand runs with a
//! timeout of a day leave nothing behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Names an armed timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Instant, u64);

/// Armed timers with what they are for.
#[derive(Debug)]
pub(super) struct Timers<T> {
    armed: BTreeMap<Key, T>,
    next: u64,
}

impl<T> Timers<T> {
    pub(super) fn new() -> Self {
        Self { armed: BTreeMap::new(), next: 0 }
    }

    /// Arms a timer; none when that is further away than the clock counts.
    pub(super) fn arm(&mut self, now: Instant, after: Duration, what: T) -> Option<Key> {
        let key = Key(now.checked_add(after)?, self.next);
        self.next += 1;
        self.armed.insert(key, what);
        Some(key)
    }

    pub(super) fn disarm(&mut self, key: Key) {
        self.armed.remove(&key);
    }

    /// Takes one timer that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Key, T)> {
        let first = self.armed.first_entry()?;
        if first.key().0 > now { None } else { Some(first.remove_entry()) }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.armed.first_key_value().map(|(key, _)| key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_disarmed_ones_never() {
        let now = Instant::now();
        let mut timers = Timers::new();
        let second = timers.arm(now, Duration::from_secs(2), "second");
        timers.arm(now, Duration::from_secs(1), "first");
        timers.arm(now, Duration::from_secs(3), "third");
        assert_eq!(timers.arm(now, Duration::MAX, "never"), None);
        timers.disarm(second.unwrap());
        let later = now + Duration::from_secs(3);
        let mut fired = Vec::new();
        while let Some((_, what)) = timers.due(later) {
            fired.push(what);
        }
        assert_eq!(fired, ["first", "third"]);
        assert_eq!(timers.next(), None);
    }
}
