//! Container engines behind one narrow trait.
//!
//! * [`docker`] speaks to a Docker Engine (bollard lives nowhere else);
//! * [`process`] starts the runner directly on this host and says plainly what it does not isolate.
//!
//! Every call has a deadline of its own (design §2, invariant 5) and is cancel-safe: dropping the
//! future abandons the wait, never the bookkeeping. Nothing here decides anything; a
//! [`ContainerSpec`] comes rendered from `kernel/plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::ids::{ContainerId, InstanceId, KernelId};

pub mod deadlines;
pub mod docker;
pub mod process;
pub mod transfer;
mod ulimits;

pub use deadlines::Deadlines;
pub use transfer::{Archive, ArchiveKind, ImageStep, ImageSteps, Import, Login, split_reference};

/// Label that carries the [`InstanceId`] of the state directory a container belongs to.
pub const LABEL_INSTANCE: &str = "ai.berth.instance";
/// Label that carries the kernel id (contracts: kernel §2.3).
pub const LABEL_KERNEL_ID: &str = "ai.backend.kernel-id";
/// Label that carries the session id (contracts: kernel §2.3).
pub const LABEL_SESSION_ID: &str = "ai.backend.session-id";

/// A shared engine.
pub type SharedEngine = Arc<dyn Engine>;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// A Docker Engine.
    Docker,
    /// Processes of this host.
    Process,
}

impl EngineKind {
    /// The name used in configuration, commands and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// What [`connect`] needs to know of this node.
#[derive(Debug, Clone)]
pub struct Place {
    /// What `DOCKER_HOST` says; none or empty: [`docker::DEFAULT_SOCKET`].
    pub docker_host: Option<String>,
    /// Where the process engine keeps its containers. Made 0700 when it is missing.
    pub process_dir: PathBuf,
    /// The runner's program file on this host.
    pub runner: PathBuf,
    /// How long each call may take.
    pub deadlines: Deadlines,
}

/// Connects to the engine of this kind and makes sure that it answers.
///
/// # Errors
/// [`EngineError::Unreachable`] with remedies when it does not.
pub async fn connect(kind: EngineKind, place: Place) -> Result<SharedEngine, EngineError> {
    Ok(match kind {
        EngineKind::Docker => {
            let config = docker::Config { host: place.docker_host, deadlines: place.deadlines };
            Arc::new(docker::Docker::connect(config).await?)
        }
        EngineKind::Process => {
            let settings = process::Settings {
                dir: place.process_dir,
                runner: place.runner,
                sandbox: process::Sandbox::Auto,
                cgroups: process::Cgroups::Auto,
                deadlines: place.deadlines,
            };
            Arc::new(process::Process::open(settings).await?)
        }
    })
}

/// The architecture of this node in the words of images: `amd64`, `arm64`.
#[must_use]
pub fn node_architecture() -> &'static str {
    // https://go.dev/doc/install/source#environment: images name architectures as Go does.
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Why an engine call failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer at all.
    #[error("{engine} does not answer at {endpoint}: {problem}")]
    Unreachable {
        /// Which engine.
        engine: &'static str,
        /// Its socket or address.
        endpoint: String,
        /// What went wrong, in one phrase.
        problem: String,
        /// What a person can do about it, one remedy an entry.
        remedies: Vec<String>,
    },
    /// The call took longer than its deadline. What it started may still happen.
    #[error("{call} did not end within {} s", deadline.as_secs_f32())]
    Deadline {
        /// The call.
        call: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// There is no such image.
    #[error("there is no image {0:?} on this node")]
    NoSuchImage(String),
    /// The image is for another architecture.
    #[error("image {image:?} is for {found}, this node is {wanted}")]
    WrongArchitecture {
        /// The image.
        image: String,
        /// The image's architecture.
        found: String,
        /// This node's.
        wanted: String,
    },
    /// There is no such container.
    #[error("there is no container {0}")]
    NoSuchContainer(ContainerId),
    /// A container of this name exists already.
    #[error("a container of the name {0:?} exists already")]
    NameTaken(String),
    /// The engine refused the request as wrong.
    #[error("{call} was refused: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The engine failed.
    #[error("{call} failed: {message}")]
    Failed {
        /// The call.
        call: &'static str,
        /// The engine's words, or the system's.
        message: String,
    },
    /// The registry of an image cannot be reached.
    #[error("the registry of {image} cannot be reached: {problem}")]
    RegistryUnreachable {
        /// The image.
        image: String,
        /// The engine's words.
        problem: String,
    },
    /// The registry does not have it, or does not give it to us.
    #[error("its registry does not give out {image}: {problem}")]
    NotInRegistry {
        /// The image.
        image: String,
        /// The engine's words.
        problem: String,
    },
    /// This engine cannot do that.
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Which engine.
        engine: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
}

impl EngineError {
    /// A stable code for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "engine-unreachable",
            Self::Deadline { .. } => "engine-deadline",
            Self::NoSuchImage(_) => "no-such-image",
            Self::WrongArchitecture { .. } => "wrong-architecture",
            Self::NoSuchContainer(_) => "no-such-container",
            Self::NameTaken(_) => "container-name-taken",
            Self::Refused { .. } => "engine-refused",
            Self::Failed { .. } => "engine-failed",
            Self::RegistryUnreachable { .. } => "registry-unreachable",
            Self::NotInRegistry { .. } => "not-in-registry",
            Self::Unsupported { .. } => "engine-unsupported",
        }
    }
}

/// Which paths a kernel of this engine sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Its own: `/home/work`, `/home/config`, `/opt/kernel` (contracts: kernel §2.5).
    Container,
    /// This host's: scratch, link and runner lie where they lie here (the process engine).
    Host,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Which engine.
    pub kind: EngineKind,
    /// Its version, e.g. `20.10.24`.
    pub version: String,
    /// The API version that was agreed on, e.g. `1.41`; none for the process engine.
    pub api_version: Option<String>,
    /// Its socket or address.
    pub endpoint: String,
    /// The architecture it runs, in the words of images: `amd64`, `arm64`.
    pub architecture: String,
    /// `1` or `2`.
    pub cgroup_version: Option<String>,
    /// Whether containers survive an engine restart.
    pub live_restore: Option<bool>,
    /// Why kernels are not confined by bubblewrap (process engine only); none: they are.
    #[serde(default)]
    pub unsandboxed: Option<String>,
    /// What this engine does not isolate or enforce here, a sentence each. Empty: everything asked for.
    pub not_enforced: Vec<String>,
}

/// A bind mount, volume or tmpfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What kind of mount.
    pub kind: MountKind,
    /// Host path (bind) or volume name; empty for tmpfs.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
}

/// What kind of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// A host path.
    Bind,
    /// A named volume.
    Volume,
    /// Memory.
    Tmpfs,
}

/// A resource limit of processes. `-1` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// E.g. `nofile`.
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// A container to be made, every default decided (contracts: kernel §2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// `kernel.<last part of image name>.<kernel id>`.
    pub name: String,
    /// Which kernel it is for.
    pub kernel: KernelId,
    /// Image reference, or image id. The process engine knows the one image `host`.
    pub image: String,
    /// Overrides the image's ENTRYPOINT: the runner inside the container.
    pub entrypoint: Vec<String>,
    /// Arguments of the entrypoint.
    pub command: Vec<String>,
    /// `K=V` of the container, sorted by name.
    pub env: BTreeMap<String, String>,
    /// Overrides the image's USER. `0:0`: the runner drops privileges itself (design §9).
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Host name in the container.
    pub hostname: String,
    /// Labels, the instance label among them.
    pub labels: BTreeMap<String, String>,
    /// Mounts, in order.
    pub mounts: Vec<MountSpec>,
    /// Capabilities added to the engine's default set, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Core numbers the kernel may use; empty: all.
    pub cpuset: Vec<u32>,
    /// CPU time per time in micro-units of a core; none: no quota.
    pub cpu_limit: Option<u64>,
    /// Bytes; none: no limit.
    pub memory_limit: Option<u64>,
    /// Bytes of memory and swap together; none: as the memory limit (no swap).
    pub memory_swap: Option<u64>,
    /// Bytes of `/dev/shm`; none: the engine's default.
    pub shm_size: Option<u64>,
    /// Processes; none: no limit.
    pub pids_limit: Option<u64>,
    /// Network to join; none: the engine's default.
    pub network: Option<String>,
    /// `host:address` lines.
    pub extra_hosts: Vec<String>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Host devices, e.g. `/dev/fuse`.
    pub devices: Vec<String>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Security options in Docker's words.
    pub security_options: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// `oom_score_adj`; none: the engine's default.
    pub oom_score_adj: Option<i32>,
    /// Bytes of console log that the engine keeps.
    pub log_max_bytes: u64,
}

/// What an engine knows of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// The engine's id.
    pub id: ContainerId,
    /// Its name, without a leading slash.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The id of its image.
    pub image: String,
    /// What it does.
    pub state: ContainerState,
    /// Process id on this host of the container's first process, while it runs.
    pub pid: Option<u32>,
}

impl ContainerView {
    /// The kernel this container is for, by its label.
    #[must_use]
    pub fn kernel(&self) -> Option<KernelId> {
        self.labels.get(LABEL_KERNEL_ID)?.parse().ok()
    }
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// It runs (or is paused).
    Running,
    /// It ended.
    Exited {
        /// Exit code as the engine tells it (128 + N for signal N), none when the engine lost it.
        code: Option<i32>,
        /// Whether the out-of-memory killer ended it.
        oom_killed: bool,
    },
}

/// Something that happened to a container of this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// It ended. Ask [`Engine::inspect`] for the rest.
    Died {
        /// Which container.
        container: ContainerId,
        /// For which kernel.
        kernel: KernelId,
        /// As the engine tells it.
        exit_code: Option<i32>,
    },
    /// A process in it was killed for memory.
    OutOfMemory {
        /// Which container.
        container: ContainerId,
        /// For which kernel.
        kernel: KernelId,
    },
    /// Events may have been missed (connection lost and found again): look at everything.
    Resync,
}

/// What an engine knows of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// The engine's id (for Docker the config digest, `sha256:…`).
    pub id: String,
    /// Names of it, e.g. `python:3.13`.
    pub tags: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// In the words of images: `amd64`, `arm64`.
    pub architecture: String,
    /// Bytes.
    pub size: u64,
    /// Unix time in seconds; 0 where unknown.
    pub created: i64,
}

/// Which part of a container's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Only the last lines; none: all.
    pub tail: Option<u64>,
    /// Also what is still to come, until the container has ended.
    pub follow: bool,
}

/// One piece of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChunk {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// A container engine.
#[async_trait]
pub trait Engine: Send + Sync + std::fmt::Debug {
    /// Which engine this is; known without asking it.
    fn kind(&self) -> EngineKind;

    /// Which paths its kernels see.
    fn layout(&self) -> Layout;

    /// Asks the engine what it is, agreeing on an API version anew.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// Makes a container and returns its id. Does not start it.
    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError>;

    /// Starts a created container. Starting a running one is no error.
    async fn start(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// Asks a container to end (SIGTERM) and kills it after `grace`. Returns when it has ended.
    /// Stopping a stopped one is no error.
    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError>;

    /// Removes a container, killing it when it runs. Removing a missing one is no error.
    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError>;

    /// All containers that carry this instance's label, ended ones too.
    async fn list(&self, instance: InstanceId) -> Result<Vec<ContainerView>, EngineError>;

    /// One container; none when it does not exist.
    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerView>, EngineError>;

    /// Waits until a container has ended and returns its state. Has no deadline of its own.
    async fn wait(&self, id: &ContainerId) -> Result<ContainerState, EngineError>;

    /// What happens to containers of this instance, until the receiver is dropped. The engine's task
    /// reconnects by itself and then sends [`EngineEvent::Resync`].
    fn events(&self, instance: InstanceId) -> mpsc::Receiver<EngineEvent>;

    /// The container's log so far, or with [`LogOptions::follow`] until the container has ended. The receiver
    /// ends after the last piece; an error ends it early. Dropping it ends the reader.
    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogChunk, EngineError>>, EngineError>;

    /// All local images.
    async fn images(&self) -> Result<Vec<ImageView>, EngineError>;

    /// One local image by reference or id; none when it is not there.
    async fn image(&self, reference: &str) -> Result<Option<ImageView>, EngineError>;

    /// Gets an image from its registry, as this user where one is given.
    async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<ImageSteps, EngineError> {
        let _ = (reference, login);
        Err(EngineError::Unsupported { engine: self.kind().as_str(), what: "pull images" })
    }

    /// Makes images of an archive.
    async fn import(&self, import: Import, archive: Archive) -> Result<ImageSteps, EngineError> {
        let _ = (import, archive);
        Err(EngineError::Unsupported { engine: self.kind().as_str(), what: "import images" })
    }

    /// Removes a name of an image, and with its last name the image. Returns what was removed, in the
    /// engine's words. With `force` also an image that containers of others use.
    async fn remove_image(&self, reference: &str, force: bool) -> Result<Vec<String>, EngineError> {
        let _ = (reference, force);
        Err(EngineError::Unsupported { engine: self.kind().as_str(), what: "remove images" })
    }
}
