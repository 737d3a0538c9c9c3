//! The host behind the handle: the slots, the threads, and one ask from the caller's side.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout_at;

use super::bindings::types;
use super::clock::thread_cpu;
use super::compile::{Compiler, Limits, Workshop};
use super::config::{Budgets, Config, Source};
use super::error::{PolicyError, Problem};
use super::guest::{Asked, Terms};
use super::journal::{self, Journal, Made, Telling};
use super::json::Jot as _;
use super::ladder::{BUILTIN_TERMS, Climb, Deadlines, Outcome, Step, Try};
use super::pool::Pool;
use super::record::End;
use super::replay::Bench;
use super::sandbox::{Sandbox, clean};
use super::shelf::Shelf;
use super::slot::{BUILTIN, Line, Loader, Slot};
use super::tally::Who;
use super::zone::Zone;
use super::{
    Decided, DecidedBy, Fault, Kept, PolicyFault, PolicyView, Purpose, Refusal, Rung, WORLDS, WorldKind,
};
use crate::ids::Digest;

/// Contradictions that are remembered.
const CONFLICTS: usize = 8;

/// Two members of the chain that set the same thing differently.
#[derive(Debug)]
struct Conflict {
    links: (usize, usize),
    /// Who they were; it is no matter any more when one of them is replaced.
    digests: [Option<Digest>; 2],
    message: String,
    kernels: u64,
}

impl Conflict {
    fn told(&self) -> String {
        format!(
            "{}: {} kernel(s) were refused; give one of them other settings, or take it out of the chain",
            self.message, self.kernels
        )
    }
}

/// Shared by all handles.
#[derive(Debug)]
pub(super) struct Host {
    /// What it was started with.
    started: Config,
    node_name: String,
    facts: Vec<(String, String)>,
    /// Of worlds whose own section says nothing else.
    budgets: Budgets,
    zone: Zone,
    /// None: every world is built-in, there is no WebAssembly.
    pub wasm: Option<Wasm>,
    pub slots: Vec<Slot>,
    /// None: nothing is written down.
    pub journal: Option<Journal>,
    /// What an operator should know beside the slots' own problems.
    problems: Vec<String>,
    /// The same about the configuration that was read again.
    pub reloaded: Mutex<Option<String>>,
    /// Counts failures that were a policy's own doing, for whoever saves demotions and ends probations.
    pub failures: watch::Sender<u64>,
    /// Members of the chain that contradicted each other.
    conflicts: Mutex<Vec<Conflict>>,
}

#[derive(Debug)]
pub(super) struct Wasm {
    pub sandbox: Arc<Sandbox>,
    pool: Pool,
}

impl Host {
    /// Loads and compiles on the calling thread. What does not load is replaced and shown.
    pub fn start(config: &Config, kept: Option<&Kept>) -> Result<Self, PolicyError> {
        let wrong = config.problems();
        if !wrong.is_empty() {
            return Err(Problem::Config(wrong.join("; ")).of("policy"));
        }
        let builtin_only =
            WORLDS.iter().all(|world| config.chain(*world).iter().all(|p| p.source == Source::Builtin));
        let workshop = kept.map_or(&Workshop::IN_MEMORY, |kept| &kept.workshop);
        let (sandbox, trouble) = match builtin_only {
            true => (None, None),
            // Beside the threads one that loads, at the start and later for `swap`, and one that decides again for
            // replay and shadows: one at a time each.
            false => match sandbox(config, config.threads + 2, workshop) {
                Ok(sandbox) => (Some(Arc::new(sandbox)), None),
                Err(problem) => (None, Some(problem)),
            },
        };
        let shelf = kept.map(|kept| Shelf::new(kept.modules.clone()));
        let loader = Loader { sandbox: sandbox.as_deref(), trouble: trouble.as_ref(), shelf: shelf.as_ref() };
        let mut slots = Vec::new();
        for world in WORLDS {
            for (link, policy) in config.chain(world).iter().enumerate() {
                let row = kept.and_then(|kept| kept.row(world, link));
                slots.push(Slot::start((world, link), policy, loader, row));
            }
        }
        let mut problems = kept.map_or_else(Vec::new, |kept| kept.left_over(&slots));
        let journal = kept.and_then(|kept| match Journal::open(&kept.journal, config.journal_bytes) {
            Ok(journal) => Some(journal),
            Err(error) => {
                tracing::error!(%error, "there is no journal of decisions");
                problems.push(format!("there is no journal of decisions: {error}"));
                None
            }
        });
        let wasm = match sandbox {
            None => None,
            Some(sandbox) => {
                let pool = Pool::start(config.threads)
                    .map_err(|e| Problem::Sandbox(format!("no threads: {e}")).of("policy"))?;
                Some(Wasm { sandbox, pool })
            }
        };
        Ok(Self {
            started: config.clone(),
            node_name: config.node_name.clone(),
            facts: config.facts.clone(),
            budgets: config.budgets(),
            zone: Zone::of_node(),
            wasm,
            slots,
            journal,
            problems,
            reloaded: Mutex::default(),
            failures: watch::Sender::new(0),
            conflicts: Mutex::default(),
        })
    }

    pub fn chain(&self, world: WorldKind) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.world == world)
    }

    /// What of a configuration that was read again holds only after a restart, a sentence.
    pub fn needs_restart(&self, config: &Config) -> Option<String> {
        let started = &self.started;
        let changed = [
            ("threads", config.threads != started.threads),
            ("deadline-ms", config.deadline_ms != started.deadline_ms),
            ("memory-bytes", config.memory_bytes != started.memory_bytes),
            ("bytes-in", config.bytes_in != started.bytes_in),
            ("bytes-out", config.bytes_out != started.bytes_out),
            ("compile-sec", config.compile_sec != started.compile_sec),
            ("compile-memory-bytes", config.compile_memory_bytes != started.compile_memory_bytes),
            ("journal-bytes", config.journal_bytes != started.journal_bytes),
            ("trust", config.trust != started.trust),
        ];
        let keys: Vec<&str> =
            changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect();
        let are = if keys.len() == 1 { "is" } else { "are" };
        (!keys.is_empty())
            .then(|| format!("{} of [policy] {are} taken when the agent is restarted", keys.join(", ")))
    }

    /// Where decisions of the journal are made again, with the CPU time of a call of the active rung.
    pub fn bench(&self) -> Bench {
        let sandbox = self.wasm.as_ref().map(|wasm| Arc::clone(&wasm.sandbox));
        Bench { sandbox, share: self.budgets.deadline / 2 }
    }

    /// The sandbox and the active policy of a world's first member.
    pub fn active(&self, world: WorldKind) -> Option<(Arc<Sandbox>, Arc<super::load::Policy>)> {
        let sandbox = Arc::clone(&self.wasm.as_ref()?.sandbox);
        let policy = self.chain(world).next()?.line().active.policy.clone()?;
        Some((sandbox, policy))
    }

    pub fn list(&self) -> Vec<PolicyView> {
        self.slots.iter().map(Slot::view).collect()
    }

    pub fn problems(&self) -> Vec<String> {
        let of_slots = self.slots.iter().flat_map(Slot::problems);
        let journal = self.journal.as_ref().and_then(Journal::problem);
        let reloaded = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        conflicts.retain(|conflict| self.digests(conflict.links) == conflict.digests);
        let of_chain = conflicts.iter().map(Conflict::told);
        self.problems.iter().cloned().chain(reloaded).chain(of_slots).chain(of_chain).chain(journal).collect()
    }

    /// Who is active in two members of the chain.
    fn digests(&self, links: (usize, usize)) -> [Option<Digest>; 2] {
        [links.0, links.1].map(|link| {
            let slot = self.chain(WorldKind::ContainerConfig).nth(link)?;
            slot.line().active.policy.as_ref().map(|policy| policy.digest)
        })
    }

    pub async fn ask<D: Asked>(
        &self,
        link: usize,
        question: D::Question,
        purpose: Purpose,
    ) -> Decided<D::Answer> {
        let slot = self.chain(D::WORLD).nth(link);
        // Once: whatever is swapped from here on is for the next decision.
        let line = slot.map(Slot::line);
        let climb = self.climb::<D>(line.as_deref(), question);
        let steps = line.as_deref().map_or_else(Vec::new, Slot::steps);
        let outcome = match &self.wasm {
            Some(wasm) if steps.iter().any(|step| step.demoted.is_none()) => wasm.ask(&climb, steps).await,
            _ => {
                let skipped = |step| Try::skipped(step, Fault::Link, "there is no sandbox");
                climb.twin(steps.into_iter().map(skipped).collect())
            }
        };
        self.finish::<D>(slot, link, &climb, outcome, purpose)
    }

    /// The built-in's answer at once, on this thread; in nobody's record.
    pub fn builtin<D: Asked>(&self, link: usize, question: D::Question) -> Decided<D::Answer> {
        let slot = self.chain(D::WORLD).nth(link);
        if let Some(slot) = slot {
            slot.tallies.answered(Rung::Builtin);
        }
        let line = slot.map(Slot::line);
        let climb = self.climb::<D>(line.as_deref(), question);
        let outcome = climb.twin(Vec::new());
        self.finish::<D>(None, link, &climb, outcome, Purpose::Real)
    }

    /// Writes a refusal down that admission made without asking anybody.
    pub fn refused<D: Asked>(&self, question: D::Question, refusal: Refusal, purpose: Purpose) {
        let Some(journal) = &self.journal else { return };
        let climb = self.climb::<D>(None, question);
        let by = DecidedBy {
            world: D::WORLD,
            function: D::FUNCTION.to_owned(),
            policy: journal::ADMISSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest: None,
            rung: Rung::Builtin,
            faults: Vec::new(),
            micros: 0,
            note: None,
        };
        let decided = Decided { answer: Err(refusal), by, granted: Arc::from([]) };
        journal.tell(telling::<D>(&climb, None, &decided, 0, purpose));
    }

    /// See [`super::Handle::overrule`].
    pub fn overrule<D: Asked>(
        &self,
        purpose: Purpose,
        link: usize,
        question: D::Question,
        by: DecidedBy,
        problem: String,
    ) -> Decided<D::Answer> {
        let slot = self.chain(D::WORLD).nth(link);
        let fault = PolicyFault {
            policy: by.policy.clone(),
            digest: by.digest,
            fault: Fault::InvalidAnswer,
            message: clean(&problem, 1 << 10),
        };
        // Taken again: what was replaced since has no record to keep it in.
        let step = slot.and_then(|slot| {
            let steps = Slot::steps(&slot.line());
            steps.into_iter().find(|step| Some(step.policy.digest) == by.digest)
        });
        if let Some(step) = step {
            step.policy.record.overruled();
            if let Some(slot) = slot {
                slot.tallies.overruled(Who::from(&*step.policy));
            }
            self.failed::<D>(slot, &step, &fault, true, Instant::now());
        }
        let line = slot.map(Slot::line);
        let climb = self.climb::<D>(line.as_deref(), question);
        let outcome = climb.twin(Vec::new());
        let mut decided = self.finish::<D>(None, link, &climb, outcome, purpose);
        decided.by.faults = by.faults.into_iter().chain([fault]).collect();
        decided
    }

    /// See [`super::Handle::conflict`].
    pub fn conflict<D: Asked>(
        &self,
        purpose: Purpose,
        links: (usize, usize),
        question: D::Question,
        by: &DecidedBy,
        refusal: &Refusal,
    ) {
        if purpose == Purpose::Real {
            tracing::error!(first = links.0, second = links.1, "a kernel is refused: {}", refusal.message);
            let digests = self.digests(links);
            let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
            let known =
                conflicts.iter_mut().find(|known| known.links == links && known.message == refusal.message);
            if let Some(known) = known {
                known.kernels += 1;
            } else if conflicts.len() < CONFLICTS {
                let message = refusal.message.clone();
                conflicts.push(Conflict { links, digests, message, kernels: 1 });
            }
        }
        let line = self.chain(D::WORLD).nth(links.1).map(Slot::line);
        let climb = self.climb::<D>(line.as_deref(), question);
        let decided = Decided { answer: Err(refusal.clone()), by: by.clone(), granted: Arc::from([]) };
        if let Some(journal) = &self.journal {
            journal.tell(telling::<D>(&climb, None, &decided, links.1, purpose));
        }
    }

    /// See [`super::Handle::time_calls`].
    pub fn time_calls<D: Asked>(&self, question: D::Question, times: u64) -> Option<Duration> {
        let (wasm, slot) = (self.wasm.as_ref()?, self.chain(D::WORLD).next()?);
        let line = slot.line();
        let mut steps = Slot::steps(&line);
        steps.retain(|step| step.rung == Rung::Active);
        let mut climb = Arc::unwrap_or_clone(self.climb::<D>(Some(&line), question));
        let begun = thread_cpu();
        for _ in 0..times {
            climb.deadlines.begun = Instant::now();
            let outcome = climb.climb(&wasm.sandbox, steps.clone());
            outcome.tries.last().filter(|attempt| attempt.fault.is_none())?;
        }
        Some(thread_cpu().saturating_sub(begun))
    }

    fn climb<D: Asked>(&self, line: Option<&Line>, question: D::Question) -> Arc<Climb<D>> {
        let budgets = line.map_or(self.budgets, |line| self.budgets.with(&line.config));
        Arc::new(Climb {
            deadlines: Deadlines { begun: Instant::now(), total: budgets.deadline },
            question: Arc::new(question),
            context: self.context(),
            twin_settings: line.map_or_else(|| Arc::from([]), |line| Arc::clone(&line.active.twin_settings)),
        })
    }

    fn context(&self) -> types::Context {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let now_ms = journal::now_ms();
        types::Context {
            node_name: self.node_name.clone(),
            now_ms,
            utc_offset_minutes: self.zone.utc_offset_minutes(now_ms),
            // Two halves of which some bits are fixed by the format, in different places.
            seed: high ^ low.rotate_left(32),
            settings: Vec::new(),
            facts: self.facts.clone(),
        }
    }

    /// A call came to nothing.
    fn failed<D: Asked>(
        &self,
        slot: Option<&Slot>,
        step: &Step,
        fault: &PolicyFault,
        blame: bool,
        now: Instant,
    ) {
        let demoted = step.policy.record.failed(fault, blame, now);
        if let Some(slot) = slot.filter(|_| demoted) {
            slot.tallies.demoted(Who::from(&*step.policy));
        }
        report::<D>(fault, demoted);
        if blame {
            self.failures.send_modify(|count| *count += 1);
        }
    }

    /// Writes the outcome into the records and the journal, and says who decided.
    fn finish<D: Asked>(
        &self,
        slot: Option<&Slot>,
        link: usize,
        climb: &Arc<Climb<D>>,
        outcome: Outcome<D::Answer>,
        purpose: Purpose,
    ) -> Decided<D::Answer> {
        let Outcome { answer, tries, twin_micros } = outcome;
        let now = Instant::now();
        let mut faults = Vec::new();
        let mut by: Option<Step> = None;
        let asked_none = tries.is_empty();
        let answered = if answer.is_ok() { End::Answered } else { End::Refused };
        for attempt in tries {
            let record = &attempt.step.policy.record;
            record.asked(
                attempt.fault.as_ref().map_or(answered, |fault| End::Failed(fault.fault)),
                attempt.micros,
            );
            if let Some(slot) = slot {
                let who = Who::from(&*attempt.step.policy);
                match &attempt.fault {
                    Some(_) if attempt.step.demoted.is_some() => slot.tallies.passed_over(who),
                    Some(fault) => slot.tallies.asked(who, End::Failed(fault.fault), attempt.micros),
                    None => slot.tallies.asked(who, answered, attempt.micros),
                }
            }
            match attempt.fault {
                None => by = Some(attempt.step),
                Some(fault) => {
                    if attempt.step.demoted.is_none() {
                        self.failed::<D>(slot, &attempt.step, &fault, attempt.blame, now);
                    }
                    faults.push(fault);
                }
            }
        }
        let rung = by.as_ref().map_or(Rung::Builtin, |step| step.rung);
        if let Some(slot) = slot {
            slot.tallies.answered(rung);
            if asked_none {
                slot.builtin.asked(answered, twin_micros);
                slot.tallies.asked(Who::BUILTIN, answered, twin_micros);
            }
        }
        let (answer, note) = match answer {
            Ok((answer, note)) => (Ok(answer), note.map(|note| clean(&note, 1 << 10))),
            Err(refusal) => (Err(refusal), None),
        };
        let builtin = || (BUILTIN.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let (policy, version) = by
            .as_ref()
            .map_or_else(builtin, |step| (step.policy.name.to_string(), step.policy.version.clone()));
        let decided_by = DecidedBy {
            world: D::WORLD,
            function: D::FUNCTION.to_owned(),
            policy,
            version,
            digest: by.as_ref().map(|step| step.policy.digest),
            rung,
            faults,
            micros: u64::try_from(climb.deadlines.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            note,
        };
        let granted = by.as_ref().map_or(&BUILTIN_TERMS.grants, |step| &step.policy.terms.grants);
        let decided = Decided { answer, by: decided_by, granted: Arc::clone(granted) };
        if let Some(journal) = &self.journal {
            journal.tell(telling::<D>(climb, by, &decided, link, purpose));
        }
        decided
    }
}

/// What the journal's thread makes a record of: the question as a whole, with the settings and grants of the one
/// who answered.
fn telling<D: Asked>(
    climb: &Arc<Climb<D>>,
    by: Option<Step>,
    decided: &Decided<D::Answer>,
    link: usize,
    purpose: Purpose,
) -> Telling {
    let climb = Arc::clone(climb);
    let (decided, time_ms) = (decided.clone(), journal::now_ms());
    let record = move |seq| {
        let settings = match &by {
            Some(step) => step.policy.settings.clone(),
            None => climb.twin_settings.to_vec(),
        };
        let terms = Terms { grants: decided.granted, image_labels: BUILTIN_TERMS.image_labels.clone() };
        let whole = D::tailored(&climb.question, &terms);
        let made = Made {
            link,
            dry_run: purpose == Purpose::DryRun,
            by: decided.by,
            context: types::Context { settings, ..climb.context.clone() }.json(),
            kernels: D::kernels(&whole),
            question: D::question(&whole),
            answer: decided.answer.map(|answer| D::answer(&answer)),
            time_ms,
        };
        made.entry(seq)
    };
    Telling { only_changes: D::ONLY_CHANGES, record: Box::new(record) }
}

pub(super) fn sandbox(config: &Config, calls: usize, workshop: &Workshop) -> Result<Sandbox, Problem> {
    let compiler = Compiler::open(workshop, Limits::of(config));
    let mut sandbox =
        Sandbox::new(config.budgets(), config.most_memory(), calls, compiler).map_err(Problem::Sandbox)?;
    sandbox.trust = config.trust.clone();
    Ok(sandbox)
}

impl Wasm {
    async fn ask<D: Asked>(&self, climb: &Arc<Climb<D>>, steps: Vec<Step>) -> Outcome<D::Answer> {
        let asker = climb.deadlines.asker();
        let (reply, mut answer) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let job = {
            let (climb, steps, begun) = (Arc::clone(climb), steps.clone(), Arc::clone(&begun));
            let sandbox = Arc::clone(&self.sandbox);
            Box::new(move || {
                // The asker is gone or has helped itself.
                if reply.is_closed() {
                    return;
                }
                begun.store(true, Ordering::Relaxed);
                let _ = reply.send(climb.climb(&sandbox, steps));
            })
        };
        if self.pool.submit(job).is_err() {
            let tries = steps
                .into_iter()
                .map(|step| Try::skipped(step, Fault::Busy, "the queue of decisions is full"));
            return climb.twin(tries.collect());
        }
        let answered = match timeout_at(asker.into(), &mut answer).await {
            Ok(answered) => answered.ok(),
            Err(_) => {
                // From here on the thread's answer counts for nothing; an answer sent until now does.
                answer.close();
                answer.try_recv().ok()
            }
        };
        if let Some(outcome) = answered {
            return outcome;
        }
        let (fault, message) = if !begun.load(Ordering::Relaxed) {
            (Fault::Busy, "no policy thread was free in time")
        } else if Instant::now() >= asker {
            (Fault::Deadline, "the policy thread did not come back in time")
        } else {
            (Fault::Trap, "the call panicked on its thread")
        };
        climb.twin(steps.into_iter().map(|step| Try::skipped(step, fault, message)).collect())
    }
}

fn report<D: Asked>(fault: &PolicyFault, demoted: bool) {
    let digest = fault.digest.map(|digest| digest.short());
    tracing::warn!(
        world = %D::WORLD, function = D::FUNCTION, policy = fault.policy, digest, fault = ?fault.fault,
        "a policy's call came to nothing, the next one decides: {}", fault.message
    );
    if demoted {
        tracing::error!(
            world = %D::WORLD, policy = fault.policy, digest,
            "the policy failed too often and is not asked any more until an operator acts: \
             `berth policy rollback {world}`, or activate another one", world = D::WORLD
        );
    }
}
