//! Events on their way to the manager, in their order: a thread and a connection of its own, and a bounded queue.
//!
//! While Redis is away they wait. More than [`QUEUE`] of them are dropped, which is said: what goes this way is asked
//! for again by the manager when it hears nothing. What must not be lost goes by the outbox.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::watch;

use super::events::ManagerEvent;
use super::membership::Joined;
use super::redis::{Link, LinkError, Role};
use crate::ids::AgentId;

/// Events that may wait.
const QUEUE: usize = 1024;
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the manager. Clones are one; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub struct Messenger {
    queue: SyncSender<ManagerEvent>,
}

impl Messenger {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(agent: AgentId, joined: watch::Receiver<Option<Joined>>) -> std::io::Result<Self> {
        let (queue, events) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("messenger".to_owned());
        thread.spawn(move || deliver(&events, Way::new(agent), &joined))?;
        Ok(Self { queue })
    }

    /// Tells it, when its turn comes. Does not wait.
    pub fn tell(&self, event: ManagerEvent) {
        match self.queue.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(event) | TrySendError::Disconnected(event)) => dropped(&event),
        }
    }
}

fn deliver(events: &Receiver<ManagerEvent>, mut way: Way, joined: &watch::Receiver<Option<Joined>>) {
    let mut waiting = VecDeque::new();
    loop {
        let next = match waiting.is_empty() {
            true => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => events.recv_timeout(AGAIN),
        };
        match next {
            Ok(event) => waiting.push_back(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if waiting.len() > QUEUE
            && let Some(oldest) = waiting.pop_front()
        {
            dropped(&oldest);
        }
        let Some(joined) = joined.borrow().clone() else { continue };
        while let Some(event) = waiting.front() {
            if let Err(error) = way.send(&joined, event) {
                tracing::debug!(event = event.name(), "not told yet: {error}");
                break;
            }
            waiting.pop_front();
        }
    }
}

fn dropped(event: &ManagerEvent) {
    tracing::warn!(event = event.name(), "an event is dropped: {QUEUE} wait for Redis already");
}

/// The way to the stream of events, which is opened when it is needed and anew when it has failed.
#[derive(Debug)]
pub(super) struct Way {
    agent: AgentId,
    link: Option<Link>,
}

impl Way {
    pub(super) fn new(agent: AgentId) -> Self {
        Self { agent, link: None }
    }

    /// Appends an event.
    pub(super) fn send(&mut self, joined: &Joined, event: &ManagerEvent) -> Result<(), LinkError> {
        let link = match self.link.take().filter(|link| *link.target() == joined.redis) {
            Some(link) => link,
            None => Link::open(&joined.redis, Role::Stream)?,
        };
        // Kept only when it has worked.
        let link = self.link.insert(link);
        let Ok(entry) = event.entry(&self.agent) else { return Ok(()) };
        link.append(&entry).inspect_err(|_| self.link = None)
    }
}
