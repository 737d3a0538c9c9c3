//! Drain: the node takes no new kernels; those that run go on, with a deadline only until then.
//!
//! [`Drain`] owns the record of it (it survives the agent, its deadline as a time of day) and the gate of
//! [`crate::admission`], where new kernels are refused. [`Drain::watch`] is the one task: after the
//! deadline it stops what is left, again and again until nothing is. Who asks is `control`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use crate::admission;
use crate::ids::{KernelName, KernelRef};
use crate::kernel::{Kernels, now_ms};
use crate::store::{self, Record, StoreError};

/// Why the kernels that are left are stopped at the deadline (contracts: kernel §5.2).
pub const REASON: &str = "agent-termination";

/// Longest pause between two looks at the clock, which may be set while we wait.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long after the stops of a pass the next one looks whether something is left.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Since when, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Unix time in milliseconds.
    pub since_ms: u64,
    /// When what is left is stopped, unix time in milliseconds; none: never.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

impl Record for Draining {
    const TABLE: &'static str = "drain";
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _value: serde_json::Value) -> Result<Self, String> {
        Err(format!("version {version} never existed"))
    }

    fn key(&self) -> String {
        KEY.to_owned()
    }
}

/// There is one node, so one row.
const KEY: &str = "node";

/// What `GET /v1/drain` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// None: the node takes new kernels.
    pub draining: Option<Draining>,
    /// Names of the kernels that live.
    pub kernels: Vec<KernelName>,
}

/// A clonable way to the node's drain.
#[derive(Debug, Clone)]
pub struct Drain {
    state: Arc<watch::Sender<Option<Draining>>>,
    /// Held while the record changes, so that record, gate and state change in one order.
    changing: Arc<Mutex<()>>,
    store: store::Handle,
    admission: admission::Handle,
}

impl Drain {
    /// As it was left by an earlier agent process; closes the gate when the node is drained.
    ///
    /// # Errors
    /// When the store cannot be read. A damaged record is set aside and counts as none.
    pub async fn open(store: store::Handle, admission: admission::Handle) -> Result<Self, StoreError> {
        let (records, aside) = store.load::<Draining>().await?;
        for row in aside {
            warn!(table = row.table, key = row.key, "a row was set aside: {}", row.problem);
        }
        let state = records.into_iter().next();
        admission.set_draining(state.is_some());
        Ok(Self { state: Arc::new(watch::Sender::new(state)), changing: Arc::default(), store, admission })
    }

    /// Since when the node is drained; none: it is not.
    #[must_use]
    pub fn state(&self) -> Option<Draining> {
        *self.state.borrow()
    }

    /// Takes no new kernels from now on, and stops what is left after `stop_after`; without it, never. A
    /// drained node gets the new deadline.
    ///
    /// # Errors
    /// When it could not be written down; nothing has changed then.
    pub async fn begin(&self, stop_after: Option<Duration>) -> Result<Draining, StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        let now = now_ms();
        let deadline =
            |after: Duration| now.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let since_ms = self.state().map_or(now, |state| state.since_ms);
        let state = Draining { since_ms, deadline_ms: stop_after.map(deadline) };
        self.store.put(&state).await?;
        self.admission.set_draining(true);
        self.state.send_replace(Some(state));
        info!(deadline_ms = ?state.deadline_ms, "the node is drained: it takes no new kernels");
        Ok(state)
    }

    /// Takes new kernels again.
    ///
    /// # Errors
    /// When it could not be written down; nothing has changed then.
    pub async fn end(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        self.store.delete::<Draining>(KEY).await?;
        self.admission.set_draining(false);
        if self.state.send_replace(None).is_some() {
            info!("the node takes new kernels again");
        }
        Ok(())
    }

    /// The state, and what lives.
    #[must_use]
    pub fn view(&self, kernels: &Kernels) -> DrainView {
        let kernels = kernels.list(false).into_iter().map(|kernel| kernel.name).collect();
        DrainView { draining: self.state(), kernels }
    }

    /// Stops what is left when the deadline is over; for ever.
    pub async fn watch(self, kernels: Kernels, grace: Duration) {
        let mut changes = self.state.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            let pause = match pause(state, now_ms()) {
                Pause::UntilChanged => None,
                Pause::For(pause) => Some(pause),
                Pause::Over => {
                    stop_all(&kernels, grace).await;
                    Some(AGAIN_AFTER)
                }
            };
            // Cancel-safe: a watch and a sleep. The sender lives as long as `self`.
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(pause.unwrap_or(LOOK_EVERY)), if pause.is_some() => {}
            }
        }
    }
}

/// What the watcher waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    UntilChanged,
    For(Duration),
    Over,
}

fn pause(state: Option<Draining>, now_ms: u64) -> Pause {
    match state.and_then(|state| state.deadline_ms) {
        None => Pause::UntilChanged,
        Some(deadline) if deadline <= now_ms => Pause::Over,
        Some(deadline) => Pause::For(Duration::from_millis(deadline - now_ms).min(LOOK_EVERY)),
    }
}

/// Stops every kernel that lives, side by side.
async fn stop_all(kernels: &Kernels, grace: Duration) {
    let stops = kernels.list(false).into_iter().map(|kernel| async move {
        info!(kernel = %kernel.id, name = %kernel.name, "stopped: the deadline of the drain is over");
        if let Err(error) = kernels.stop(&KernelRef::Id(kernel.id), grace, REASON).await {
            warn!(kernel = %kernel.id, code = error.code, "could not be stopped: {}", error.message);
        }
    });
    futures_util::future::join_all(stops).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Offer;
    use crate::policy;

    #[test]
    fn the_deadline_is_a_time_of_day() {
        let state = |deadline_ms| Some(Draining { since_ms: 1, deadline_ms });
        assert_eq!(pause(None, 0), Pause::UntilChanged);
        assert_eq!(pause(state(None), u64::MAX), Pause::UntilChanged);
        assert_eq!(pause(state(Some(5000)), 4000), Pause::For(Duration::from_secs(1)));
        assert_eq!(pause(state(Some(500_000)), 0), Pause::For(LOOK_EVERY));
        assert_eq!(pause(state(Some(5000)), 5000), Pause::Over);
        assert_eq!(pause(state(Some(5000)), 9000), Pause::Over);
    }

    fn admission() -> admission::Handle {
        let (_, offers) = watch::channel(None::<Offer>);
        let host = policy::start(policy::Config::builtin()).unwrap();
        admission::start(admission::Config::default(), host, offers)
    }

    #[tokio::test]
    async fn a_drain_outlives_its_agent_and_so_does_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store::open(dir.path()).unwrap();
        let drain = Drain::open(opened.handle.clone(), admission()).await.unwrap();
        assert_eq!(drain.state(), None);
        let begun = drain.begin(None).await.unwrap();
        let again = drain.begin(Some(Duration::from_secs(60))).await.unwrap();
        assert_eq!(again.since_ms, begun.since_ms);
        assert!(again.deadline_ms.unwrap() >= begun.since_ms + 60_000);
        opened.handle.close().await;

        let opened = store::open(dir.path()).unwrap();
        let gate = admission();
        let drain = Drain::open(opened.handle.clone(), gate.clone()).await.unwrap();
        assert_eq!(drain.state(), Some(again));
        assert!(gate.is_draining());
        drain.end().await.unwrap();
        drain.end().await.unwrap();
        assert!(!gate.is_draining());
        opened.handle.close().await;

        let opened = store::open(dir.path()).unwrap();
        assert_eq!(Drain::open(opened.handle, admission()).await.unwrap().state(), None);
    }
}
