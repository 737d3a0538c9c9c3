//! Configuration: defaults < `agent.toml` < environment < flags (design §9).
//!
//! One file per section: type, default, validation. [`Reader`] collects every mistake with its file and
//! line, so that one start tells all of them. Keys are the reference's where it has one (contracts:
//! manager §7.2), kebab-case or snake_case; unknown keys warn with the nearest known one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Toml};

use crate::engine::EngineKind;

mod address;
mod agent;
mod cluster;
mod container;
mod control;
mod kernel_runner;
mod lifecycle;
mod mounts;
mod policy;
mod reader;
mod reference;
mod resource;
mod routing;
mod shown;
mod standalone;
#[cfg(test)]
mod tests;

pub use address::{Address, NoAddress};
pub use agent::{AgentSection, RpcAuth};
pub use cluster::{ClusterSection, Password};
pub use container::ContainerSection;
pub use control::ControlSection;
pub use kernel_runner::KernelRunnerSection;
pub use lifecycle::LifecycleSection;
pub use mounts::MountsSection;
pub use resource::ResourceSection;
pub use routing::RoutingSection;
pub use shown::{Effective, Origin, Remark, Report};
pub use standalone::StandaloneSection;

use reader::Reader;

/// Everything that was configured, each value validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[agent]`
    pub agent: AgentSection,
    /// `[etcd]` and what goes with it; none: a node without a manager.
    pub cluster: Option<ClusterSection>,
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
    /// `[resource]`
    pub resource: ResourceSection,
    /// `[routing]`
    pub routing: RoutingSection,
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
    #[error("{path}{} is not valid TOML: {problem}", line.map_or(String::new(), |line| format!(":{line}")))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1, when it is known.
        line: Option<usize>,
        /// Where and why.
        problem: String,
    },
    /// Values are wrong; one line each.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
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
    ("BACKEND_ETCD_USER", "etcd.user"),
    ("BACKEND_ETCD_PASSWORD", "etcd.password"),
    ("BACKEND_REGION", "agent.region"),
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
    let (config, report) = inspect(overrides)?;
    accepted(config, &report)
}

/// Reads every layer, and says all about it: values, where they come from, mistakes, warnings.
///
/// # Errors
/// When the file cannot be read.
pub fn inspect(overrides: &Overrides) -> Result<(Config, Report), ConfigError> {
    inspect_from(overrides, find_file(overrides.config.as_deref()), |name| std::env::var(name).ok())
}

/// The configuration, if nothing is wrong with it.
fn accepted(config: Config, report: &Report) -> Result<Config, ConfigError> {
    if report.mistakes.is_empty() {
        return Ok(config);
    }
    Err(ConfigError::Mistakes(report.mistakes.iter().map(ToString::to_string).collect()))
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

fn inspect_from(
    overrides: &Overrides,
    file: Option<PathBuf>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Config, Report), ConfigError> {
    let mut figment = Figment::new();
    let mut text = String::new();
    if let Some(path) = &file {
        text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        check_syntax(path, &text)?;
        figment = figment.merge(Toml::string(&text));
    }
    let mut stronger = BTreeMap::new();
    for (variable, key) in ENVIRONMENT {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            figment = figment.merge((*key, value));
            stronger.insert((*key).to_owned(), Origin::Environment(variable));
        }
    }
    let socket_variable = env("BERTH_SOCKET").map(PathBuf::from);
    for (key, value, flag) in flags(overrides) {
        figment = figment.merge((key, value));
        let by_variable = key == "control.socket" && overrides.socket == socket_variable;
        let origin = if by_variable { Origin::Environment("BERTH_SOCKET") } else { Origin::Flag(flag) };
        stronger.insert(key.to_owned(), origin);
    }
    if overrides.debug {
        figment = figment.merge(("debug.enabled", true));
        stronger.insert("debug.enabled".to_owned(), Origin::Flag("--debug"));
    }
    if overrides.builtin_policies {
        for key in ["slot-reporter.source", "scheduler.source", "container-config"] {
            stronger.insert(format!("policy.{key}"), Origin::Flag("--policy"));
        }
    }
    let mut reader = Reader::new(&figment, file.clone(), text, stronger)?;
    let cluster = ClusterSection::read(&mut reader, overrides);
    let mut config = Config {
        agent: AgentSection::read(&mut reader),
        container: ContainerSection::read(&mut reader),
        control: ControlSection::read(&mut reader),
        kernel_runner: KernelRunnerSection::read(&mut reader),
        lifecycle: LifecycleSection::read(&mut reader),
        mounts: MountsSection::read(&mut reader),
        policy: policy::read(&mut reader, overrides.builtin_policies),
        resource: ResourceSection::read(&mut reader, cluster.is_some()),
        routing: RoutingSection::read(&mut reader),
        standalone: StandaloneSection::read(&mut reader),
        cluster,
        debug: reader.get("debug.enabled", false),
        file,
        private: overrides.private,
        warnings: Vec::new(),
    };
    config.policy.node_name = config.agent.id.to_string();
    let report = reader.finish();
    config.warnings = report.warnings_in_short();
    Ok((config, report))
}

/// What flags say, with their keys and names.
fn flags(overrides: &Overrides) -> Vec<(&'static str, String, &'static str)> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    [
        ("container.scratch-root", path(&overrides.scratch_root), "--scratch-root"),
        ("etcd.addr", overrides.etcd_addr.clone(), "--etcd-addr"),
        ("etcd.namespace", overrides.namespace.clone(), "--namespace"),
        ("standalone.state-dir", path(&overrides.state_dir), "--state-dir"),
        ("control.socket", path(&overrides.socket), "--socket"),
        ("standalone.engine", overrides.engine.map(|engine| engine.as_str().to_owned()), "--engine"),
    ]
    .into_iter()
    .filter_map(|(key, value, flag)| Some((key, value?, flag)))
    .collect()
}

/// Where the file is no TOML, the line and the reason in one phrase.
fn check_syntax(path: &Path, text: &str) -> Result<(), ConfigError> {
    toml_edit::ImDocument::parse(text).map(drop).map_err(|error| {
        let start = error.span().map(|span| span.start);
        let line = start.and_then(|start| text.get(..start)).map(|before| before.matches('\n').count() + 1);
        let problem = error.message().trim().replace('\n', ", ");
        ConfigError::Syntax { path: path.to_owned(), line, problem }
    })
}
