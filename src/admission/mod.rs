//! Admission: one task that owns the exact ledger, places kernels and hands out start permits (design §4).
//!
//! [`start`] spawns the task. It takes in commands of its [`Handle`]s (bounded queue), what shares,
//! permits and abandoned calls say when they are dropped (an unbounded channel that never fails), and
//! the node's offer (`watch`); it asks the scheduler policy `place` and `order`, one question of each at a
//! time and never inside its own step, so permits and shares come back while a policy thinks.
//!
//! * A request that the node could never serve is refused at once; one that does not fit now is refused
//!   or, with `wait`, waits for room.
//! * **First come, first served among those who want a slot in common**: a request is never placed
//!   before one that came earlier and waits for one of the same slots, even if it would fit. So nobody
//!   starves; a request that does not wait is refused then. Requests that want nothing in common pass.
//! * Starts are bounded by `start_limit`; the policy says who starts next.
//!
//! `ledger`, `queue`, `question` and `refusal` are pure; `task` has the clock and the channels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::ids::{KernelId, SessionId, SlotName};
use crate::inventory::Offer;
use crate::policy::{self, DecidedBy, Refusal};
use crate::pulse::Beats;

mod books;
mod ledger;
mod question;
mod queue;
mod refusal;
mod rehearse;
mod task;
#[cfg(test)]
mod tests;

pub use ledger::{Allocation, Share};
pub(crate) use question::kernel_request;

use task::{Command, Note, Task};

/// Commands that may wait for the task; more are refused as `busy`.
const QUEUE: usize = 1024;

/// What an operator can set (`[lifecycle]`).
#[derive(Debug, Clone)]
pub struct Config {
    /// How many kernels may be starting at once; at least one does.
    pub start_limit: u32,
    /// How long a request waits for the node's first offer.
    pub ready_within: Duration,
    /// How often the policy is asked again about those who wait though nothing happened: it may go by
    /// the time of day.
    pub ask_again_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { start_limit: 4, ready_within: Duration::from_secs(5), ask_again_every: Duration::from_secs(5) }
    }
}

/// A kernel that wants a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which kernel.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// Name shown to people in refusals ("k1 holds 1").
    pub name: String,
    /// Who asked: the uid as text when standalone.
    pub owner: String,
    /// Image reference.
    pub image: String,
    /// Labels of the image.
    pub image_labels: Vec<(String, String)>,
    /// Amounts by slot, above 0 (micro-units or bytes). Empty: nothing is booked, cores are shared.
    pub wants: Vec<(SlotName, u64)>,
    /// Unix time in milliseconds.
    pub requested_at_ms: u64,
}

/// A place.
#[derive(Debug)]
pub struct Placed {
    /// What it got.
    pub share: Share,
    /// Who decided.
    pub by: DecidedBy,
}

/// A start slot (`[lifecycle] start-limit`); gives itself back when it is dropped.
#[derive(Debug)]
pub struct StartPermit {
    number: queue::Number,
    notes: mpsc::UnboundedSender<Note>,
}

impl Drop for StartPermit {
    fn drop(&mut self) {
        // Without a task there is nobody left to give it back to.
        let _ = self.notes.send(Note::PermitBack(self.number));
    }
}

/// A refusal, for the user: code, what is there, who holds it, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", refusal.message)]
pub struct Refused {
    /// Code (`not-enough-free`, `no-such-slot`, `not-a-multiple`, `wait-timeout`, `not-ready`, …) and
    /// message.
    pub refusal: Refusal,
    /// The next step, e.g. "`berth stop k1`, or wait with `--wait`".
    pub hint: Option<String>,
    /// Who decided, when a policy did.
    pub by: Option<Box<DecidedBy>>,
}

/// The books of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotBook {
    /// Its name.
    pub slot: SlotName,
    /// `count`, `bytes`, `unique`, `unified`.
    pub kind: String,
    /// Offered in all.
    pub offered: u64,
    /// Held by kernels.
    pub held: u64,
    /// Per device: id, offered, held. Devices that are held but no longer offered come last, with 0 offered.
    pub devices: Vec<(String, u64, u64)>,
    /// Who holds how much.
    pub holders: Vec<(KernelId, String, u64)>,
}

/// Who waits for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queues {
    /// Kernels that have no room yet.
    pub placing: usize,
    /// Kernels that wait for a start slot.
    pub waiting: usize,
    /// Kernels that have one.
    pub starting: usize,
    /// How many there are.
    pub start_limit: usize,
}

/// A clonable way to the admission task.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    notes: mpsc::UnboundedSender<Note>,
    numbers: Arc<AtomicU64>,
    beats: Beats,
    /// Whether the node is drained: no kernel gets a place.
    draining: Arc<watch::Sender<bool>>,
}

/// Spawns the task on the current tokio runtime. It ends when every [`Handle`] is gone.
#[must_use]
pub fn start(config: Config, policy: policy::Handle, offers: watch::Receiver<Option<Offer>>) -> Handle {
    start_with(config, policy, offers)
}

/// The same with another way to ask.
fn start_with(config: Config, ask: impl task::Ask, offers: watch::Receiver<Option<Offer>>) -> Handle {
    let (commands, queue) = mpsc::channel(QUEUE);
    let (notes, heard) = mpsc::unbounded_channel();
    let beats = Beats::default();
    let task = Task::new(config, ask, notes.clone(), beats.clone());
    // Its end, also by a fault, is noticed by `Handle::ended`.
    tokio::spawn(task.run(queue, heard, offers));
    Handle { commands, notes, numbers: Arc::default(), beats, draining: Arc::default() }
}

impl Handle {
    /// Takes a share, or refuses; with `wait` waits that long until enough is free. Cancelled by
    /// dropping the future: nothing stays taken.
    ///
    /// # Errors
    /// `draining`, `no-such-slot`, `not-a-multiple`, `not-enough-free`, `wait-timeout`, `not-ready`, `busy`,
    /// or what the policy says.
    pub async fn place(&self, request: Request, wait: Option<Duration>) -> Result<Placed, Refused> {
        let mut draining = self.draining.subscribe();
        // Before the node is asked, and whoever waits for room when the drain begins. Cancel-safe: a watch, and
        // a call whose drop gives everything back.
        tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => Err(refusal::draining()),
            placed = self.place_now(request, wait) => placed,
        }
    }

    /// Whether kernels get a place, or are refused as `draining`. What a kernel holds already stays its own.
    pub fn set_draining(&self, draining: bool) {
        self.draining.send_replace(draining);
    }

    /// Whether kernels are refused as `draining`.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    async fn place_now(&self, request: Request, wait: Option<Duration>) -> Result<Placed, Refused> {
        let (reply, answer) = oneshot::channel();
        let call = self.call();
        self.submit(Command::Place { number: call.number, request: Box::new(request), wait, reply })?;
        answer.await.unwrap_or_else(|_| Err(refusal::ended()))
    }

    /// Waits for a start slot; the scheduler policy orders those who wait. Cancelled by dropping.
    ///
    /// # Errors
    /// What the policy says, or `busy`.
    pub async fn start_permit(&self, request: Request) -> Result<(StartPermit, DecidedBy), Refused> {
        let (reply, answer) = oneshot::channel();
        let call = self.call();
        self.submit(Command::Permit { number: call.number, request: Box::new(request), reply })?;
        answer.await.unwrap_or_else(|_| Err(refusal::ended()))
    }

    /// Books what a kernel of an earlier agent process already holds, exactly, whether it is offered now
    /// or not.
    ///
    /// # Errors
    /// `already-booked` when the kernel holds a share already.
    pub async fn restore(
        &self,
        kernel: KernelId,
        name: String,
        allocations: Vec<Allocation>,
    ) -> Result<Share, Refused> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Restore { kernel, name, allocations, reply };
        self.commands.send(command).await.map_err(|_| refusal::ended())?;
        answer.await.unwrap_or_else(|_| Err(refusal::ended()))
    }

    /// The books, in the order of the offer; slots that are held but no longer offered come last. Empty
    /// when the task has ended.
    pub async fn books(&self) -> Vec<SlotBook> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Books { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// How many wait; none when the task has ended.
    pub async fn queues(&self) -> Option<Queues> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Queues { reply }).await.ok()?;
        answer.await.ok()
    }

    /// Returns when the task has ended, which it does while there are handles only by a fault.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Grows at least every 5 s while the task lives (design, invariant 6).
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.count()
    }

    fn call(&self) -> Call {
        Call { number: self.numbers.fetch_add(1, Ordering::Relaxed), notes: self.notes.clone() }
    }

    fn submit(&self, command: Command) -> Result<(), Refused> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => refusal::busy(),
            mpsc::error::TrySendError::Closed(_) => refusal::ended(),
        })
    }
}

/// A call that waits for its answer. Dropping it, answered or not, tells the task that nobody waits.
struct Call {
    number: queue::Number,
    notes: mpsc::UnboundedSender<Note>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.notes.send(Note::CallOver(self.number));
    }
}
