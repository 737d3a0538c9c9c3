//! Making a kernel, also across an agent that goes away meanwhile: the command makes the kernel's id, so it
//! can ask an agent that is back what became of it, and ask again for one that nobody has heard of.

use std::time::Duration;

use super::away::{self, Patience, Wait};
use super::client::Agent;
use super::error::{CliError, say};
use crate::control::api::CreateBody;
use crate::ids::KernelRef;
use crate::kernel::{KernelView, Phase};

/// Makes the kernel; `note` hears what people may want to know meanwhile. Dropping the future cancels.
pub(super) async fn create(
    agent: &Agent,
    body: &CreateBody,
    note: impl Fn(Phase, Option<&str>),
    patience: Patience,
) -> Result<KernelView, CliError> {
    let mut wait: Option<Wait> = None;
    loop {
        let error = match agent.create(body, &note).await {
            Ok(kernel) => return Ok(kernel),
            Err(error) => error,
        };
        let before = wait.is_some();
        let away = away::went_away(&error) || (before && error.code == "no-agent");
        // Somebody may have been quicker than our second request: the first one.
        let there = before && error.code == "kernel-exists";
        let Patience::For(patience) = patience else { return Err(error) };
        if !(away || there) {
            return Err(error);
        }
        if let Some(kernel) = follow(agent, body, &mut wait, patience).await? {
            return Ok(kernel);
        }
    }
}

/// Looks for the agent and the kernel until it runs; none when the agent knows no such kernel.
async fn follow(
    agent: &Agent,
    body: &CreateBody,
    wait: &mut Option<Wait>,
    patience: Duration,
) -> Result<Option<KernelView>, CliError> {
    loop {
        let pause = *wait.get_or_insert_with(|| {
            say("the agent is away, waiting for it");
            Wait::new(patience)
        });
        pause.again().await?;
        match agent.kernel(&KernelRef::Id(body.kernel)).await {
            Ok(kernel) if kernel.phase == Phase::Running => return Ok(Some(kernel)),
            Ok(kernel) => match outcome(&kernel) {
                Some(error) => return Err(error),
                // The agent is there, and bounds by itself how long this may take.
                None => *wait = Some(Wait::new(patience)),
            },
            Err(error) if error.code == "no-such-kernel" => return Ok(None),
            Err(error) if error.code == "no-agent" || away::went_away(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Why it came to nothing; none while it may still run, or while what our hanging up cancelled is removed.
fn outcome(kernel: &KernelView) -> Option<CliError> {
    let why = kernel.termination.as_ref().filter(|why| why.reason != "task-cancelled")?;
    let message = why.message.clone().unwrap_or_else(|| format!("the kernel went away: {}", why.reason));
    Some(CliError::new(message).with_code(&why.reason))
}
