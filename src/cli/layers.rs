//! The flags that set what `agent.toml` sets too; the strongest layer of the configuration.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::config::Overrides;
use crate::engine::EngineKind;

/// Flags of everything that reads the configuration as an agent does.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Layers {
    /// Configuration, agent.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// etcd of the cluster to join
    #[arg(long, value_name = "HOST:PORT")]
    etcd_addr: Option<String>,
    /// Namespace of the cluster in etcd
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Folder of the kernels' work folders; must exist and be the agent's own
    #[arg(long, value_name = "DIR")]
    scratch_root: Option<PathBuf>,
    /// Folder of the agent's own state
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
    /// What runs the kernels: containers, or processes of this host
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Decide everything without WebAssembly
    #[arg(long, value_enum)]
    policy: Option<Policies>,
    /// Log more
    #[arg(long)]
    pub(super) debug: bool,
}

/// A container engine on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Engine {
    // No doc comments: with them clap's help takes three lines for every option.
    Docker,
    Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policies {
    Builtin,
}

impl From<Engine> for EngineKind {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Docker => Self::Docker,
            Engine::Process => Self::Process,
        }
    }
}

impl Layers {
    /// As the configuration takes them.
    pub(super) fn into_overrides(self, socket: Option<PathBuf>) -> Overrides {
        Overrides {
            config: self.config,
            etcd_addr: self.etcd_addr,
            namespace: self.namespace,
            scratch_root: self.scratch_root,
            state_dir: self.state_dir,
            socket,
            engine: self.engine.map(EngineKind::from),
            builtin_policies: self.policy == Some(Policies::Builtin),
            debug: self.debug,
            private: false,
        }
    }
}
