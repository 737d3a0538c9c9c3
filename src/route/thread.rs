//! The routing thread: one epoll over the sockets' descriptors and the inbox's eventfd, and the list of
//! kernels that want attention.
//!
//! libzmq's descriptors are edge-triggered signals of a mailbox, not of data. So a kernel is put on the
//! list when one of its descriptors fired, after every request for it and while a turn left something
//! to read. A turn reads a PULL whose descriptor fired until libzmq says that there is nothing (and has
//! emptied the mailbox), and looks at a PUSH after every send and when its descriptor fired. Nothing else
//! is asked of libzmq: each question is a system call or two. The thread sleeps only when the list is empty.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::attachment::{Attachment, Context, Due, Fd, Turn};
use super::attention::Attention;
use super::desk::{Call, Desk, Doorway};
use super::door::{Answer, Ask, Caller};
use super::flow::Outlet;
use super::inbox::{Feed, Inbox, Reply, Request};
use super::machine::{Effect, Input};
use super::reports::Reports;
use super::sockets::{Contexts, Link, Pair, Place};
use super::timers::Timers;
use super::{AGENT_STOPPED, Config, RouteError, RunRequest};
use crate::ids::KernelId;

/// The inbox's eventfd. Kernels have two tokens each, from 0.
pub(super) const WAKE: Token = Token(usize::MAX);
/// The door's sockets.
const DOOR: Token = Token(usize::MAX - 1);
/// How nice the thread is: less than kernels, which print as much as they like.
const NICE: i32 = -10;
/// Longest sleep: the thread shows that it lives at least this often (design, invariant 6).
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// The state of the thread.
pub(super) struct Task {
    poll: Poll,
    inbox: Arc<Inbox>,
    config: Config,
    contexts: Contexts,
    slots: Vec<Option<Slot>>,
    index: HashMap<KernelId, usize>,
    attention: Attention,
    timers: Timers<Due>,
    effects: Vec<Effect>,
    /// Answers to calls at the door.
    answers: Vec<(Caller, Answer)>,
    desk: Option<Desk>,
    /// The door wants attention.
    door_listed: bool,
    now: Instant,
    max_kernels: usize,
}

struct Slot {
    kernel: KernelId,
    attachment: Attachment,
}

/// Closes the inbox however the thread ends.
struct Closing(Arc<Inbox>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Task {
    pub(super) fn new(poll: Poll, inbox: Arc<Inbox>, config: Config, max_kernels: usize) -> Self {
        Self {
            poll,
            inbox,
            config,
            contexts: Contexts::default(),
            slots: Vec::new(),
            index: HashMap::new(),
            attention: Attention::default(),
            timers: Timers::new(),
            effects: Vec::new(),
            answers: Vec::new(),
            desk: None,
            door_listed: false,
            now: Instant::now(),
            max_kernels,
        }
    }

    /// Runs until [`Request::Stop`].
    pub(super) fn run(mut self) {
        let _closing = Closing(Arc::clone(&self.inbox));
        // It has little to do for each message and everybody waits for it; libzmq's threads, which it starts, take
        // over what it has. Only root may; for others it stays as it is.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        let mut events = Events::with_capacity(1024);
        let mut requests = Vec::new();
        loop {
            self.inbox.beat();
            self.now = Instant::now();
            self.inbox.take(&mut requests);
            for request in requests.drain(..) {
                if matches!(request, Request::Stop) {
                    return self.stop();
                }
                self.request(request);
            }
            self.fire_timers();
            self.door_turn();
            self.turns();
            self.answer_calls();
            let busy = self.door_listed || self.attention.len() > 0;
            let sleep = if busy { Duration::ZERO } else { self.sleep() };
            match self.poll.poll(&mut events, Some(sleep)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the routing thread cannot wait for its sockets and ends");
                    return self.stop();
                }
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    DOOR => self.door_listed = true,
                    Token(number) => {
                        self.fired(number / 2, if number % 2 == 0 { Fd::Push } else { Fd::Pull })
                    }
                }
            }
        }
    }

    fn sleep(&self) -> Duration {
        let offer = self.desk.as_ref().and_then(Desk::again);
        let next = self.timers.next().into_iter().chain(offer).min();
        let next = next.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up: epoll counts milliseconds, and a sleep cut short would spin until the timer is due.
        next.map_or(LONGEST_SLEEP, |next| LONGEST_SLEEP.min(next + Duration::from_millis(1)))
    }

    /// A descriptor of a kernel has fired; perhaps of one that is no more.
    fn fired(&mut self, slot: usize, which: Fd) {
        if let Some(Some(entry)) = self.slots.get_mut(slot) {
            entry.attachment.fired(which);
            self.attend(slot);
        }
    }

    /// Puts a kernel on the list.
    fn attend(&mut self, slot: usize) {
        // Events of a kernel that is no more may still come.
        if let Some(Some(_)) = self.slots.get(slot) {
            self.attention.want(slot);
        }
    }

    /// One turn for each kernel on the list.
    fn turns(&mut self) {
        for _ in 0..self.attention.len() {
            let Some(slot) = self.attention.next() else { return };
            let turn = self.with(slot, |attachment, cx| attachment.turn(cx));
            if turn == Some(Turn::More) {
                self.attend(slot);
            }
        }
    }

    fn fire_timers(&mut self) {
        while let Some((key, Due { slot, kernel, what })) = self.timers.due(self.now) {
            if self.index.get(&kernel) == Some(&slot) {
                self.with(slot, |attachment, cx| attachment.due(key, what, cx));
                self.attend(slot);
            }
        }
    }

    fn with<T>(
        &mut self,
        slot: usize,
        work: impl FnOnce(&mut Attachment, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let entry = self.slots.get_mut(slot)?.as_mut()?;
        let mut cx = Context {
            now: self.now,
            timers: &mut self.timers,
            effects: &mut self.effects,
            inbox: &self.inbox,
            config: &self.config,
            answers: &mut self.answers,
        };
        Some(work(&mut entry.attachment, &mut cx))
    }

    /// Asks something of a kernel and answers the caller.
    fn ask<T>(
        &mut self,
        kernel: KernelId,
        reply: Reply<T>,
        work: impl FnOnce(&mut Attachment, &mut Context<'_>) -> Result<T, RouteError>,
    ) {
        let slot = self.index.get(&kernel).copied();
        let answer =
            slot.and_then(|slot| self.with(slot, work)).unwrap_or(Err(RouteError::NotAttached(kernel)));
        if let Some(slot) = slot {
            self.attend(slot);
        }
        // A caller that no longer waits has its own reasons.
        let _ = reply.send(answer);
    }

    /// Does something for a kernel that nobody waits for.
    fn tell(&mut self, kernel: KernelId, work: impl FnOnce(&mut Attachment, &mut Context<'_>)) {
        if let Some(&slot) = self.index.get(&kernel) {
            self.with(slot, work);
            self.attend(slot);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Attach { kernel, link, reports, reply } => {
                let _ = reply.send(self.attach(kernel, link, Reports::new(reports)));
            }
            Request::Detach { kernel, reason, reply } => {
                let _ = reply.send(Ok(self.detach(kernel, &reason)));
            }
            Request::Run { kernel, request, outlet, reply } => self.submit(kernel, request, outlet, reply),
            Request::Rejoin(rejoin) => {
                let kernel = rejoin.kernel;
                if self.index.contains_key(&kernel) {
                    self.tell(kernel, |attachment, cx| attachment.rejoin(*rejoin, cx));
                } else {
                    let _ = rejoin.reply.send(Err(RouteError::NotAttached(kernel)));
                }
            }
            Request::Ping { kernel, reply } => {
                if self.index.contains_key(&kernel) {
                    self.tell(kernel, |attachment, cx| attachment.ping(reply, cx));
                } else {
                    let _ = reply.send(Err(RouteError::NotAttached(kernel)));
                }
            }
            Request::Interrupt { kernel, run, reply } => {
                self.ask(kernel, reply, |attachment, cx| attachment.checked(Input::Interrupt { run }, cx));
            }
            Request::Cancel { kernel, run, reply } => self.ask(kernel, reply, |attachment, cx| {
                attachment.step(Input::Cancel { run }, cx);
                Ok(())
            }),
            Request::Feed { kernel, run, feed, reply } => {
                self.ask(kernel, reply, |attachment, cx| match feed {
                    Feed::Stdin(data) => attachment.stdin(run, data, cx),
                    Feed::StdinEof => attachment.checked(Input::StdinEof { run }, cx),
                    Feed::Answer(text) => attachment.checked(Input::Answer { run, text }, cx),
                });
            }
            Request::ClientGone { kernel, tap } => {
                self.tell(kernel, |attachment, cx| attachment.client_gone(tap, cx));
            }
            Request::OpenDoor { doorway, reply } => {
                let _ = reply.send(self.open_door(*doorway));
            }
            Request::Answer { caller, answer } => {
                if let Some(desk) = &mut self.desk {
                    desk.answer(caller, answer);
                    self.door_listed = true;
                }
            }
            Request::Deliver(frames) => {
                if let Some(desk) = &mut self.desk {
                    desk.send(frames);
                    self.door_listed = true;
                }
            }
            Request::Inquire { kernel, kind, payload, patience, reply } => {
                if self.index.contains_key(&kernel) {
                    let question = (kind, payload, patience);
                    self.tell(kernel, |attachment, cx| attachment.inquire_for_room(question, reply, cx));
                } else {
                    let _ = reply.send(Err(RouteError::NotAttached(kernel)));
                }
            }
            Request::Notify { kernel, notice, reply } => {
                self.ask(kernel, reply, |attachment, _| attachment.notify(notice));
            }
            Request::Resume { kernel } => self.tell(kernel, |_, _| ()),
            Request::Stop => {}
        }
    }

    fn open_door(&mut self, doorway: Doorway) -> Result<String, RouteError> {
        let listen = doorway.listen.clone();
        let refuse = |problem: String| RouteError::Door { listen: listen.clone(), problem };
        if self.desk.is_some() {
            return Err(refuse("there is a door already".to_owned()));
        }
        let desk = Desk::open(doorway, &self.inbox)?;
        for fd in desk.fds().map_err(|error| refuse(error.to_string()))? {
            let registered = self.poll.registry().register(&mut SourceFd(&fd), DOOR, Interest::READABLE);
            registered.map_err(|error| refuse(error.to_string()))?;
        }
        let endpoint = desk.endpoint().to_owned();
        (self.desk, self.door_listed) = (Some(desk), true);
        Ok(endpoint)
    }

    /// One turn for the door.
    fn door_turn(&mut self) {
        let Some(mut desk) = self.desk.take() else { return };
        desk.offer_again(self.now);
        if std::mem::take(&mut self.door_listed) {
            self.door_listed = desk.turn(|call| self.call(call));
        }
        self.desk = Some(desk);
    }

    /// What somebody at the door wants of a kernel.
    fn call(&mut self, call: Call) {
        let (Call::Ask { kernel, .. } | Call::Cancel { kernel, .. }) = call;
        let slot = self.index.get(&kernel).copied();
        match (slot, call) {
            (Some(slot), Call::Ask { caller, what, .. }) => {
                self.with(slot, |attachment, cx| match what {
                    Ask::Execute(turn) => attachment.execute(caller, turn, cx),
                    Ask::Complete(payload) => attachment.complete(caller, payload, cx),
                    Ask::Ping => attachment.ping_for_door(caller, cx),
                    Ask::Interrupt => {
                        let sent = attachment.checked(Input::Interrupt { run: None }, cx);
                        cx.answer(caller, sent.map_or_else(Answer::Failed, |()| Answer::Interrupted));
                    }
                });
                self.attend(slot);
            }
            (Some(slot), Call::Cancel { caller, .. }) => {
                self.with(slot, |attachment, cx| attachment.cancel_call(caller, cx));
                self.answers.push((caller, Answer::Cancelled));
                self.attend(slot);
            }
            (None, Call::Ask { caller, kernel, .. }) => {
                self.answers.push((caller, Answer::Failed(RouteError::NotAttached(kernel))));
            }
            (None, Call::Cancel { caller, .. }) => self.answers.push((caller, Answer::Cancelled)),
        }
    }

    /// Sends what was answered.
    fn answer_calls(&mut self) {
        let Some(desk) = &mut self.desk else { return };
        for (caller, answer) in self.answers.drain(..) {
            desk.answer(caller, answer);
        }
        // Also after what the turn itself has sent.
        self.door_listed |= desk.settle();
    }

    fn submit(&mut self, kernel: KernelId, request: RunRequest, outlet: Outlet, reply: Reply<()>) {
        self.ask(kernel, reply, |attachment, cx| attachment.submit(request, outlet, cx));
    }

    fn attach(&mut self, kernel: KernelId, link: Link, reports: Reports) -> Result<(), RouteError> {
        let at = link.place.at().clone();
        let refuse = |problem: String| RouteError::Bind { at: at.clone(), problem };
        if self.index.len() >= self.max_kernels {
            return Err(refuse(format!(
                "the limit of open files is used up by {} kernels; raise it (`LimitNOFILE=` of the service)",
                self.index.len()
            )));
        }
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let pair = Pair::open(&mut self.contexts, link).map_err(|error| refuse(error.to_string()))?;
        let mut cx = Context {
            now: self.now,
            timers: &mut self.timers,
            effects: &mut self.effects,
            inbox: &self.inbox,
            config: &self.config,
            answers: &mut self.answers,
        };
        let attachment = Attachment::new((kernel, slot), pair, reports, &mut cx);
        let watched = attachment.fds().map_err(io::Error::other).and_then(|fds| {
            let registry = self.poll.registry();
            registry.register(&mut SourceFd(&fds[0]), Token(2 * slot), Interest::READABLE)?;
            registry.register(&mut SourceFd(&fds[1]), Token(2 * slot + 1), Interest::READABLE)
        });
        self.index.insert(kernel, slot);
        self.slots[slot] = Some(Slot { kernel, attachment });
        if let Err(error) = watched {
            drop(self.detach(kernel, "failed-to-start"));
            return Err(refuse(error.to_string()));
        }
        self.attend(slot);
        Ok(())
    }

    fn detach(&mut self, kernel: KernelId, reason: &str) -> Option<Place> {
        let slot = self.index.remove(&kernel)?;
        let attachment = self.slots[slot].take()?.attachment;
        if let Ok(fds) = attachment.fds() {
            // Before the close, which libzmq does later and elsewhere, when the numbers may be others'.
            for fd in fds {
                let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
            }
        }
        self.attention.forget(slot);
        let mut cx = Context {
            now: self.now,
            timers: &mut self.timers,
            effects: &mut self.effects,
            inbox: &self.inbox,
            config: &self.config,
            answers: &mut self.answers,
        };
        let (pair, place) = attachment.end(reason, &mut cx);
        pair.close(&mut self.contexts);
        Some(place)
    }

    fn stop(mut self) {
        let kernels: Vec<_> = self.slots.iter().flatten().map(|slot| slot.kernel).collect();
        for kernel in kernels {
            drop(self.detach(kernel, AGENT_STOPPED));
        }
    }
}
