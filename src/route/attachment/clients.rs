//! Clients of streams that go and come back.

use super::{Attachment, Context, MAX_WAITING, What};
use crate::ids::RunId;
use crate::route::flow::{self, Tap};
use crate::route::inbox::{Joined, Rejoin};
use crate::route::machine::{Input, Place};
use crate::route::{Output, Report, Resume, RouteError, RunEnd, RunRequest};

impl Attachment {
    /// Gives a run back to its client, or begins it when it was never sent.
    pub(in crate::route) fn rejoin(&mut self, rejoin: Rejoin, cx: &mut Context<'_>) {
        let Rejoin { request, resume, .. } = &rejoin;
        let place = self.machine.place(&request.run, resume);
        if place == Place::Unsettled {
            // A caller that no longer waits has dropped its end.
            self.rejoining.retain(|rejoin| !rejoin.reply.is_closed());
            if self.rejoining.len() >= MAX_WAITING {
                let _ = rejoin.reply.send(Err(RouteError::Busy));
            } else {
                self.rejoining.push(rejoin);
            }
            return;
        }
        let Rejoin { request, resume, reply, .. } = rejoin;
        // A caller that has gone meanwhile drops the output, and with it the run is its lost client's again.
        let _ = reply.send(self.join(request, &resume, place, cx));
    }

    fn join(
        &mut self,
        request: RunRequest,
        resume: &Resume,
        place: Place,
        cx: &mut Context<'_>,
    ) -> Result<Joined, RouteError> {
        let run = request.run.clone();
        let (end, output_bytes) = match place {
            Place::Current { stdin_bytes, stdin_room } => {
                // Without output here it is another connection's.
                let Some(tap) = self.unpark(&run, cx) else { return Err(RouteError::RunExists(run)) };
                self.step(Input::ClientBack { run: run.clone(), timeout: request.timeout }, cx);
                let output = self.rewound(run, tap, resume, cx).into();
                return Ok(Joined { output, stdin_bytes, stdin_room, started: true });
            }
            Place::Never => {
                let (outlet, tap) = flow::stream(cx.inbox, self.kernel, &run, 0);
                self.submit(request, outlet, cx)?;
                let stdin_room = berth_link::STDIN_WINDOW;
                return Ok(Joined { output: tap.into(), stdin_bytes: 0, stdin_room, started: false });
            }
            Place::Waiting | Place::Unsettled => return Err(RouteError::RunExists(run)),
            Place::Unsure => return Err(RouteError::RunForgotten(run)),
            Place::Restarted => (RunEnd::RunnerRestarted, resume.received_bytes),
            Place::Ended { end, output_bytes } => (end, output_bytes),
        };
        let tap = match self.unpark(&run, cx) {
            Some(tap) => tap,
            // Its end is all that is left of it.
            None => {
                let (mut outlet, tap) = flow::stream(cx.inbox, self.kernel, &run, output_bytes);
                outlet.push(Output::Ended(end));
                tap
            }
        };
        let output = self.rewound(run, tap, resume, cx).into();
        Ok(Joined { output, stdin_bytes: u64::MAX, stdin_room: berth_link::STDIN_WINDOW, started: true })
    }

    pub(super) fn unpark(&mut self, run: &RunId, cx: &mut Context<'_>) -> Option<Tap> {
        let (tap, timer) = self.parked.take(run)?;
        if let Some(key) = timer {
            cx.timers.disarm(key);
        }
        Some(tap)
    }

    /// Marks what the client misses before what is left.
    fn rewound(&mut self, run: RunId, mut tap: Tap, resume: &Resume, cx: &mut Context<'_>) -> Tap {
        let bytes = resume.lost_bytes.saturating_add(tap.rewind(resume.received_bytes));
        if bytes > 0 {
            self.report(Some(Report::OutputLost { run, bytes }), cx);
        }
        tap
    }

    pub(super) fn park(&mut self, run: RunId, tap: Tap, cx: &mut Context<'_>) {
        let timer = self.arm(What::Unclaimed, cx.config.lost_client, cx);
        self.parked.put(run, tap, timer);
    }

    /// A client has gone, and may come back for what is left in its end of the stream.
    pub(in crate::route) fn client_gone(&mut self, tap: Tap, cx: &mut Context<'_>) {
        let outlet = self.outlets.iter().find(|(_, outlet)| outlet.stream_id() == Some(tap.stream_id()));
        let run = match outlet {
            Some((run, _)) => run.clone(),
            // It had ended meanwhile. Who cancelled it does not come back.
            None => match self.machine.end_of(tap.run()) {
                None | Some(RunEnd::Cancelled) => return,
                Some(_) => tap.run().clone(),
            },
        };
        self.park(run.clone(), tap, cx);
        self.step(Input::ClientGone { run }, cx);
    }
}
