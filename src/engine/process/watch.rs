//! What happens to containers of one instance, as long as somebody listens.
//!
//! Deaths are waited for through pidfds; a look around follows each start. Kills for memory are counted
//! by the system in files that cannot be waited for everywhere, so those are read once a second.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Inner;
use super::folder::Container;
use crate::engine::{ContainerState, EngineEvent, LABEL_INSTANCE};
use crate::ids::{ContainerId, InstanceId, KernelId};

const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// One container that runs.
struct Watched {
    container: Container,
    kernel: KernelId,
    kills: u64,
}

/// Tells events until the receiver is dropped.
pub(super) async fn watch(
    inner: std::sync::Arc<Inner>,
    instance: InstanceId,
    listener: mpsc::Sender<EngineEvent>,
) {
    let mut starts = inner.starts.subscribe();
    let mut running: HashMap<ContainerId, Watched> = HashMap::new();
    let mut ended: HashSet<ContainerId> = HashSet::new();
    let mut deaths = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(MEMORY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        starts.borrow_and_update();
        let mut news = Vec::new();
        let seen = inner.look_around(instance).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the containers could not be looked at");
            Vec::new()
        });
        ended.retain(|id| seen.iter().any(|(view, _)| view.id == *id));
        for (view, limits) in seen {
            let Some(kernel) = view.kernel() else { continue };
            let known = running.contains_key(&view.id) || ended.contains(&view.id);
            match view.state {
                ContainerState::Running if !known => {
                    let container = inner.folder.container(&view.id);
                    let id = view.id.clone();
                    let waiter = std::sync::Arc::clone(&inner);
                    deaths.push(async move { (waiter.until_end(&id).await, id) });
                    running.insert(
                        view.id,
                        Watched {
                            container,
                            kernel,
                            kills: if first { limits.kills_for_memory() } else { 0 },
                        },
                    );
                }
                ContainerState::Exited { code, .. } if !known => {
                    // Started and ended between two looks; at the first look it is old news.
                    if !first {
                        if limits.kills_for_memory() > 0 {
                            news.push(EngineEvent::OutOfMemory { container: view.id.clone(), kernel });
                        }
                        news.push(EngineEvent::Died { container: view.id.clone(), kernel, exit_code: code });
                    }
                    ended.insert(view.id);
                }
                _ => {}
            }
        }
        if first {
            news.push(EngineEvent::Resync);
            first = false;
        }
        // Waits for starts, ends and kills; all of these are safe to drop half-way.
        'quiet: loop {
            for event in news.drain(..) {
                if listener.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = listener.closed() => return,
                Some((end, id)) = deaths.next() => {
                    let Some(mut watched) = running.remove(&id) else { continue };
                    memory(&id, &mut watched, &mut news);
                    let exit_code = match end {
                        Ok(ContainerState::Exited { code, .. }) => code,
                        _ => None,
                    };
                    news.push(EngineEvent::Died { container: id.clone(), kernel: watched.kernel, exit_code });
                    ended.insert(id);
                }
                changed = starts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break 'quiet;
                }
                _ = ticks.tick() => {
                    for (id, watched) in &mut running {
                        memory(id, watched, &mut news);
                    }
                }
            }
        }
    }
}

fn memory(id: &ContainerId, watched: &mut Watched, news: &mut Vec<EngineEvent>) {
    let Ok(limits) = watched.container.limits() else { return };
    let kills = limits.kills_for_memory();
    if kills > watched.kills {
        watched.kills = kills;
        news.push(EngineEvent::OutOfMemory { container: id.clone(), kernel: watched.kernel });
    }
}

/// The label filter of [`Inner::look_around`].
pub(super) fn belongs(labels: &std::collections::BTreeMap<String, String>, instance: InstanceId) -> bool {
    labels.get(LABEL_INSTANCE).is_some_and(|label| *label == instance.to_string())
}
