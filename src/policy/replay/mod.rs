//! Replay: decisions of the journal decided again, by the policies that made them or by a candidate.
//!
//! ```text
//!  entries ──> again (the ladder's own path: tailored, weighed, a fresh instance, checked) ──> Came
//!         (ring, exported file, a follower)                   │
//!                                       Run counts, diff::change says what differs ──> Report
//! ```
//! A policy sees nothing but its arguments, and those are in the journal: so the module that made a decision gives
//! the same checked answer again, bit for bit, on any machine. A candidate gets the same question and context with
//! its own settings and grants, and what it answers otherwise is what would have been otherwise.
//!
//! Not decided again is what depended on the machine (`deadline`, `memory`, `busy`, `stack-overflow`). Runs
//! WebAssembly: never on a tokio worker.
//!
//! Files: this one (one entry), [`run`] (many, within a time), [`diff`] (what differs, pure), [`offline`] (without
//! an agent).

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bindings::types;
use super::guest::Asked;
use super::journal::{ADMISSION, Entry};
use super::json::{Read as _, Wrong};
use super::ladder::{Climb, Deadlines, Outcome, Step};
use super::load::Policy;
use super::sandbox::{Sandbox, clean};
use super::worlds::{Adjust, Evict, Order, Place, Report as Reporting};
use super::{Fault, PolicyFault, Refusal, Rung};

pub mod diff;
pub mod offline;
pub mod run;
#[cfg(test)]
mod tests;

pub use diff::{Change, Side};
pub use run::{Report, Who};

/// How often a call is given more time after the machine was too busy to give it its own.
const TURNS: u32 = 4;

/// What was or is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Said {
    /// The checked answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// Or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The policy's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Said {
    /// What an entry has.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self { answer: entry.answer.clone(), refusal: entry.refusal.clone(), note: entry.note.clone() }
    }

    /// Whether the same would happen; notes are words.
    fn decides_as(&self, other: &Self) -> bool {
        self.answer == other.answer && self.refusal == other.refusal
    }
}

/// What comes of one entry that is decided again.
#[derive(Debug, Clone, PartialEq)]
pub enum Came {
    /// The same, bit for bit.
    Same,
    /// Something else.
    Different(Said),
    /// The call failed.
    Failed(PolicyFault),
    /// It cannot be decided again.
    Skipped(Skip),
}

/// Why an entry is not decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// It met a deadline, then or now.
    Deadline,
    /// It met the memory limit.
    Memory,
    /// No policy thread was free, then or now.
    Busy,
    /// It ran out of stack, which depends on the compiler.
    StackOverflow,
    /// An agent of another version filled in what the policy left out, or decided itself.
    OtherAgent,
    /// The module that decided is not here.
    ModuleGone,
    /// Admission refused without asking a policy.
    NotAsked,
    /// Its record is not of this version of the interface.
    Unreadable,
}

impl Skip {
    /// In words, after a number.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Memory => "memory limit",
            Self::Busy => "busy machine",
            Self::StackOverflow => "stack overflow",
            Self::OtherAgent => "other agent version",
            Self::ModuleGone => "module not here",
            Self::NotAsked => "no policy was asked",
            Self::Unreadable => "unreadable record",
        }
    }

    fn of(fault: &PolicyFault) -> Option<Self> {
        match fault.fault {
            Fault::Deadline => Some(Self::Deadline),
            Fault::Memory => Some(Self::Memory),
            Fault::Busy => Some(Self::Busy),
            Fault::Trap if fault.depends_on_the_machine() => Some(Self::StackOverflow),
            _ => None,
        }
    }
}

/// Where calls are made again, and what each may use.
#[derive(Debug, Clone)]
pub(super) struct Bench {
    /// None: the built-in can be asked, modules cannot.
    pub sandbox: Option<Arc<Sandbox>>,
    /// CPU time of one call.
    pub share: Duration,
}

/// Who is asked again.
#[derive(Debug, Clone)]
pub(super) enum Decider {
    /// A module with the settings and grants that it has.
    Module(Arc<Policy>),
    /// The built-in with these settings.
    Builtin(Arc<[types::Setting]>),
}

/// Why there is no answer.
#[derive(Debug)]
enum Miss {
    Failed(PolicyFault),
    Skip(Skip),
}

impl From<Wrong> for Miss {
    fn from(_: Wrong) -> Self {
        Self::Skip(Skip::Unreadable)
    }
}

/// What has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    /// What happens: answer or refusal.
    Outcome,
    /// The note, too: it comes from the same module.
    All,
}

/// Decides an entry again and holds the answer against the one of then.
pub(super) fn again(bench: &Bench, decider: &Decider, entry: &Entry, compare: Compare) -> Came {
    if entry.policy == ADMISSION {
        return Came::Skipped(Skip::NotAsked);
    }
    if !entry.replayable {
        let why = entry.faults.iter().find_map(Skip::of);
        return Came::Skipped(why.unwrap_or(Skip::Busy));
    }
    let answered = match entry.function.as_str() {
        "report" => ask::<Reporting>(bench, decider, entry),
        "place" => ask::<Place>(bench, decider, entry),
        "order" => ask::<Order>(bench, decider, entry),
        "evict" => ask::<Evict>(bench, decider, entry),
        "adjust" => ask::<Adjust>(bench, decider, entry),
        _ => Err(Miss::Skip(Skip::Unreadable)),
    };
    match answered {
        Ok(said) => {
            let then = Said::of(entry);
            let same = said.decides_as(&then) && (compare == Compare::Outcome || said.note == then.note);
            if same { Came::Same } else { Came::Different(said) }
        }
        Err(Miss::Failed(fault)) => Came::Failed(fault),
        Err(Miss::Skip(why)) => Came::Skipped(why),
    }
}

/// The recorded settings of an entry.
pub(super) fn settings(entry: &Entry) -> Result<Vec<types::Setting>, Wrong> {
    types::Context::read(&entry.context).map(|context| context.settings)
}

/// The grants under which an entry was decided; only `adjust` has some.
pub(super) fn grants(entry: &Entry) -> Vec<String> {
    let list = entry.question.get("grants").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn ask<D: Asked>(bench: &Bench, decider: &Decider, entry: &Entry) -> Result<Said, Miss> {
    let climb = Climb::<D> {
        question: Arc::new(D::read(&entry.question)?),
        context: types::Context::read(&entry.context)?,
        twin_settings: match decider {
            Decider::Builtin(settings) => Arc::clone(settings),
            Decider::Module(_) => Arc::from([]),
        },
        // The active rung has half.
        deadlines: Deadlines { begun: Instant::now(), total: bench.share * 2 },
    };
    match decider {
        Decider::Builtin(_) => Ok(said::<D>(climb.twin(Vec::new()))),
        Decider::Module(policy) => match &bench.sandbox {
            Some(sandbox) => call(sandbox, policy, climb),
            None => Err(Miss::Skip(Skip::ModuleGone)),
        },
    }
}

/// Up the ladder's first rung. A call that hardly got a processor is made again with more time.
fn call<D: Asked>(sandbox: &Sandbox, policy: &Arc<Policy>, mut climb: Climb<D>) -> Result<Said, Miss> {
    for turn in 0..TURNS {
        climb.deadlines = Deadlines { begun: Instant::now(), total: climb.deadlines.total * 4_u32.pow(turn) };
        let step = Step { rung: Rung::Active, policy: Arc::clone(policy), demoted: None };
        let mut outcome = climb.climb(sandbox, vec![step]);
        let Some(attempt) = outcome.tries.pop() else { break };
        match attempt.fault {
            None => return Ok(said::<D>(outcome)),
            Some(fault) if matches!(fault.fault, Fault::Deadline | Fault::Busy) && !attempt.blame => {}
            Some(fault) => return Err(Miss::Failed(fault)),
        }
    }
    Err(Miss::Skip(Skip::Busy))
}

/// As the host writes it down.
fn said<D: Asked>(outcome: Outcome<D::Answer>) -> Said {
    match outcome.answer {
        Ok((answer, note)) => Said {
            answer: Some(D::answer(&answer)),
            refusal: None,
            note: note.map(|note| clean(&note, 1 << 10)),
        },
        Err(refusal) => Said { answer: None, refusal: Some(refusal), note: None },
    }
}
