//! `berth completions`: what a shell needs to complete berth's words.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::error::CliError;
use super::{Args, output};

/// Print the completions of a shell, to be read by it when it starts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth completions bash > /etc/bash_completion.d/berth
  berth completions zsh > \"${fpath[1]}/_berth\"
  berth completions fish > ~/.config/fish/completions/berth.fish")]
pub(super) struct Completions {
    /// Whose
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Args::command(), "berth", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
