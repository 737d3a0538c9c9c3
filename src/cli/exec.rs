//! `berth exec`: one program in a kernel that is there already.

use std::path::PathBuf;
use std::time::Duration;

use super::error::CliError;
use super::media::Media;
use super::signals::Signals;
use super::stream;
use super::what::{Prepared, What};
use super::wishes;
use super::{Context, away};
use crate::ids::{KernelRef, RunId};
use crate::route::RunRequest;

/// Run a file, a piece of code or a command in a kernel that is there already
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "berth exec [OPTIONS] KERNEL FILE [OPTIONS] [-- ARG..]\n       \
                      berth exec [OPTIONS] KERNEL -- CMD [ARG..]\n       \
                      berth exec [OPTIONS] KERNEL --code TEXT",
    after_help = "\
Examples:
  berth exec k1 --code 'x = 41'           code keeps its names from one run to the next ..
  berth exec k1 --code 'print(x + 1)'     .. so this prints 42
  berth exec k1 script.py -- --fast       upload a file and run it
  tar c src | berth exec k1 -- tar x      standard input is passed on

Runs of one kernel happen one after another. Ctrl-C interrupts the program, a second one leaves
it; the kernel stays. When the agent goes away the program runs on, and this command waits for the
agent's return, 30 seconds at most. Exit codes are those of `berth run`."
)]
pub(super) struct Exec {
    /// Name or id of the kernel
    #[arg(value_name = "KERNEL")]
    kernel: KernelRef,
    #[command(flatten)]
    what: What,
    /// Interrupt it after that many seconds; exits 124
    #[arg(long, value_name = "S", value_parser = wishes::seconds)]
    timeout: Option<Duration>,
    /// Keep pictures, html and the like that the program shows as files in this folder
    #[arg(long, value_name = "DIR")]
    save_media: Option<PathBuf>,
}

impl Exec {
    #[cfg(test)]
    pub(super) fn what(&self) -> &What {
        &self.what
    }

    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let Prepared { task, uploads } = self.what.prepare()?;
        let request = RunRequest { run: RunId::random(), task, stdin: true, timeout: self.timeout };
        let media = Media::new(self.save_media, &request.run)?;
        let kernel = context.agent.kernel(&self.kernel).await?.id;
        for file in &uploads {
            context.agent.upload(kernel, file).await?;
        }
        let mut signals = Signals::listen()?;
        let kernel = KernelRef::Id(kernel);
        stream::run(&context.agent, &kernel, request, media, &mut signals, away::LEASE).await?.status()
    }
}
