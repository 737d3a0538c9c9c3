//! What goes to the agent: one queue, bounded for console output, always open for replies.
//!
//! When it is full, [`Outbox::console`] and [`Outbox::media`] wait, so that the task's pipe fills and the task waits; the
//! thread that takes operations never calls it (design §5). What a task has done is kept here too, since
//! a `finished` message and what `status` says of it must change in one step.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_link::{CHUNK_MAX, EndedTask, Finished, LastTask, MessageType, Op, PROTOCOL, RECENT_TASKS, Status};
use rustix::event::{EventfdFlags, eventfd};

use super::feed::Feed;

/// Console output that may wait for the agent, messages' own cost included.
const CONSOLE_MAX: usize = 4 * 1024 * 1024;
/// What a message costs beside its payload; many small ones must not exceed the bound in memory.
const MESSAGE_COST: usize = 64;
/// Unsent replies to `status`; the agent that does not read them asks again.
const STATUS_MAX: usize = 64;

/// A message on its way to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type frame.
    pub kind: MessageType,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// Whether a task can make as many of them as it likes.
    fn is_output(&self) -> bool {
        use MessageType::{Html, Media, Stderr, Stdout};
        matches!(self.kind, Stdout | Stderr | Media | Html)
    }

    fn cost(&self) -> usize {
        if self.is_output() { self.payload.len() + MESSAGE_COST } else { 0 }
    }
}

/// The queue. Shared by the threads that fill it and the one that sends.
#[derive(Debug)]
pub struct Outbox {
    state: Mutex<State>,
    room: Condvar,
    sent: Condvar,
    wake: OwnedFd,
    started_at: f64,
    incarnation: String,
    message_max: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    /// Cost of what waits and of what is being written.
    console_cost: usize,
    /// Messages being written.
    in_flight: usize,
    /// Tasks that came and have not begun.
    accepted: VecDeque<Accepted>,
    running: Option<Accepted>,
    /// Console output of the task that runs.
    output_bytes: u64,
    tasks_done: u64,
    last: Option<LastTask>,
    recent: VecDeque<EndedTask>,
    dropped_bytes: u64,
}

/// A task as the agent knows it.
#[derive(Debug)]
pub struct Accepted {
    /// One of clean, build, exec, code, argv.
    pub op: Op,
    /// Its id, when the agent gave it one.
    pub run: Option<String>,
    /// Its standard input, when one was announced.
    pub feed: Option<Arc<Feed>>,
}

impl Outbox {
    /// An empty queue of a runner whose `main` began at `started_at`, to an agent that takes payloads of
    /// `message_max` bytes.
    ///
    /// # Errors
    /// When the system has no room for one more descriptor.
    pub fn new(started_at: f64, incarnation: String, message_max: usize) -> rustix::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (room, sent) = (Condvar::new(), Condvar::new());
        Ok(Self { state: Mutex::default(), room, sent, wake, started_at, incarnation, message_max })
    }

    /// Queues output of the task that runs, waiting for room. False when no task runs: nobody would
    /// know where it belongs, so it is only for the log.
    pub fn console(&self, kind: MessageType, payload: &[u8]) -> bool {
        let Some(mut state) = self.wait_for_room() else { return false };
        state.output_bytes += payload.len() as u64;
        for part in payload.chunks(CHUNK_MAX) {
            state.console_cost += part.len();
            match state.queue.back_mut() {
                // Small writes to an agent that is slow become one message.
                Some(last) if last.kind == kind && last.payload.len() + part.len() <= CHUNK_MAX => {
                    last.payload.extend_from_slice(part);
                }
                _ => {
                    state.console_cost += MESSAGE_COST;
                    state.queue.push_back(Message { kind, payload: part.to_vec() });
                }
            }
        }
        drop(state);
        self.wake();
        true
    }

    /// Queues what the task that runs shows, waiting for room, or drops it as [`Outbox::console`] and
    /// [`Outbox::reply`] do. It is no console output: nobody counts its bytes.
    pub fn media(&self, kind: MessageType, payload: Vec<u8>) {
        if payload.len() > self.message_max {
            return self.dropped(payload.len());
        }
        let Some(mut state) = self.wait_for_room() else { return };
        let message = Message { kind, payload };
        state.console_cost += message.cost();
        state.queue.push_back(message);
        drop(state);
        self.wake();
    }

    /// Longest payload that the agent takes, in bytes.
    pub fn message_max(&self) -> usize {
        self.message_max
    }

    /// Queues a reply; there is always room. One that the agent would hang up on counts as dropped.
    pub fn reply(&self, kind: MessageType, payload: impl Into<Vec<u8>>) {
        let payload = payload.into();
        if payload.len() > self.message_max {
            return self.dropped(payload.len());
        }
        self.state().queue.push_back(Message { kind, payload });
        self.wake();
    }

    /// Acknowledges bytes of standard input.
    pub fn credit(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state();
        match state.queue.back_mut() {
            Some(last) if last.kind == MessageType::StdinCredit => {
                let before = berth_link::decode_credit(&last.payload).unwrap_or(0);
                last.payload = (before + bytes as u64).to_string().into_bytes();
            }
            _ => state.queue.push_back(Message {
                kind: MessageType::StdinCredit,
                payload: bytes.to_string().into_bytes(),
            }),
        }
        drop(state);
        self.wake();
    }

    /// Says that bytes of a task were dropped.
    pub fn dropped(&self, bytes: usize) {
        self.state().dropped_bytes += bytes as u64;
    }

    /// Answers `status`, which came with that payload.
    pub fn status(&self, question: Option<String>) {
        let mut state = self.state();
        if state.queue.iter().filter(|message| message.kind == MessageType::Status).count() >= STATUS_MAX {
            return;
        }
        // One that is about to begin runs already for the agent that sent it.
        let task = state.running.as_ref().or(state.accepted.front());
        let (stdin_bytes, stdin_held) =
            task.and_then(|task| task.feed.as_ref()).map_or((0, 0), |feed| feed.counts());
        let payload = Status {
            started_at: self.started_at,
            replied_at: Some(super::monotonic()),
            protocol: Some(PROTOCOL),
            runner_version: Some(env!("CARGO_PKG_VERSION").into()),
            incarnation: Some(self.incarnation.clone()),
            running: task.map(|task| task.op.as_str().into()),
            tasks_done: state.tasks_done,
            last: state.last.clone(),
            dropped_bytes: state.dropped_bytes,
            question,
            run: task.and_then(|task| task.run.clone()),
            output_bytes: state.output_bytes,
            stdin_bytes,
            stdin_held,
            recent: state.recent.iter().cloned().collect(),
        }
        .encode();
        state.queue.push_back(Message { kind: MessageType::Status, payload });
        drop(state);
        self.wake();
    }

    /// A task came and waits for its turn.
    pub fn accept(&self, task: Accepted) {
        self.state().accepted.push_back(task);
    }

    /// The task that came first begins: console output belongs to it from now on.
    pub fn begin(&self) {
        let mut state = self.state();
        state.running = state.accepted.pop_front();
    }

    /// The task that runs has ended and all its output is queued.
    pub fn finish(&self, exit_code: i32) {
        let mut state = self.state();
        let Some(Accepted { op, run, .. }) = state.running.take() else { return };
        let kind = match op {
            Op::Clean => MessageType::CleanFinished,
            Op::Build => MessageType::BuildFinished,
            _ => MessageType::Finished,
        };
        let output_bytes = std::mem::take(&mut state.output_bytes);
        state.tasks_done += 1;
        state.last = Some(LastTask { op: op.as_str().into(), exit_code });
        if kind == MessageType::Finished {
            let ended_at = Some(super::monotonic());
            let op = op.as_str().into();
            state.recent.push_back(EndedTask { run, op, exit_code, output_bytes, ended_at });
            if state.recent.len() > RECENT_TASKS {
                state.recent.pop_front();
            }
        }
        state.queue.push_back(Message { kind, payload: Finished::encode(exit_code) });
        drop(state);
        self.room.notify_all();
        self.wake();
    }

    /// The descriptor that becomes readable when there may be something to [`Outbox::take`].
    pub fn wakeup(&self) -> &OwnedFd {
        &self.wake
    }

    /// Takes messages to be written, about `bytes` of them. They count as waiting until
    /// [`Outbox::sent`].
    pub fn take(&self, bytes: usize) -> Vec<Message> {
        let mut counter = [0; 8];
        // Empties the counter; that it was empty is fine.
        let _empty = rustix::io::read(&self.wake, &mut counter);
        let mut state = self.state();
        let mut taken = Vec::new();
        let mut sum = 0;
        while sum < bytes
            && let Some(message) = state.queue.pop_front()
        {
            sum += message.payload.len() + MESSAGE_COST;
            taken.push(message);
        }
        state.in_flight = taken.len();
        taken
    }

    /// The batch that was taken is over: the first `whole` of its messages were written to their last
    /// byte, the others go back to the front to be sent again whole.
    pub fn sent(&self, mut batch: Vec<Message>, whole: usize) {
        let mut state = self.state();
        for message in batch.drain(whole.min(batch.len())..).rev() {
            state.queue.push_front(message);
        }
        let cost: usize = batch.iter().map(Message::cost).sum();
        state.console_cost = state.console_cost.saturating_sub(cost);
        state.in_flight = 0;
        drop(state);
        self.room.notify_all();
        self.sent.notify_all();
    }

    /// Waits until everything is written, but no longer than `limit`.
    pub fn wait_sent(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while !state.queue.is_empty() || state.in_flight > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.sent.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits while the task has written more than was sent; none when no task runs.
    fn wait_for_room(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state();
        while state.running.is_some() && state.console_cost >= CONSOLE_MAX {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running.is_some().then_some(state)
    }

    fn wake(&self) {
        // Full means that it is readable already.
        let _full = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use berth_link::MESSAGE_MAX;

    use super::*;

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(0.0, "test".into(), MESSAGE_MAX).unwrap())
    }

    fn begin(outbox: &Outbox, run: &str) {
        outbox.accept(Accepted { op: Op::Exec, run: Some(run.into()), feed: None });
        outbox.begin();
    }

    fn take_all(outbox: &Outbox) -> Vec<(MessageType, Vec<u8>)> {
        let batch = outbox.take(usize::MAX);
        let seen = batch.iter().map(|m| (m.kind, m.payload.clone())).collect();
        let whole = batch.len();
        outbox.sent(batch, whole);
        seen
    }

    #[test]
    fn output_without_a_task_is_not_queued() {
        let outbox = outbox();
        assert!(!outbox.console(MessageType::Stdout, b"x"));
        begin(&outbox, "a");
        assert!(outbox.console(MessageType::Stdout, b"a"));
        assert!(outbox.console(MessageType::Stdout, b"b"));
        assert!(outbox.console(MessageType::Stderr, b"c"));
        outbox.finish(0);
        assert!(!outbox.console(MessageType::Stdout, b"x"));
        assert_eq!(
            take_all(&outbox),
            [
                (MessageType::Stdout, b"ab".to_vec()),
                (MessageType::Stderr, b"c".to_vec()),
                (MessageType::Finished, b"{\"exitCode\": 0}".to_vec()),
            ]
        );
    }

    #[test]
    fn media_are_queued_in_order_and_never_longer_than_the_agent_takes() {
        let outbox = outbox();
        outbox.media(MessageType::Media, b"nobody's".to_vec());
        begin(&outbox, "a");
        outbox.console(MessageType::Stdout, b"a");
        outbox.media(MessageType::Html, b"<b>".to_vec());
        outbox.media(MessageType::Media, vec![0; MESSAGE_MAX + 1]);
        outbox.console(MessageType::Stdout, b"b");
        assert!(outbox.state().console_cost > 0);
        let expected = [("a", MessageType::Stdout), ("<b>", MessageType::Html), ("b", MessageType::Stdout)];
        let expected = expected.map(|(payload, kind)| (kind, payload.as_bytes().to_vec()));
        assert_eq!(take_all(&outbox), expected);
        let state = outbox.state();
        assert_eq!((state.console_cost, state.output_bytes), (0, 2));
        assert_eq!(state.dropped_bytes, MESSAGE_MAX as u64 + 1);
    }

    #[test]
    fn what_was_not_written_whole_comes_again_in_order() {
        let outbox = outbox();
        for text in ["1", "2", "3"] {
            outbox.reply(MessageType::Log, text);
        }
        let batch = outbox.take(usize::MAX);
        outbox.sent(batch, 1);
        outbox.reply(MessageType::Log, "4");
        let texts: Vec<Vec<u8>> = take_all(&outbox).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, [b"2", b"3", b"4"]);
    }

    #[test]
    fn a_full_queue_makes_the_console_wait_but_never_a_reply() {
        let outbox = outbox();
        begin(&outbox, "a");
        let chunk = vec![0u8; CHUNK_MAX];
        let (tell, told) = mpsc::channel();
        let filler = {
            let outbox = Arc::clone(&outbox);
            std::thread::spawn(move || {
                for _ in 0..=(2 * CONSOLE_MAX / CHUNK_MAX) {
                    outbox.console(MessageType::Stdout, &chunk);
                    tell.send(()).unwrap();
                }
            })
        };
        while outbox.state().console_cost < CONSOLE_MAX {
            told.recv().unwrap();
        }
        outbox.status(None);
        let mut bytes = 0;
        while !filler.is_finished() || !outbox.state().queue.is_empty() {
            let messages = take_all(&outbox);
            assert!(
                messages.iter().map(|(_, payload)| payload.len()).sum::<usize>() <= CONSOLE_MAX + CHUNK_MAX
            );
            bytes += messages
                .iter()
                .filter(|(k, _)| *k == MessageType::Stdout)
                .map(|(_, p)| p.len())
                .sum::<usize>();
        }
        filler.join().unwrap();
        assert_eq!(bytes, (2 * CONSOLE_MAX / CHUNK_MAX + 1) * CHUNK_MAX);
    }

    #[test]
    fn credits_that_wait_become_one() {
        let outbox = outbox();
        outbox.credit(10);
        outbox.credit(0);
        outbox.credit(32);
        assert_eq!(take_all(&outbox), [(MessageType::StdinCredit, b"42".to_vec())]);
    }

    #[test]
    fn a_reply_counts_what_was_queued_before_it_and_remembers_the_last_tasks() {
        let outbox = outbox();
        let feed = Arc::new(Feed::default());
        let status = || {
            outbox.status(Some("q".into()));
            let (_, payload) = take_all(&outbox).pop().unwrap();
            Status::decode(&payload).unwrap()
        };
        outbox.accept(Accepted { op: Op::Argv, run: Some("first".into()), feed: Some(Arc::clone(&feed)) });
        feed.push(b"abc".to_vec());
        let told = status();
        assert_eq!((told.run.as_deref(), told.question.as_deref()), (Some("first"), Some("q")));
        assert_eq!((told.output_bytes, told.stdin_bytes, told.stdin_held), (0, 3, 3));
        outbox.begin();
        outbox.console(MessageType::Stdout, b"12");
        outbox.console(MessageType::Stderr, b"345");
        feed.close();
        let told = status();
        assert_eq!((told.output_bytes, told.stdin_bytes, told.stdin_held), (5, 3, 0));
        outbox.finish(7);
        for at in 0..RECENT_TASKS {
            begin(&outbox, &at.to_string());
            outbox.finish(0);
        }
        let told = status();
        assert_eq!((told.run, told.output_bytes, told.recent.len()), (None, 0, RECENT_TASKS));
        assert_eq!(told.recent[0].run.as_deref(), Some("0"), "the oldest was forgotten");
        begin(&outbox, "next");
        outbox.console(MessageType::Stdout, b"1");
        outbox.finish(7);
        let last = status().recent.pop().unwrap();
        assert_eq!((last.run.as_deref(), last.exit_code, last.output_bytes), (Some("next"), 7, 1));
    }
}
