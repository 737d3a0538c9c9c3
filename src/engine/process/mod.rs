//! Kernels as processes of this host, for where there is no container engine.
//!
//! A "container" is a folder (`folder`). Starting one starts the runner's supervisor in a session of
//! its own (`launch`), which outlives the agent and writes down how the kernel ended; between it and
//! the kernel stands bubblewrap where that works (`sandbox`), and around both stand control groups
//! where they can be made (`cgroup`). What is not isolated or enforced is said ([`Engine::info`]).
//!
//! ```text
//! agent -(thread "reaper")-> berth-runner supervise -> [bwrap -> its init ->] berth-runner kernel
//! ```
//! Tasks: a watcher for each receiver of events (`watch`), and blocking calls for files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::sync::{Mutex, mpsc, watch as latest};

use self::cgroup::{Hierarchies, Limits};
use self::folder::{Container, Folder, Start};
use self::sandbox::Bubblewrap;
use super::deadlines::{Deadlines, within};
use super::{
    ContainerSpec, ContainerState, ContainerView, Engine, EngineError, EngineEvent, EngineInfo, EngineKind,
    ImageView, Layout, LogChunk, LogOptions, node_architecture, ulimits,
};
use crate::ids::{ContainerId, InstanceId};

mod cgroup;
mod console;
mod folder;
mod identity;
mod launch;
mod pidfd;
mod sandbox;
mod watch;

/// The one image of this engine: the host itself.
pub const HOST_IMAGE: &str = "host";

/// Between two looks at what cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Whether bubblewrap is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// Where it works.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Whether control groups are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cgroups {
    /// Where this user may make some.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What the engine needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where containers are kept. Made 0700 when it is missing.
    pub dir: PathBuf,
    /// The runner's program file.
    pub runner: PathBuf,
    /// Whether bubblewrap is used.
    pub sandbox: Sandbox,
    /// Whether control groups are used.
    pub cgroups: Cgroups,
    /// How long each call may take.
    pub deadlines: Deadlines,
}

/// Processes of this host.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: Folder,
    runner: PathBuf,
    sandbox: Result<Bubblewrap, String>,
    hierarchies: Hierarchies,
    deadlines: Deadlines,
    /// Counts starts and removals, so that waiters look again.
    starts: latest::Sender<u64>,
    /// Held while a name is taken, so that no two containers take the same.
    names: Mutex<()>,
    /// Held by each start: two at once would start a kernel twice. A start is short.
    starting: Mutex<()>,
}

impl Process {
    /// An engine that keeps its containers below `dir`, with every default.
    ///
    /// # Errors
    /// See [`Process::open`].
    pub async fn new(dir: &Path, runner: &Path) -> Result<Self, EngineError> {
        Self::open(Settings {
            dir: dir.to_owned(),
            runner: runner.to_owned(),
            sandbox: Sandbox::default(),
            cgroups: Cgroups::default(),
            deadlines: Deadlines::default(),
        })
        .await
    }

    /// Opens the folder of containers and tries what this host permits.
    ///
    /// # Errors
    /// When the folder cannot be used or the runner is not there.
    pub async fn open(settings: Settings) -> Result<Self, EngineError> {
        let unreachable = |endpoint: &Path, problem: String, remedy: &str| EngineError::Unreachable {
            engine: "process engine",
            endpoint: endpoint.display().to_string(),
            problem,
            remedies: vec![remedy.to_owned()],
        };
        let deadline = settings.deadlines.info;
        let (folder, sandbox, hierarchies) = blocking("open", deadline, move || {
            if !settings.runner.is_file() {
                let problem = "there is no runner".to_owned();
                return Err(unreachable(
                    &settings.runner,
                    problem,
                    "build it (cargo xtask build) or name it ([kernel-runner] path)",
                ));
            }
            let folder = Folder::open(&settings.dir).map_err(|error| {
                unreachable(
                    &settings.dir,
                    error.to_string(),
                    "give a state directory of your own: --state-dir DIR",
                )
            })?;
            let sandbox = match settings.sandbox {
                Sandbox::Auto => Bubblewrap::probe(),
                Sandbox::Off => Err("bubblewrap is switched off".to_owned()),
            };
            let hierarchies = match settings.cgroups {
                Cgroups::Auto => Hierarchies::find(),
                Cgroups::Off => Hierarchies::default(),
            };
            Ok(((folder, settings.runner), sandbox, hierarchies))
        })
        .await?;
        let (folder, runner) = folder;
        Ok(Self {
            inner: Arc::new(Inner {
                folder,
                runner,
                sandbox,
                hierarchies,
                deadlines: settings.deadlines,
                starts: latest::Sender::new(0),
                names: Mutex::new(()),
                starting: Mutex::new(()),
            }),
        })
    }

    /// Runs blocking work on one container.
    async fn on<T: Send + 'static>(
        &self,
        call: &'static str,
        deadline: Duration,
        id: &ContainerId,
        work: impl FnOnce(&Inner, &Container) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.folder.container(id));
        blocking(call, deadline, move || work(&inner, &container)).await
    }
}

impl Inner {
    /// Containers of one instance with their groups.
    async fn look_around(
        self: &Arc<Self>,
        instance: InstanceId,
    ) -> Result<Vec<(ContainerView, Limits)>, EngineError> {
        let inner = Arc::clone(self);
        blocking("list", self.deadlines.look, move || {
            let mut views = Vec::new();
            for container in inner.folder.containers().map_err(failed("list"))? {
                let view = match container.view() {
                    Ok(Some(view)) => view,
                    // Removed meanwhile.
                    Ok(None) => continue,
                    // One bad folder must not hide the others.
                    Err(error) => {
                        tracing::warn!(container = %container.id, %error, "a container cannot be read");
                        continue;
                    }
                };
                if watch::belongs(&view.labels, instance) {
                    views.push((view, container.limits().unwrap_or_default()));
                }
            }
            Ok(views)
        })
        .await
    }

    async fn look(self: &Arc<Self>, id: &ContainerId) -> Result<Option<ContainerView>, EngineError> {
        let container = self.folder.container(id);
        blocking("inspect", self.deadlines.look, move || container.view().map_err(failed("inspect"))).await
    }

    /// Waits until a container has ended, however long that takes.
    async fn until_end(self: &Arc<Self>, id: &ContainerId) -> Result<ContainerState, EngineError> {
        let mut starts = self.starts.subscribe();
        loop {
            match self.look(id).await? {
                None => return Err(EngineError::NoSuchContainer(id.clone())),
                Some(ContainerView { state: state @ ContainerState::Exited { .. }, .. }) => return Ok(state),
                Some(ContainerView { state: ContainerState::Running, .. }) => {
                    let start = self.folder.container(id).start().map_err(failed("wait"))?;
                    if let Some(start) = start {
                        end_of(&start).await.map_err(failed("wait"))?;
                    }
                }
                Some(ContainerView { state: ContainerState::Created, .. }) => {
                    // The sender lives as long as `self`.
                    let _ = starts.changed().await;
                }
            }
        }
    }

    fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let sandbox = self.sandbox.as_ref().ok();
        sandbox::check(spec, sandbox)?;
        for other in self.folder.containers().map_err(failed("create"))? {
            if other.spec().ok().flatten().is_some_and(|other| other.name == spec.name) {
                return Err(EngineError::NameTaken(spec.name.clone()));
            }
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let id: ContainerId = id.parse().map_err(|error: crate::ids::ParseIdError| EngineError::Failed {
            call: "create",
            message: error.to_string(),
        })?;
        let limits = self.hierarchies.make(&id, spec).map_err(failed("create"))?;
        match self.folder.add(&id, spec, &limits) {
            Ok(_) => Ok(id),
            Err(error) => {
                limits.remove();
                Err(failed("create")(error))
            }
        }
    }

    async fn start(&self, container: &Container) -> Result<(), EngineError> {
        let _one_at_a_time = self.starting.lock().await;
        // Held by a supervisor that runs, or that an agent which was killed just now has left on its way.
        let lock = loop {
            if let Some(lock) = container.lock().map_err(gone_or("start", &container.id))? {
                break lock;
            }
            let view = container.view().map_err(failed("start"))?;
            if view.is_some_and(|view| view.state == ContainerState::Running) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let view = container.view().map_err(failed("start"))?;
        match view.map(|view| view.state) {
            None => return Err(EngineError::NoSuchContainer(container.id.clone())),
            Some(ContainerState::Running) => return Ok(()),
            Some(ContainerState::Created) => {}
            Some(ContainerState::Exited { .. }) => {
                let message = "it has ended already; make a new one".to_owned();
                return Err(EngineError::Refused { call: "start", message });
            }
        }
        let spec = container.spec().map_err(failed("start"))?;
        let spec = spec.ok_or_else(|| EngineError::NoSuchContainer(container.id.clone()))?;
        let limits = container.limits().map_err(failed("start"))?;
        let sandbox = self.sandbox.as_ref().ok();
        let words = launch::words(&self.runner, container, &spec, sandbox, ulimits::own_limit);
        let supervisor = launch::spawn(words, container, &spec, &limits, sandbox.is_some(), lock).await?;
        container.started(&Start { supervisor, sandboxed: sandbox.is_some() }).map_err(failed("start"))?;
        self.starts.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Waits for a supervisor that an agent which was killed just now has left on its way.
    async fn started_or_not(container: &Container) -> io::Result<()> {
        while container.is_being_started()? {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Asks a kernel to end, then ends it. Returns when it has ended.
    async fn stop(&self, container: &Container, grace: Duration) -> Result<(), EngineError> {
        Self::started_or_not(container).await.map_err(failed("stop"))?;
        match container.view().map_err(failed("stop"))?.map(|view| view.state) {
            None => return Err(EngineError::NoSuchContainer(container.id.clone())),
            Some(ContainerState::Running) => {}
            Some(ContainerState::Created | ContainerState::Exited { .. }) => return Ok(()),
        }
        let Some(start) = container.start().map_err(failed("stop"))? else { return Ok(()) };
        if !grace.is_zero() {
            // Bubblewrap dies of a signal and takes the kernel with it: the kernel itself is asked.
            let kernel = if start.sandboxed { start.supervisor.descendant(sandbox::DEPTH) } else { None };
            kernel.as_ref().unwrap_or(&start.supervisor).signal(Signal::TERM).map_err(failed("stop"))?;
            if let Ok(ended) = tokio::time::timeout(grace, end_of(&start)).await {
                return ended.map_err(failed("stop"));
            }
        }
        self.kill(&start).await.map_err(failed("stop"))
    }

    /// Ends a kernel at once: the supervisor kills everything and writes down that it did.
    async fn kill(&self, start: &Start) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        start.supervisor.signal(Signal::QUIT)?;
        if let Ok(ended) = tokio::time::timeout(PATIENCE, end_of(start)).await {
            return ended;
        }
        start.supervisor.signal(Signal::KILL)?;
        end_of(start).await
    }

    async fn remove(&self, container: &Container) -> Result<(), EngineError> {
        Self::started_or_not(container).await.map_err(failed("remove"))?;
        if let Some(start) = container.start().map_err(failed("remove"))? {
            self.kill(&start).await.map_err(failed("remove"))?;
            if !container.exit_file().exists() {
                self.kill_leftovers(container).await?;
            }
        }
        let limits = container.limits().map_err(failed("remove"))?;
        // A process that was killed leaves its groups a moment later.
        while !limits.remove() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let (folder, container) = (self.folder.clone(), container.clone());
        blocking("remove", self.deadlines.remove, move || {
            folder.forget(&container).map_err(failed("remove"))
        })
        .await?;
        // Who waits for it to be started waits in vain.
        self.starts.send_modify(|count| *count += 1);
        Ok(())
    }

    /// A supervisor that was itself killed leaves its kernel behind. Returns when none of it lives.
    async fn kill_leftovers(&self, container: &Container) -> Result<(), EngineError> {
        let marker = format!("{}={}", launch::MARK, container.id);
        loop {
            let marker = marker.clone();
            let look = move || Ok(identity::kill_marked(&marker));
            let left = blocking("remove", self.deadlines.remove, look).await?;
            if left == 0 {
                return Ok(());
            }
            tracing::warn!(container = %container.id, left, "processes without a supervisor were killed");
            // What is being killed may have made another just before.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn not_enforced(&self) -> Vec<String> {
        let mut texts = Vec::new();
        match &self.sandbox {
            Ok(_) => texts.push(
                "Kernels share this host's network and see its files, read-only outside their own folders."
                    .to_owned(),
            ),
            Err(reason) => texts.push(format!(
                "Kernels share this host's network, files and processes with the rights of their user, and \
                 read-only mounts are not enforced: {reason}."
            )),
        }
        texts.push(match rustix::process::geteuid().is_root() {
            true => {
                "Kernels run as root, as this agent does, and may do what root may; run the agent as a user \
                     to take that away."
                    .to_owned()
            }
            false => {
                "Kernels run as the user of this agent, and may do what that user may, to the agent too."
                    .to_owned()
            }
        });
        texts.extend(self.hierarchies.not_enforced());
        texts.push(
            "Capabilities, security options, kernel parameters, devices, name servers and host names of a \
             container are not applied."
                .to_owned(),
        );
        texts
    }
}

#[async_trait]
impl Engine for Process {
    fn kind(&self) -> EngineKind {
        EngineKind::Process
    }

    fn layout(&self) -> Layout {
        Layout::Host
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        Ok(EngineInfo {
            kind: EngineKind::Process,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: None,
            endpoint: self.inner.folder.path().display().to_string(),
            architecture: node_architecture().to_owned(),
            cgroup_version: self.inner.hierarchies.version().map(str::to_owned),
            live_restore: Some(true),
            unsandboxed: self.inner.sandbox.as_ref().err().cloned(),
            not_enforced: self.inner.not_enforced(),
        })
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        if spec.image != HOST_IMAGE {
            return Err(EngineError::NoSuchImage(spec.image.clone()));
        }
        let (inner, spec) = (Arc::clone(&self.inner), spec.clone());
        let _one_name_at_a_time = self.inner.names.lock().await;
        blocking("create", self.inner.deadlines.create, move || inner.create(&spec)).await
    }

    /// A container that has ended is not started again.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.folder.container(id));
        // Its own task: a caller that gives up must not leave a supervisor that nobody noted.
        let started = tokio::spawn(async move { inner.start(&container).await });
        within("start", self.inner.deadlines.start, async {
            started.await.unwrap_or_else(|error| Err(failed("start")(io::Error::other(error))))
        })
        .await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        let container = self.inner.folder.container(id);
        let deadline = grace + self.inner.deadlines.stop_beyond_grace;
        within("stop", deadline, self.inner.stop(&container, grace)).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let container = self.inner.folder.container(id);
        within("remove", self.inner.deadlines.remove, self.inner.remove(&container)).await
    }

    async fn list(&self, instance: InstanceId) -> Result<Vec<ContainerView>, EngineError> {
        let seen = self.inner.look_around(instance).await?;
        Ok(seen.into_iter().map(|(view, _)| view).collect())
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerView>, EngineError> {
        self.inner.look(id).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        self.inner.until_end(id).await
    }

    /// Begins with [`EngineEvent::Resync`]. Must be called within a tokio runtime.
    fn events(&self, instance: InstanceId) -> mpsc::Receiver<EngineEvent> {
        let (sender, receiver) = mpsc::channel(256);
        // Ends when the receiver is dropped.
        tokio::spawn(watch::watch(Arc::clone(&self.inner), instance, sender));
        receiver
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogChunk, EngineError>>, EngineError> {
        let look = self.inner.deadlines.look;
        let missing = id.clone();
        self.on("logs", look, id, move |_, container| match container.spec().map_err(failed("logs"))? {
            Some(_) => Ok(()),
            None => Err(EngineError::NoSuchContainer(missing)),
        })
        .await?;
        let (sender, receiver) = mpsc::channel(16);
        let container = self.inner.folder.container(id);
        // Ends with the log, or when the receiver is dropped.
        tokio::spawn(console::send(container, options, sender));
        Ok(receiver)
    }

    async fn images(&self) -> Result<Vec<ImageView>, EngineError> {
        Ok(vec![host_image()])
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageView>, EngineError> {
        Ok((reference == HOST_IMAGE).then(host_image))
    }
}

fn host_image() -> ImageView {
    ImageView {
        id: HOST_IMAGE.to_owned(),
        tags: vec![HOST_IMAGE.to_owned()],
        labels: BTreeMap::from([(crate::images::LABEL_DEFAULT.to_owned(), "1".to_owned())]),
        architecture: node_architecture().to_owned(),
        size: 0,
        created: 0,
    }
}

/// Waits until a supervisor has ended. Safe to drop half-way.
async fn end_of(start: &Start) -> io::Result<()> {
    let Some(handle) = start.supervisor.open()? else { return Ok(()) };
    pidfd::ended(handle).await
}

/// Work on files, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    call: &'static str,
    deadline: Duration,
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    within(call, deadline, async {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(failed(call)(io::Error::other(error))))
    })
    .await
}

/// A file of a container whose folder is not there says that there is no such container.
fn gone_or(call: &'static str, id: &ContainerId) -> impl Fn(io::Error) -> EngineError {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => EngineError::NoSuchContainer(id.clone()),
        _ => failed(call)(error),
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |error| EngineError::Failed { call, message: error.to_string() }
}
