//! `berth config`: what is configured, and what is wrong with it. Needs no agent.

use std::path::PathBuf;

use super::error::CliError;
use super::layers::Layers;
use super::output::{Output, table};
use crate::config::{self, ConfigError, Effective, Overrides, Remark};

/// Show the configuration, and what is wrong with it; needs no agent
#[derive(Debug, clap::Args)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(Check),
    Show(Show),
}

/// Say everything that is wrong or odd in agent.toml, with its lines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth config check                the file that `berth serve` would read
  berth config check agent.toml

Exits 1 when there are mistakes; warnings alone exit 0. `berth serve --check` also tries engine,
policies and folders.")]
struct Check {
    /// The file; by default agent.toml here, in ~/.config/backend.ai or in /etc/backend.ai
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Show every key with the value that holds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth config show
  berth config show --origin           and what set it: default, file and line, variable or flag
  berth config show --state-dir /srv/berth -o json

It reads file, environment and flags as `berth serve` would here and now; an agent that runs may
have been started with others. Secrets are shown as ***.")]
struct Show {
    #[command(flatten)]
    layers: Layers,
    /// Also what set each value
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    output: Output,
}

/// What a check has found.
#[derive(Debug, Default, serde::Serialize)]
struct Checked {
    /// The file that was read.
    file: Option<PathBuf>,
    mistakes: Vec<Remark>,
    warnings: Vec<Remark>,
}

impl Config {
    pub(super) fn run(self, socket: Option<PathBuf>) -> Result<u8, CliError> {
        match self.command {
            Command::Check(check) => check.run(socket),
            Command::Show(show) => show.run(socket).map(|()| 0),
        }
    }
}

impl Check {
    fn run(self, socket: Option<PathBuf>) -> Result<u8, CliError> {
        let overrides = Overrides { config: self.file.clone(), socket, ..Overrides::default() };
        let mut checked = match config::inspect(&overrides) {
            Ok((config, report)) => {
                let warnings = report.warnings();
                Checked { file: config.file, mistakes: report.mistakes, warnings }
            }
            Err(error @ ConfigError::Read { .. }) => return Err(cannot(&error)),
            Err(error) => {
                Checked { file: self.file, mistakes: vec![as_remark(&error)], ..Checked::default() }
            }
        };
        // In the order of the file, as far as its lines go.
        for remarks in [&mut checked.mistakes, &mut checked.warnings] {
            remarks.sort_by_key(|remark| line_of(&remark.place));
        }
        self.output.print(&checked, check_text)?;
        Ok(u8::from(!checked.mistakes.is_empty()))
    }
}

impl Show {
    fn run(self, socket: Option<PathBuf>) -> Result<(), CliError> {
        let (_, report) =
            config::inspect(&self.layers.into_overrides(socket)).map_err(|error| cannot(&error))?;
        if !report.mistakes.is_empty() {
            let lines: Vec<String> = report.mistakes.iter().map(ToString::to_string).collect();
            return Err(cannot(&ConfigError::Mistakes(lines)));
        }
        self.output.print(&report.effective, |values| show_text(values, self.origin))
    }
}

fn cannot(error: &ConfigError) -> CliError {
    CliError::new(error.to_string()).with_code("bad-config").with_hint("`berth config check` tells all of it")
}

/// An error that is a single mistake, apart from its place.
fn as_remark(error: &ConfigError) -> Remark {
    match error {
        ConfigError::Syntax { path, line, problem } => Remark {
            place: match line {
                Some(line) => format!("{}:{line}", path.display()),
                None => path.display().to_string(),
            },
            text: format!("this is no TOML: {problem}"),
        },
        other => Remark { place: String::new(), text: other.to_string() },
    }
}

fn line_of(place: &str) -> usize {
    place.rsplit(':').next().and_then(|line| line.parse().ok()).unwrap_or(0)
}

fn check_text(checked: &Checked) -> String {
    let lines = |kind: &str, remarks: &[Remark]| {
        remarks.iter().map(|remark| format!("{kind}: {remark}\n")).collect::<String>()
    };
    let count =
        |what: &str, many: usize| if many == 1 { format!("1 {what}") } else { format!("{many} {what}s") };
    let file = checked.file.as_ref().map(|file| file.display().to_string());
    let sum = match (checked.mistakes.len(), checked.warnings.len(), file) {
        (0, 0, None) => "there is no agent.toml; the defaults hold\n".to_owned(),
        (0, 0, Some(file)) => format!("{file} is fine\n"),
        (mistakes, warnings, _) => {
            format!("{}, {}\n", count("mistake", mistakes), count("warning", warnings))
        }
    };
    lines("mistake", &checked.mistakes) + &lines("warning", &checked.warnings) + &sum
}

fn show_text(values: &[Effective], with_origin: bool) -> String {
    let rows = values.iter().map(|one| {
        let value = match &one.value {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut row = vec![one.key.clone(), value];
        row.extend(with_origin.then(|| one.origin.to_string()));
        row
    });
    let headings: &[&str] = if with_origin { &["KEY", "VALUE", "ORIGIN"] } else { &["KEY", "VALUE"] };
    table(headings, rows)
}
