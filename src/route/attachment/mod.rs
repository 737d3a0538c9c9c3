//! One kernel on the routing thread: its sockets, its run machine, the outlets of its runs and what
//! waits to be sent. Carries out what the machine asks for.
//!
//! * [`clients`]: clients of streams that go and come back; [`windows`]: clients that poll;
//! * [`inquire`]: questions with one reply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_link::Op;
use bytes::Bytes;

use super::door::{self, Caller};
use super::flow::{self, Outlet};
use super::inbox::{Inbox, Rejoin, Reply};
use super::inquiries::Inquiries;
use super::keepalive::{Answer, Keepalive};
use super::machine::{self, Effect, Input, Machine};
use super::parked::Parked;
use super::reports::Reports;
use super::sockets::{Pair, Place, Reader, Received};
use super::timers::{Key, Timers};
use super::window::Window;
use super::wire::{self, Meaning};
use super::{Config, Output, Report, RouteError, RunEnd, RunRequest, RunnerStatus};
use crate::ids::{KernelId, RunId};

mod clients;
mod inquire;
mod windows;

use inquire::{Pinger, Who};
use windows::{FIRST_ANSWER, Held};

/// Messages read from one kernel before the others have their turn (design §3).
const TURN_MESSAGES: usize = 256;
/// Bytes read from one kernel before the others have their turn (design §3).
const TURN_BYTES: usize = 1 << 20;
/// Runs that may wait for their turn in one kernel.
const MAX_WAITING: usize = 128;
/// Bytes that may wait for a runner that takes nothing; beyond that callers are told to try again.
const OUTBOX_BYTES: usize = 8 << 20;
/// Messages that may wait likewise.
const OUTBOX_MESSAGES: usize = 1024;
/// How often reports are offered again to an actor that was too busy for them.
const REPORTS_AGAIN: Duration = Duration::from_millis(200);
/// A caller's question is sent again when the open one has waited this long: it may be lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Whose timer it is.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) slot: usize,
    pub(super) kernel: KernelId,
    pub(super) what: What,
}

/// What is due.
#[derive(Debug, Clone)]
pub(super) enum What {
    Run(RunId, machine::Timer),
    /// Nobody came for a run's output.
    Unclaimed,
    /// A call has waited long enough for output of a run.
    Flush(RunId),
    /// Nobody has polled a run for long.
    Unpolled(RunId),
    /// A question may have waited long enough.
    Inquiries,
    /// A caller has waited long enough for an answer to `status`.
    Ping(Caller),
    Keepalive,
    Reports,
}

/// What the thread lends to the kernel it works on.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) timers: &'a mut Timers<Due>,
    pub(super) effects: &'a mut Vec<Effect>,
    pub(super) inbox: &'a Arc<Inbox>,
    pub(super) config: &'a Config,
    /// Answers to calls at the door.
    pub(super) answers: &'a mut Vec<(Caller, door::Answer)>,
}

impl Context<'_> {
    pub(super) fn answer(&mut self, caller: Caller, answer: door::Answer) {
        self.answers.push((caller, answer));
    }
}

/// A descriptor of a kernel's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fd {
    /// Of the PUSH.
    Push,
    /// Of the PULL.
    Pull,
}

/// What a turn left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to read.
    More,
    /// All is read, or there is no room for more.
    Done,
}

/// One attached kernel.
#[derive(Debug)]
pub(super) struct Attachment {
    kernel: KernelId,
    slot: usize,
    pair: Pair,
    place: Place,
    machine: Machine,
    /// Of the runs that have not ended, in the order of their turns.
    outlets: VecDeque<(RunId, Outlet)>,
    /// Output without a client.
    parked: Parked,
    /// Clients that came back before the runner's first answer.
    rejoining: Vec<Rejoin>,
    /// Calls that came before it.
    held: Vec<Held>,
    /// Ended runs whose clients have not been told.
    kept: Vec<Window>,
    inquiries: Inquiries<Who>,
    inquiry_timer: Option<Key>,
    outbox: VecDeque<(Op, Bytes)>,
    outbox_bytes: usize,
    /// Whether the runner was connected when last looked.
    connected: bool,
    /// The PULL's descriptor has fired, and it was not read to its end since.
    unread: bool,
    /// The PUSH's descriptor has fired, and its mailbox was not handled since.
    unsettled: bool,
    paused: bool,
    /// By CLOCK_MONOTONIC in seconds: when the current task went out.
    task_sent_at: Option<f64>,
    keepalive: Keepalive,
    keepalive_timer: Option<Key>,
    reports: Reports,
    reports_timer: Option<Key>,
    run_timers: Vec<(RunId, machine::Timer, Key)>,
    pings: Vec<Pinger>,
}

impl Attachment {
    /// A kernel whose sockets were just bound; asks its runner at once.
    pub(super) fn new(
        (kernel, slot): (KernelId, usize),
        (pair, place): (Pair, Place),
        reports: Reports,
        cx: &mut Context<'_>,
    ) -> Self {
        let mut this = Self {
            kernel,
            slot,
            pair,
            place,
            machine: Machine::new(cx.config.lost_client),
            outlets: VecDeque::new(),
            parked: Parked::default(),
            rejoining: Vec::new(),
            held: Vec::new(),
            kept: Vec::new(),
            inquiries: Inquiries::default(),
            inquiry_timer: None,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            connected: false,
            unread: true,
            unsettled: true,
            paused: false,
            task_sent_at: None,
            keepalive: Keepalive::new(cx.now),
            keepalive_timer: None,
            reports,
            reports_timer: None,
            run_timers: Vec::new(),
            pings: Vec::new(),
        };
        this.ask(true, cx);
        this
    }

    /// The descriptor of one of the sockets has fired.
    pub(super) fn fired(&mut self, which: Fd) {
        match which {
            Fd::Push => self.unsettled = true,
            Fd::Pull => self.unread = true,
        }
    }

    /// The sockets' descriptors.
    pub(super) fn fds(&self) -> Result<[i32; 2], zmq::Error> {
        self.pair.fds()
    }

    /// Ends every run and gives back what is to be closed.
    pub(super) fn end(mut self, reason: &str, cx: &mut Context<'_>) -> (Pair, Place) {
        self.step(Input::Detach { reason: reason.to_owned() }, cx);
        let gone = RouteError::NotAttached(self.kernel);
        self.fail_held(&gone, cx);
        self.end_inquiries(&gone, cx);
        for ping in self.pings.drain(..) {
            match ping {
                Pinger::Room(reply) => drop(reply.send(Err(gone.clone()))),
                Pinger::Door(caller) => cx.answer(caller, door::Answer::Pinged(None)),
            }
        }
        for key in self.window_timers() {
            cx.timers.disarm(key);
        }
        let timers = [self.keepalive_timer, self.reports_timer, self.inquiry_timer].into_iter().flatten();
        for key in timers.chain(self.parked.timers()).chain(self.run_timers.iter().map(|(_, _, key)| *key)) {
            cx.timers.disarm(key);
        }
        for Rejoin { kernel, reply, .. } in self.rejoining.drain(..) {
            let _ = reply.send(Err(RouteError::NotAttached(kernel)));
        }
        (self.pair, self.place)
    }

    /// Queues a run.
    pub(super) fn submit(
        &mut self,
        request: RunRequest,
        outlet: Outlet,
        cx: &mut Context<'_>,
    ) -> Result<(), RouteError> {
        if self.machine.knows(&request.run) {
            return Err(RouteError::RunExists(request.run));
        }
        if self.machine.waiting() >= MAX_WAITING {
            return Err(RouteError::Busy);
        }
        self.outlets.push_back((request.run.clone(), outlet));
        self.step(Input::Submit(request), cx);
        Ok(())
    }

    /// Sends standard input, within the run's window.
    pub(super) fn stdin(&mut self, run: RunId, data: Bytes, cx: &mut Context<'_>) -> Result<(), RouteError> {
        if data.len() > self.machine.stdin_room(&run) {
            return Err(RouteError::Busy);
        }
        self.checked(Input::Stdin { run, data }, cx)
    }

    /// A step that may send something on a caller's behalf.
    pub(super) fn checked(&mut self, input: Input<'_>, cx: &mut Context<'_>) -> Result<(), RouteError> {
        self.check_outbox()?;
        self.step(input, cx);
        Ok(())
    }

    /// Whether a caller may add to what waits for the runner.
    fn check_outbox(&self) -> Result<(), RouteError> {
        if self.outbox_bytes > OUTBOX_BYTES || self.outbox.len() > OUTBOX_MESSAGES {
            return Err(RouteError::Busy);
        }
        Ok(())
    }

    /// Asks the runner for its status; the reply gets the next answer.
    pub(super) fn ping(&mut self, reply: Reply<RunnerStatus>, cx: &mut Context<'_>) {
        if let (true, Some(run)) = (self.paused, self.machine.current_run()) {
            let _ = reply.send(Err(RouteError::Blocked(run.clone())));
            return;
        }
        // A caller whose deadline has passed has dropped its end.
        self.pings.retain(|ping| !matches!(ping, Pinger::Room(reply) if reply.is_closed()));
        self.await_status(Pinger::Room(reply), cx);
    }

    fn await_status(&mut self, ping: Pinger, cx: &mut Context<'_>) {
        self.pings.push(ping);
        if self.keepalive.open_for(cx.now).is_none_or(|open| open >= ASK_AGAIN) {
            self.ask(false, cx);
        }
    }

    /// A timer of this kernel has fired.
    pub(super) fn due(&mut self, key: Key, what: What, cx: &mut Context<'_>) {
        match what {
            What::Run(run, timer) => {
                self.run_timers.retain(|(_, _, armed)| *armed != key);
                self.step(Input::Timer { run, timer }, cx);
            }
            What::Unclaimed => self.parked.due(key),
            What::Flush(run) => self.serve(&run, true, cx),
            What::Unpolled(run) => self.unpolled(&run),
            What::Inquiries => self.expire_inquiries(cx),
            What::Ping(caller) => self.ping_over(caller, cx),
            What::Reports => {
                self.reports_timer = None;
                self.report(None, cx);
            }
            What::Keepalive => {
                self.keepalive_timer = None;
                let open = self.keepalive.open_for(cx.now).is_some();
                if open && self.paused {
                    // It waits for its client and cannot answer; that is not unhealthy.
                    return self.arm_keepalive(cx);
                }
                if open {
                    let silent = self.keepalive.silent_for(cx.now);
                    if silent >= FIRST_ANSWER && self.machine.is_unsettled() {
                        let error = RouteError::Silent { kernel: self.kernel, deadline: silent };
                        self.fail_held(&error, cx);
                    }
                    self.report(Some(Report::Silent(silent)), cx);
                }
                self.ask(true, cx);
            }
        }
    }

    /// Sends what waits and reads what came, at most one turn's worth.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        self.send(cx);
        let (mut messages, mut bytes) = (0, 0);
        let mut reader = Reader::new();
        let mut turn = Turn::Done;
        while self.unread {
            if messages >= TURN_MESSAGES || bytes >= TURN_BYTES {
                turn = Turn::More;
                break;
            }
            if !self.has_room(cx) {
                break;
            }
            match self.pair.recv(&mut reader) {
                Received::Nothing => self.unread = false,
                Received::Malformed(length) => {
                    bytes += length;
                    cx.inbox.count_stray();
                }
                Received::Message => {
                    bytes += reader.bytes();
                    let payload = reader.take_payload();
                    self.receive(wire::read(reader.kind(), payload), cx);
                }
            }
            messages += 1;
        }
        cx.inbox.count_messages(messages as u64, bytes as u64);
        if let Some((_, outlet)) = self.outlets.front_mut() {
            outlet.flush();
        }
        self.serve_current(cx);
        self.send(cx);
        turn
    }

    fn has_room(&mut self, cx: &Context<'_>) -> bool {
        let room = match (self.machine.current_run(), self.outlets.front_mut()) {
            (Some(_), Some((_, outlet))) => outlet.has_room(),
            _ => true,
        };
        if !room && !self.paused {
            cx.inbox.count_pause();
        }
        self.paused = !room;
        room
    }

    fn receive(&mut self, meaning: Meaning, cx: &mut Context<'_>) {
        match meaning {
            Meaning::Record(record) => self.step(Input::Record(record), cx),
            Meaning::Status(status) => self.answered(*status, cx),
            Meaning::Reply(kind, payload) => self.replied(kind, payload, cx),
            Meaning::Stray => {
                tracing::debug!(kernel = %self.kernel, "the runner sent something nobody asked for");
                cx.inbox.count_stray();
            }
        }
    }

    fn answered(&mut self, status: RunnerStatus, cx: &mut Context<'_>) {
        let Answer::Fresh { keepalive } = self.keepalive.answered(cx.now, &status) else { return };
        if self.machine.incarnation().is_some_and(|before| status.incarnation.as_deref() != Some(before)) {
            let error = RouteError::Restarted(self.kernel);
            self.end_inquiries(&error, cx);
        }
        let task_is_its = self.task_sent_at.is_some_and(|sent| sent >= status.started_at);
        self.step(Input::Answered { status: &status, keepalive, task_is_its }, cx);
        for ping in self.pings.drain(..) {
            match ping {
                Pinger::Room(reply) => drop(reply.send(Ok(status.clone()))),
                Pinger::Door(caller) => cx.answer(caller, door::Answer::Pinged(Some(status.started_at))),
            }
        }
        self.report(Some(Report::Answered(Box::new(status))), cx);
        self.arm_keepalive(cx);
        for rejoin in std::mem::take(&mut self.rejoining) {
            self.rejoin(rejoin, cx);
        }
        self.take_up_held(cx);
    }

    fn ask(&mut self, by_timer: bool, cx: &mut Context<'_>) {
        let question = self.keepalive.ask(cx.now, monotonic_seconds(), by_timer);
        if !self.outbox.iter().any(|(op, _)| *op == Op::Status) {
            self.queue(Op::Status, question.into());
        }
        self.arm_keepalive(cx);
    }

    fn arm_keepalive(&mut self, cx: &mut Context<'_>) {
        if let Some(key) = self.keepalive_timer.take() {
            cx.timers.disarm(key);
        }
        self.keepalive_timer = self.arm(What::Keepalive, cx.config.keepalive, cx);
    }

    fn arm(&self, what: What, after: Duration, cx: &mut Context<'_>) -> Option<Key> {
        cx.timers.arm(cx.now, after, Due { slot: self.slot, kernel: self.kernel, what })
    }

    fn report(&mut self, report: Option<Report>, cx: &mut Context<'_>) {
        let left = match report {
            Some(report) => {
                self.reports.push(report);
                self.reports.flush()
            }
            None => self.reports.flush(),
        };
        if left && self.reports_timer.is_none() {
            self.reports_timer = self.arm(What::Reports, REPORTS_AGAIN, cx);
        }
    }

    /// One step of the run machine and everything that follows from it.
    pub(super) fn step(&mut self, input: Input<'_>, cx: &mut Context<'_>) {
        let mut effects = std::mem::take(cx.effects);
        self.machine.step(input, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Emit(Output::Started) => self.started(cx),
                Effect::Emit(output) => {
                    if let Some((_, outlet)) = self.outlets.front_mut() {
                        outlet.push(output);
                    }
                }
                Effect::Adopt { run, at } => {
                    let (mut outlet, tap) = flow::stream(cx.inbox, self.kernel, &run, at);
                    outlet.begin(self.machine.incarnation());
                    self.outlets.push_front((run.clone(), outlet));
                    self.park(run, tap, cx);
                }
                Effect::Send(op, payload) => self.queue(op, payload),
                Effect::Ended { run, end } => self.ended(run, end, cx),
                Effect::Arm { run, timer, after } => {
                    let key = self.arm(What::Run(run.clone(), timer), after, cx);
                    self.run_timers.extend(key.map(|key| (run, timer, key)));
                }
                Effect::Disarm { run, timer } => {
                    self.disarm(cx, |of, armed| *of == run && armed == timer);
                }
                Effect::Stray => {
                    tracing::debug!(kernel = %self.kernel, "output that belongs to no run is dropped");
                    cx.inbox.count_stray();
                }
            }
        }
        *cx.effects = effects;
    }

    fn started(&mut self, cx: &mut Context<'_>) {
        let Some((run, outlet)) = self.outlets.front_mut() else { return };
        outlet.begin(self.machine.incarnation());
        outlet.push(Output::Started);
        if matches!(outlet, Outlet::Window(_)) {
            let run = run.clone();
            self.arm_flush(&run, cx);
        }
    }

    /// A caller gives its call up.
    pub(super) fn cancel_call(&mut self, caller: Caller, cx: &mut Context<'_>) {
        self.cancel_turn(caller, cx);
        self.cancel_inquiry(caller);
    }

    fn ended(&mut self, run: RunId, end: RunEnd, cx: &mut Context<'_>) {
        self.disarm(cx, |of, _| *of == run);
        if end == RunEnd::Cancelled {
            // Nobody wants the rest.
            drop(self.unpark(&run, cx));
        }
        if let Some(at) = self.outlets.iter().position(|(of, _)| *of == run)
            && let Some((_, outlet)) = self.outlets.remove(at)
        {
            match outlet {
                Outlet::Window(window) => self.ended_window(*window, end.clone(), cx),
                // Dropping the outlet hands its last batch over.
                mut stream => stream.push(Output::Ended(end.clone())),
            }
        }
        self.report(Some(Report::RunEnded { run, end }), cx);
    }

    fn disarm(&mut self, cx: &mut Context<'_>, which: impl Fn(&RunId, machine::Timer) -> bool) {
        self.run_timers.retain(|(of, timer, key)| {
            let disarmed = which(of, *timer);
            if disarmed {
                cx.timers.disarm(*key);
            }
            !disarmed
        });
    }

    fn queue(&mut self, op: Op, payload: Bytes) {
        self.outbox_bytes += payload.len();
        self.outbox.push_back((op, payload));
    }

    /// Sends until nothing is left or the runner takes no more. Every pass ends by handling the PUSH's
    /// mailbox, so that its descriptor fires again when there is room or a peer.
    fn send(&mut self, cx: &mut Context<'_>) {
        while self.unsettled || !self.outbox.is_empty() {
            while let Some((op, payload)) = self.outbox.front() {
                if !self.pair.send(op.as_str(), payload) {
                    break;
                }
                if matches!(op, Op::Exec | Op::Argv | Op::Code) {
                    self.task_sent_at = Some(monotonic_seconds());
                }
                self.outbox_bytes -= payload.len();
                self.outbox.pop_front();
            }
            let writable = self.pair.is_writable();
            self.unsettled = false;
            if writable && !self.connected && self.keepalive.open_for(cx.now).is_some() {
                // A runner has connected; a question to the one before it is lost.
                self.connected = true;
                self.ask(true, cx);
            }
            self.connected = writable;
            if !writable {
                return;
            }
        }
    }
}

/// Seconds by CLOCK_MONOTONIC, which runners on this host stamp their answers with.
pub(super) fn monotonic_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    #[expect(clippy::cast_precision_loss, reason = "seconds since boot need no 52 bits")]
    let seconds = now.tv_sec as f64;
    seconds + f64::from(u32::try_from(now.tv_nsec).unwrap_or(0)) / 1e9
}
