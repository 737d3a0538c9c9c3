//! `berth ps`: the kernels.

use super::Context;
use super::error::CliError;
use super::output::{Output, age, amount_of, table};
use crate::kernel::KernelView;

/// List kernels
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth ps                     kernels that live
  berth ps -a                  ended ones too, with how they ended
  berth ps -o json | jq -r '.[].name'")]
pub(super) struct Ps {
    /// Ended kernels too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

impl Ps {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let kernels: Vec<KernelView> = context.agent.get(&format!("/v1/kernels?all={}", self.all)).await?;
        self.output.print(&kernels, |kernels| {
            let rows = kernels.iter().map(|kernel| {
                vec![
                    kernel.name.to_string(),
                    state(kernel),
                    kernel.image.clone(),
                    holds(kernel),
                    age(kernel.created_at_ms),
                    kernel.id.to_string(),
                ]
            });
            table(&["NAME", "STATE", "IMAGE", "HOLDS", "AGE", "ID"], rows)
        })
    }
}

/// Where it is in its life, or how it ended.
pub(super) fn state(kernel: &KernelView) -> String {
    match &kernel.termination {
        Some(end) if end.oom => "ended: out of memory".to_owned(),
        Some(end) => match end.exit_code {
            Some(code) => format!("ended: {} ({code})", end.reason),
            None => format!("ended: {}", end.reason),
        },
        None => match kernel.silent_ms {
            Some(silent) => format!("{}, silent for {} s", kernel.phase.text(), silent / 1000),
            None => kernel.phase.text().to_owned(),
        },
    }
}

/// Its share, summed up per slot.
pub(super) fn holds(kernel: &KernelView) -> String {
    let mut sums = std::collections::BTreeMap::new();
    for allocation in &kernel.allocations {
        let sum: &mut u64 = sums.entry(&allocation.slot).or_default();
        *sum = sum.saturating_add(allocation.amount);
    }
    let parts: Vec<_> =
        sums.into_iter().map(|(slot, sum)| format!("{slot}={}", amount_of(slot, sum))).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
}
