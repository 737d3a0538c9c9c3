//! One decision, rung by rung inside one deadline (design §6):
//!
//! ```text
//! 0                    1/2          3/4        7/8       1
//! |--- active policy ---|- last good -|- twin ---|- the asker's own twin -|
//! ```
//!
//! The twin is pure native code and takes microseconds. It runs where the ladder got to: on the policy
//! thread after a rung failed there, on the asking task when no WebAssembly is to be run at all, when the
//! queue is full, or when no policy thread came back in time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::bindings::types;
use super::guest::{Asked, Terms};
use super::load::Policy;
use super::sandbox::{Sandbox, Stage, State, classify, clean};
use super::weigh::Weigh as _;
pub(super) use super::worlds::grants::ALL_EDITS;
use super::{Fault, PolicyFault, Refusal, Rung};

/// What the built-in stands under: it sees and may do everything.
pub(super) static BUILTIN_TERMS: LazyLock<Terms> = LazyLock::new(|| Terms {
    grants: ALL_EDITS.map(str::to_owned).into(),
    image_labels: vec!["*".to_owned()],
});

/// When which rung has to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    pub begun: Instant,
    pub total: Duration,
}

impl Deadlines {
    fn share(self, rung: Rung) -> Duration {
        match rung {
            Rung::Active => self.total / 2,
            Rung::LastGood | Rung::Builtin => self.total / 4,
        }
    }

    fn until(self, rung: Rung) -> Instant {
        match rung {
            Rung::Active => self.begun + self.total / 2,
            Rung::LastGood => self.begun + self.total / 4 * 3,
            Rung::Builtin => self.begun + self.total,
        }
    }

    /// When the asker stops waiting for the policy thread.
    pub fn asker(self) -> Instant {
        self.begun + self.total / 8 * 7
    }
}

/// A rung with a module.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub rung: Rung,
    pub policy: Arc<Policy>,
    /// It is not asked, because of this.
    pub demoted: Option<PolicyFault>,
}

/// What came of a step that was passed over or failed, or was answered.
#[derive(Debug)]
pub(super) struct Try {
    pub step: Step,
    /// How long the call took; none when there was none.
    pub micros: Option<u32>,
    pub fault: Option<PolicyFault>,
    /// Whether the fault is the policy's own doing.
    pub blame: bool,
}

impl Try {
    fn failed(step: Step, fault: Fault, message: String) -> Self {
        let fault = PolicyFault {
            policy: step.policy.name.to_string(),
            digest: Some(step.policy.digest),
            fault,
            message,
        };
        Self { step, micros: None, fault: Some(fault), blame: false }
    }

    /// The step was not even begun.
    pub fn skipped(step: Step, fault: Fault, message: &str) -> Self {
        match step.demoted.clone() {
            Some(demoted) => Self { step, micros: None, fault: Some(demoted), blame: false },
            None => Self::failed(step, fault, message.to_owned()),
        }
    }
}

/// An answer, checked, with its note; or a refusal.
pub(super) type Answer<A> = Result<(A, Option<String>), Refusal>;

/// The end of a climb. The last try answered, unless it has a fault: then the twin did.
#[derive(Debug)]
pub(super) struct Outcome<A> {
    pub answer: Answer<A>,
    pub tries: Vec<Try>,
    /// How long the twin took, when it was asked.
    pub twin_micros: Option<u32>,
}

/// Everything a decision needs, ready to go to a policy thread.
#[derive(Debug)]
pub(super) struct Climb<D: Asked> {
    pub question: Arc<D::Question>,
    /// Without settings: each rung has its own.
    pub context: types::Context,
    pub twin_settings: Arc<[types::Setting]>,
    pub deadlines: Deadlines,
}

impl<D: Asked> Clone for Climb<D> {
    fn clone(&self) -> Self {
        Self {
            question: Arc::clone(&self.question),
            context: self.context.clone(),
            twin_settings: Arc::clone(&self.twin_settings),
            deadlines: self.deadlines,
        }
    }
}

impl<D: Asked> Climb<D> {
    /// Asks step after step, then the twin. On a policy thread.
    pub fn climb(&self, sandbox: &Sandbox, steps: Vec<Step>) -> Outcome<D::Answer> {
        let mut tries = Vec::with_capacity(steps.len());
        for step in steps {
            let (attempt, answer) = self.attempt(sandbox, step);
            tries.push(attempt);
            if let Some(answer) = answer {
                return Outcome { answer, tries, twin_micros: None };
            }
        }
        self.twin(tries)
    }

    /// The built-in's answer, after `tries` came to nothing. On any thread.
    pub fn twin(&self, tries: Vec<Try>) -> Outcome<D::Answer> {
        let begun = Instant::now();
        let mut ctx = self.context.clone();
        ctx.settings = self.twin_settings.to_vec();
        // A panic in our own code must not fail a kernel with no word of why.
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let question = &self.question;
            let raw = D::twin_under(&ctx, question, &BUILTIN_TERMS)?;
            D::check_under(&ctx, question, &BUILTIN_TERMS, raw).map_err(|problem| internal(&problem))
        }))
        .unwrap_or_else(|_| Err(internal("it panicked")));
        if let Err(refusal) = &answer
            && refusal.code == INTERNAL
        {
            tracing::error!(world = %D::WORLD, function = D::FUNCTION, "{}", refusal.message);
        }
        Outcome { answer, tries, twin_micros: Some(micros(begun)) }
    }

    fn attempt(&self, sandbox: &Sandbox, step: Step) -> (Try, Option<Answer<D::Answer>>) {
        if step.demoted.is_some() {
            return (Try::skipped(step, Fault::Busy, ""), None);
        }
        let until = self.deadlines.until(step.rung);
        let begun = Instant::now();
        let share = until.saturating_duration_since(begun);
        if share.is_zero() {
            return (Try::skipped(step, Fault::Busy, "no policy thread was free in time"), None);
        }
        let mut ctx = self.context.clone();
        ctx.settings.clone_from(&step.policy.settings);
        let weight = D::weigh(&self.question, &step.policy.terms) + ctx.behind();
        let limit = step.policy.budgets.bytes_in;
        if weight > limit {
            let message = format!("the question has {weight} bytes, the limit is {limit} (bytes-in)");
            return (Try::failed(step, Fault::Boundary, message), None);
        }
        match self.ask(sandbox, &step.policy, &ctx, until) {
            Ok(answer) => {
                (Try { step, micros: Some(micros(begun)), fault: None, blame: false }, Some(answer))
            }
            Err((fault, message, ran)) => {
                // A guest cannot sleep. If it hardly ran, the machine was busy or its turn came late.
                let blame = fault != Fault::Deadline || ran >= self.deadlines.share(step.rung) / 2;
                let failed = Try::failed(step, fault, message);
                (Try { micros: Some(micros(begun)), blame, ..failed }, None)
            }
        }
    }

    fn ask(
        &self,
        sandbox: &Sandbox,
        policy: &Policy,
        ctx: &types::Context,
        until: Instant,
    ) -> Result<Answer<D::Answer>, (Fault, String, Duration)> {
        let _running = sandbox.clock.running();
        let (question, terms) = (&self.question, &policy.terms);
        let mut store = sandbox.store(&policy.name, until, policy.budgets);
        let failed = |stage, error: &wasmtime::Error, store: &wasmtime::Store<State>| {
            let (fault, message) = classify(stage, error, store.data());
            (fault, message, store.data().ran())
        };
        let guest = policy.pre.instantiate(&mut store).map_err(|e| failed(Stage::Instantiate, &e, &store))?;
        let raw =
            D::call(&guest, &mut store, ctx, question, terms).map_err(|e| failed(Stage::Call, &e, &store))?;
        match raw {
            Err(refusal) => Ok(Err(refusal)),
            Ok(raw) => D::check_under(ctx, question, terms, raw).map(Ok).map_err(|problem| {
                let message = format!("its answer is wrong: {}", clean(&problem, 1 << 10));
                (Fault::InvalidAnswer, message, Duration::ZERO)
            }),
        }
    }
}

/// Code of a refusal that is our own mistake.
const INTERNAL: &str = "builtin-failed";

fn internal(problem: &str) -> Refusal {
    Refusal {
        code: INTERNAL.to_owned(),
        message: format!("the built-in policy failed, which is a bug of berth: {problem}"),
        retry_later: false,
    }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
