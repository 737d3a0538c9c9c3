//! `berth create`: a kernel that stays.

use super::error::CliError;
use super::output::{Output, amount_of, decisions};
use super::run::make;
use super::wishes::Wishes;
use super::{Context, away};
use crate::amount::format_bytes;
use crate::kernel::Rehearsal;

/// Make a kernel that stays until it is removed, and print its name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth create --name k1                  then: berth exec k1 --code 'x = 41'
  berth create --cpus 1 --mem 512m        a core and memory of its own, a made-up name
  k=$(berth create) && berth exec $k -- uname -a && berth rm -f $k
  berth create --image python:3.13 --env MODE=test --mount ./data:/home/work/data:ro
  berth create --dry-run --cpus 2         what it would get and who decides so; nothing is made")]
pub(super) struct Create {
    /// Only show what would be made and which policy says what; starts and takes nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    output: Output,
}

impl Create {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let body = self.wishes.into_body(false)?;
        if self.dry_run {
            let rehearsal: Rehearsal = context.agent.post("/v1/dry-run", Some(&body)).await?;
            return self.output.print(&rehearsal, text);
        }
        let kernel = make(&context.agent, &body, away::LEASE).await?;
        for line in &kernel.not_enforced {
            super::error::say(line);
        }
        self.output.print(&kernel, |kernel| format!("{}\n", kernel.name))
    }
}

fn text(rehearsal: &Rehearsal) -> String {
    let mut text = "Nothing was made. It would be:\n".to_owned();
    let mut line = |what: &str, value: String| text += &format!("{what:<12} {value}\n");
    line("name", rehearsal.name.to_string());
    line("image", rehearsal.image.clone());
    line("engine", rehearsal.engine.clone());
    for held in &rehearsal.allocations {
        line("holds", format!("{} of {} {}", amount_of(&held.slot, held.amount), held.slot, held.device));
    }
    let cores: Vec<String> = rehearsal.cpuset.iter().map(u32::to_string).collect();
    line("cores", cores.join(","));
    line("memory", rehearsal.memory_limit.map_or_else(|| "no limit".to_owned(), format_bytes));
    line("runs as", format!("{}:{}", rehearsal.runs_as.0, rehearsal.runs_as.1));
    for mount in &rehearsal.mounts {
        let read_only = if mount.read_only { " (read-only)" } else { "" };
        line("mount", format!("{} on {}{read_only}", mount.source, mount.target));
    }
    for file in &rehearsal.files {
        line("file", file.clone());
    }
    line("variables", rehearsal.env.join(" "));
    for edit in &rehearsal.edits {
        line("edit", format!("{} (by {})", edit.edit, edit.policy));
    }
    for sentence in &rehearsal.not_enforced {
        line("not enforced", sentence.clone());
    }
    text + "decisions\n" + &decisions(&rehearsal.decisions, &[])
}
