//! `[lifecycle]`: how kernels start and stop.

use std::time::Duration;

use super::reader::Reader;

/// `[lifecycle]`
#[derive(Debug, Clone)]
pub struct LifecycleSection {
    /// `start-limit`: kernels that may start at a time.
    pub start_limit: u32,
    /// `ready-timeout-sec`: how long a started container may take until its runner answers.
    pub ready_timeout: Duration,
    /// `stop-grace-sec`: how long a kernel may take to end before it is killed.
    pub stop_grace: Duration,
    /// `lease-sec`: how long a leased kernel outlives its client.
    pub lease: Duration,
    /// `stall-limit-sec`: how long a task of the core may stand still until the agent ends itself.
    pub stall_limit: Duration,
    /// `reconcile-interval-sec`: how often the books are held against the engine.
    pub reconcile_interval: Duration,
}

/// Tasks show that they live every 5 s: a shorter limit would end an agent that is well.
fn at_least(limit: Duration) -> Duration {
    limit.max(2 * crate::pulse::PROGRESS_WITHIN)
}

impl LifecycleSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let start_limit = reader.get("lifecycle.start-limit", 4);
        if !(1..=64).contains(&start_limit) {
            reader.mistake("lifecycle.start-limit", "should be from 1 to 64");
        }
        let mut seconds = |key: &str, default: u64, most: u64| {
            let value = reader.get(key, default);
            if !(1..=most).contains(&value) {
                reader.mistake(key, &format!("should be from 1 to {most} seconds"));
            }
            Duration::from_secs(value)
        };
        Self {
            start_limit,
            ready_timeout: seconds("lifecycle.ready-timeout-sec", 60, 3600),
            stop_grace: seconds("lifecycle.stop-grace-sec", 10, 3600),
            lease: seconds("lifecycle.lease-sec", 30, 86_400),
            stall_limit: at_least(seconds("lifecycle.stall-limit-sec", 60, 3600)),
            reconcile_interval: seconds("lifecycle.reconcile-interval-sec", 10, 3600),
        }
    }
}
