//! `berth policy`: who decides, and replacing them while kernels run.
//!
//! `swap`: push, activate, rollback; `settings`: set; `shadow`: who watches; `show`: one policy; `journal`: what was
//! decided; `replay`: decide it again. `steps`, `waiting`: answers that take a while. `author`, `test`, `bench`,
//! `inspect`, `dev`: what those who write policies need, without an agent; `trust`: signatures.

use std::path::PathBuf;

use clap::Subcommand;

use super::Context;
use super::error::CliError;
use super::output::{Output, age, table, world};
use crate::policy::{ModuleRow, PolicyView, WorldKind};

mod author;
mod bench;
mod dev;
mod inspect;
mod journal;
mod replay;
mod settings;
mod shadow;
mod show;
mod steps;
mod swap;
mod test;
mod trust;
mod waiting;

/// Show, replace and write the policies that make this node's decisions
#[derive(Debug, clap::Args)]
pub(super) struct Policy {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    List(List),
    Show(show::Show),
    Push(swap::Push),
    Activate(swap::Activate),
    Rollback(swap::Rollback),
    Set(settings::Set),
    Shadow(shadow::ShadowCommand),
    Journal(journal::Journal),
    Replay(replay::Replay),
    #[command(flatten)]
    Tool(Tool),
}

/// What needs no agent.
#[derive(Debug, Subcommand)]
enum Tool {
    New(author::New),
    Build(author::Build),
    Test(test::Test),
    Bench(bench::Bench),
    Dev(dev::Dev),
    Pack(author::Pack),
    Inspect(inspect::Inspect),
    Keygen(trust::Keygen),
    Sign(trust::Sign),
    Verify(trust::Verify),
}

impl Tool {
    /// `socket`: the agent's, when it was named.
    fn run(self, socket: Option<PathBuf>) -> Result<(), CliError> {
        match self {
            Self::New(command) => command.run(),
            Self::Build(command) => command.run(),
            Self::Test(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Dev(command) => command.run(socket),
            Self::Pack(command) => command.run(),
            Self::Inspect(command) => command.run(socket),
            Self::Keygen(command) => command.run(),
            Self::Sign(command) => command.run(),
            Self::Verify(command) => command.run(),
        }
    }
}

/// List the active policy of each world, how often it was asked and how long it took
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy list
  berth policy list -o json | jq '.[] | {world, name, digest}'

SOURCE is what agent.toml says (shipped, builtin, a path), or `pushed` where an operator has activated
a policy: that wins over agent.toml until it is rolled back or `activate --configured WORLD`.
FELL BACK counts the calls that a policy did not answer as it should; the last good version, or the
built-in, answered them.")]
struct List {
    #[command(flatten)]
    output: Output,
}

impl Policy {
    /// Whether it is a tool that needs no agent.
    pub(super) fn is_tool(&self) -> bool {
        matches!(self.command, PolicyCommand::Tool(_))
    }

    /// Runs the tool.
    pub(super) fn run_tool(self, socket: Option<PathBuf>) -> Result<(), CliError> {
        match self.command {
            PolicyCommand::Tool(tool) => tool.run(socket),
            // The others speak to an agent: `run`.
            _ => Ok(()),
        }
    }

    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let done = match self.command {
            PolicyCommand::List(List { output }) => {
                let policies: Vec<PolicyView> = context.agent.get("/v1/policies").await?;
                // For people also what waits to be activated.
                let modules: Vec<ModuleRow> = context.agent.get("/v1/policies/modules").await?;
                output.print(&policies, |policies| text(policies) + &waiting(policies, &modules))
            }
            PolicyCommand::Show(command) => command.run(context).await,
            PolicyCommand::Push(command) => command.run(context).await,
            PolicyCommand::Activate(command) => command.run(context).await,
            PolicyCommand::Rollback(command) => command.run(context).await,
            PolicyCommand::Set(command) => command.run(context).await,
            PolicyCommand::Shadow(command) => command.run(context).await,
            PolicyCommand::Journal(command) => command.run(context).await,
            PolicyCommand::Replay(command) => return command.run(context).await,
            // Dispatched before there is a runtime: `run_tool`.
            PolicyCommand::Tool(_) => Ok(()),
        };
        done.map(|()| 0)
    }
}

fn text(policies: &[PolicyView]) -> String {
    let rows = policies.iter().map(|policy| {
        vec![
            slot(policy.world, policy.link, policies),
            policy.name.clone(),
            policy.version.clone(),
            policy.digest.map_or_else(|| "-".to_owned(), |digest| digest.short()),
            policy.calls.to_string(),
            policy.fallbacks.to_string(),
            format!("{} µs", policy.p50_micros),
            format!("{} µs", policy.p99_micros),
            format!("{}{}", policy.source, if policy.own_settings { ", settings set" } else { "" }),
        ]
    });
    let headings = ["WORLD", "NAME", "VERSION", "DIGEST", "CALLS", "FELL BACK", "P50", "P99", "SOURCE"];
    let mut text = table(&headings, rows);
    for (policy, fault) in policies.iter().filter_map(|policy| Some((policy, policy.last_fault.as_ref()?))) {
        match &policy.demoted {
            Some(demoted) => text += &format!("{}: {demoted}\n", policy.name),
            None => text += &format!("{}: last failure: {}\n", policy.name, fault.message),
        }
    }
    for policy in policies {
        if let Some(probation) = &policy.probation {
            text += &format!("{}: on probation: {}\n", policy.name, show::on_probation(probation));
        }
        if let Some(watching) = &policy.shadow {
            text += &format!("{}\n", shadow::in_short(watching));
        }
        for notice in &policy.notices {
            text += &format!("{notice}\n");
        }
    }
    text
}

/// The world, and which member of its chain where there are several.
fn slot(of: WorldKind, link: usize, policies: &[PolicyView]) -> String {
    match policies.iter().filter(|policy| policy.world == of).count() {
        0 | 1 => world(of).to_owned(),
        _ => format!("{} {link}", world(of)),
    }
}

/// What was pushed and is not active.
fn waiting(policies: &[PolicyView], modules: &[ModuleRow]) -> String {
    let idle = modules.iter().filter(|module| {
        !policies.iter().any(|policy| policy.source == "pushed" && policy.digest == Some(module.digest))
    });
    let rows: Vec<Vec<String>> = idle
        .map(|module| {
            vec![
                world(module.world).to_owned(),
                module.name.clone(),
                module.version.clone(),
                module.digest.short(),
                format!("{} ago by uid {}", age(module.pushed_at_ms), module.uid),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", table(&["PUSHED FOR", "NAME", "VERSION", "DIGEST", "WHEN"], rows)),
    }
}
