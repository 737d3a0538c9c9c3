//! Composition root: start order, supervision of every task, exit (design §4).

use crate::config::Overrides;

/// Why the agent did not start or had to end; one line and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// One line (or one line per mistake of the configuration).
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

/// Runs the agent until SIGTERM or SIGINT; kernels run on. Builds its own runtime: call it from `main`.
/// With `check` it validates configuration, engine, policies and folders, prints what it found, and returns.
///
/// # Errors
/// When it cannot start.
pub fn serve(overrides: Overrides, check: bool) -> Result<(), AgentError> {
    let _ = (overrides, check);
    unimplemented!()
}

/// What `GET /v1/status` tells; kept current by the agent.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NodeStatus {
    /// Package version of the agent.
    pub version: String,
    /// Agent id (`i-<hostname>`).
    pub agent: crate::ids::AgentId,
    /// Instance of the state directory.
    pub instance: crate::ids::InstanceId,
    /// The agent's pid.
    pub pid: u32,
    /// Unix time in milliseconds of its start.
    pub started_at_ms: u64,
    /// `starting`, `ready`, `degraded`, `stopping`.
    pub state: String,
    /// Why it is degraded, a sentence each.
    pub problems: Vec<String>,
    /// The engine.
    pub engine: Option<crate::engine::EngineInfo>,
    /// State directory.
    pub state_dir: std::path::PathBuf,
    /// Scratch root.
    pub scratch_root: std::path::PathBuf,
    /// Whether it is a private agent of one `berth run`.
    pub private: bool,
}
