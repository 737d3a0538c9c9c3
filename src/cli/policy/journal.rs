//! `berth policy journal`: what was decided.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hyper::Method;

use crate::cli::Context;
use crate::cli::client::{Lines, empty, escaped, not_understood};
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
  berth policy journal --export node7.jsonl            all of it, for `berth policy replay --journal`

`report` is asked every 30 s and is in it only when question or answer have changed.")]
pub(super) struct Journal {
    /// Only decisions about this kernel: its name, or its id also when it was removed
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<KernelRef>,
    /// The last so many [default: 20, with --export all]
    #[arg(short = 'n', long, value_name = "N")]
    number: Option<usize>,
    /// Go on as decisions are made
    #[arg(short, long, conflicts_with = "export")]
    follow: bool,
    /// Write the records to this file, a line of JSON each, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Journal {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let kernel =
            self.kernel.map_or(String::new(), |kernel| format!("&kernel={}", escaped(&kernel.to_string())));
        let most = match (self.number, &self.export) {
            (Some(number), _) => format!("&most={number}"),
            (None, None) => "&most=20".to_owned(),
            (None, Some(_)) => String::new(),
        };
        let path = format!("/v1/decisions?follow={}{most}{kernel}", self.follow);
        let as_it_lies = self.output.is_json();
        let mut lines = context.agent.lines(Method::GET, &path, empty()).await?;
        if let Some(file) = &self.export {
            let count = export(file, &mut lines).await?;
            return self
                .output
                .print(&count, |count| format!("{count} decisions are in {}\n", file.display()));
        }
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

/// Writes the lines as they come. Returns how many.
async fn export(file: &Path, lines: &mut Lines) -> Result<u64, CliError> {
    let cannot = |error: std::io::Error| {
        CliError::new(format!("{} cannot be written: {error}", file.display()))
            .with_hint("name a file in a folder where you may write")
    };
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let mut target = BufWriter::new(target.map_err(cannot)?);
    let mut count = 0;
    while let Some(line) = lines.next_line().await? {
        target.write_all(&line).map_err(cannot)?;
        count += 1;
    }
    target.flush().map_err(cannot)?;
    Ok(count)
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
