//! `berth create`: a kernel that stays.

use super::error::CliError;
use super::output::Output;
use super::run::tell;
use super::wishes::Wishes;
use super::{Context, away, creation};

/// Make a kernel that stays until it is removed, and print its name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth create --name k1                  then: berth exec k1 --code 'x = 41'
  berth create --cpus 1 --mem 512m        a core and memory of its own, a made-up name
  k=$(berth create) && berth exec $k -- uname -a && berth rm -f $k
  berth create --image python:3.13 --env MODE=test --mount ./data:/home/work/data:ro")]
pub(super) struct Create {
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    output: Output,
}

impl Create {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let body = self.wishes.into_body(false)?;
        let kernel = creation::create(&context.agent, &body, tell, away::LEASE).await?;
        for line in &kernel.not_enforced {
            super::error::say(line);
        }
        self.output.print(&kernel, |kernel| format!("{}\n", kernel.name))
    }
}
