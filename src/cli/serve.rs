//! `berth serve`: the agent.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::layers::Layers;
use super::{logging, private};
use crate::agent;
use crate::config::Overrides;

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
    #[command(flatten)]
    layers: Layers,
    /// Check everything, say what was found, start nothing
    #[arg(long)]
    check: bool,
    /// Serve one `berth run`: end when standard input does
    #[arg(long, hide = true, requires = "state_dir")]
    private: bool,
}

impl Serve {
    /// Returns when the agent has ended.
    pub(super) fn run(self, socket: Option<PathBuf>, verbose: bool) -> Result<(), CliError> {
        let debug = self.layers.debug || verbose;
        logging::start(debug)?;
        let folder = self.layers.state_dir.as_deref().filter(|_| self.private).and_then(private::folder_of);
        if self.private {
            end_with_parent()?;
        }
        let overrides = Overrides { debug, private: self.private, ..self.layers.into_overrides(socket) };
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
