//! `berth policy show`: one policy, or who decides in a world.

use super::shadow;
use crate::cli::Context;
use crate::cli::client::escaped;
use crate::cli::error::CliError;
use crate::cli::output::{Output, age, until, world};
use crate::control::policy_api::ShowQuery;
use crate::policy::swap::Shown;
use crate::policy::{Act, Fault, ProbationView};

/// Show a policy: what it is, its settings and grants, its failures, and what was active before
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy show scheduler         who places kernels now, and who did before
  berth policy show 3fa1c2            a pushed policy, by at least 6 digits of its digest
  berth policy show last-core -o json | jq '.[0].settings'")]
pub(super) struct Show {
    /// Which member of the container-config chain, from 0 [default: all]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// slot-reporter, scheduler, container-config; or digest or name of a pushed policy
    #[arg(value_name = "WORLD|DIGEST|NAME")]
    of: String,
    #[command(flatten)]
    output: Output,
}

impl Show {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let ShowQuery { of, link } = ShowQuery { of: self.of, link: self.link };
        let link = link.map_or(String::new(), |link| format!("&link={link}"));
        let path = format!("/v1/policies/show?of={}{link}", escaped(&of));
        let shown: Vec<Shown> = context.agent.get(&path).await?;
        self.output.print(&shown, |shown| shown.iter().map(text).collect::<Vec<_>>().join("\n"))
    }
}

/// "97 decisions or 52 s more, 1 of 3 failures so far".
pub(super) fn on_probation(probation: &ProbationView) -> String {
    let seconds = until(probation.until_ms);
    format!(
        "{} decisions or {seconds} s more, {} of {} failures so far",
        probation.decisions_left, probation.failures, probation.failures_allowed
    )
}

fn text(shown: &Shown) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text += &format!("{what:<12} {value}\n");
    line("name", format!("{} {}", shown.name, shown.version));
    let link = if shown.link > 0 { format!(" {}", shown.link) } else { String::new() };
    line("world", format!("{}{link}", world(shown.world)));
    line(
        "state",
        match shown.state.as_str() {
            "last-good" => "asked when the active one fails".to_owned(),
            "pushed" => "pushed, not active".to_owned(),
            state => state.to_owned(),
        },
    );
    if let Some(digest) = shown.digest {
        line("digest", digest.to_string());
    }
    if let Some(signer) = &shown.signer {
        line("signed by", signer.to_string());
    }
    line("about", shown.summary.clone());
    if let Some(module) = &shown.pushed {
        line(
            "pushed",
            format!("{} ago by uid {}, {} bytes", age(module.pushed_at_ms), module.uid, module.bytes),
        );
    }
    if let Some(problem) = &shown.problem {
        line("problem", problem.clone());
    }
    for setting in &shown.settings {
        let value = setting.value.as_deref().unwrap_or("(none)");
        let origin = match setting.origin.as_str() {
            "set" => " (set by an operator)",
            "agent.toml" => " (agent.toml)",
            _ => "",
        };
        line("setting", format!("{} = {value}{origin}  {}", setting.key, setting.help).trim_end().to_owned());
    }
    if !shown.needs.is_empty() {
        line("needs", shown.needs.join(", "));
        line("granted", shown.grants.join(", "));
    }
    if let Some(view) = &shown.calls {
        line("source", view.source.clone());
        line(
            "calls",
            format!(
                "{}, {} fell back, half within {} µs, 99 % within {} µs",
                view.calls, view.fallbacks, view.p50_micros, view.p99_micros
            ),
        );
        for (code, count) in &view.outcomes {
            line("outcome", format!("{count} {code}: {}", Fault::sentence(code)));
        }
        if let Some(fault) = &view.last_fault {
            line("last failure", fault.message.clone());
        }
        if let Some(demoted) = &view.demoted {
            line("demoted", demoted.clone());
        }
        if let Some(probation) = &view.probation {
            line("probation", on_probation(probation));
        }
        for notice in &view.notices {
            line("notice", notice.clone());
        }
        if let Some(watching) = &view.shadow {
            line("shadow", shadow::in_short(watching));
        }
        line("falls back", view.last_good.clone().unwrap_or_else(|| "builtin".to_owned()));
    }
    if !shown.earlier.is_empty() {
        line("rolls back", format!("to {}", shown.earlier.join(", then ")));
    }
    for event in &shown.history {
        let what = match event.act {
            Act::Activated => "activated",
            Act::RolledBack => "rolled back to",
            Act::Demoted => "demoted",
            Act::Set => "gave other settings to",
            Act::Reloaded => "took from agent.toml",
            Act::Shadowed => "lets watch",
            Act::ShadowEnded => "lets watch no more",
        };
        let who = event.uid.map_or_else(|| "the agent".to_owned(), |uid| format!("uid {uid}"));
        let digest = event.digest.map_or(String::new(), |digest| format!(" ({})", digest.short()));
        let reason = event.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        line(
            "history",
            format!("{} ago {who} {what} {} {}{digest}{reason}", age(event.at_ms), event.name, event.version),
        );
    }
    text
}
