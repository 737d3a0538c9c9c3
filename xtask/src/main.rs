//! Builds what one `cargo build` cannot: the static runner, the policy guests.
//!
//! `cargo xtask build [--release] [--runner-only]` · `cargo xtask guests [--check]`

use std::process::ExitCode;

mod guests;
mod runner;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let subcommand = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    let result = match subcommand.as_str() {
        "build" => runner::run(&words),
        "guests" => guests::run(&words),
        other => Err(anyhow::anyhow!(
            "no subcommand `{other}`; there are: build [--release] [--runner-only], guests [--check]"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
