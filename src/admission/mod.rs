//! Admission: one task that owns the exact ledger, places kernels and hands out start permits (design §4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{KernelId, SessionId, SlotName};
use crate::policy::{DecidedBy, Refusal};

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

/// A part of one device that a kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Slot.
    pub slot: SlotName,
    /// Device id, e.g. `3`, `root`.
    pub device: String,
    /// Micro-units or bytes.
    pub amount: u64,
}

/// What a kernel got. It can only be made by taking it from the ledger, and gives itself back once,
/// when it is dropped.
#[derive(Debug)]
pub struct Share {
    _private: (),
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
    _private: (),
}

/// A refusal, for the user: code, what is there, who holds it, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", refusal.message)]
pub struct Refused {
    /// Code (`not-enough-free`, `more-than-offered`, `no-such-slot`, `cancelled`, …) and message.
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
    /// Per device: id, offered, held.
    pub devices: Vec<(String, u64, u64)>,
    /// Who holds how much.
    pub holders: Vec<(KernelId, String, u64)>,
}

/// A clonable way to the admission task.
#[derive(Debug, Clone)]
pub struct Handle {
    _private: (),
}

#[expect(missing_docs, clippy::unused_async, reason = "the shape only: the room's owner fills it in")]
impl Handle {
    /// Takes a share, or refuses; with `wait` waits that long until enough is free.
    pub async fn place(&self, request: Request, wait: Option<Duration>) -> Result<Placed, Refused> { let _ = (request, wait); unimplemented!() }
    /// Waits for a start slot; the scheduler policy orders those who wait. Cancelled by dropping.
    pub async fn start_permit(&self, request: Request) -> Result<(StartPermit, DecidedBy), Refused> { let _ = request; unimplemented!() }
    /// Books what a kernel of an earlier agent process already holds, exactly.
    pub async fn restore(&self, kernel: KernelId, name: String, allocations: Vec<Allocation>) -> Result<Share, Refused> { let _ = (kernel, name, allocations); unimplemented!() }
    /// The books.
    pub async fn books(&self) -> Vec<SlotBook> { unimplemented!() }
}

impl Share {
    /// What it is made of, sorted by slot and device.
    #[must_use]
    pub fn allocations(&self) -> &[Allocation] { unimplemented!() }
}
