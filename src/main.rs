//! `berth`: the worker-node agent of a Backend.AI cluster, and the commands that speak to it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match berth::cli::parse(std::env::args_os()) {
        Ok(args) => args.run(),
        Err(status) => status,
    }
}
