//! `berth events`: what happened to kernels, in order.

use hyper::Method;

use super::Context;
use super::client::{empty, escaped};
use super::error::{CliError, say};
use super::output::{Output, time};
use crate::control::api::{AcknowledgeBody, EventLine};
use crate::events::EventKind;

/// Show what happened to kernels, in order, so far or from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth events                      everything that is retained
  berth events -f                   what happens from now on
  berth events -f --from 1          both
  berth events --reader billing     what this reader has not been shown yet
  berth events -f --reader billing -o json | ./bill

A reader's place is kept by the agent and moves when its events have been written to standard
output: a reader that is killed in between sees some of them again, and none is left out. With
-o json every line is {\"event\": {..}}, or {\"lost\": N} when N events were dropped before they
were read.")]
pub(super) struct Events {
    /// Go on with what is still to happen
    #[arg(short, long)]
    follow: bool,
    /// Begin with the event of this number
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Go on where the last call with this name ended, and remember how far this one came
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    reader: Option<String>,
    #[command(flatten)]
    output: Output,
}

impl Events {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut path = format!("/v1/events?follow={}", self.follow);
        if let Some(from) = self.from {
            path += &format!("&from={from}");
        }
        if let Some(reader) = &self.reader {
            path += &format!("&reader={}", escaped(reader));
        }
        let mut lines = context.agent.lines(Method::GET, &path, empty()).await?;
        while let Some(line) = lines.next().await? {
            let seen = match &line {
                EventLine::Error { error } => return Err(error.clone().into()),
                EventLine::Event { event, .. } => Some(event.seq + 1),
                EventLine::Lost { lost } => {
                    say(&format!("{lost} events were dropped before they were read"));
                    None
                }
            };
            self.output.print_line(&line, text)?;
            // Of what arrived together only the last is acknowledged.
            if let (Some(next), Some(reader)) = (seen.filter(|_| !lines.has_more()), &self.reader) {
                let place = format!("/v1/events/readers/{}", escaped(reader));
                context.agent.put_quietly(&place, &AcknowledgeBody { next }).await?;
            }
        }
        Ok(())
    }
}

/// Time, kernel, event, reason and exit code.
fn text(line: &EventLine) -> String {
    let EventLine::Event { event, name } = line else { return String::new() };
    let kernel = name.as_ref().map_or_else(|| event.kernel.to_string(), ToString::to_string);
    let (what, why) = match &event.kind {
        EventKind::KernelPreparing => ("preparing", String::new()),
        EventKind::KernelCreating => ("creating", String::new()),
        EventKind::KernelStarted => ("started", String::new()),
        EventKind::KernelTerminated { reason, exit_code } => {
            let code = exit_code.map_or(String::new(), |code| format!(" ({code})"));
            ("terminated", format!(" {reason}{code}"))
        }
    };
    format!("{} {kernel} {what}{why}\n", time(event.at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::ids::SessionId;

    #[test]
    fn an_event_is_one_line() {
        let line = |name: Option<&str>, kind| EventLine::Event {
            event: Event {
                seq: 3,
                at_ms: 1_709_210_096_789,
                kernel: "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001".parse().unwrap(),
                session: SessionId::random(),
                kind,
            },
            name: name.map(|name| name.parse().unwrap()),
        };
        let ended = EventKind::KernelTerminated { reason: "user-requested".to_owned(), exit_code: Some(137) };
        assert_eq!(
            text(&line(Some("k1"), ended)),
            "2024-02-29 12:34:56Z k1 terminated user-requested (137)\n"
        );
        assert_eq!(
            text(&line(None, EventKind::KernelStarted)),
            "2024-02-29 12:34:56Z 5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001 started\n"
        );
    }
}
