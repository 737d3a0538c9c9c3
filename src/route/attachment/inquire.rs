//! What a kernel's runner is asked that has one reply: completions, services, and whether it is there.

use std::time::Duration;

use bytes::Bytes;

use super::{Attachment, Context, What};
use crate::route::door::{Answer, Caller};
use crate::route::inbox::Reply;
use crate::route::inquiries::{Full, Kind, Notice, Send};
use crate::route::{RouteError, RunnerStatus};

/// How long a completion may take (contracts: kernel §1.9, IMPROVE).
pub(super) const COMPLETION: Duration = Duration::from_secs(10);
/// How long a caller of [`crate::route::door::Ask::Ping`] waits.
pub(super) const PING: Duration = Duration::from_secs(10);

/// Who waits for a reply.
#[derive(Debug)]
pub(super) enum Who {
    /// Another room of the agent, and how long it waits.
    Room(Reply<Bytes>, Duration),
    /// A call at the door.
    Door(Caller),
}

/// Who waits for an answer to `status`.
#[derive(Debug)]
pub(super) enum Pinger {
    Room(Reply<RunnerStatus>),
    Door(Caller),
}

impl Attachment {
    /// Suggestions for unfinished code.
    pub(in crate::route) fn complete(&mut self, caller: Caller, payload: Bytes, cx: &mut Context<'_>) {
        self.inquire(Kind::Completion, Who::Door(caller), payload, COMPLETION, cx);
    }

    /// Another room's question.
    pub(in crate::route) fn inquire_for_room(
        &mut self,
        (kind, payload, patience): (Kind, Bytes, Duration),
        reply: Reply<Bytes>,
        cx: &mut Context<'_>,
    ) {
        self.inquire(kind, Who::Room(reply, patience), payload, patience, cx);
    }

    /// Tells the runner something.
    pub(in crate::route) fn notify(&mut self, notice: Notice) -> Result<(), RouteError> {
        self.check_outbox()?;
        let (op, payload) = notice.into_message();
        self.queue(op, payload);
        Ok(())
    }

    fn inquire(&mut self, kind: Kind, who: Who, payload: Bytes, patience: Duration, cx: &mut Context<'_>) {
        if let (true, Some(run)) = (self.paused, self.machine.current_run()) {
            let blocked = RouteError::Blocked(run.clone());
            return answer(who, Err(blocked), cx);
        }
        self.inquiries.forget(|who| matches!(who, Who::Room(reply, _) if reply.is_closed()));
        match self.inquiries.ask(kind, who, payload, patience, cx.now) {
            Ok(send) => self.send_inquiries(send, cx),
            Err(Full(who)) => answer(who, Err(RouteError::Busy), cx),
        }
    }

    /// A reply came.
    pub(super) fn replied(&mut self, kind: Kind, payload: Bytes, cx: &mut Context<'_>) {
        let (who, send) = self.inquiries.replied(kind, cx.now);
        match who {
            Some(who) => answer(who, Ok(payload), cx),
            None => cx.inbox.count_stray(),
        }
        self.send_inquiries(send, cx);
    }

    /// Some may have waited long enough.
    pub(super) fn expire_inquiries(&mut self, cx: &mut Context<'_>) {
        self.inquiry_timer = None;
        let (over, sends) = self.inquiries.expire(cx.now);
        for who in over {
            let silent = RouteError::Silent { kernel: self.kernel, deadline: patience(&who) };
            answer(who, Err(silent), cx);
        }
        self.send_inquiries(sends, cx);
    }

    /// The runner that was asked is gone.
    pub(super) fn end_inquiries(&mut self, error: &RouteError, cx: &mut Context<'_>) {
        for who in self.inquiries.drain() {
            answer(who, Err(error.clone()), cx);
        }
    }

    fn send_inquiries(&mut self, sends: impl IntoIterator<Item = Send>, cx: &mut Context<'_>) {
        for Send { op, payload } in sends {
            self.queue(op, payload);
        }
        // One timer for all; it may find that its question was answered and be armed for the next.
        if let (None, Some(until)) = (self.inquiry_timer, self.inquiries.next_deadline()) {
            let after = until.saturating_duration_since(cx.now);
            self.inquiry_timer = self.arm(What::Inquiries, after, cx);
        }
    }

    /// Whether the runner answers, for a caller at the door.
    pub(in crate::route) fn ping_for_door(&mut self, caller: Caller, cx: &mut Context<'_>) {
        if self.paused {
            // It waits for its client and cannot answer.
            return cx.answer(caller, Answer::Pinged(None));
        }
        self.arm(What::Ping(caller), PING, cx);
        self.await_status(Pinger::Door(caller), cx);
    }

    /// A caller has waited long enough for an answer to `status`.
    pub(super) fn ping_over(&mut self, caller: Caller, cx: &mut Context<'_>) {
        let waits = |ping: &Pinger| matches!(ping, Pinger::Door(of) if *of == caller);
        if let Some(at) = self.pings.iter().position(waits) {
            self.pings.remove(at);
            cx.answer(caller, Answer::Pinged(None));
        }
    }

    /// Nobody waits for the answer to that call any more.
    pub(super) fn cancel_inquiry(&mut self, caller: Caller) {
        self.inquiries.forget(|who| matches!(who, Who::Door(of) if *of == caller));
        self.pings.retain(|ping| !matches!(ping, Pinger::Door(of) if *of == caller));
    }
}

fn patience(who: &Who) -> Duration {
    match who {
        Who::Room(_, patience) => *patience,
        Who::Door(_) => COMPLETION,
    }
}

fn answer(who: Who, reply: Result<Bytes, RouteError>, cx: &mut Context<'_>) {
    match who {
        // A caller that no longer waits has its own reasons.
        Who::Room(room, _) => drop(room.send(reply)),
        Who::Door(caller) => cx.answer(caller, Answer::Completion(reply)),
    }
}
