//! What every kernel's actor works with: handles of the other rooms and the settings of the node.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::KernelError;
use crate::engine::{EngineError, EngineInfo, Layout, SharedEngine};
use crate::events::Outbox;
use crate::ids::{AgentId, InstanceId};
use crate::images::ImageError;
use crate::inventory::Offer;
use crate::scratch::{Scratch, ScratchError};
use crate::{admission, policy, route, store};

/// See the module documentation.
#[derive(Debug)]
pub struct Shared {
    /// This agent.
    pub agent: AgentId,
    /// The state directory's identity.
    pub instance: InstanceId,
    /// The engine.
    pub engine: SharedEngine,
    /// What it said of itself at start.
    pub engine_info: EngineInfo,
    /// Routing.
    pub route: route::Handle,
    /// Admission.
    pub admission: admission::Handle,
    /// Policies.
    pub policy: policy::Handle,
    /// Records.
    pub store: store::Handle,
    /// Lifecycle events.
    pub outbox: Outbox,
    /// Folders.
    pub scratch: Scratch,
    /// What the node offers.
    pub offers: watch::Receiver<Option<Offer>>,
    /// The runner's file, in the state directory.
    pub runner: PathBuf,
    /// Settings.
    pub settings: Settings,
}

/// Settings of the node that kernels depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image for kernels that name none.
    pub default_image: Option<String>,
    /// Bytes for kernels that name none.
    pub default_memory: u64,
    /// `container.kernel-uid`, `kernel-gid`.
    pub kernel_uid: Option<u32>,
    /// See above.
    pub kernel_gid: Option<u32>,
    /// Bytes of console log to keep.
    pub log_max_bytes: u64,
    /// How long a started container may take until its runner answers.
    pub ready_timeout: Duration,
    /// How long a kernel may take to end.
    pub stop_grace: Duration,
    /// How long a leased kernel outlives its client.
    pub lease: Duration,
    /// How often the books are held against the engine.
    pub reconcile_interval: Duration,
}

impl Shared {
    /// uid and gid of a kernel's processes (design §9): of a root agent the caller's, 1000:1000 when that
    /// is 0; of any other agent its own. `container.kernel-uid` and `kernel-gid` win for a root agent.
    /// The process engine changes no user: its kernels lie in folders of the agent.
    #[must_use]
    pub fn runs_as(&self, caller: (u32, u32)) -> (u32, u32) {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if !uid.is_root() || self.engine.layout() == Layout::Host {
            return (uid.as_raw(), gid.as_raw());
        }
        let (uid, gid) = if caller.0 == 0 { (1000, 1000) } else { caller };
        (self.settings.kernel_uid.unwrap_or(uid), self.settings.kernel_gid.unwrap_or(gid))
    }
}

/// Unix time in milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

impl KernelError {
    /// An error with a code and one line.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: None }
    }

    /// The same with a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<EngineError> for KernelError {
    fn from(error: EngineError) -> Self {
        let hint = match &error {
            EngineError::Unreachable { remedies, .. } => Some(remedies.join("; or ")),
            EngineError::WrongArchitecture { wanted, .. } => Some(format!("use an image built for {wanted}")),
            EngineError::Deadline { .. } => {
                Some("see whether the engine is busy or stuck, then try again".to_owned())
            }
            EngineError::RegistryUnreachable { image, .. } => Some(format!(
                "see network, DNS and proxy of the engine; or bring it by file: `docker save {image} | gzip > i.tar.gz` \
                 where it is, `berth image import i.tar.gz` here"
            )),
            EngineError::NotInRegistry { .. } => Some(
                "see name and tag; what needs a login can be brought by file: `berth image import`"
                    .to_owned(),
            ),
            EngineError::Unsupported { engine: "process", .. } => {
                Some("its kernels see this host; for images run the agent with --engine docker".to_owned())
            }
            _ => None,
        };
        Self { code: error.code().to_owned(), message: error.to_string(), hint }
    }
}

impl From<ImageError> for KernelError {
    fn from(error: ImageError) -> Self {
        Self { code: error.code().to_owned(), message: error.to_string(), hint: error.hint() }
    }
}

impl From<ScratchError> for KernelError {
    fn from(error: ScratchError) -> Self {
        match error {
            ScratchError::Root { ref remedy, .. } => {
                Self::new("scratch-root", error.to_string()).hint(remedy.clone())
            }
            ScratchError::Io { .. } => Self::new("scratch-failed", error.to_string()),
        }
    }
}

impl From<admission::Refused> for KernelError {
    fn from(refused: admission::Refused) -> Self {
        Self { code: refused.refusal.code, message: refused.refusal.message, hint: refused.hint }
    }
}

impl From<policy::Refusal> for KernelError {
    fn from(refusal: policy::Refusal) -> Self {
        let conflict = refusal.code == policy::CHAIN_CONFLICT;
        let error = Self::new(&refusal.code, refusal.message);
        match conflict {
            true => error.hint(
                "the operator gives one of the two other settings in agent.toml, or takes it out of the chain",
            ),
            false => error,
        }
    }
}

impl From<store::StoreError> for KernelError {
    fn from(error: store::StoreError) -> Self {
        Self::new("store-failed", error.to_string())
            .hint("see whether the disk of the state directory is full; running kernels go on")
    }
}

impl From<route::RouteError> for KernelError {
    fn from(error: route::RouteError) -> Self {
        use route::RouteError;
        let (code, hint) = match &error {
            RouteError::NotAttached(_) => {
                ("not-running", Some("`berth ps -a` shows the kernels and their state"))
            }
            RouteError::AlreadyAttached(_) => ("link-exists", None),
            RouteError::Silent { .. } => {
                ("runner-silent", Some("`berth logs` may tell why; `berth stop` ends it"))
            }
            RouteError::Blocked(_) => ("blocked", Some("read the output of that run, or cancel it")),
            RouteError::RunExists(_) => ("run-exists", None),
            RouteError::RunForgotten(_) => {
                ("run-forgotten", Some("make the kernel anew, then its runs survive the agent"))
            }
            RouteError::RunUnknown(_) => ("run-unknown", None),
            RouteError::NeverBegun { .. } => ("run-never-begun", Some("run it again")),
            RouteError::Restarted(_) => ("runner-restarted", Some("ask again")),
            RouteError::Busy => ("busy", None),
            RouteError::Bind { .. } | RouteError::Start { .. } => ("link-failed", None),
            RouteError::Door { .. } => ("door-failed", Some("name another address by [routing] rpc-listen")),
            RouteError::Closed => ("stopping", Some("the agent is ending; start it again")),
        };
        Self { code: code.to_owned(), message: error.to_string(), hint: hint.map(str::to_owned) }
    }
}
