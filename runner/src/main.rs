//! `berth-runner`: entrypoint and kernel runner in one static program that needs nothing of the image
//! it runs in (design §5, contracts: kernel §1).
//!
//! | subcommand | what it is |
//! |---|---|
//! | `kernel` | inside a kernel: user set-up, then tasks, their output and the link to the agent |
//! | `supervise` | around a kernel of the process engine: log file, limits, exit file |
//! | `clean` | removes what a kernel left in its folders, as the user who owns it |
//!
//! No asynchronous runtime, no socket library and no name service: threads, poll(2) and our own ZMTP.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

mod children;
mod clean;
mod kernel;
mod supervise;
mod sys;
mod zmtp;

const USAGE: &str = "\
usage:
berth-runner kernel [--link DIR] [--work DIR] [--config DIR] [--host] [--uid U] [--gid G]
berth-runner supervise --exit-file F --log-file F [--log-max BYTES] [--pid-file F] [--rlimit NAME=SOFT:HARD].. -- CMD ARG..
berth-runner clean DIR..
berth-runner --version";

fn main() -> ExitCode {
    let started = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut words = std::env::args_os().skip(1);
    let subcommand = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let result = match subcommand.to_str() {
        Some("kernel") => kernel::main(words, started),
        Some("supervise") => supervise::main(words),
        Some("clean") => clean::main(&words),
        Some("--version" | "-V") => {
            println!("berth-runner {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Some("--help" | "-h") => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::Usage(format!("no subcommand `{}`", subcommand.display()))),
    };
    result.unwrap_or_else(|failure| {
        complain(chain(&failure));
        if matches!(failure, Failure::Usage(_)) {
            complain(USAGE);
            return ExitCode::from(2);
        }
        ExitCode::FAILURE
    })
}

/// Why the program gives up.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The system refused something that cannot be done without.
    #[error("could not {what}")]
    System {
        /// Completes "could not …".
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    fn system(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}

/// Says something on standard error, which may be closed.
fn complain(text: impl std::fmt::Display) {
    let _closed = writeln!(std::io::stderr(), "berth-runner: {text}");
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The value that an option needs.
fn value(option: &str, words: &mut impl Iterator<Item = OsString>) -> Result<OsString, Failure> {
    words.next().ok_or_else(|| Failure::Usage(format!("{option} needs a value")))
}

/// The number that an option needs.
fn number<N: std::str::FromStr>(option: &str, value: &OsString) -> Result<N, Failure> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::Usage(format!("{option} needs a number, not `{}`", value.display())))
}
