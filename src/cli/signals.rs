//! Ctrl-C and its kin, as a client of a run sees them.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;

/// What the user (or the system) wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGINT, the first one: interrupt the program.
    Interrupt,
    /// The second SIGINT, SIGTERM or SIGHUP: stop, and exit like that.
    Stop {
        /// 128 + the signal.
        exit: u8,
    },
}

/// Listens from when it is made; the signals' usual effect is gone from then on.
#[derive(Debug)]
pub(super) struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
    interrupted: bool,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::new(format!("signals cannot be listened to: {error}")))
        };
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
            interrupted: false,
        })
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.int.recv() => {
                if std::mem::replace(&mut self.interrupted, true) {
                    Asked::Stop { exit: 130 }
                } else {
                    Asked::Interrupt
                }
            }
            _ = self.term.recv() => Asked::Stop { exit: 143 },
            _ = self.hup.recv() => Asked::Stop { exit: 129 },
        }
    }

    /// The next one, where there is no program yet that could be interrupted. Cancel-safe.
    pub(super) async fn stop(&mut self) -> u8 {
        match self.next().await {
            Asked::Interrupt => 130,
            Asked::Stop { exit } => exit,
        }
    }
}
