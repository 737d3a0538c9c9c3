//! Lifecycle events: one ordered, durable stream, readers with cursors (design §2, §8).
//!
//! An [`Outbox`] is written by the kernel actors, in the transaction that saves the change an event tells
//! of ([`Outbox::commit`]): after any kill a change and its event are both on disk or neither is, so none
//! is told twice. Whoever wants to know what happened (`berth events`, the manager) holds a [`Reader`] with
//! a cursor of its own; a named cursor is kept on disk ([`Outbox::acknowledge`]).
//!
//! An event is shown to readers when it is on disk, in the order of the stream. The newest events are
//! retained, by default [`RETAINED`] of them: a reader that falls behind further is told how many it missed
//! and goes on with the oldest that is left. No reader can hold the writer up. When the disk fails, events
//! are shown all the same, and go to disk with the next transaction that succeeds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ids::{KernelId, SessionId};
use crate::store::{self, Changes, Record, StoreError};

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
    store: store::Handle,
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
    /// The newest events that readers may see, oldest first, numbered without gaps.
    events: VecDeque<Event>,
    retained: usize,
    next_seq: u64,
    /// On their way to disk.
    pending: BTreeMap<u64, Event>,
    /// Shown, and not on disk because it failed: they go with the next transaction.
    unsaved: BTreeMap<u64, Event>,
    /// On disk and no longer retained: deleted with the next transaction.
    expired: Vec<u64>,
    /// Named cursors: the event each reads next.
    cursors: BTreeMap<String, u64>,
}

/// A named reader's place, on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    name: String,
    next: u64,
}

impl Record for Event {
    const TABLE: &'static str = "events";
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _value: serde_json::Value) -> Result<Self, String> {
        Err(format!("version {version} never existed"))
    }

    fn key(&self) -> String {
        key(self.seq)
    }
}

impl Record for Cursor {
    const TABLE: &'static str = "cursors";
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _value: serde_json::Value) -> Result<Self, String> {
        Err(format!("version {version} never existed"))
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Sorts as the numbers do.
fn key(seq: u64) -> String {
    format!("{seq:020}")
}

impl Outbox {
    /// The stream as it is on disk, which retains [`RETAINED`] events.
    ///
    /// # Errors
    /// When the store cannot be read. Damaged events are set aside and logged.
    pub async fn open(store: store::Handle) -> Result<Self, StoreError> {
        Self::with_retention(store, RETAINED).await
    }

    async fn with_retention(store: store::Handle, retained: usize) -> Result<Self, StoreError> {
        let (events, mut aside) = store.load::<Event>().await?;
        let (cursors, others) = store.load::<Cursor>().await?;
        aside.extend(others);
        for row in aside {
            tracing::warn!(table = row.table, key = row.key, "a row was set aside: {}", row.problem);
        }
        let mut stream = Stream {
            events: VecDeque::new(),
            retained: retained.max(1),
            next_seq: 1,
            pending: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            expired: Vec::new(),
            cursors: cursors.into_iter().map(|cursor| (cursor.name, cursor.next)).collect(),
        };
        for event in events {
            // A gap (an event that was set aside) would break the arithmetic of cursors: what is before it
            // counts as no longer retained.
            if event.seq != stream.next_seq {
                stream.expired.extend(stream.events.drain(..).map(|event| event.seq));
            }
            stream.next_seq = event.seq + 1;
            stream.show(event);
        }
        let newest = watch::Sender::new(stream.next_seq - 1);
        Ok(Self { stream: Arc::new(Mutex::new(stream)), newest: Arc::new(newest), store })
    }

    /// Makes `changes` and appends the events that tell of them, in one transaction. When it returns both
    /// are on disk and the events, stamped with the time of now, are shown to readers.
    ///
    /// # Errors
    /// When the store failed. The events are shown all the same; what `changes` hold may be lost.
    pub async fn commit(
        &self,
        mut changes: Changes,
        events: impl IntoIterator<Item = (KernelId, SessionId, EventKind)> + Send,
    ) -> Result<(), StoreError> {
        let mut own = None;
        let committed = self
            .store
            .commit(|| {
                let mut stream = lock(&self.stream);
                let (first, unsaved) = stream.enter(events, &mut changes);
                own = Some((first, stream.next_seq, unsaved));
                changes
            })
            .await;
        let Some((first, end, unsaved)) = own else { return committed };
        let mut stream = lock(&self.stream);
        if committed.is_ok() {
            stream.unsaved.retain(|seq, _| !unsaved.contains(seq));
        } else {
            let failed: Vec<Event> =
                stream.pending.range(first..end).map(|(_, event)| event.clone()).collect();
            stream.unsaved.extend(failed.into_iter().map(|event| (event.seq, event)));
        }
        // The store commits in the order of the queue: whatever was queued before this is decided too.
        let later = stream.pending.split_off(&end);
        for event in std::mem::replace(&mut stream.pending, later).into_values() {
            stream.show(event);
        }
        // Still under the lock: the number that readers wait for never goes backwards.
        let shown = stream.events.back().map_or(0, |event| event.seq);
        self.newest.send_if_modified(|newest| std::mem::replace(newest, shown.max(*newest)) < shown);
        committed
    }

    /// A reader whose first event is number `from`, or, without it, the next that is written. A number
    /// that has not been given yet means the next one too.
    #[must_use]
    pub fn subscribe(&self, from: Option<u64>) -> Reader {
        let stream = lock(&self.stream);
        let next = stream.events.back().map_or(1, |event| event.seq + 1);
        let cursor = from.map_or(next, |from| from.clamp(1, next));
        drop(stream);
        Reader { stream: Arc::clone(&self.stream), newest: self.newest.subscribe(), cursor }
    }

    /// Why a kernel of that id has ended, as far as the retained events tell; none while it lives or when there
    /// was none.
    #[must_use]
    pub fn ended(&self, kernel: KernelId) -> Option<String> {
        let stream = lock(&self.stream);
        stream.events.iter().rev().filter(|event| event.kernel == kernel).find_map(|event| {
            match &event.kind {
                EventKind::KernelTerminated { reason, .. } => Some(reason.clone()),
                _ => None,
            }
        })
    }

    /// How many events are retained, and the number of the newest (0: none was ever written).
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let stream = lock(&self.stream);
        (stream.events.len() as u64, stream.events.back().map_or(0, |event| event.seq))
    }

    /// Where the reader of that name goes on; none when it has never acknowledged anything.
    #[must_use]
    pub fn cursor(&self, name: &str) -> Option<u64> {
        lock(&self.stream).cursors.get(name).copied()
    }

    /// Notes on disk that the reader of that name has seen everything before `next`. It never goes back.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn acknowledge(&self, name: &str, next: u64) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        {
            let mut stream = lock(&self.stream);
            let place = stream.cursors.entry(name.to_owned()).or_insert(1);
            if *place >= next {
                return Ok(());
            }
            *place = next;
        }
        changes.put(&Cursor { name: name.to_owned(), next })?;
        self.store.commit(|| changes).await
    }
}

impl Stream {
    /// Numbers events and adds them, and what else has to be done on disk, to a transaction that is being
    /// queued. Returns the number of the first, and which older ones go with it.
    fn enter(
        &mut self,
        events: impl IntoIterator<Item = (KernelId, SessionId, EventKind)>,
        changes: &mut Changes,
    ) -> (u64, Vec<u64>) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        let first = self.next_seq;
        for (kernel, session, kind) in events {
            let event = Event { seq: self.next_seq, at_ms, kernel, session, kind };
            self.next_seq += 1;
            // Plain fields: it has a JSON form.
            let _ = changes.put(&event);
            self.pending.insert(event.seq, event);
        }
        for event in self.unsaved.values() {
            let _ = changes.put(event);
        }
        for seq in self.expired.drain(..) {
            changes.delete::<Event>(key(seq));
        }
        (first, self.unsaved.keys().copied().collect())
    }

    /// Lets readers see an event.
    fn show(&mut self, event: Event) {
        if self.events.len() == self.retained
            && let Some(oldest) = self.events.pop_front()
        {
            self.unsaved.remove(&oldest.seq);
            self.expired.push(oldest.seq);
        }
        self.events.push_back(event);
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

    async fn open(dir: &tempfile::TempDir, retained: usize) -> Outbox {
        let opened = store::open(dir.path()).unwrap();
        Outbox::with_retention(opened.handle, retained).await.unwrap()
    }

    async fn emit(outbox: &Outbox, count: usize) {
        let (kernel, session) = (KernelId::random(), SessionId::random());
        for _ in 0..count {
            outbox.commit(Changes::default(), [(kernel, session, EventKind::KernelStarted)]).await.unwrap();
        }
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
    async fn every_reader_sees_every_event_in_order_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, RETAINED).await;
        let mut early = outbox.subscribe(None);
        emit(&outbox, 3).await;
        let mut late = outbox.subscribe(None);
        let mut from_two = outbox.subscribe(Some(2));
        emit(&outbox.clone(), 1).await;
        assert_eq!(seqs(&mut early, 4).await, [1, 2, 3, 4]);
        assert_eq!(seqs(&mut late, 1).await, [4]);
        assert_eq!(seqs(&mut from_two, 3).await, [2, 3, 4]);
        assert_eq!(from_two.cursor(), 5);
        outbox.acknowledge("one", 3).await.unwrap();
        outbox.acknowledge("one", 2).await.unwrap();
        outbox.store.close().await;

        let outbox = open(&dir, RETAINED).await;
        emit(&outbox, 1).await;
        assert_eq!(outbox.cursor("one"), Some(3));
        assert_eq!(outbox.cursor("two"), None);
        assert_eq!(seqs(&mut outbox.subscribe(outbox.cursor("one")), 3).await, [3, 4, 5]);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, 4).await;
        let mut slow = outbox.subscribe(Some(1));
        emit(&outbox, 10).await;
        assert_eq!(slow.next().await, Some(Next::Lost(6)));
        assert_eq!(seqs(&mut slow, 4).await, [7, 8, 9, 10]);
        assert_eq!(slow.next().now_or_never(), None, "nothing more yet");
        // On disk there are no more than that either, but for the last transaction's.
        let (rows, _) = outbox.store.load::<Event>().await.unwrap();
        assert_eq!(rows.iter().map(|event| event.seq).collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
    }

    #[tokio::test]
    async fn a_kernel_that_has_ended_is_known_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, RETAINED).await;
        let (kernel, session) = (KernelId::random(), SessionId::random());
        let end = EventKind::KernelTerminated { reason: "failed-to-start".to_owned(), exit_code: None };
        for (kind, ended) in [(EventKind::KernelPreparing, None), (end, Some("failed-to-start".to_owned()))] {
            outbox.commit(Changes::default(), [(kernel, session, kind)]).await.unwrap();
            assert_eq!(outbox.ended(kernel), ended);
        }
        assert_eq!(outbox.ended(KernelId::random()), None);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_for_an_event_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, RETAINED).await;
        let mut reader = outbox.subscribe(Some(99));
        let reading = tokio::spawn(async move { (seqs(&mut reader, 1).await, reader.next().await) });
        emit(&outbox, 1).await;
        drop(outbox);
        assert_eq!(reading.await.unwrap(), (vec![1], None));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn writers_at_once_leave_no_gap() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, RETAINED).await;
        let mut reader = outbox.subscribe(None);
        let writers = (0..4).map(|_| {
            let outbox = outbox.clone();
            tokio::spawn(async move { emit(&outbox, 50).await })
        });
        futures_util::future::join_all(writers).await;
        assert_eq!(seqs(&mut reader, 200).await, (1..=200).collect::<Vec<u64>>());
        let (rows, _) = outbox.store.load::<Event>().await.unwrap();
        assert_eq!(rows.len(), 200);
    }

    #[tokio::test]
    async fn a_store_that_fails_keeps_no_event_from_its_readers() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(&dir, RETAINED).await;
        emit(&outbox, 1).await;
        outbox.store.close().await;
        let event = (KernelId::random(), SessionId::random(), EventKind::KernelStarted);
        assert!(outbox.commit(Changes::default(), [event]).await.is_err());
        // The queue was closed before it could be numbered: it is not shown, and its writer knows.
        assert_eq!(seqs(&mut outbox.subscribe(Some(1)), 1).await, [1]);
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
