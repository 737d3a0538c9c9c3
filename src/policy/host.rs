//! The host behind the handle: the slots, the threads, and one ask from the caller's side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::time::timeout_at;

use super::bindings::types;
use super::config::{Config, Source};
use super::error::{PolicyError, Problem};
use super::guest::{Asked, Terms};
use super::journal::{self, Journal, Made, Telling};
use super::json::Jot as _;
use super::ladder::{ALL_EDITS, Climb, Deadlines, Outcome, Step, Try};
use super::pool::Pool;
use super::sandbox::{Budgets, Sandbox, clean};
use super::shelf::Shelf;
use super::slot::{BUILTIN, Loader, Slot};
use super::zone::Zone;
use super::{Decided, DecidedBy, Fault, Kept, PolicyFault, PolicyView, Purpose, Rung, WORLDS, WorldKind};

/// Shared by all handles.
#[derive(Debug)]
pub(super) struct Host {
    node_name: String,
    facts: Vec<(String, String)>,
    zone: Zone,
    deadline: Duration,
    pub bytes_in: usize,
    /// None: every world is built-in, there is no WebAssembly.
    pub wasm: Option<Wasm>,
    pub slots: Vec<Slot>,
    /// None: nothing is written down.
    pub journal: Option<Journal>,
    /// What an operator should know beside the slots' own problems.
    problems: Vec<String>,
    /// Counts demotions, for whoever saves them.
    pub demotions: watch::Sender<u64>,
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
        let (sandbox, trouble) = match builtin_only {
            true => (None, None),
            // Beside the threads one that loads: at the start, later for `swap`, one at a time.
            false => match sandbox(config, config.threads + 1) {
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
            node_name: config.node_name.clone(),
            facts: config.facts.clone(),
            zone: Zone::of_node(),
            deadline: Duration::from_millis(config.deadline_ms),
            bytes_in: config.bytes_in,
            wasm,
            slots,
            journal,
            problems,
            demotions: watch::Sender::new(0),
        })
    }

    pub fn chain(&self, world: WorldKind) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.world == world)
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
        self.problems.iter().cloned().chain(of_slots).chain(journal).collect()
    }

    pub async fn ask<D: Asked>(
        &self,
        link: usize,
        question: D::Question,
        purpose: Purpose,
    ) -> Decided<D::Answer> {
        let slot = self.chain(D::WORLD).nth(link);
        let climb = self.climb::<D>(slot, question);
        // Once: whatever is swapped from here on is for the next decision.
        let steps = slot.map_or_else(Vec::new, |slot| Slot::steps(&slot.line()));
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
        let climb = self.climb::<D>(self.chain(D::WORLD).nth(link), question);
        let outcome = climb.twin(Vec::new());
        self.finish::<D>(None, link, &climb, outcome, Purpose::Real)
    }

    fn climb<D: Asked>(&self, slot: Option<&Slot>, question: D::Question) -> Climb<D> {
        Climb {
            deadlines: Deadlines { begun: Instant::now(), total: self.deadline },
            question: Arc::new(question),
            context: self.context(),
            twin_settings: slot.map_or_else(|| Arc::from([]), |slot| Arc::clone(&slot.twin_settings)),
            bytes_in: self.bytes_in,
        }
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

    /// Writes the outcome into the records and the journal, and says who decided.
    fn finish<D: Asked>(
        &self,
        slot: Option<&Slot>,
        link: usize,
        climb: &Climb<D>,
        outcome: Outcome<D::Answer>,
        purpose: Purpose,
    ) -> Decided<D::Answer> {
        let Outcome { answer, tries, twin_micros } = outcome;
        let now = Instant::now();
        let mut faults = Vec::new();
        let mut by: Option<Step> = None;
        let asked_none = tries.is_empty();
        for attempt in tries {
            let record = &attempt.step.policy.record;
            record.asked(attempt.fault.is_none(), attempt.micros);
            match attempt.fault {
                None => by = Some(attempt.step),
                Some(fault) => {
                    if attempt.step.demoted.is_none() {
                        let demoted = record.failed(&fault, attempt.blame, now);
                        report::<D>(&fault, demoted);
                        if demoted {
                            self.demotions.send_modify(|count| *count += 1);
                        }
                    }
                    faults.push(fault);
                }
            }
        }
        if let Some(slot) = slot
            && asked_none
        {
            slot.builtin.asked(true, twin_micros);
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
            rung: by.as_ref().map_or(Rung::Builtin, |step| step.rung),
            faults,
            micros: u64::try_from(climb.deadlines.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            note,
        };
        let decided = Decided { answer, by: decided_by };
        if let Some(journal) = &self.journal {
            journal.tell(telling::<D>(climb, by, &decided, link, purpose));
        }
        decided
    }
}

/// What the journal's thread makes a record of: the question as a whole, with the settings and grants of the one
/// who answered.
fn telling<D: Asked>(
    climb: &Climb<D>,
    by: Option<Step>,
    decided: &Decided<D::Answer>,
    link: usize,
    purpose: Purpose,
) -> Telling {
    let (question, context) = (Arc::clone(&climb.question), climb.context.clone());
    let (twin_settings, decided, time_ms) =
        (Arc::clone(&climb.twin_settings), decided.clone(), journal::now_ms());
    let record = move |seq| {
        let (settings, grants) = match &by {
            Some(step) => (step.policy.settings.clone(), step.policy.terms.grants.clone()),
            None => (twin_settings.to_vec(), ALL_EDITS.map(str::to_owned).to_vec()),
        };
        let whole = D::tailored(&question, &Terms { grants, image_labels: vec!["*".to_owned()] });
        let made = Made {
            link,
            dry_run: purpose == Purpose::DryRun,
            by: decided.by,
            context: types::Context { settings, ..context }.json(),
            kernels: D::kernels(&whole),
            question: D::question(&whole),
            answer: decided.answer.map(|answer| D::answer(&answer)),
            time_ms,
        };
        made.entry(seq)
    };
    Telling { only_changes: D::ONLY_CHANGES, record: Box::new(record) }
}

pub(super) fn sandbox(config: &Config, calls: usize) -> Result<Sandbox, Problem> {
    let budgets = Budgets { memory_bytes: config.memory_bytes, bytes_out: config.bytes_out };
    Sandbox::new(budgets, calls).map_err(Problem::Sandbox)
}

impl Wasm {
    async fn ask<D: Asked>(&self, climb: &Climb<D>, steps: Vec<Step>) -> Outcome<D::Answer> {
        let asker = climb.deadlines.asker();
        let (reply, mut answer) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let job = {
            let (climb, steps, begun) = (climb.clone(), steps.clone(), Arc::clone(&begun));
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
