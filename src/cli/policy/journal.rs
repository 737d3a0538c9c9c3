//! `berth policy journal`: what was decided.

use hyper::Method;

use crate::cli::Context;
use crate::cli::client::{empty, escaped, not_understood};
use crate::cli::error::CliError;
use crate::cli::output::{Output, print, rung, world};
use crate::ids::KernelRef;
use crate::policy::journal::Entry;
use crate::policy::journal::phrase::{self, short, time_of_day};

/// Show what was decided, by whom, and why a policy was passed over
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy journal -n 5
  berth policy journal --kernel k1
  berth policy journal -f                              go on as decisions are made
  berth policy journal -o json | jq .question          a record a line, as it lies on disk

`report` is asked every 30 s and is in it only when question or answer have changed.")]
pub(super) struct Journal {
    /// Only decisions about this kernel: its name, or its id also when it was removed
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<KernelRef>,
    /// The last so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    number: usize,
    /// Go on as decisions are made
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    output: Output,
}

impl Journal {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let kernel =
            self.kernel.map_or(String::new(), |kernel| format!("&kernel={}", escaped(&kernel.to_string())));
        let path = format!("/v1/decisions?most={}&follow={}{kernel}", self.number, self.follow);
        let as_it_lies = self.output.is_json();
        let mut lines = context.agent.lines(Method::GET, &path, empty()).await?;
        while let Some(line) = lines.next_line().await? {
            if as_it_lies {
                print(&String::from_utf8_lossy(&line))?;
            } else {
                let entry: Entry = serde_json::from_slice(&line).map_err(|error| not_understood(&error))?;
                print(&text(&entry))?;
            }
        }
        Ok(())
    }
}

/// One line, and one for each policy that was passed over.
fn text(entry: &Entry) -> String {
    let kernels = match &entry.kernels[..] {
        [] => String::new(),
        [only] => format!(" {}", short(only)),
        [first, rest @ ..] => format!(" {} and {} more", short(first), rest.len()),
    };
    let dry_run = if entry.dry_run { " (dry run)" } else { "" };
    let link = if entry.link > 0 { format!(" {}", entry.link) } else { String::new() };
    let digest = entry.digest.map_or(String::new(), |digest| format!(" {}", digest.short()));
    let mut text = format!(
        "{} {}{link} {}{kernels}{dry_run}: {} [{}{digest}, {}, {} µs]\n",
        time_of_day(entry.time_ms),
        world(entry.world),
        entry.function,
        phrase::outcome(entry),
        entry.policy,
        rung(entry.rung),
        entry.micros
    );
    for fault in &entry.faults {
        text += &format!("         passed over {}: {}\n", fault.policy, fault.message);
    }
    text
}
