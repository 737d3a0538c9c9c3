//! One thread that reads the output pipes of everything the runner started and writes standard input.
//!
//! A pipe stays watched until its last writer is gone: what a leftover of an ended task prints goes to
//! the task that runs then, else to the log only. [`Pump::settle`] is the promise behind `finished`:
//! when it returns, everything that was written before the call is queued.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_link::{CHUNK_MAX, MessageType};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::console::Console;
use super::feed::{Feed, Next};
use super::outbox::Outbox;

/// How long a pipe that is still held after its task has ended must be silent.
const QUIET: Duration = Duration::from_millis(100);
/// How long such a pipe is waited for when it is never silent.
const QUIET_MAX: Duration = Duration::from_secs(1);

/// Whose pipes: a task, or the language process over all its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub u64);

/// How long to wait for more than was written already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: the writer lives on.
    None,
    /// The writer has ended; what inherited the pipe may still be about to print.
    Quiet,
}

enum Command {
    Watch(Source),
    Feed(OwnedFd, Arc<Feed>),
    Settle(Owner, Patience, SyncSender<()>),
}

struct Source {
    owner: Owner,
    kind: MessageType,
    pipe: OwnedFd,
    /// Bytes that must be read before the owner's settling is over.
    owed: u64,
    open: bool,
}

struct Settling {
    owner: Owner,
    patience: Patience,
    done: SyncSender<()>,
    /// Set once nothing is owed any more.
    quiet_since: Option<(Instant, Instant)>,
}

/// Handle of the thread.
#[derive(Clone)]
pub struct Pump {
    shared: Arc<Shared>,
}

struct Shared {
    commands: Mutex<Vec<Command>>,
    wake: OwnedFd,
}

impl Pump {
    /// Makes the handle and the thread's body.
    ///
    /// # Errors
    /// When the system has no room for one more descriptor.
    pub fn new(
        outbox: Arc<Outbox>,
        console: Arc<Console>,
    ) -> rustix::io::Result<(Self, impl FnOnce() + Send)> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { commands: Mutex::default(), wake });
        let body = Body {
            shared: Arc::clone(&shared),
            outbox,
            console,
            sources: Vec::new(),
            settling: Vec::new(),
            feeds: Vec::new(),
            buffer: vec![0; CHUNK_MAX],
        };
        Ok((Self { shared }, move || body.run()))
    }

    /// Reads a pipe from now on.
    pub fn watch(&self, owner: Owner, kind: MessageType, pipe: OwnedFd) {
        self.send(Command::Watch(Source { owner, kind, pipe, owed: 0, open: true }));
    }

    /// Writes a feed into a pipe from now on. The pipe must not block.
    pub fn feed(&self, pipe: OwnedFd, feed: Arc<Feed>) {
        self.send(Command::Feed(pipe, feed));
    }

    /// Waits until everything that the owner has written is queued.
    pub fn settle(&self, owner: Owner, patience: Patience) {
        let (done, settled) = sync_channel(1);
        self.send(Command::Settle(owner, patience, done));
        // Fails only when the thread is gone, and then there is nothing to wait for.
        let _gone = settled.recv();
    }

    /// Looks at the feeds again.
    pub fn wake(&self) {
        // Full means that it wakes up already.
        let _full = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    fn send(&self, command: Command) {
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        self.wake();
    }
}

struct Body {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    console: Arc<Console>,
    sources: Vec<Source>,
    settling: Vec<Settling>,
    feeds: Vec<(OwnedFd, Arc<Feed>)>,
    buffer: Vec<u8>,
}

impl Body {
    fn run(mut self) {
        loop {
            self.take_commands();
            self.close_feeds();
            self.end_settling();
            let ready = self.wait();
            let (woken, ready) = ready.split_first().unwrap_or((&false, &[]));
            if *woken {
                let mut counter = [0; 8];
                let _empty = rustix::io::read(&self.shared.wake, &mut counter);
            }
            let (sources, feeds) = ready.split_at_checked(self.sources.len()).unwrap_or_default();
            for (index, ready) in feeds.iter().enumerate() {
                if *ready {
                    self.write(index);
                }
            }
            for (index, ready) in sources.iter().enumerate() {
                if *ready {
                    self.read(index);
                }
            }
            self.sources.retain(|source| source.open);
        }
    }

    fn take_commands(&mut self) {
        let commands =
            std::mem::take(&mut *self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner));
        for command in commands {
            match command {
                Command::Watch(source) => self.sources.push(source),
                Command::Feed(pipe, feed) => self.feeds.push((pipe, feed)),
                Command::Settle(owner, patience, done) => {
                    for source in self.sources.iter_mut().filter(|source| source.owner == owner) {
                        source.owed = rustix::io::ioctl_fionread(&source.pipe).unwrap_or(0);
                    }
                    self.settling.push(Settling { owner, patience, done, quiet_since: None });
                }
            }
        }
    }

    /// Waits for any descriptor: the wake-up, the sources, the feeds, in this order.
    fn wait(&self) -> Vec<bool> {
        let timeout = self.settling.iter().filter_map(Settling::deadline).min().map(|deadline| {
            // One millisecond more, so that the deadline has passed when poll returns.
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        fds.extend(self.sources.iter().map(|source| PollFd::new(&source.pipe, PollFlags::IN)));
        fds.extend(self.feeds.iter().map(|(pipe, feed)| {
            // Without an event the end of the reader is still reported.
            let events = if feed.next() == Next::Write { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(pipe, events)
        }));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(_) => vec![false; fds.len()],
        }
    }

    fn read(&mut self, index: usize) {
        let Some(source) = self.sources.get_mut(index) else { return };
        let count = match rustix::io::read(&source.pipe, &mut self.buffer) {
            Ok(0) => {
                source.open = false;
                return;
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => {
                source.open = false;
                return;
            }
        };
        source.owed = source.owed.saturating_sub(count as u64);
        let (owner, kind) = (source.owner, source.kind);
        let bytes = self.buffer.get(..count).unwrap_or_default();
        self.console.copy(kind, bytes);
        self.outbox.console(kind, bytes);
        for settling in self.settling.iter_mut().filter(|settling| settling.owner == owner) {
            if let Some((_, last)) = &mut settling.quiet_since {
                *last = Instant::now();
            }
        }
    }

    fn write(&mut self, index: usize) {
        let Some((pipe, feed)) = self.feeds.get(index) else { return };
        match (feed.next(), feed.write(pipe.as_fd())) {
            (Next::Write, Ok(count)) => self.outbox.credit(count),
            // The task closed its standard input, or has ended.
            _ => self.outbox.credit(feed.close()),
        }
    }

    fn close_feeds(&mut self) {
        self.feeds.retain(|(_, feed)| feed.next() != Next::Close);
    }

    fn end_settling(&mut self) {
        let now = Instant::now();
        let sources = &self.sources;
        self.settling.retain_mut(|settling| {
            let mut own = sources.iter().filter(|source| source.owner == settling.owner).peekable();
            let all_gone = own.peek().is_none();
            if own.any(|source| source.owed > 0) {
                return true;
            }
            let over = match settling.patience {
                Patience::None => true,
                Patience::Quiet => {
                    settling.quiet_since.get_or_insert((now, now));
                    all_gone || settling.deadline().is_some_and(|deadline| deadline <= now)
                }
            };
            if over {
                // The one who waited may have given up only by ending.
                let _gone = settling.done.send(());
            }
            !over
        });
    }
}

impl Settling {
    fn deadline(&self) -> Option<Instant> {
        self.quiet_since.map(|(first, last)| (last + QUIET).min(first + QUIET_MAX))
    }
}
