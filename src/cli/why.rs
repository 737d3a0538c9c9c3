//! `berth why`: a kernel's decisions in plain sentences.

use super::Context;
use super::error::CliError;
use super::output::Output;
use crate::control::policy_api::WhyView;
use crate::ids::KernelRef;

/// Say why a kernel is as it is: who placed it where, who let it wait, what was changed or refused
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth why k1
  berth why 5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001     also after it was removed, by its id
  berth why k1 -o json | jq '.decisions[].question'")]
pub(super) struct Why {
    /// Name or id of the kernel
    #[arg(value_name = "KERNEL")]
    kernel: KernelRef,
    #[command(flatten)]
    output: Output,
}

impl Why {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let why: WhyView = context.agent.get(&format!("/v1/kernels/{}/why", self.kernel)).await?;
        self.output.print(&why, |why| why.sentences.iter().map(|sentence| format!("{sentence}\n")).collect())
    }
}
