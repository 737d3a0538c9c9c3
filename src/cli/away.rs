//! An agent that went away and will come back: it was killed, or is being upgraded. Kernels run on
//! meanwhile, and so do their programs.

use std::time::Duration;

use tokio::time::Instant;

use super::error::CliError;

/// For an agent that is a service: as long as a kernel outlives its client (design, section 9).
pub(super) const LEASE: Patience = Patience::For(Duration::from_secs(30));
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether an agent that goes away may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It is waited for that long.
    For(Duration),
    /// It is ours, and ends with us.
    None,
}

/// A wait for an agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    until: Instant,
    patience: Duration,
}

impl Wait {
    /// Begins now.
    pub(super) fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, patience }
    }

    /// Lets some time pass before the agent is looked for again.
    ///
    /// # Errors
    /// When it has been waited for long enough.
    pub(super) async fn again(self) -> Result<(), CliError> {
        if Instant::now() >= self.until {
            return Err(self.gave_up());
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }

    /// The agent did not come back.
    fn gave_up(self) -> CliError {
        CliError::new(format!("the agent has been away for {} s", self.patience.as_secs()))
            .with_code("agent-lost")
            .with_hint(
                "start it; what runs in kernels goes on, and `berth inspect KERNEL` shows how it ended",
            )
    }
}

/// Resolves, with what to say, when a wait is over; never without one.
pub(super) async fn over(wait: Option<Wait>) -> CliError {
    match wait {
        Some(wait) => {
            tokio::time::sleep_until(wait.until).await;
            wait.gave_up()
        }
        None => std::future::pending().await,
    }
}

/// Whether the error says that the agent went away.
pub(super) fn went_away(error: &CliError) -> bool {
    matches!(error.code.as_str(), "agent-lost" | "stopping")
}
