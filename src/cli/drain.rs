//! `berth drain` and `berth undrain`: whether the node takes new kernels.

use std::time::Duration;

use super::error::{CliError, say};
use super::output::{Output, time};
use super::{Context, wishes};
use crate::control::api::DrainBody;
use crate::drain::DrainView;

/// Take no new kernels; those that run go on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth drain                        new kernels are refused from now on, also after a restart
  berth drain --wait                 and return when no kernel is left
  berth drain --deadline 600 --wait  what is left after ten minutes is stopped (agent-termination)
  berth undrain                      take new kernels again

A second `berth drain` sets the deadline anew; without --deadline it takes it away.")]
pub(super) struct Drain {
    /// Stop the kernels that are left after this many seconds
    #[arg(long, value_name = "S", value_parser = wishes::seconds)]
    deadline: Option<Duration>,
    /// Return when no kernel is left
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    output: Output,
}

/// Take new kernels again, after `berth drain`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth undrain")]
pub(super) struct Undrain {
    #[command(flatten)]
    output: Output,
}

impl Drain {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let body = DrainBody { stop_after_ms: self.deadline.map(milliseconds) };
        let mut view: DrainView = context.agent.put("/v1/drain", &body).await?;
        if self.wait && !view.kernels.is_empty() {
            let names = view.kernels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            say(&format!("waiting: {}: {names}", left(view.kernels.len())));
            view = context.agent.get("/v1/drain?wait=true").await?;
            if view.draining.is_none() {
                return Err(CliError::new("somebody ended the drain meanwhile")
                    .with_code("not-draining")
                    .with_hint("`berth drain --wait` begins it again"));
            }
        }
        self.output.print(&view, text)
    }
}

impl Undrain {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let view: DrainView = context.agent.delete("/v1/drain").await?;
        self.output.print(&view, text)
    }
}

fn text(view: &DrainView) -> String {
    let Some(draining) = view.draining else { return "new kernels are taken\n".to_owned() };
    let kernels = match (view.kernels.len(), draining.deadline_ms) {
        (0, _) => "no kernel is left".to_owned(),
        (some, None) => format!("{}, which may run on", left(some)),
        (some, Some(deadline)) => format!("{}, stopped at {}", left(some), time(deadline)),
    };
    format!("no new kernels are taken; {kernels}\n")
}

/// So many kernels.
pub(super) fn left(kernels: usize) -> String {
    if kernels == 1 { "1 kernel is left".to_owned() } else { format!("{kernels} kernels are left") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Draining;

    #[test]
    fn a_drain_is_told_in_one_sentence() {
        let told = |deadline_ms, names: &[&str]| {
            let draining = Some(Draining { since_ms: 0, deadline_ms });
            text(&DrainView { draining, kernels: names.iter().map(|name| name.parse().unwrap()).collect() })
        };
        assert_eq!(told(None, &[]), "no new kernels are taken; no kernel is left\n");
        assert_eq!(
            told(None, &["a", "b"]),
            "no new kernels are taken; 2 kernels are left, which may run on\n"
        );
        assert_eq!(
            told(Some(60_000), &["a"]),
            "no new kernels are taken; 1 kernel is left, stopped at 1970-01-01 00:01:00Z\n"
        );
        assert_eq!(text(&DrainView { draining: None, kernels: Vec::new() }), "new kernels are taken\n");
    }
}
