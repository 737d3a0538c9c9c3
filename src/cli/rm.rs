//! `berth rm`: nothing of a kernel is left.

use hyper::Method;

use super::error::CliError;
use super::{Context, output};
use crate::ids::KernelRef;

/// Remove kernels: container, work folder, log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth rm k1                  one that has been stopped
  berth rm -f k1 k2            running ones too")]
pub(super) struct Rm {
    /// Running kernels too
    #[arg(short, long)]
    force: bool,
    /// Names or ids of the kernels
    #[arg(value_name = "KERNEL", required = true)]
    kernels: Vec<KernelRef>,
}

impl Rm {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut failed = None;
        for kernel in &self.kernels {
            let path = format!("/v1/kernels/{kernel}?force={}", self.force);
            match context.agent.command(Method::DELETE, &path).await {
                Ok(()) => output::print(&format!("{kernel}\n"))?,
                Err(error) => CliError::keep_last(&mut failed, error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
