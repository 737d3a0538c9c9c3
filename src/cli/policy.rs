//! `berth policy`: who decides.

use clap::Subcommand;

use super::Context;
use super::error::CliError;
use super::output::{Output, table, world};
use crate::policy::PolicyView;

/// Show the policies that make this node's decisions
#[derive(Debug, clap::Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List the active policy of each world, how often it was asked and how long it took
    #[command(after_help = "\
Examples:
  berth policy list
  berth policy list -o json | jq '.[] | {world, name, digest}'

FELL BACK counts the calls that a policy did not answer as it should; the last good version, or the
built-in, answered them.")]
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Policy {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let PolicyCommand::List { output } = self.command;
        let policies: Vec<PolicyView> = context.agent.get("/v1/policies").await?;
        output.print(&policies, |policies| text(policies))
    }
}

fn text(policies: &[PolicyView]) -> String {
    let rows = policies.iter().map(|policy| {
        vec![
            world(policy.world).to_owned(),
            policy.name.clone(),
            policy.version.clone(),
            policy.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()),
            policy.calls.to_string(),
            policy.fallbacks.to_string(),
            format!("{} µs", policy.p50_micros),
            format!("{} µs", policy.p99_micros),
            policy.source.clone(),
        ]
    });
    let headings = ["WORLD", "NAME", "VERSION", "DIGEST", "CALLS", "FELL BACK", "P50", "P99", "SOURCE"];
    let mut text = table(&headings, rows);
    for (policy, fault) in policies.iter().filter_map(|policy| Some((policy, policy.last_fault.as_ref()?))) {
        text += &format!("{}: last failure: {}\n", policy.name, fault.message);
    }
    text
}
