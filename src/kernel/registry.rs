//! All kernels: who exists, under which name, and the way to each one's actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

use super::actor::{Actor, Command, Origin};
use super::reconcile;
use super::record::KernelRecord;
use super::shared::{Shared, now_ms};
use super::{CreateRequest, KernelError, KernelView, Lease, Phase, Progress};
use crate::admission::Share;
use crate::engine::{
    ContainerState, ContainerView, EngineError, ImageView, LogChunk, LogOptions, SharedEngine,
};
use crate::ids::{KernelId, KernelName, KernelRef};

/// A clonable way to all kernels.
#[derive(Debug, Clone)]
pub struct Kernels {
    pub(super) inner: Arc<Inner>,
}

/// What the clones share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    entries: Mutex<BTreeMap<KernelId, Entry>>,
}

/// One kernel as the registry knows it.
#[derive(Debug)]
struct Entry {
    view: watch::Receiver<KernelView>,
    commands: mpsc::Sender<Command>,
    leases: Arc<watch::Sender<usize>>,
}

/// How long after a fault a kernel is taken up again; below the reconciler's grace for what has no owner.
const TAKE_UP_AFTER: Duration = Duration::from_secs(5);
/// Commands that may wait for one actor.
const COMMAND_QUEUE: usize = 32;

impl Kernels {
    /// An empty registry.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { inner: Arc::new(Inner { shared, entries: Mutex::default() }) }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<KernelId, Entry>> {
        // The map stays consistent whatever panicked while it was held: every change is one insert or remove.
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a kernel. The receiver tells progress and ends after `Running` or `Failed`; dropping it before
    /// that cancels the creation.
    pub async fn create(&self, request: CreateRequest) -> mpsc::Receiver<Progress> {
        let (progress, receiver) = mpsc::channel(16);
        // An id has one life: a client that asks again, because it lost its agent, is told how that ended.
        if let Some(reason) = self.inner.shared.outbox.ended(request.kernel) {
            let message = format!("kernel {} has been and has ended: {reason}", request.kernel);
            let error = KernelError::new("kernel-ended", message)
                .hint("`berth events` tells when; ask for a new one");
            // The channel is new and has room.
            let _ = progress.try_send(Progress::Failed { error });
            return receiver;
        }
        let now = now_ms();
        let name = request.name.clone().unwrap_or_else(|| made_up_name(request.kernel));
        let view = KernelView {
            id: request.kernel,
            session: request.session,
            name: name.clone(),
            phase: Phase::Requested,
            image: request.image.clone().unwrap_or_default(),
            engine: self.inner.shared.engine.kind().as_str().to_owned(),
            container: None,
            container_name: None,
            allocations: Vec::new(),
            cpuset: Vec::new(),
            memory_limit: None,
            runs_as: self.inner.shared.runs_as(request.caller),
            created_at_ms: now,
            starting_at_ms: None,
            ready_at_ms: None,
            runner_boot_ms: None,
            silent_ms: None,
            termination: None,
            decisions: Vec::new(),
            not_enforced: self.inner.shared.engine_info.not_enforced.clone(),
            leased: request.leased,
            work_dir: self.inner.shared.scratch.folders(request.kernel).work,
            mounts: Vec::new(),
            runs: Vec::new(),
        };
        if let Err(error) = self.launch(request, view, Origin::Created(progress.clone())) {
            // The channel is new and has room.
            let _ = progress.try_send(Progress::Failed { error });
        }
        receiver
    }

    /// Starts the actor of a kernel found in the records.
    pub(super) fn adopt(
        &self,
        record: KernelRecord,
        share: Option<Share>,
        container: Option<ContainerState>,
    ) {
        let (request, mut view) = (record.request.clone(), record.view.clone());
        if view.mounts.is_empty() {
            // Made by a berth that did not write them down.
            view.mounts.clone_from(&request.mounts);
        }
        let origin = Origin::Recovered { record: Box::new(record), share, container };
        if let Err(error) = self.launch(request, view, origin) {
            error!(code = error.code, "a recovered kernel could not be taken up: {}", error.message);
        }
    }

    /// Enters a kernel and spawns its actor; the id and the name must be free.
    fn launch(&self, request: CreateRequest, view: KernelView, origin: Origin) -> Result<(), KernelError> {
        let kernel = request.kernel;
        let mut entries = self.entries();
        if entries.contains_key(&kernel) {
            return Err(KernelError::new("kernel-exists", format!("kernel {kernel} exists already")));
        }
        if entries.values().any(|entry| entry.view.borrow().name == view.name) {
            return Err(name_taken(&view.name));
        }
        let (view, views) = watch::channel(view);
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let (leases, lease_count) = watch::channel(0);
        let actor = Actor::new(self.inner.shared.clone(), request, view, receiver, lease_count, origin);
        entries.insert(kernel, Entry { view: views, commands, leases: Arc::new(leases) });
        drop(entries);
        // The guardian owns the actor's task and notices its end, however it comes (invariant 9). It holds
        // the registry weakly, so that the registry's end is the actors' end.
        let registry = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let ended = tokio::spawn(actor.run()).await;
            let Some(inner) = registry.upgrade() else { return };
            let registry = Self { inner };
            registry.entries().remove(&kernel);
            if let Err(failure) = ended {
                error!(%kernel, %failure, "a kernel's actor ended early; it is taken up again from its record");
                // Not at once: what made it end may do so again.
                tokio::time::sleep(TAKE_UP_AFTER).await;
                if let Err(error) = reconcile::take_up(&registry, kernel).await {
                    error!(%kernel, code = error.code, "it could not be taken up: {}", error.message);
                }
            }
        });
        Ok(())
    }

    /// Whether a kernel of that name could be made.
    pub(super) fn name_is_free(&self, name: &KernelName) -> Result<(), KernelError> {
        let taken = self.entries().values().any(|entry| entry.view.borrow().name == *name);
        if taken { Err(name_taken(name)) } else { Ok(()) }
    }

    /// Every kernel, oldest first; `all`: ended ones too.
    #[must_use]
    pub fn list(&self, all: bool) -> Vec<KernelView> {
        let mut views: Vec<KernelView> =
            self.entries().values().map(|entry| entry.view.borrow().clone()).collect();
        views.retain(|view| all || !matches!(view.phase, Phase::Collected | Phase::Gone));
        views.sort_by_key(|view| (view.created_at_ms, view.id));
        views
    }

    /// One kernel.
    ///
    /// # Errors
    /// `no-such-kernel`.
    pub fn get(&self, which: &KernelRef) -> Result<KernelView, KernelError> {
        self.find(which).map(|(view, _)| view)
    }

    fn find(&self, which: &KernelRef) -> Result<(KernelView, mpsc::Sender<Command>), KernelError> {
        let entries = self.entries();
        let found = match which {
            KernelRef::Id(id) => entries.get(id),
            KernelRef::Name(name) => entries.values().find(|entry| entry.view.borrow().name == *name),
        };
        let found = found.map(|entry| (entry.view.borrow().clone(), entry.commands.clone()));
        found.ok_or_else(|| {
            KernelError::new("no-such-kernel", format!("there is no kernel {which}"))
                .hint("`berth ps -a` lists all")
        })
    }

    /// Stops a kernel and keeps its log. Returns when it is `Collected`.
    ///
    /// # Errors
    /// `no-such-kernel`, or that it went away meanwhile.
    pub async fn stop(
        &self,
        which: &KernelRef,
        grace: Duration,
        reason: &str,
    ) -> Result<KernelView, KernelError> {
        let (view, commands) = self.find(which)?;
        let (done, answer) = oneshot::channel();
        let command = Command::Stop { grace, reason: reason.to_owned(), done };
        let went_away =
            || KernelError::new("no-such-kernel", format!("kernel {} went away meanwhile", view.name));
        commands.send(command).await.map_err(|_| went_away())?;
        answer.await.map_err(|_| went_away())?
    }

    /// Removes a kernel: container, folders, sockets, record. A running one only with `force`.
    ///
    /// # Errors
    /// `no-such-kernel`, `still-running`, or what kept it from being removed.
    pub async fn remove(&self, which: &KernelRef, force: bool) -> Result<(), KernelError> {
        let (view, commands) = self.find(which)?;
        if !force && view.phase != Phase::Collected {
            return Err(KernelError::new("still-running", format!("kernel {} still runs", view.name))
                .hint(format!("`berth stop {0}` first, or `berth rm -f {0}`", view.name)));
        }
        let (done, answer) = oneshot::channel();
        if commands.send(Command::Remove { done }).await.is_err() {
            return Ok(());
        }
        // An actor that ended without an answer has removed it by somebody else's wish.
        answer.await.unwrap_or(Ok(()))
    }

    /// Names of the kernels that use an image, by their containers or by the name they asked for.
    ///
    /// # Errors
    /// The engine's failure.
    pub async fn users_of(&self, image: &ImageView) -> Result<Vec<KernelName>, EngineError> {
        let shared = &self.inner.shared;
        let containers = shared.engine.list(shared.instance).await?;
        let by_container: BTreeSet<KernelId> = containers
            .iter()
            .filter(|view| view.image == image.id)
            .filter_map(ContainerView::kernel)
            .collect();
        let uses = |view: &KernelView| by_container.contains(&view.id) || image.tags.contains(&view.image);
        Ok(self.list(true).into_iter().filter(uses).map(|view| view.name).collect())
    }

    /// The engine that makes their containers.
    #[must_use]
    pub fn engine(&self) -> &SharedEngine {
        &self.inner.shared.engine
    }

    /// What their actors work with.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Its console log.
    ///
    /// # Errors
    /// `no-such-kernel`, `no-container`, or the engine's failure.
    pub async fn logs(
        &self,
        which: &KernelRef,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogChunk, EngineError>>, KernelError> {
        let (view, _) = self.find(which)?;
        let container = view.container.ok_or_else(|| {
            KernelError::new("no-container", format!("kernel {} has no container yet", view.name))
        })?;
        Ok(self.inner.shared.engine.logs(&container, options).await?)
    }

    /// Opens a stream's hold on a leased kernel: while any [`Lease`] of it lives the kernel stays. For an
    /// unleased kernel it does nothing.
    #[must_use]
    pub fn lease(&self, kernel: KernelId) -> Lease {
        let leases = self.entries().get(&kernel).map(|entry| entry.leases.clone());
        Lease::hold(leases)
    }

    /// Tells a kernel's actor something without waiting for an answer; a full queue is tried again by the
    /// reconciler.
    pub(super) fn tell(&self, kernel: KernelId, command: Command) {
        let commands = self.entries().get(&kernel).map(|entry| entry.commands.clone());
        if let Some(commands) = commands {
            let _ = commands.try_send(command);
        }
    }
}

impl Lease {
    fn hold(leases: Option<Arc<watch::Sender<usize>>>) -> Self {
        if let Some(leases) = &leases {
            leases.send_modify(|count| *count += 1);
        }
        Self { leases }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(leases) = &self.leases {
            leases.send_modify(|count| *count = count.saturating_sub(1));
        }
    }
}

fn name_taken(name: &KernelName) -> KernelError {
    KernelError::new("name-taken", format!("a kernel of the name {name} exists already"))
        .hint(format!("remove it by `berth rm -f {name}`, or choose another name"))
}

/// `k-` and the first eight digits of the id.
pub(super) fn made_up_name(kernel: KernelId) -> KernelName {
    let id = kernel.to_string();
    #[expect(clippy::expect_used, reason = "a letter, a dash and eight hexadecimal digits")]
    format!("k-{}", &id[..8]).parse().expect("a well-formed name")
}
