//! Configuration: defaults < `agent.toml` < environment < flags, all mistakes at once (design §9).

use std::path::PathBuf;

use crate::engine::EngineKind;

/// What the flags of `berth serve` say; the last and strongest layer.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--etcd-addr HOST:PORT`.
    pub etcd_addr: Option<String>,
    /// `--namespace NAME`.
    pub namespace: Option<String>,
    /// `--scratch-root DIR`.
    pub scratch_root: Option<PathBuf>,
    /// `--state-dir DIR`.
    pub state_dir: Option<PathBuf>,
    /// `--socket PATH` or `BERTH_SOCKET`.
    pub socket: Option<PathBuf>,
    /// `--engine docker|process`.
    pub engine: Option<EngineKind>,
    /// `--policy builtin`: run the node with no WebAssembly at all.
    pub builtin_policies: bool,
    /// `--debug`.
    pub debug: bool,
    /// A private agent of `berth run`: ignores `[etcd]`.
    pub private: bool,
}
