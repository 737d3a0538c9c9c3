//! The policy host: every decision of the agent is asked here (design §6).
//!
//! Rooms hand in a question and get a [`Decided`] answer: checked against what was offered, and made by
//! the active policy, else by the last good one, else by the built-in twin, inside one deadline. wasmtime
//! lives nowhere else; no WebAssembly runs on a tokio worker (invariants 2, 3, 10).

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

pub mod bindings;
pub mod shipped;
pub mod worlds;

/// Which world (one module per world, `container-config` a chain of them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorldKind {
    /// What the node offers.
    SlotReporter,
    /// Who gets which devices, who starts next.
    Scheduler,
    /// How a container is configured.
    ContainerConfig,
}

/// Who answered, on which rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// The active policy.
    Active,
    /// The last digest that worked.
    LastGood,
    /// The built-in twin.
    Builtin,
}

/// Why a policy's call came to nothing and the next rung was asked. Codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Wall clock used up.
    Deadline,
    /// Memory limit reached.
    Memory,
    /// Too many bytes across the boundary.
    Boundary,
    /// It trapped.
    Trap,
    /// Its answer did not pass the checks.
    InvalidAnswer,
    /// No policy thread was free in time.
    Busy,
    /// It could not be instantiated.
    Link,
}

/// Who decided something; kept with the kernel it was decided for and shown to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidedBy {
    /// The world.
    pub world: WorldKind,
    /// The function: `report`, `place`, `order`, `adjust`.
    pub function: String,
    /// The policy's name, `builtin` for the twin.
    pub policy: String,
    /// Its version.
    pub version: String,
    /// Digest of its module; none for the twin.
    pub digest: Option<Digest>,
    /// Who answered.
    pub rung: Rung,
    /// Why rungs above were passed over, in order.
    pub faults: Vec<PolicyFault>,
    /// How long it took in all, in microseconds.
    pub micros: u64,
    /// The policy's own note, for the user.
    #[serde(default)]
    pub note: Option<String>,
}

/// One failed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFault {
    /// Which policy.
    pub policy: String,
    /// Its digest.
    pub digest: Option<Digest>,
    /// What kind of failure.
    pub fault: Fault,
    /// What happened, for a person.
    pub message: String,
}

/// Why a policy (or the built-in) says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable, e.g. `not-enough-free`.
    pub code: String,
    /// For the user.
    pub message: String,
    /// Whether asking later may help.
    pub retry_later: bool,
}

/// An answer and who gave it.
#[derive(Debug, Clone)]
pub struct Decided<A> {
    /// The checked answer, or the refusal.
    pub answer: Result<A, Refusal>,
    /// Who gave it.
    pub by: DecidedBy,
}

/// One line of `berth policy list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    /// The world.
    pub world: WorldKind,
    /// Name, `builtin` where no module is active.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of the module; none for the built-in.
    pub digest: Option<Digest>,
    /// Where the module came from: a path, `shipped`, or `builtin`.
    pub source: String,
    /// What it says of itself.
    pub summary: String,
    /// Calls of this module since the agent started.
    pub calls: u64,
    /// Calls that were answered by a lower rung.
    pub fallbacks: u64,
    /// Median time of a call in microseconds, of the last thousand.
    pub p50_micros: u64,
    /// 99th percentile of the same.
    pub p99_micros: u64,
    /// The last failure, if any.
    pub last_fault: Option<PolicyFault>,
}

/// One function of a world: what is asked, what may be answered, what the built-in says.
///
/// Implemented in [`worlds`], pure. The wasm call itself is this room's private matter.
pub trait Decision: Send + Sync + 'static {
    /// The world it belongs to.
    const WORLD: WorldKind;
    /// Its name in the WIT.
    const FUNCTION: &'static str;
    /// What is asked.
    type Question: Clone + Send + Sync + 'static;
    /// What a guest answers, in the types of the WIT.
    type Raw: Clone + Send + 'static;
    /// What the asking room gets, complete: what a policy left out has been filled in by the built-in.
    type Answer: Clone + Send + 'static;

    /// The built-in's answer: the same source as the shipped guest's (`ctx.settings` empty: defaults).
    ///
    /// # Errors
    /// A refusal, as a guest would give it.
    fn twin(ctx: &bindings::types::Context, question: &Self::Question) -> Result<Self::Raw, Refusal>;

    /// Checks an answer against what was offered and completes it. Pure; no wrong answer passes, no
    /// right one is refused. Returns the note, if any, beside it.
    ///
    /// # Errors
    /// A sentence that names what is wrong with the answer ([`Fault::InvalidAnswer`]).
    fn check(
        ctx: &bindings::types::Context,
        question: &Self::Question,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String>;
}

/// A clonable way to the policy host.
#[derive(Debug, Clone)]
pub struct Handle {
    _private: (),
}

#[expect(missing_docs, clippy::unused_async, reason = "the shape only: the room's owner fills it in")]
impl Handle {
    /// Asks for a decision. Never fails: the built-in is the last rung.
    pub async fn ask<D: Decision>(&self, question: D::Question) -> Decided<D::Answer> { let _ = question; unimplemented!() }
    /// One line per world and member of its chain.
    pub fn list(&self) -> Vec<PolicyView> { unimplemented!() }
}
