//! The policy host: every decision of the agent is asked here (design §6).
//!
//! Rooms hand in a question and get a [`Decided`] answer: checked against what was offered, and made by
//! the active policy, else by the last good one, else by the built-in twin, inside one deadline. wasmtime
//! lives nowhere else; no WebAssembly runs on a tokio worker (invariants 2, 3, 10).
//!
//! ```text
//!  asking room            policy-0..n                      policy-clock
//!  Handle::ask ──queue──> ladder: active, last good, twin   ticks while a call is in flight
//!       ^─────oneshot──── (sandbox: a fresh instance a call)
//! ```
//! Files in reading order: `config`, `trust` (who vouches for a module), `header`, `manifest`, `compile`, `cache`
//! and `load` (bytes to a policy; `stage` is how far that is), `sandbox` (wasmtime and the budgets), `guest` (typed calls),
//! `ladder` (one decision), `slot` (who is asked: one pointer each), `host` (one ask; `zone` is the node's time),
//! `record` (what is remembered of a module), `tally` (the same of a slot, for metrics), `journal` (what was decided), `replay` (decided again), `swap` (push,
//! activate, roll back while kernels run) with `probation`, `shadow`, and `rows` and `shelf` (what of it is on disk),
//! `json` (questions and answers as text), `fixture` and `author` (for those who write policies), `check` (modules and sections loaded to see whether they do), `worlds` (questions,
//! checks and twins; pure).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

pub mod author;
pub mod bindings;
mod cache;
mod check;
mod clock;
pub mod compile;
mod config;
mod error;
pub mod fixture;
mod guest;
mod header;
mod host;
pub mod journal;
pub mod json;
mod ladder;
mod load;
pub mod manifest;
mod pool;
mod probation;
mod record;
pub mod replay;
mod rows;
mod sandbox;
mod settings;
mod shadow;
mod shelf;
pub mod shipped;
mod slot;
mod stage;
pub mod swap;
mod tally;
#[cfg(test)]
mod tests;
pub mod trust;
mod weigh;
pub mod worlds;
mod zone;

pub use check::{check_config, check_file};
pub use compile::Workshop;
pub use config::{Budgets, Config, PolicyConfig, SettingValue, Settings, Source};
pub use error::{PolicyError, Problem};
pub use guest::Asked;
pub use header::WINDOW;
use journal::Journal;
pub use probation::ProbationView;
pub use rows::{Act, Choice, Chosen, Event, ModuleRow, ShadowRow, SlotRow};
pub use shadow::ShadowView;
pub use stage::{Loading, Stage};
pub use tally::{Active, BOUNDS_MICROS, ModuleTally, SlotTally, Times};

/// Every world.
const WORLDS: [WorldKind; 3] = [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig];

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

impl Fault {
    /// Its stable code, as in JSON.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Boundary => "boundary",
            Self::Trap => "trap",
            Self::InvalidAnswer => "invalid-answer",
            Self::Busy => "busy",
            Self::Link => "link",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub fn sentence(code: &str) -> &'static str {
        match code {
            "answered" => "its answer was taken",
            "refused" => "it said no, as it may",
            "deadline" => "its time was up (deadline-ms)",
            "memory" => "it wanted more memory than it may have (memory-bytes)",
            "boundary" => "question or answer had too many bytes (bytes-in, bytes-out)",
            "trap" => "it crashed",
            "invalid-answer" => "its answer was not possible",
            "busy" => "no policy thread was free in time",
            "link" => "it could not be instantiated",
            _ => "",
        }
    }
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

impl PolicyFault {
    /// Whether another machine, or the same one later, might not have failed.
    #[must_use]
    pub fn depends_on_the_machine(&self) -> bool {
        match self.fault {
            Fault::Deadline | Fault::Memory | Fault::Busy => true,
            // How much stack a function takes is the compiler's choice.
            Fault::Trap => self.message.starts_with(sandbox::STACK_OVERFLOW),
            Fault::Boundary | Fault::InvalidAnswer | Fault::Link => false,
        }
    }
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
    /// The edits that they may make (`container-config`).
    pub granted: Arc<[String]>,
}

/// Code of the refusal where two policies of the chain set the same thing differently.
pub const CHAIN_CONFLICT: &str = "chain-conflict";

/// One line of `berth policy list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain, from 0.
    #[serde(default)]
    pub link: usize,
    /// Name, `builtin` where no module is active.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of the module; none for the built-in.
    pub digest: Option<Digest>,
    /// Where the module came from: a path or `shipped`, as `[policy]` says; `pushed` when an operator has made
    /// it active, which wins over `[policy]`; or `builtin`.
    pub source: String,
    /// What it says of itself.
    pub summary: String,
    /// Decisions asked of it since the agent started.
    pub calls: u64,
    /// Those that a lower rung answered.
    pub fallbacks: u64,
    /// Median time of a call in microseconds, of the last thousand.
    pub p50_micros: u64,
    /// 99th percentile of the same.
    pub p99_micros: u64,
    /// The last failure, if any.
    pub last_fault: Option<PolicyFault>,
    /// Who signed its module, if somebody did.
    #[serde(default)]
    pub signer: Option<trust::Signer>,
    /// How many calls ended in which way: `answered`, `refused`, or the code of a [`Fault`].
    #[serde(default)]
    pub outcomes: BTreeMap<String, u64>,
    /// Why it is not asked any more, when it failed too often.
    #[serde(default)]
    pub demoted: Option<String>,
    /// Who is asked when it fails, before the built-in.
    #[serde(default)]
    pub last_good: Option<String>,
    /// Whether an operator gave it settings, in place of those of `agent.toml`.
    #[serde(default)]
    pub own_settings: bool,
    /// While it has just been activated: how it does.
    #[serde(default)]
    pub probation: Option<ProbationView>,
    /// Who is asked beside it, and how they agree.
    #[serde(default)]
    pub shadow: Option<ShadowView>,
    /// What happened to it that an operator should know: rolled back, or not taken when `agent.toml` was read again.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// What a question is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something will come of the answer.
    Real,
    /// To see what would be answered; marked in the journal.
    DryRun,
}

/// What an earlier agent process left on disk, and where this one writes.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What operators made active.
    pub rows: Vec<SlotRow>,
    /// What was pushed.
    pub pushed: Vec<ModuleRow>,
    /// The folder of pushed modules.
    pub modules: PathBuf,
    /// The folder of the journal.
    pub journal: PathBuf,
    /// Where compiled code is kept, and who compiles.
    pub workshop: Workshop,
    /// What of it could not be read, a sentence each.
    pub problems: Vec<String>,
}

impl Kept {
    fn row(&self, world: WorldKind, link: usize) -> Option<&SlotRow> {
        self.rows.iter().find(|row| row.world == world && row.link == link)
    }

    /// What an operator had made active where there is nothing any more.
    fn left_over(&self, slots: &[slot::Slot]) -> Vec<String> {
        let is_there =
            |row: &&SlotRow| slots.iter().any(|slot| slot.world == row.world && slot.link == row.link);
        let idle = self.rows.iter().filter(|row| row.active.choice != Choice::Configured && !is_there(row));
        let told = |row: &SlotRow| {
            format!(
                "a policy was activated for {} --link {}, but the chain in [policy] is shorter now: it is not asked",
                row.world, row.link
            )
        };
        self.problems.iter().cloned().chain(idle.map(told)).collect()
    }
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

/// A clonable way to the policy host. Its threads end with the last clone.
#[derive(Debug, Clone)]
pub struct Handle {
    host: Arc<host::Host>,
}

/// Loads and compiles the configured policies and starts the policy threads. It takes as long as the
/// modules take to compile (about 0.1 s for the shipped ones, seconds for Python), on a thread of its own
/// for which the caller waits: call it before the runtime is busy.
///
/// A policy that does not load is replaced by the shipped one, else by the built-in; [`Handle::list`] and
/// [`Handle::problems`] show it.
///
/// # Errors
/// A value of the configuration out of range, or no threads to be had.
pub fn start(config: Config) -> Result<Handle, PolicyError> {
    start_with(config, None)
}

/// The same with what an earlier process left: what an operator made active goes before what is configured, and
/// decisions are written into the journal. A pushed module that does not load any more is passed over for the
/// last good one, then for the configured one, and [`Handle::problems`] says so.
///
/// # Errors
/// As [`start`].
pub fn start_kept(config: Config, kept: Kept) -> Result<Handle, PolicyError> {
    start_with(config, Some(kept))
}

fn start_with(config: Config, kept: Option<Kept>) -> Result<Handle, PolicyError> {
    let host = on_a_thread(move || host::Host::start(&config, kept.as_ref()))?;
    Ok(Handle { host: Arc::new(host) })
}

impl Handle {
    /// A host with the built-ins only: no WebAssembly, no threads, nothing that can fail.
    ///
    /// # Panics
    /// Never: its configuration is in range.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "only a configuration out of range fails, and this one is constant"
    )]
    pub fn builtin() -> Self {
        let host =
            host::Host::start(&Config::builtin(), None).expect("the built-in configuration is in range");
        Self { host: Arc::new(host) }
    }

    /// Asks for a decision, within the deadline. Never fails: the built-in is the last rung. Call it on a
    /// runtime with time enabled. Dropping the future abandons the question.
    pub async fn ask<D: Asked>(&self, question: D::Question) -> Decided<D::Answer> {
        self.ask_link::<D>(0, question).await
    }

    /// Asks one member of a world's chain, from 0; one that is not there answers as the built-in.
    pub async fn ask_link<D: Asked>(&self, link: usize, question: D::Question) -> Decided<D::Answer> {
        self.host.ask::<D>(link, question, Purpose::Real).await
    }

    /// The same, saying what for.
    pub async fn ask_for<D: Asked>(
        &self,
        purpose: Purpose,
        link: usize,
        question: D::Question,
    ) -> Decided<D::Answer> {
        self.host.ask::<D>(link, question, purpose).await
    }

    /// The built-in's answer in place of one that passed the checks and cannot be carried out: that counts as a
    /// failure of the one who gave it.
    #[must_use]
    pub fn overrule<D: Asked>(
        &self,
        purpose: Purpose,
        link: usize,
        question: D::Question,
        by: DecidedBy,
        problem: String,
    ) -> Decided<D::Answer> {
        self.host.overrule::<D>(purpose, link, question, by, problem)
    }

    /// Takes down that two members of a chain contradict each other: `question` is what the second was asked, `by`
    /// who it was, `refusal` what became of the kernel. Shown as a problem until one of the two is replaced.
    pub fn conflict<D: Asked>(
        &self,
        purpose: Purpose,
        links: (usize, usize),
        question: D::Question,
        by: &DecidedBy,
        refusal: &Refusal,
    ) {
        self.host.conflict::<D>(purpose, links, question, by, refusal);
    }

    /// The built-in's answer at once, on the calling thread. For the rest of a burst after one of its
    /// questions met the deadline (design §4), so that a slow policy does not delay each in turn.
    #[must_use]
    pub fn ask_builtin<D: Asked>(&self, question: D::Question) -> Decided<D::Answer> {
        self.host.builtin::<D>(0, question)
    }

    /// Writes a refusal into the journal that admission made without asking a policy.
    pub fn refused_by_admission<D: Asked>(&self, question: D::Question, refusal: Refusal, purpose: Purpose) {
        self.host.refused::<D>(question, refusal, purpose);
    }

    /// How many policies of `container-config` are to be asked in turn, each with the plan after the one
    /// before. At least 1.
    #[must_use]
    pub fn chain_len(&self) -> usize {
        self.host.chain(WorldKind::ContainerConfig).count()
    }

    /// The CPU time that it takes to instantiate the active policy of a world and drop it again, so many times one
    /// after another on a thread of its own: the least that as many decisions by it can cost. None where the
    /// built-in is active, or it cannot be instantiated. For benches.
    #[must_use]
    pub fn time_instantiations(&self, world: WorldKind, times: u64) -> Option<std::time::Duration> {
        let (sandbox, policy) = self.host.active(world)?;
        let timed: Result<_, PolicyError> = on_a_thread(move || {
            let _running = sandbox.clock.running();
            let begun = clock::thread_cpu();
            for _ in 0..times {
                let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
                let mut store = sandbox.store(&policy.name, until, policy.budgets);
                if policy.pre.instantiate(&mut store).is_err() {
                    return Ok(None);
                }
            }
            Ok(Some(clock::thread_cpu().saturating_sub(begun)))
        });
        timed.ok().flatten()
    }

    /// The CPU time that it takes to ask the active policy of a world's first member, so many times one after another on a
    /// thread of its own: everything that a policy thread does for a decision, without the way there and back. None
    /// where the built-in is active, or a call comes to nothing. For benches.
    #[must_use]
    pub fn time_calls<D: Asked>(&self, question: &D::Question, times: u64) -> Option<std::time::Duration> {
        let (host, question) = (Arc::clone(&self.host), question.clone());
        let timed = on_a_thread(move || Ok::<_, PolicyError>(host.time_calls::<D>(question, times)));
        timed.ok().flatten()
    }

    /// One line per world and member of its chain.
    #[must_use]
    pub fn list(&self) -> Vec<PolicyView> {
        self.host.list()
    }

    /// What became of the decisions of each slot since the agent started, for metrics.
    #[must_use]
    pub fn tallies(&self) -> Vec<SlotTally> {
        self.host.slots.iter().map(slot::Slot::tally).collect()
    }

    /// What the module is at that is being loaded, if one is.
    #[must_use]
    pub fn loading(&self) -> Option<Loading> {
        self.host.wasm.as_ref().and_then(|wasm| wasm.sandbox.stages.now())
    }

    /// What an operator should know: policies that did not load or were demoted, a sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.host.problems()
    }

    /// What was decided; none: it is not written down.
    #[must_use]
    pub fn journal(&self) -> Option<&Journal> {
        self.host.journal.as_ref()
    }
}

/// The bytes of a module's file, if it is not too large to be one.
///
/// # Errors
/// Why it cannot be read.
pub fn read_module(path: &Path) -> Result<Vec<u8>, Problem> {
    load::read(path)
}

/// Runs `work`, which may run WebAssembly, on a thread of its own and waits for it (invariant 2).
fn on_a_thread<T: Send + 'static, E: From<PolicyError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let failed = |problem: &str| E::from(Problem::Sandbox(problem.to_owned()).of("policy"));
    std::thread::Builder::new()
        .name("policy-load".to_owned())
        .spawn(work)
        .map_err(|e| failed(&format!("no thread to load on: {e}")))?
        .join()
        .map_err(|_| failed("loading panicked, which is a bug of berth"))?
}
