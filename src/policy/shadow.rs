//! A policy that is asked beside the active one and decides nothing: a reader of the journal that decides each new
//! entry again and counts how they agree. No second hot path: it sees a decision when that is written.
//!
//! Its thread `policy-shadow` runs WebAssembly, one call at a time over all shadows and replays (`turn`), and ends
//! with [`Shadow::stop`], or with the journal.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::WorldKind;
use super::journal::{self, Entry, Follower, Wanted};
use super::replay::run::who;
use super::replay::{Bench, Came, Change, Compare, Decider, Who, again, diff};

/// How a shadow does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowView {
    /// The world.
    pub world: WorldKind,
    /// The member of its chain.
    pub link: usize,
    /// Who would decide.
    pub who: Who,
    /// Since when it counts, Unix time in milliseconds.
    pub since_ms: u64,
    /// Decisions of the active one that it has seen.
    pub seen: u64,
    /// Those that it would make in the same way.
    pub agreed: u64,
    /// Those that it would not.
    pub differing: u64,
    /// Those at which it failed.
    pub failed: u64,
    /// Those that cannot be made again.
    pub skipped: u64,
    /// The last decision that it would make otherwise.
    #[serde(default)]
    pub last: Option<Change>,
    /// Why it does not go on.
    #[serde(default)]
    pub problem: Option<String>,
}

/// One that runs.
#[derive(Debug)]
pub(super) struct Shadow {
    view: Arc<Mutex<ShadowView>>,
    stop: CancellationToken,
}

/// What its thread owns.
struct Watcher {
    bench: Bench,
    decider: Decider,
    wanted: Wanted,
    view: Arc<Mutex<ShadowView>>,
    stop: CancellationToken,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Shadow {
    /// Begins with what is decided from now on. Call it on a runtime.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(
        (world, link): (WorldKind, usize),
        (bench, decider): (Bench, Decider),
        follower: Follower,
        turn: Arc<tokio::sync::Mutex<()>>,
    ) -> std::io::Result<Arc<Self>> {
        let view = ShadowView {
            world,
            link,
            who: who(&decider),
            since_ms: journal::now_ms(),
            seen: 0,
            agreed: 0,
            differing: 0,
            failed: 0,
            skipped: 0,
            last: None,
            problem: None,
        };
        let (view, stop) = (Arc::new(Mutex::new(view)), CancellationToken::new());
        let wanted = Wanted { world: Some(world), link: Some(link), ..Wanted::default() };
        let watcher = Watcher { bench, decider, wanted, view: Arc::clone(&view), stop: stop.clone(), turn };
        let runtime = tokio::runtime::Handle::current();
        let run = move || watcher.run(follower, &runtime);
        std::thread::Builder::new().name("policy-shadow".to_owned()).spawn(run)?;
        Ok(Arc::new(Self { view, stop }))
    }

    pub fn view(&self) -> ShadowView {
        lock(&self.view).clone()
    }

    /// Ends it; a call in flight ends first.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Watcher {
    fn run(self, mut follower: Follower, runtime: &tokio::runtime::Handle) {
        loop {
            let entries = match follower.read_on() {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!(%error, "a shadow ends: the journal cannot be read");
                    lock(&self.view).problem = Some(format!("the journal cannot be read: {error}"));
                    return;
                }
            };
            for entry in entries.iter().filter(|entry| self.wanted.matches(entry)) {
                if self.stop.is_cancelled() {
                    return;
                }
                let came = {
                    let _turn = self.turn.blocking_lock();
                    again(&self.bench, &self.decider, entry, Compare::Outcome)
                };
                self.count(entry, &came);
            }
            if !entries.is_empty() {
                continue;
            }
            let more = runtime.block_on(async {
                // Cancel-safe: a watch and a token.
                tokio::select! {
                    more = follower.more() => more,
                    () = self.stop.cancelled() => false,
                }
            });
            if !more {
                return;
            }
        }
    }

    fn count(&self, entry: &Entry, came: &Came) {
        let change = diff::change_by(entry, &self.decider, came);
        let mut view = lock(&self.view);
        view.seen += 1;
        match came {
            Came::Same => view.agreed += 1,
            Came::Different(_) => view.differing += 1,
            Came::Failed(_) => view.failed += 1,
            Came::Skipped(_) => view.skipped += 1,
        }
        if change.is_some() {
            view.last = change;
        }
    }
}

fn lock(view: &Mutex<ShadowView>) -> MutexGuard<'_, ShadowView> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}
