//! Configuration: defaults < `agent.toml` < environment < flags (design §9).
//!
//! One file per section: type, default, validation. [`Reader`] collects every mistake with its file and
//! line, so that one start tells all of them. Keys are the reference's where it has one (contracts:
//! manager §7.2), kebab-case or snake_case; unknown keys warn with the nearest known one.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Toml};

use crate::engine::EngineKind;

mod agent;
mod container;
mod control;
mod kernel_runner;
mod lifecycle;
mod mounts;
mod policy;
mod reader;
mod reference;
mod standalone;
#[cfg(test)]
mod tests;

pub use agent::AgentSection;
pub use container::ContainerSection;
pub use control::ControlSection;
pub use kernel_runner::KernelRunnerSection;
pub use lifecycle::LifecycleSection;
pub use mounts::MountsSection;
pub use standalone::StandaloneSection;

use reader::Reader;

/// Everything that was configured, each value validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[agent]`
    pub agent: AgentSection,
    /// `[container]`
    pub container: ContainerSection,
    /// `[control]`
    pub control: ControlSection,
    /// `[kernel-runner]`
    pub kernel_runner: KernelRunnerSection,
    /// `[lifecycle]`
    pub lifecycle: LifecycleSection,
    /// `[mounts]`
    pub mounts: MountsSection,
    /// `[policy]`
    pub policy: crate::policy::Config,
    /// `[standalone]`
    pub standalone: StandaloneSection,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// `--debug`, `[debug] enabled`.
    pub debug: bool,
    /// A private agent of one `berth run`.
    pub private: bool,
    /// What is odd but no mistake, a sentence each.
    pub warnings: Vec<String>,
}

/// Every mistake of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named, or found, cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML.
    #[error("{path} is not valid TOML: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// Values are wrong; one line each.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    /// `[etcd]`, `--etcd-addr` or `--namespace` ask for what is not there yet.
    #[error("cluster membership is not built yet ({0})")]
    ClusterMember(String),
}

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

/// Environment variables of the reference that have a meaning here (contracts: manager §7.1).
const ENVIRONMENT: &[(&str, &str)] = &[
    ("BACKEND_NAMESPACE", "etcd.namespace"),
    ("BACKEND_ETCD_ADDR", "etcd.addr"),
    ("BACKEND_SCRATCH_ROOT", "container.scratch-root"),
    ("BERTH_STATE_DIR", "standalone.state-dir"),
    ("BERTH_ENGINE", "standalone.engine"),
    ("BERTH_IMAGE", "standalone.image"),
    ("BERTH_RUNNER", "kernel-runner.path"),
];

/// Reads every layer and validates it.
///
/// # Errors
/// All mistakes at once.
pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
    load_from(overrides, find_file(overrides.config.as_deref()), |name| std::env::var(name).ok())
}

/// Where `agent.toml` is looked for (contracts: manager §7.1).
fn find_file(named: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    if let Some(named) = std::env::var_os("BACKEND_CONFIG_FILE") {
        return Some(named.into());
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/backend.ai/agent.toml"));
    [Some(PathBuf::from("agent.toml")), home, Some(PathBuf::from("/etc/backend.ai/agent.toml"))]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

fn load_from(
    overrides: &Overrides,
    file: Option<PathBuf>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let mut figment = Figment::new();
    let mut text = String::new();
    if let Some(path) = &file {
        text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        figment = figment.merge(Toml::string(&text));
    }
    for (variable, key) in ENVIRONMENT {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            figment = figment.merge((*key, value));
        }
    }
    if let Some(dir) = &overrides.scratch_root {
        figment = figment.merge(("container.scratch-root", dir.display().to_string()));
    }
    if let Some(dir) = &overrides.state_dir {
        figment = figment.merge(("standalone.state-dir", dir.display().to_string()));
    }
    if let Some(socket) = &overrides.socket {
        figment = figment.merge(("control.socket", socket.display().to_string()));
    }
    if let Some(engine) = overrides.engine {
        figment = figment.merge(("standalone.engine", engine.as_str()));
    }
    let mut reader = Reader::new(&figment, file.clone(), text)?;
    if !overrides.private {
        refuse_cluster_membership(overrides, &reader)?;
    }
    let mut config = Config {
        agent: AgentSection::read(&mut reader),
        container: ContainerSection::read(&mut reader),
        control: ControlSection::read(&mut reader),
        kernel_runner: KernelRunnerSection::read(&mut reader),
        lifecycle: LifecycleSection::read(&mut reader),
        mounts: MountsSection::read(&mut reader),
        policy: policy::read(&mut reader),
        standalone: StandaloneSection::read(&mut reader),
        debug: reader.get("debug.enabled", false),
        file,
        private: overrides.private,
        warnings: Vec::new(),
    };
    config.debug |= overrides.debug;
    if overrides.builtin_policies {
        config.policy.use_builtin();
    }
    config.policy.node_name = config.agent.id.to_string();
    config.warnings = reader.finish()?;
    Ok(config)
}

/// Nothing pretends: what asks for a cluster is refused until there is one to join.
fn refuse_cluster_membership(overrides: &Overrides, reader: &Reader) -> Result<(), ConfigError> {
    let by = if overrides.etcd_addr.is_some() {
        "asked for by --etcd-addr".to_owned()
    } else if overrides.namespace.is_some() {
        "asked for by --namespace".to_owned()
    } else if reader.has("etcd") {
        format!("asked for by [etcd] in {}", reader.place("etcd"))
    } else {
        return Ok(());
    };
    Err(ConfigError::ClusterMember(by))
}
