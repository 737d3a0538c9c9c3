//! What callers and the routing thread share: the queue of requests with its wake-up, and the counters.
//!
//! Requests gather in one vector that the thread takes whole. Only the first request after the thread
//! has looked writes to its eventfd, so a burst costs one system call.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::desk::Doorway;
use super::door::{Answer, Caller, Frames};
use super::flow::{Limits, Outlet, OutputReceiver, Tap};
use super::inquiries::{Kind, Notice};
use super::sockets::{Link, Place};
use super::{Report, Resume, RouteError, RunRequest, RunnerStatus};
use crate::ids::{KernelId, RunId};

/// Requests that may wait; beyond that callers are told [`RouteError::Busy`].
const MAX_REQUESTS: usize = 4096;

/// Where the answer to a request goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RouteError>>;

/// What the routing thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    Attach {
        kernel: KernelId,
        link: Link,
        reports: mpsc::Sender<Report>,
        reply: Reply<()>,
    },
    /// The link comes back so that its files are not removed on the routing thread.
    Detach {
        kernel: KernelId,
        reason: String,
        reply: Reply<Option<Place>>,
    },
    Run {
        kernel: KernelId,
        request: RunRequest,
        outlet: Outlet,
        reply: Reply<()>,
    },
    /// The client of a run is back; answered when the runner has said what it knows.
    Rejoin(Box<Rejoin>),
    Ping {
        kernel: KernelId,
        reply: Reply<RunnerStatus>,
    },
    Interrupt {
        kernel: KernelId,
        run: Option<RunId>,
        reply: Reply<()>,
    },
    Cancel {
        kernel: KernelId,
        run: RunId,
        reply: Reply<()>,
    },
    Feed {
        kernel: KernelId,
        run: RunId,
        feed: Feed,
        reply: Reply<()>,
    },
    /// A client has gone; its end of the stream comes back.
    ClientGone {
        kernel: KernelId,
        tap: Tap,
    },
    /// Opens the door; answered with where it listens.
    OpenDoor {
        doorway: Box<Doorway>,
        reply: Reply<String>,
    },
    /// An answer that another thread has made.
    Deliver(Frames),
    /// The same, without the way back, which the door knows.
    Answer {
        caller: Caller,
        answer: Answer,
    },
    /// A question of another room to a runner.
    Inquire {
        kernel: KernelId,
        kind: Kind,
        payload: Bytes,
        patience: Duration,
        reply: Reply<Bytes>,
    },
    /// The runner is to know something and says nothing to it.
    Notify {
        kernel: KernelId,
        notice: Notice,
        reply: Reply<()>,
    },
    /// A run of the kernel has room again.
    Resume {
        kernel: KernelId,
    },
    Stop,
}

/// A client that is back.
#[derive(Debug)]
pub(super) struct Rejoin {
    pub(super) kernel: KernelId,
    /// As it was asked for, with what is left of its time.
    pub(super) request: RunRequest,
    pub(super) resume: Resume,
    pub(super) reply: Reply<Joined>,
}

/// What it gets.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) output: OutputReceiver,
    pub(super) stdin_bytes: u64,
    pub(super) stdin_room: usize,
    pub(super) started: bool,
}

/// What a client gives its run.
#[derive(Debug)]
pub(super) enum Feed {
    Stdin(Bytes),
    StdinEof,
    Answer(String),
}

/// What the routing thread has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages from runners.
    pub messages: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// Messages of them that made no sense: wrong number of frames, unknown type, nobody's output.
    pub stray: u64,
    /// Records whose client had gone.
    pub unwanted: u64,
    /// Times that a kernel's socket was left unread for want of room.
    pub pauses: u64,
    /// Most bytes ever buffered for one run.
    pub peak_run_bytes: u64,
    /// Most bytes ever buffered for all runs.
    pub peak_node_bytes: u64,
    /// Bytes buffered for all runs now.
    pub node_bytes: u64,
}

/// The shared part.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    /// A wake-up is on its way.
    signalled: AtomicBool,
    waker: mio::Waker,
    /// Kernels whose link directory is in use.
    attached: Mutex<HashSet<KernelId>>,
    limits: Limits,
    next_stream: AtomicU64,
    node_buffered: AtomicUsize,
    peak_run: AtomicUsize,
    peak_node: AtomicUsize,
    messages: AtomicU64,
    bytes: AtomicU64,
    stray: AtomicU64,
    unwanted: AtomicU64,
    pauses: AtomicU64,
    beats: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    requests: Vec<Request>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    pub(super) fn new(waker: mio::Waker, limits: Limits) -> Self {
        Self {
            queue: Mutex::default(),
            signalled: AtomicBool::new(false),
            waker,
            attached: Mutex::default(),
            limits,
            next_stream: AtomicU64::new(0),
            node_buffered: AtomicUsize::new(0),
            peak_run: AtomicUsize::new(0),
            peak_node: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stray: AtomicU64::new(0),
            unwanted: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }
    }

    /// Queues a request that can be refused.
    pub(super) fn push(&self, request: Request) -> Result<(), RouteError> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(RouteError::Closed);
        }
        if queue.requests.len() >= MAX_REQUESTS {
            return Err(RouteError::Busy);
        }
        queue.requests.push(request);
        drop(queue);
        self.wake();
        Ok(())
    }

    /// Queues what must not be lost; there are only as many of these as there are runs.
    pub(super) fn push_always(&self, request: Request) {
        let mut queue = lock(&self.queue);
        if !queue.closed {
            queue.requests.push(request);
            drop(queue);
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // An eventfd that cannot be written is full, and then the thread is being woken already.
            tracing::error!(%error, "could not wake the routing thread");
        }
    }

    /// Everything that waits; only the routing thread calls this.
    pub(super) fn take(&self, into: &mut Vec<Request>) {
        // Cleared first: whoever pushes after the swap below writes to the eventfd again.
        self.signalled.store(false, Ordering::SeqCst);
        std::mem::swap(&mut lock(&self.queue).requests, into);
    }

    /// Refuses everything from now on; what waits is dropped, and with it the callers' replies.
    pub(super) fn close(&self) {
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.requests)
        };
        drop(waiting);
    }

    /// Takes a kernel's name for one link directory; false when it is in use.
    pub(super) fn reserve(&self, kernel: KernelId) -> bool {
        lock(&self.attached).insert(kernel)
    }

    pub(super) fn release(&self, kernel: KernelId) {
        lock(&self.attached).remove(&kernel);
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn next_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn node_buffered(&self) -> usize {
        self.node_buffered.load(Ordering::SeqCst)
    }

    /// Counts bytes that were put into a run's buffer, which holds `run_bytes` with them.
    pub(super) fn buffer(&self, bytes: usize, run_bytes: usize) {
        let node = self.node_buffered.fetch_add(bytes, Ordering::SeqCst) + bytes;
        // Only the routing thread comes here, so load and store do not race.
        if run_bytes > self.peak_run.load(Ordering::Relaxed) {
            self.peak_run.store(run_bytes, Ordering::Relaxed);
        }
        if node > self.peak_node.load(Ordering::Relaxed) {
            self.peak_node.store(node, Ordering::Relaxed);
        }
    }

    pub(super) fn unbuffer(&self, bytes: usize) {
        self.node_buffered.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn count_messages(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_stray(&self) {
        self.stray.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_unwanted(&self, records: usize) {
        self.unwanted.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn count_pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            stray: self.stray.load(Ordering::Relaxed),
            unwanted: self.unwanted.load(Ordering::Relaxed),
            pauses: self.pauses.load(Ordering::Relaxed),
            peak_run_bytes: self.peak_run.load(Ordering::Relaxed) as u64,
            peak_node_bytes: self.peak_node.load(Ordering::Relaxed) as u64,
            node_bytes: self.node_buffered.load(Ordering::Relaxed) as u64,
        }
    }

    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}
