//! `berth policy shadow`: who watches, and how they agree with who decides.

use super::swap::world_named;
use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::output::{Output, age, world};
use crate::control::policy_api::EndShadowBody;
use crate::policy::replay::diff;
use crate::policy::{PolicyView, ShadowView, WorldKind};

/// Show the policies that watch, how often they agree with who decides, and what they would do otherwise
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy activate --shadow 3fa1c2     let it watch: it makes every decision again and decides nothing
  berth policy shadow                       how it agrees, and the last decision that it would make otherwise
  berth policy shadow --stop                that is enough; `berth policy activate` ends it, too

It stays over restarts of the agent and counts anew from then on.")]
pub(super) struct ShadowCommand {
    /// Let nobody watch any more
    #[arg(long)]
    stop: bool,
    /// Which member of the container-config chain, from 0 [default: all]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", requires = "stop")]
    reason: Option<String>,
    /// slot-reporter, scheduler or container-config [default: all]
    #[arg(value_name = "WORLD", value_parser = world_named)]
    world: Option<WorldKind>,
    #[command(flatten)]
    output: Output,
}

impl ShadowCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let shadows: Vec<ShadowView> = if self.stop {
            let body = EndShadowBody { world: self.world, link: self.link, reason: self.reason };
            context.agent.post("/v1/policies/shadow/end", Some(&body)).await?
        } else {
            let policies: Vec<PolicyView> = context.agent.get("/v1/policies").await?;
            let meant = |view: &ShadowView| {
                self.world.is_none_or(|world| world == view.world)
                    && self.link.is_none_or(|link| link == view.link)
            };
            policies.into_iter().filter_map(|policy| policy.shadow).filter(meant).collect()
        };
        self.output.print(&shadows, |shadows| match shadows.is_empty() {
            true => "nobody watches\n".to_owned(),
            false => shadows.iter().map(text).collect::<Vec<_>>().join("\n"),
        })
    }
}

/// One of them, with the last decision that it would make otherwise.
fn text(view: &ShadowView) -> String {
    let last = view.last.as_ref().map_or(String::new(), diff::one);
    format!("{}\n{last}", in_short(view))
}

/// "scheduler: last-core 0.1.0 (8e50069d8cd7) has watched for 5 min: 12 seen, 10 agreed, 2 differing".
pub(super) fn in_short(view: &ShadowView) -> String {
    let link = if view.link > 0 { format!(" {}", view.link) } else { String::new() };
    let digest = view.who.digest.map_or(String::new(), |digest| format!(" ({})", digest.short()));
    let counts = [
        (view.agreed, "agreed"),
        (view.differing, "differing"),
        (view.failed, "failed"),
        (view.skipped, "skipped"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: String = counts.map(|(count, what)| format!(", {count} {what}")).collect();
    let problem = view.problem.as_ref().map_or(String::new(), |problem| format!("; it ended: {problem}"));
    format!(
        "{}{link}: {} {}{digest} has watched for {}: {} seen{counts}{problem}",
        world(view.world),
        view.who.policy,
        view.who.version,
        age(view.since_ms),
        view.seen
    )
}
