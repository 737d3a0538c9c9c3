//! `berth logs`: what a kernel's container said.

use std::io::Write as _;

use super::Context;
use super::error::CliError;
use crate::control::api::LogsQuery;
use crate::control::stream::ServerFrame;
use crate::ids::KernelRef;

/// Show a kernel's console log, both streams apart
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth logs k1                           what it said so far
  berth logs -f k1                        go on until the kernel has ended
  berth logs --tail 20 k1 2>/dev/null     only standard output")]
pub(super) struct Logs {
    /// Go on with what is still to come, until the kernel has ended
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Name or id of the kernel
    #[arg(value_name = "KERNEL")]
    kernel: KernelRef,
}

impl Logs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
        let query = LogsQuery { tail: self.tail, follow: self.follow };
        let logs = context.agent.logs(&self.kernel, query, |frame| {
            let written = match frame {
                ServerFrame::Stdout(data) => stdout.write_all(&data).and_then(|()| stdout.flush()),
                ServerFrame::Stderr(data) => stderr.write_all(&data),
                ServerFrame::Error(error) => return Err(error.into()),
                _ => Ok(()),
            };
            written.map_err(|error| CliError::output(&error))
        });
        logs.await
    }
}
