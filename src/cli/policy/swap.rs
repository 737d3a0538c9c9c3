//! `berth policy push`, `activate`, `rollback`: other policies from the next decision on, no restart.

use std::path::{Path, PathBuf};

use super::{settings, shadow, steps, waiting};
use crate::cli::Context;
use crate::cli::client::json;
use crate::cli::error::CliError;
use crate::cli::output::{Output, world};
use crate::control::policy_api::{ActivateBody, RollbackBody};
use crate::policy::WorldKind;
use crate::policy::replay::diff;
use crate::policy::swap::{MODULE_BYTES, Outcome, Pushed, Swapped, Target};

const ACTIVATE: &str = "/v1/policies/activate";

/// A world by its name.
pub(super) fn world_named(text: &str) -> Result<WorldKind, String> {
    let worlds = [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig];
    worlds
        .into_iter()
        .find(|known| world(*known) == text)
        .ok_or_else(|| "there are slot-reporter, scheduler and container-config".to_owned())
}

/// Check and keep a policy's module (.wasm), to be activated later
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy push last-core.wasm
  berth policy push --activate last-core.wasm     and let it decide from now on
  berth policy push --link 1 proxy.wasm           for the second one of the container-config chain

Which world it decides for the module itself says. It is compiled, instantiated and asked what it is;
what it needs must be granted in its world's section of agent.toml. Nothing changes by that.
--activate goes on as `berth policy activate` does.")]
pub(super) struct Push {
    /// Which member of the container-config chain it is for, from 0 [default: the only one]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// Activate it, too
    #[arg(long)]
    activate: bool,
    /// Its settings, a TOML file [default: those of its world in agent.toml]
    #[arg(long, value_name = "FILE", requires = "activate")]
    settings: Option<PathBuf>,
    /// Activate it although the last decisions would have been others
    #[arg(long, requires = "activate")]
    accept_diff: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", requires = "activate")]
    reason: Option<String>,
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Push {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let bytes = read(&self.file)?;
        let settings = settings::of(self.settings.as_ref())?;
        let link = self.link.map_or(String::new(), |link| format!("?link={link}"));
        let path = format!("/v1/policies/modules{link}");
        let handed = waiting::shown(context, context.agent.hand(&path, bytes)).await;
        let pushed: Pushed = handed.map_err(|error| CliError {
            message: format!("{}: {}", self.file.display(), error.message),
            ..error
        })?;
        if !self.activate {
            return self.output.print(&pushed, |pushed| taken(pushed) + &next(pushed));
        }
        let body = ActivateBody {
            target: Target::Pushed(pushed.module.digest.to_string()),
            link: self.link,
            reason: self.reason,
            settings,
            accept_diff: self.accept_diff,
            shadow: false,
        };
        let outcome = steps::outcome(context, ACTIVATE, json(&body)?, self.output).await?;
        self.output.print(&outcome, |outcome| taken(&pushed) + &outcome_text(outcome))
    }
}

/// The file's bytes; the agent says what is wrong with them.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    let cannot = |problem: String| {
        CliError::new(format!("{} cannot be read: {problem}", file.display()))
            .with_hint("name the .wasm file that the policy's build made")
    };
    let metadata = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?;
    if !metadata.is_file() {
        return Err(cannot("it is not a regular file".to_owned()));
    }
    if metadata.len() > MODULE_BYTES {
        return Err(CliError::new(format!(
            "{}: it has {} bytes, more than the {MODULE_BYTES} a policy may have",
            file.display(),
            metadata.len()
        ))
        .with_code("module-too-large")
        .with_hint("strip it, or build it with opt-level \"s\""));
    }
    std::fs::read(file).map_err(|error| cannot(error.to_string()))
}

fn taken(pushed: &Pushed) -> String {
    let module = &pushed.module;
    let what = if pushed.already { "was there already" } else { "is kept" };
    format!(
        "{} {} ({}) for {} {what}: {}\n",
        module.name,
        module.version,
        module.digest.short(),
        world(module.world),
        module.summary
    )
}

/// What to do with it.
fn next(pushed: &Pushed) -> String {
    let digest = pushed.module.digest.short();
    match &pushed.problem {
        None => format!("Activate it: berth policy activate {digest}\n"),
        Some(problem) => {
            format!("As it is, {problem}\nActivate it: berth policy activate {digest} --settings FILE.toml\n")
        }
    }
}

/// Make a pushed policy decide, from the next decision on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy activate 3fa1c2                     at least 6 digits of its digest
  berth policy activate last-core                  the one of that name that was pushed last
  berth policy activate 3fa1c2 --settings s.toml   with settings of its own, kept with it
  berth policy activate 3fa1c2 --shadow            decides nothing; `berth policy shadow` compares
  berth policy activate --configured scheduler     what agent.toml says

It is loaded, given its settings, and makes the last decisions of the journal again ([policy]
replay-last). Where some would have been others they are shown and nothing changes without
--accept-diff. Then it is on probation ([policy] probation-decisions, probation-sec): if it fails
([policy] probation-failures), what was active before is active again.

What was active before is asked when the new one fails, and `berth policy rollback` makes it active
again. A policy that was demoted because it failed too often is asked again once it is activated.")]
pub(super) struct Activate {
    /// What agent.toml says for this world
    #[arg(long, value_name = "WORLD", value_parser = world_named, conflicts_with = "policy")]
    configured: Option<WorldKind>,
    /// Which member of the container-config chain, from 0 [default: the one it was pushed for]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// Its settings, a TOML file [default: those of its world in agent.toml]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Although the last decisions would have been others
    #[arg(long)]
    accept_diff: bool,
    /// Only let it watch: it makes each decision again, and how it agrees is counted
    #[arg(long, conflicts_with = "accept_diff")]
    shadow: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Digest (or its first digits) or name of a pushed policy
    #[arg(value_name = "DIGEST|NAME", required_unless_present = "configured")]
    policy: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Activate {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let target = match (self.configured, self.policy) {
            (Some(world), _) => Target::Configured(world),
            (None, policy) => Target::Pushed(policy.unwrap_or_default()),
        };
        let body = ActivateBody {
            target,
            link: self.link,
            reason: self.reason,
            settings: settings::of(self.settings.as_ref())?,
            accept_diff: self.accept_diff,
            shadow: self.shadow,
        };
        let outcome = steps::outcome(context, ACTIVATE, json(&body)?, self.output).await?;
        self.output.print(&outcome, outcome_text)
    }
}

/// Make the policy decide that did so before
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy rollback scheduler
  berth policy rollback container-config --link 1 --reason 'mounts the wrong share'

At once: the last good policy stays compiled. Again, and it goes back further, at last to what
agent.toml says.")]
pub(super) struct Rollback {
    /// Which member of the container-config chain, from 0 [default: the only one]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// slot-reporter, scheduler or container-config
    #[arg(value_name = "WORLD", value_parser = world_named)]
    world: WorldKind,
    #[command(flatten)]
    output: Output,
}

impl Rollback {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let body = RollbackBody { world: self.world, link: self.link, reason: self.reason };
        let swapped: Swapped = context.agent.post("/v1/policies/rollback", Some(&body)).await?;
        self.output.print(&swapped, text)
    }
}

/// What was done, after what it would have decided otherwise where that was accepted.
pub(super) fn outcome_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Active(swapped) => {
            let diff = swapped.diff.as_ref().filter(|diff| diff.replayed + diff.not_reached > 0);
            let diff = diff.map_or(String::new(), |report| match report.is_empty() {
                true => diff::summary(report) + "\n",
                false => diff::text(report, steps::MOST),
            });
            diff + &text(swapped)
        }
        Outcome::Shadow(view) => {
            format!("{}\n`berth policy shadow` shows how it agrees\n", shadow::in_short(view))
        }
    }
}

fn text(swapped: &Swapped) -> String {
    let digest = swapped.digest.map_or(String::new(), |digest| format!(" ({})", digest.short()));
    let who = format!("{} {}{digest}", swapped.name, swapped.version);
    let link = if swapped.link > 0 { format!(" {}", swapped.link) } else { String::new() };
    let when = if swapped.changed { "from now on" } else { "already" };
    let otherwise = match swapped.last_good.as_deref() {
        // Nothing of the built-in's fails.
        _ if swapped.digest.is_none() => String::new(),
        None | Some("builtin") => "; the built-in is asked when it fails".to_owned(),
        Some(name) => format!("; {name} is asked when it fails"),
    };
    format!("{}{link}: {who} decides {when}{otherwise}\n", world(swapped.world))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::policy::ModuleRow;

    #[test]
    fn what_was_done_is_one_sentence() {
        let digest = Digest::of(b"module");
        let swapped = Swapped {
            world: WorldKind::Scheduler,
            link: 0,
            name: "last-core".into(),
            version: "0.1.0".into(),
            digest: Some(digest),
            last_good: Some("scheduler".into()),
            changed: true,
            diff: None,
        };
        let builtin = Swapped {
            world: WorldKind::ContainerConfig,
            link: 1,
            name: "builtin".into(),
            digest: None,
            last_good: None,
            changed: false,
            ..swapped.clone()
        };
        let module = ModuleRow {
            digest,
            world: WorldKind::Scheduler,
            link: 0,
            name: "last-core".into(),
            version: "0.1.0".into(),
            summary: "Gives cores from the last free one down".into(),
            bytes: 6,
            pushed_at_ms: 0,
            uid: 0,
        };
        let said = [
            taken(&Pushed { module: module.clone(), already: false, problem: None }),
            taken(&Pushed { module, already: true, problem: None }),
            text(&swapped),
            text(&builtin),
        ]
        .concat();
        insta::assert_snapshot!(said);
    }
}
