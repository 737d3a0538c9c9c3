//! Kernels: a pure state machine, one actor per kernel, the reconciler, and the container plan (design §4).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::admission::Allocation;
use crate::engine::MountSpec;
use crate::ids::{ContainerId, KernelId, KernelName, SessionId, SlotName};
use crate::policy::DecidedBy;

mod actor;
pub mod files;
pub mod plan;
pub mod reconcile;
mod record;
mod registry;
mod rehearsal;
mod runs;
mod shared;
mod state;
mod steps;

pub use files::Files;
pub use record::KernelRecord;
pub use registry::Kernels;
pub use rehearsal::{EditBy, Rehearsal};
pub use runs::{RunState, RunView};
pub use shared::{Settings, Shared, now_ms};

/// A kernel to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Its id; made by the client so that a repeated request is recognised.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// Its name; none: a made-up one.
    pub name: Option<KernelName>,
    /// Image reference; none: the configured default, else a runnable local one.
    pub image: Option<String>,
    /// Amounts booked (micro-units or bytes), e.g. `cpu` for `--cpus`, `mem` for `--mem`.
    pub wants: BTreeMap<SlotName, u64>,
    /// Environment of the kernel.
    pub env: BTreeMap<String, String>,
    /// Mounts, checked against `[mounts] allow` and the caller already.
    pub mounts: Vec<MountSpec>,
    /// The caller's uid and gid (`SO_PEERCRED`); decides what the kernel runs as.
    pub caller: (u32, u32),
    /// Wait that long for room instead of being refused.
    pub wait: Option<Duration>,
    /// Ends with its client: removed when no stream of it has been open for 30 s (design §9).
    pub leased: bool,
}

/// Where a kernel is in its life (design §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Accepted.
    Requested,
    /// It has its share.
    Placed,
    /// It waits for a start slot.
    Waiting,
    /// Its container is planned, scratch and link are ready.
    Prepared,
    /// Its container exists.
    Created,
    /// Its container runs.
    Started,
    /// Its runner answers.
    Running,
    /// It is being stopped.
    Stopping,
    /// It has ended; share given back; container kept for its log until it is removed.
    Collected,
    /// Nothing of it is left.
    Gone,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Requested,
        Self::Placed,
        Self::Waiting,
        Self::Prepared,
        Self::Created,
        Self::Started,
        Self::Running,
        Self::Stopping,
        Self::Collected,
        Self::Gone,
    ];

    /// One word, for people and as a label of metrics.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Placed => "placed",
            Self::Waiting => "waiting",
            Self::Prepared => "prepared",
            Self::Created => "created",
            Self::Started => "started",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Collected => "ended",
            Self::Gone => "gone",
        }
    }
}

/// How a kernel ended: the first reason wins (contracts: kernel §5.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// E.g. `user-requested`, `self-terminated`, `failed-to-create`, `failed-to-start`.
    pub reason: String,
    /// Exit code of the container, when known.
    pub exit_code: Option<i32>,
    /// Whether it was killed for memory.
    pub oom: bool,
    /// For people.
    pub message: Option<String>,
}

/// A kernel as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelView {
    /// Id.
    pub id: KernelId,
    /// Session.
    pub session: SessionId,
    /// Name.
    pub name: KernelName,
    /// Where it is in its life.
    pub phase: Phase,
    /// Image reference.
    pub image: String,
    /// Engine: `docker`, `process`.
    pub engine: String,
    /// Container, once it exists.
    pub container: Option<ContainerId>,
    /// Container name.
    pub container_name: Option<String>,
    /// What it holds.
    pub allocations: Vec<Allocation>,
    /// Core numbers it may use; empty: all offered.
    pub cpuset: Vec<u32>,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// uid and gid of its processes.
    pub runs_as: (u32, u32),
    /// Unix time in milliseconds.
    pub created_at_ms: u64,
    /// When it got its start slot.
    #[serde(default)]
    pub starting_at_ms: Option<u64>,
    /// When the runner first answered.
    pub ready_at_ms: Option<u64>,
    /// Runner boot in milliseconds, from its `main` to its first reply.
    pub runner_boot_ms: Option<f64>,
    /// For how many milliseconds its runner has not answered, when it is asked and says nothing.
    #[serde(default)]
    pub silent_ms: Option<u64>,
    /// How it ended.
    pub termination: Option<Termination>,
    /// Who decided what about it, in order.
    pub decisions: Vec<DecidedBy>,
    /// What is not isolated or enforced for it, a sentence each.
    pub not_enforced: Vec<String>,
    /// Whether it ends with its client.
    pub leased: bool,
    /// Its work folder on this host.
    pub work_dir: PathBuf,
    /// What is mounted into its container, once that is planned.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Its last runs, oldest first.
    #[serde(default)]
    pub runs: Vec<RunView>,
}

/// What a creation says while it goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Progress {
    /// It entered a phase.
    Phase {
        /// Which.
        phase: Phase,
        /// A phrase for people, e.g. "waiting: 2 cores asked, 1 free".
        note: Option<String>,
    },
    /// It runs. Last.
    Running {
        /// The kernel.
        kernel: Box<KernelView>,
    },
    /// It came to nothing; nothing is left of it. Last.
    Failed {
        /// Why.
        error: KernelError,
    },
}

/// Why something asked of a kernel was refused or failed; one clear line with the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct KernelError {
    /// Stable: `no-such-kernel`, `name-taken`, `not-enough-free`, `no-such-image`, `not-running`, …
    pub code: String,
    /// One line.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

/// Holds a leased kernel while it lives; see [`Kernels::lease`].
#[derive(Debug)]
pub struct Lease {
    leases: Option<Arc<watch::Sender<usize>>>,
}
