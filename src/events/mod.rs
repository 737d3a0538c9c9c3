//! Lifecycle events: one ordered stream, readers with cursors (design §2). In memory for now.
//!
//! An [`Outbox`] is written by the kernel actors; whoever wants to know what happened (`berth events`,
//! the manager, the journal) holds a [`Reader`] with a cursor of its own. The newest events are
//! retained, by default [`RETAINED`] of them: a reader that falls behind further is told how many it
//! missed and goes on with the oldest that is left. No reader can hold the writer up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ids::{KernelId, SessionId};

/// How many events are retained for readers that are behind.
pub const RETAINED: usize = 4096;

/// What happened to a kernel (contracts: kernel §5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum EventKind {
    /// A create was accepted.
    KernelPreparing,
    /// Its container is being made.
    KernelCreating,
    /// It is ready.
    KernelStarted,
    /// It has ended and everything of it has been given back.
    KernelTerminated {
        /// Why (contracts: kernel §5.2).
        reason: String,
        /// Exit code, when known.
        exit_code: Option<i32>,
    },
}

/// One entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Place in the stream, from 1.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Which kernel.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What a [`Reader`] meets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The next event.
    Event(Event),
    /// That many events were dropped before this reader came to them; events follow.
    Lost(u64),
}

/// A clonable way to write the stream and to subscribe to it.
#[derive(Debug, Clone)]
pub struct Outbox {
    stream: Arc<Mutex<Stream>>,
    /// Number of the newest event. Readers hold only its receiver, so they see the last outbox go.
    newest: Arc<watch::Sender<u64>>,
}

/// A cursor on the stream.
#[derive(Debug)]
pub struct Reader {
    stream: Arc<Mutex<Stream>>,
    newest: watch::Receiver<u64>,
    /// Number of the event to read next.
    cursor: u64,
}

#[derive(Debug)]
struct Stream {
    /// The newest events, oldest first, numbered without gaps.
    events: VecDeque<Event>,
    retained: usize,
    next_seq: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty stream that retains [`RETAINED`] events.
    #[must_use]
    pub fn new() -> Self {
        Self::with_retention(RETAINED)
    }

    /// An empty stream that retains so many events, at least one.
    #[must_use]
    pub fn with_retention(retained: usize) -> Self {
        let stream = Stream { events: VecDeque::new(), retained: retained.max(1), next_seq: 1 };
        Self { stream: Arc::new(Mutex::new(stream)), newest: Arc::new(watch::Sender::new(0)) }
    }

    /// Appends an event, stamped with the time of now, and returns its place in the stream.
    pub fn emit(&self, kernel: KernelId, session: SessionId, kind: EventKind) -> u64 {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        let mut stream = lock(&self.stream);
        let seq = stream.next_seq;
        stream.next_seq += 1;
        if stream.events.len() == stream.retained {
            stream.events.pop_front();
        }
        stream.events.push_back(Event { seq, at_ms, kernel, session, kind });
        // Still under the lock: the number that readers wait for never goes backwards.
        self.newest.send_replace(seq);
        seq
    }

    /// A reader whose first event is number `from`, or, without it, the next that is written. A number
    /// that has not been given yet (a cursor of an earlier agent process) means the next one too.
    #[must_use]
    pub fn subscribe(&self, from: Option<u64>) -> Reader {
        let stream = lock(&self.stream);
        let next = stream.next_seq;
        let cursor = from.map_or(next, |from| from.clamp(1, next));
        drop(stream);
        Reader { stream: Arc::clone(&self.stream), newest: self.newest.subscribe(), cursor }
    }
}

impl Reader {
    /// The next event, as soon as there is one; none when every [`Outbox`] is gone and all was read.
    /// Cancel-safe: an event is taken only by returning it.
    pub async fn next(&mut self) -> Option<Next> {
        let cursor = self.cursor;
        // An error means that nobody can write any more; what was written is still read below.
        let _ = self.newest.wait_for(|newest| *newest >= cursor).await;
        let stream = lock(&self.stream);
        let oldest = stream.events.front()?.seq;
        if self.cursor < oldest {
            let lost = oldest - self.cursor;
            self.cursor = oldest;
            return Some(Next::Lost(lost));
        }
        let event = stream.events.get(usize::try_from(self.cursor - oldest).ok()?)?.clone();
        self.cursor += 1;
        Some(Next::Event(event))
    }

    /// Number of the event that is read next; to subscribe from there later.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }
}

/// No code can panic while it holds the lock, so the stream is whole even behind a poisoned one.
fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn emit(outbox: &Outbox, count: usize) -> Vec<u64> {
        let (kernel, session) = (KernelId::random(), SessionId::random());
        (0..count).map(|_| outbox.emit(kernel, session, EventKind::KernelStarted)).collect()
    }

    async fn seqs(reader: &mut Reader, count: usize) -> Vec<u64> {
        let mut seen = Vec::new();
        for _ in 0..count {
            match reader.next().await {
                Some(Next::Event(event)) => seen.push(event.seq),
                other => panic!("expected an event after {seen:?}, got {other:?}"),
            }
        }
        seen
    }

    #[tokio::test]
    async fn every_reader_sees_every_event_in_order() {
        let outbox = Outbox::new();
        let mut early = outbox.subscribe(None);
        assert_eq!(emit(&outbox, 3), [1, 2, 3]);
        let mut late = outbox.subscribe(None);
        let mut from_two = outbox.subscribe(Some(2));
        assert_eq!(emit(&outbox.clone(), 1), [4]);
        assert_eq!(seqs(&mut early, 4).await, [1, 2, 3, 4]);
        assert_eq!(seqs(&mut late, 1).await, [4]);
        assert_eq!(seqs(&mut from_two, 3).await, [2, 3, 4]);
        assert_eq!(from_two.cursor(), 5);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed_and_holds_nobody_up() {
        let outbox = Outbox::with_retention(4);
        let mut slow = outbox.subscribe(Some(1));
        emit(&outbox, 10);
        assert_eq!(slow.next().await, Some(Next::Lost(6)));
        assert_eq!(seqs(&mut slow, 4).await, [7, 8, 9, 10]);
        assert_eq!(slow.next().now_or_never(), None, "nothing more yet");
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_an_event_and_at_the_end() {
        let outbox = Outbox::new();
        let mut reader = outbox.subscribe(Some(99));
        let reading = tokio::spawn(async move { (seqs(&mut reader, 1).await, reader.next().await) });
        emit(&outbox, 1);
        drop(outbox);
        assert_eq!(reading.await.unwrap(), (vec![1], None));
    }

    #[tokio::test]
    async fn writers_on_many_threads_never_leave_a_gap() {
        let outbox = Outbox::new();
        let mut reader = outbox.subscribe(None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| emit(&outbox, 250));
            }
        });
        assert_eq!(seqs(&mut reader, 1000).await, (1..=1000).collect::<Vec<u64>>());
    }

    #[test]
    fn an_event_is_one_flat_json_object() {
        let event = Event {
            seq: 1,
            at_ms: 2,
            kernel: "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10".parse().unwrap(),
            session: "1d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10".parse().unwrap(),
            kind: EventKind::KernelTerminated { reason: "user-requested".to_owned(), exit_code: Some(0) },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "seq": 1, "at_ms": 2,
                "kernel": "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10",
                "session": "1d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10",
                "event": "kernel-terminated", "reason": "user-requested", "exit_code": 0,
            })
        );
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
