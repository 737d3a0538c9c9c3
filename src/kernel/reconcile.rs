//! Level-triggered reconciliation: what should be against what is, every few seconds and on every engine
//! event (design §4). Also adoption on start, which is the same look at the world.
//!
//! [`look`] is pure and finds; [`watch`] mends what it finds, `berth doctor` shows it ([`survey`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::actor::Command;
use super::record::KernelRecord;
use super::registry::Kernels;
use super::{KernelError, Phase};
use crate::engine::{ContainerState, ContainerView, EngineEvent};
use crate::failpoint;
use crate::ids::{ContainerId, KernelId};
use crate::route::Notice;
use crate::scratch::{Scratch, ScratchError};

mod look;

pub use look::{Expected, Finding, Observed, look};

/// How long something without an owner is left alone: a creation may be under way.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// Takes up the kernels of an earlier agent process: books their shares exactly as before and starts their
/// actors. Returns how many.
///
/// # Errors
/// When records or the engine cannot be read; nothing has been touched then.
pub async fn recover(kernels: &Kernels) -> Result<usize, KernelError> {
    let shared = kernels.inner.shared.clone();
    let (records, set_aside) = shared.store.load::<KernelRecord>().await?;
    for row in set_aside {
        warn!(table = row.table, key = row.key, "a record was set aside: {}", row.problem);
    }
    failpoint::reach("records-loaded");
    let containers = by_kernel(shared.engine.list(shared.instance).await?);
    let count = records.len();
    for record in records {
        let container = containers.get(&record.view.id).cloned();
        adopt(kernels, record, container).await?;
        failpoint::reach("adopted");
    }
    Ok(count)
}

/// Takes up one kernel from its record, after a fault of its actor; does nothing when it has none.
pub(super) async fn take_up(kernels: &Kernels, kernel: KernelId) -> Result<(), KernelError> {
    let shared = kernels.inner.shared.clone();
    let (records, _) = shared.store.load::<KernelRecord>().await?;
    let Some(record) = records.into_iter().find(|record| record.view.id == kernel) else { return Ok(()) };
    if let Err(error) = shared.route.detach(kernel, "agent-fault").await {
        warn!(%kernel, %error, "the kernel's link could not be closed");
    }
    let mut containers = by_kernel(shared.engine.list(shared.instance).await?);
    adopt(kernels, record, containers.remove(&kernel)).await
}

/// Books a kernel's share as before and starts its actor.
async fn adopt(
    kernels: &Kernels,
    mut record: KernelRecord,
    container: Option<ContainerView>,
) -> Result<(), KernelError> {
    let shared = &kernels.inner.shared;
    let kernel = record.view.id;
    let state = match &container {
        // A list does not always tell how one ended.
        Some(view) if matches!(view.state, ContainerState::Exited { .. }) => {
            let seen = shared.engine.inspect(&view.id).await?;
            Some(seen.map_or_else(|| view.state.clone(), |seen| seen.state))
        }
        Some(view) => Some(view.state.clone()),
        None => None,
    };
    if let Some(view) = container {
        record.view.container = Some(view.id);
    }
    let ended = matches!(record.view.phase, Phase::Collected | Phase::Gone);
    let share = if record.view.allocations.is_empty() || ended {
        None
    } else {
        let name = record.view.name.to_string();
        match shared.admission.restore(kernel, name, record.view.allocations.clone()).await {
            Ok(share) => Some(share),
            Err(refused) => {
                warn!(%kernel, "its share could not be booked again: {refused}");
                None
            }
        }
    };
    info!(%kernel, name = %record.view.name, phase = ?record.view.phase, container = ?state, "found again");
    kernels.adopt(record, share, state);
    Ok(())
}

fn by_kernel(containers: Vec<ContainerView>) -> BTreeMap<KernelId, ContainerView> {
    containers.into_iter().filter_map(|view| Some((view.kernel()?, view))).collect()
}

/// Watches the engine for ever: ends of containers at once, everything every `interval`.
pub async fn watch(kernels: Kernels) {
    let shared = kernels.inner.shared.clone();
    let mut events = shared.engine.events(shared.instance);
    let mut timer = tokio::time::interval(shared.settings.reconcile_interval);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut orphans = Orphans::default();
    loop {
        // Cancel-safe: a channel receive and an interval tick.
        let look = tokio::select! {
            event = events.recv() => match event {
                Some(event) => on_event(&kernels, event).await,
                None => {
                    warn!("the engine's events ended; listening anew");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    events = replace(&kernels);
                    true
                }
            },
            _ = timer.tick() => true,
        };
        if look && let Err(error) = pass(&kernels, &mut orphans).await {
            warn!(code = error.code, "the books could not be held against the engine: {}", error.message);
        }
    }
}

fn replace(kernels: &Kernels) -> mpsc::Receiver<EngineEvent> {
    let shared = &kernels.inner.shared;
    shared.engine.events(shared.instance)
}

/// Tells the actor concerned; true when everything should be looked at.
async fn on_event(kernels: &Kernels, event: EngineEvent) -> bool {
    match event {
        EngineEvent::Died { container, kernel, exit_code } => {
            let seen = kernels.inner.shared.engine.inspect(&container).await.ok().flatten();
            let (code, oom) = match seen.map(|view| view.state) {
                Some(ContainerState::Exited { code, oom_killed }) => (code.or(exit_code), oom_killed),
                // It was started again, or the event is of an earlier life.
                Some(ContainerState::Running) => return false,
                _ => (exit_code, false),
            };
            died(kernels, kernel, &container, code, oom, "self-terminated");
            false
        }
        EngineEvent::OutOfMemory { kernel, .. } => {
            warn!(%kernel, "a process of the kernel was killed for memory");
            // So that the kernel's own log says it too (contracts: kernel §1.3, `event`).
            let told = kernels.inner.shared.route.notify(kernel, Notice::OutOfMemory).await;
            if let Err(error) = told {
                debug!(%kernel, %error, "the runner could not be told");
            }
            false
        }
        EngineEvent::Resync => true,
    }
}

fn died(
    kernels: &Kernels,
    kernel: KernelId,
    container: &ContainerId,
    exit_code: Option<i32>,
    oom: bool,
    reason: &str,
) {
    // A last container that only cleans folders carries the kernel's label too.
    let owns = kernels
        .list(true)
        .into_iter()
        .any(|view| view.id == kernel && view.container.as_ref() == Some(container));
    if owns {
        kernels.tell(kernel, Command::Died { exit_code, oom, reason: reason.to_owned() });
    }
}

/// Since when each thing without an owner has been seen.
#[derive(Debug, Default)]
struct Orphans {
    containers: BTreeMap<ContainerId, Instant>,
    folders: BTreeMap<KernelId, Instant>,
    sockets: BTreeMap<KernelId, Instant>,
}

/// Observes, looks, mends.
async fn pass(kernels: &Kernels, orphans: &mut Orphans) -> Result<(), KernelError> {
    let findings = survey(kernels).await?;
    for view in kernels.list(true) {
        if view.phase == Phase::Collected {
            kernels.tell(view.id, Command::RetryRemove);
        }
    }
    mend(kernels, orphans, findings).await
}

/// What [`watch`] would mend now; changes nothing.
///
/// # Errors
/// When the engine or the folders cannot be looked at.
pub async fn survey(kernels: &Kernels) -> Result<Vec<Finding>, KernelError> {
    let shared = &kernels.inner.shared;
    let before = kernels.list(true);
    let containers = shared.engine.list(shared.instance).await?;
    let scratch = shared.scratch.clone();
    let folders = tokio::task::spawn_blocking(move || scratch.present())
        .await
        .map_err(|error| KernelError::new("internal", error.to_string()))??;
    // Who came while we looked owns what was seen of it, and nothing of it can be missed yet.
    let newer = kernels.list(true).into_iter().filter(|view| !before.iter().any(|old| old.id == view.id));
    let newer = newer.map(|view| Expected { phase: Phase::Requested, ..Expected::from(&view) });
    let desired: Vec<Expected> = before.iter().map(Expected::from).chain(newer).collect();
    Ok(look(&desired, &Observed { containers, folders }))
}

/// Does about each finding what is due. What may belong to something under way is left alone for a while.
async fn mend(kernels: &Kernels, orphans: &mut Orphans, findings: Vec<Finding>) -> Result<(), KernelError> {
    let shared = &kernels.inner.shared;
    let (mut containers, mut folders, mut sockets) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
    for finding in findings {
        match finding {
            Finding::ContainerEnded { kernel, container, exit_code, oom, .. } => {
                died(kernels, kernel, &container, exit_code, oom, "self-terminated");
            }
            Finding::ContainerMissing { kernel, container, .. } => {
                died(kernels, kernel, &container, None, false, "container-not-found");
            }
            Finding::ContainerWithoutRecord { container, .. } => drop(containers.insert(container)),
            Finding::FoldersWithoutKernel { kernel, .. } => drop(folders.insert(kernel)),
            Finding::StaleSockets { kernel, .. } => drop(sockets.insert(kernel)),
        }
    }
    let now = Instant::now();
    for container in overdue(&mut orphans.containers, containers, now) {
        warn!(%container, "a container of this instance without a record is removed");
        shared.engine.remove(&container).await?;
    }
    for kernel in overdue(&mut orphans.folders, folders, now) {
        warn!(%kernel, "folders without a kernel are removed");
        on_files(shared.scratch.clone(), move |scratch| scratch.remove(kernel)).await;
    }
    for kernel in overdue(&mut orphans.sockets, sockets, now) {
        warn!(%kernel, "sockets of a kernel that has ended are removed");
        on_files(shared.scratch.clone(), move |scratch| scratch.remove_sockets(kernel)).await;
    }
    Ok(())
}

/// Removes files off the runtime's threads; the next pass finds what could not be removed.
async fn on_files(
    scratch: Scratch,
    work: impl FnOnce(&Scratch) -> Result<(), ScratchError> + Send + 'static,
) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || work(&scratch)).await {
        warn!("{error}");
    }
}

/// Keeps the book of first sightings and returns what has been without an owner for too long.
fn overdue<K: Ord + Clone>(
    seen: &mut BTreeMap<K, Instant>,
    now_ownerless: BTreeSet<K>,
    now: Instant,
) -> Vec<K> {
    seen.retain(|key, _| now_ownerless.contains(key));
    let mut due = Vec::new();
    for key in now_ownerless {
        let first = *seen.entry(key.clone()).or_insert(now);
        if now.duration_since(first) >= ORPHAN_GRACE {
            due.push(key);
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_are_left_alone_until_the_grace_is_over() {
        let mut seen = BTreeMap::new();
        let set = |keys: &[u8]| keys.iter().copied().collect::<BTreeSet<u8>>();
        let start = Instant::now();
        assert!(overdue(&mut seen, set(&[1, 2]), start).is_empty());
        assert!(overdue(&mut seen, set(&[2, 3]), start + ORPHAN_GRACE / 2).is_empty());
        assert_eq!(overdue(&mut seen, set(&[1, 2, 3]), start + ORPHAN_GRACE), [2]);
        assert_eq!(overdue(&mut seen, set(&[1, 3]), start + ORPHAN_GRACE * 2), [1, 3]);
    }
}
