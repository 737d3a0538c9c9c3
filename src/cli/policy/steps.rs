//! An answer in steps: what the agent does meanwhile on a line that lives on a terminal, then what came of it.

use hyper::Method;

use crate::cli::Context;
use crate::cli::client::{Body, lost};
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::output::Output;
use crate::control::policy_api::SwapLine;
use crate::policy::replay::{Report, diff};
use crate::policy::swap::{Outcome, Step};

/// Changes of a kind that are told to people one by one.
pub(super) const MOST: usize = 20;

/// What came of it.
pub(super) enum Came {
    Done(Box<Outcome>),
    Replayed(Box<Report>),
}

/// Asks, and hears every step. Where it would decide otherwise, the changes go to standard output before the error.
pub(super) async fn ask(context: &Context, path: &str, body: Body, output: Output) -> Result<Came, CliError> {
    let mut lines = context.agent.lines(Method::POST, path, body).await?;
    let mut live = Live::new();
    while let Some(line) = lines.next::<SwapLine>().await? {
        match line {
            SwapLine::Step(step) => live.show(&said(step)),
            SwapLine::Done(outcome) => {
                live.clear();
                return Ok(Came::Done(outcome));
            }
            SwapLine::Replayed(report) => {
                live.clear();
                return Ok(Came::Replayed(report));
            }
            SwapLine::Failed { error, diff } => {
                live.clear();
                if let Some(report) = diff {
                    output.print(&report, |report| diff::text(report, MOST))?;
                }
                return Err(error.into());
            }
        }
    }
    Err(lost())
}

/// The same of something that ends with a policy that decides or watches.
pub(super) async fn outcome(
    context: &Context,
    path: &str,
    body: Body,
    output: Output,
) -> Result<Outcome, CliError> {
    match ask(context, path, body, output).await? {
        Came::Done(outcome) => Ok(*outcome),
        Came::Replayed(_) => Err(lost()),
    }
}

fn said(step: Step) -> String {
    match step {
        Step::Loading => "compiling and checking it".to_owned(),
        Step::Replaying(done) => format!("{done} decisions replayed"),
        Step::Saving => "writing it down".to_owned(),
    }
}
