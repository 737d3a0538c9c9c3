//! `berth interrupt`: Ctrl-C for what runs in a kernel.

use hyper::Method;

use super::Context;
use super::error::CliError;
use crate::ids::KernelRef;

/// Interrupt what runs in a kernel (SIGINT); the kernel stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth interrupt k1           Python code sees KeyboardInterrupt; its names are kept")]
pub(super) struct Interrupt {
    /// Name or id of the kernel
    #[arg(value_name = "KERNEL")]
    kernel: KernelRef,
}

impl Interrupt {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        context.agent.command(Method::POST, &format!("/v1/kernels/{}/interrupt", self.kernel)).await
    }
}
