//! `berth stop`: end kernels, keep their logs.

use std::time::Duration;

use super::error::CliError;
use super::run::print_name;
use super::{Context, wishes};
use crate::control::api::StopBody;
use crate::ids::KernelRef;
use crate::kernel::KernelView;

/// Stop kernels; what they held is given back, their logs stay until `berth rm`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth stop k1
  berth stop --grace 0 k1 k2   without waiting for them to end by themselves")]
pub(super) struct Stop {
    /// Seconds between asking (SIGTERM) and killing
    #[arg(long, value_name = "S", default_value = "10", value_parser = wishes::seconds)]
    grace: Duration,
    /// Names or ids of the kernels
    #[arg(value_name = "KERNEL", required = true)]
    kernels: Vec<KernelRef>,
}

impl Stop {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let body = StopBody { grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX) };
        let mut failed = None;
        for kernel in &self.kernels {
            match context.agent.post::<KernelView>(&format!("/v1/kernels/{kernel}/stop"), Some(&body)).await {
                Ok(view) => print_name(&view)?,
                Err(error) => CliError::keep_last(&mut failed, error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
