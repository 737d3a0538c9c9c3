//! `berth`: the worker-node agent of a Backend.AI cluster, and the commands that speak to it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Started by another berth, for nobody's eyes.
    if let Some(status) = berth::policy::compile::as_child(std::env::args_os()) {
        return status;
    }
    match berth::cli::parse(std::env::args_os()) {
        Ok(args) => args.run(),
        Err(status) => status,
    }
}
