//! What `GET /v1/status` tells of the node.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::drain::Draining;
use crate::engine::EngineInfo;
use crate::ids::{AgentId, InstanceId};
use crate::manager::ClusterStatus;

/// What `GET /v1/status` tells; kept current by the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Package version of the agent.
    pub version: String,
    /// Agent id (`i-<hostname>`).
    pub agent: AgentId,
    /// Instance of the state directory.
    pub instance: InstanceId,
    /// The agent's pid.
    pub pid: u32,
    /// Unix time in milliseconds of its start.
    pub started_at_ms: u64,
    /// `starting`, `ready`, `draining`, `degraded`, `stopping`.
    pub state: String,
    /// The drain of the node, when it is drained.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Why it is degraded, a sentence each.
    pub problems: Vec<String>,
    /// The engine.
    pub engine: Option<EngineInfo>,
    /// State directory.
    pub state_dir: PathBuf,
    /// Scratch root.
    pub scratch_root: PathBuf,
    /// Whether it is a private agent of one `berth run`.
    pub private: bool,
    /// Where calls are listened for.
    #[serde(default)]
    pub rpc: Option<RpcStatus>,
    /// Its cluster, when it is to be a member of one.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
}

/// The RPC port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RpcStatus {
    /// `tcp://ADDRESS:PORT`.
    pub endpoint: String,
    /// Only clients with the manager's key are let in, and what they say is encrypted (CURVE).
    pub encrypted: bool,
}

/// How far the drain of the node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// Since when, until when.
    #[serde(flatten)]
    pub draining: Draining,
    /// Kernels that still live.
    pub kernels_left: usize,
}
