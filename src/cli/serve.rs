//! `berth serve`: the agent.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::error::CliError;
use super::{logging, private};
use crate::agent;
use crate::config::Overrides;
use crate::engine::EngineKind;

/// Run this node's agent until it is told to end (SIGTERM, Ctrl-C); kernels run on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth serve                     standalone, everything by default
  berth serve --check             look at configuration, engine, policies and folders, and return
  berth serve --engine process    no container engine: kernels are processes of this host
  berth serve --state-dir /srv/berth --socket /srv/berth/berth.sock
  BERTH_LOG=info,berth::route=debug berth serve

As root the state lies in /var/lib/berth, else in ~/.local/state/berth ($XDG_STATE_HOME). Flags win
over the environment, the environment over agent.toml.")]
pub(super) struct Serve {
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
    state_dir: Option<PathBuf>,
    /// What runs the kernels: containers, or processes of this host
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// Decide everything without WebAssembly
    #[arg(long, value_enum)]
    policy: Option<Policies>,
    /// Log more
    #[arg(long)]
    debug: bool,
    /// Check everything, say what was found, start nothing
    #[arg(long)]
    check: bool,
    /// Serve one `berth run`: end when standard input does
    #[arg(long, hide = true, requires = "state_dir")]
    private: bool,
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

impl Serve {
    /// Returns when the agent has ended.
    pub(super) fn run(self, socket: Option<PathBuf>, verbose: bool) -> Result<(), CliError> {
        let debug = self.debug || verbose;
        logging::start(debug)?;
        let folder = self.state_dir.as_deref().filter(|_| self.private).and_then(private::folder_of);
        if self.private {
            end_with_parent()?;
        }
        let overrides = Overrides {
            config: self.config,
            etcd_addr: self.etcd_addr,
            namespace: self.namespace,
            scratch_root: self.scratch_root,
            state_dir: self.state_dir,
            socket,
            engine: self.engine.map(EngineKind::from),
            builtin_policies: self.policy == Some(Policies::Builtin),
            debug,
            private: self.private,
        };
        let served = agent::serve(overrides, self.check);
        if let Some(folder) = folder {
            remove_private(&folder);
        }
        served.map_err(|error| CliError { hint: error.hint, ..CliError::new(error.message) })
    }
}

/// `berth run` holds the other end of standard input. When it ends, however it ends, so does its agent.
fn end_with_parent() -> Result<(), CliError> {
    let watch = || {
        let mut rest = [0; 64];
        while std::io::stdin().read(&mut rest).is_ok_and(|count| count > 0) {}
        // The agent's own signal handling ends it in order.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    };
    std::thread::Builder::new()
        .name("parent".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| CliError::new(format!("a thread could not be started: {error}")))
}

/// The folder goes with its agent. `berth run` removes it too: whoever is last.
fn remove_private(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "the private agent's folder could not be removed");
    }
}
