//! Where the agent's log goes: standard error, which systemd and Docker keep.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::error::CliError;

/// Sets up the log of `berth serve`: `BERTH_LOG` (e.g. `info,berth::route=trace`) says what, else `--debug`.
pub(super) fn start(debug: bool) -> Result<(), CliError> {
    let default = if debug { "info,berth=debug" } else { "info" };
    let filter = match std::env::var("BERTH_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            CliError::new(format!("BERTH_LOG is no log filter: {error}"))
                .with_hint("for example BERTH_LOG=info,berth::route=debug")
        })?,
        _ => EnvFilter::new(default),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish();
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| CliError::new(format!("the log could not be set up: {error}")))
}
