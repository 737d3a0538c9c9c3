//! The host behind the handle: the slots, the threads, and one ask from the caller's side.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::bindings::types;
use super::config::{Config, PolicyConfig, Source};
use super::error::{PolicyError, Problem};
use super::guest::Asked;
use super::ladder::{Climb, Deadlines, Outcome, Step, Try};
use super::load::{self, Policy};
use super::pool::Pool;
use super::record::Record;
use super::sandbox::{Budgets, Sandbox};
use super::{Decided, DecidedBy, Fault, PolicyFault, PolicyView, Rung, WorldKind, shipped};

const WORLDS: [WorldKind; 3] = [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig];
const BUILTIN: &str = "builtin";

/// Shared by all handles.
#[derive(Debug)]
pub(super) struct Host {
    node_name: String,
    facts: Vec<(String, String)>,
    deadline: Duration,
    bytes_in: usize,
    /// None: every world is built-in, there is no WebAssembly.
    pub wasm: Option<Wasm>,
    slots: Vec<Slot>,
}

#[derive(Debug)]
pub(super) struct Wasm {
    pub sandbox: Arc<Sandbox>,
    pool: Pool,
}

/// One world, or one member of its chain.
#[derive(Debug)]
pub(super) struct Slot {
    pub world: WorldKind,
    /// The one pointer: a decision takes it once, so a swap never touches a call in flight.
    pub line: RwLock<Arc<Line>>,
    /// Of the built-in, where that is what is active.
    builtin: Record,
    /// What was configured and did not load.
    load_fault: Option<PolicyFault>,
    /// The operator's settings, where they are meant for the logic that the twin shares.
    twin_settings: Arc<[types::Setting]>,
}

/// Who is asked, first to last; after them the twin.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub active: Option<Arc<Policy>>,
    pub last_good: Option<Arc<Policy>>,
}

impl Host {
    /// Loads and compiles on the calling thread. What does not load is replaced and shown.
    pub fn start(config: &Config) -> Result<Self, PolicyError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(Problem::Config(problems.join("; ")).of("policy"));
        }
        let builtin_only =
            WORLDS.iter().all(|world| config.chain(*world).iter().all(|p| p.source == Source::Builtin));
        let (sandbox, trouble) = match builtin_only {
            true => (None, None),
            false => match sandbox(config, config.threads + 1) {
                Ok(sandbox) => (Some(Arc::new(sandbox)), None),
                Err(problem) => (None, Some(problem)),
            },
        };
        let mut slots = Vec::new();
        for world in WORLDS {
            for policy in config.chain(world) {
                slots.push(Slot::load(world, policy, sandbox.as_deref(), trouble.as_ref()));
            }
        }
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
            deadline: Duration::from_millis(config.deadline_ms),
            bytes_in: config.bytes_in,
            wasm,
            slots,
        })
    }

    pub fn chain(&self, world: WorldKind) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |slot| slot.world == world)
    }

    pub fn list(&self) -> Vec<PolicyView> {
        self.slots.iter().map(Slot::view).collect()
    }

    pub async fn ask<D: Asked>(&self, link: usize, question: D::Question) -> Decided<D::Answer> {
        let slot = self.chain(D::WORLD).nth(link);
        let climb = self.climb::<D>(slot, question);
        let begun = climb.deadlines.begun;
        let steps = slot.map_or_else(Vec::new, Slot::steps);
        let outcome = match &self.wasm {
            Some(wasm) if steps.iter().any(|step| step.demoted.is_none()) => wasm.ask(climb, steps).await,
            _ => {
                let skipped = |step| Try::skipped(step, Fault::Link, "there is no sandbox");
                climb.twin(steps.into_iter().map(skipped).collect())
            }
        };
        finish::<D>(slot, outcome, begun)
    }

    /// The built-in's answer at once, on this thread; in nobody's record.
    pub fn builtin<D: Asked>(&self, link: usize, question: D::Question) -> Decided<D::Answer> {
        let climb = self.climb::<D>(self.chain(D::WORLD).nth(link), question);
        let begun = climb.deadlines.begun;
        finish::<D>(None, climb.twin(Vec::new()), begun)
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        types::Context {
            node_name: self.node_name.clone(),
            now_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            // Unknown: reading the zone of the node is not built yet.
            utc_offset_minutes: 0,
            // Two halves of which some bits are fixed by the format, in different places.
            seed: high ^ low.rotate_left(32),
            settings: Vec::new(),
            facts: self.facts.clone(),
        }
    }
}

pub(super) fn sandbox(config: &Config, calls: usize) -> Result<Sandbox, Problem> {
    let budgets = Budgets { memory_bytes: config.memory_bytes, bytes_out: config.bytes_out };
    Sandbox::new(budgets, calls).map_err(Problem::Sandbox)
}

/// Loads one policy as it is configured.
pub(super) fn load(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
) -> Result<Option<Policy>, Problem> {
    let file;
    let bytes = match &config.source {
        Source::Builtin => return Ok(None),
        Source::Shipped => match shipped::module(world) {
            [] => return Err(Problem::NotShipped(world)),
            bytes => bytes,
        },
        Source::File(path) => {
            file = load::read(path)?;
            &file
        }
    };
    let module = load::module(sandbox, bytes)?;
    if module.world != world {
        return Err(Problem::OtherWorld { found: module.world, wanted: world });
    }
    module.configure(sandbox, config, config.source.to_string()).map(Some)
}

impl Slot {
    /// The configured policy; else the shipped one with its defaults; else the built-in.
    fn load(
        world: WorldKind,
        config: &PolicyConfig,
        sandbox: Option<&Sandbox>,
        trouble: Option<&Problem>,
    ) -> Self {
        let try_load = |config: &PolicyConfig| match (sandbox, trouble) {
            (Some(sandbox), _) => load(sandbox, world, config),
            (None, Some(problem)) if config.source != Source::Builtin => Err(problem.clone()),
            (None, _) => Ok(None),
        };
        let (active, load_fault) = match try_load(config) {
            Ok(policy) => (policy, None),
            Err(problem) => {
                tracing::error!(world = %world, policy = %config.source, "the policy was not loaded: {problem}");
                let fault = PolicyFault {
                    policy: config.source.to_string(),
                    digest: None,
                    fault: Fault::Link,
                    message: format!("it was not loaded: {problem}"),
                };
                let shipped = PolicyConfig::default();
                let instead = if *config == shipped { None } else { try_load(&shipped).ok().flatten() };
                (instead, Some(fault))
            }
        };
        let twin_settings = match (&config.source, &active) {
            (Source::File(_), _) => Vec::new(),
            (_, Some(policy)) => policy.settings.clone(),
            (_, None) => {
                let settings = config.settings.0.iter();
                settings
                    .map(|(key, value)| types::Setting { key: key.clone(), value: value.into() })
                    .collect()
            }
        };
        Self {
            world,
            line: RwLock::new(Arc::new(Line { active: active.map(Arc::new), last_good: None })),
            builtin: Record::default(),
            load_fault,
            twin_settings: twin_settings.into(),
        }
    }

    fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn steps(&self) -> Vec<Step> {
        let line = self.line();
        let step = |rung, policy: &Arc<Policy>| Step {
            rung,
            policy: Arc::clone(policy),
            demoted: policy.record.demoted(),
        };
        let active = line.active.iter().map(|policy| step(Rung::Active, policy));
        active.chain(line.last_good.iter().map(|policy| step(Rung::LastGood, policy))).collect()
    }

    fn view(&self) -> PolicyView {
        let line = self.line();
        let record = line.active.as_ref().map_or(&self.builtin, |policy| &policy.record).snapshot();
        let last_fault = record.last_fault.or_else(|| self.load_fault.clone());
        match &line.active {
            Some(policy) => PolicyView {
                world: self.world,
                name: policy.name.to_string(),
                version: policy.version.clone(),
                digest: Some(policy.digest),
                source: policy.source.clone(),
                summary: policy.summary.clone(),
                calls: record.calls,
                fallbacks: record.fallbacks,
                p50_micros: record.p50_micros,
                p99_micros: record.p99_micros,
                last_fault,
                demoted: record.demoted,
            },
            None => PolicyView {
                world: self.world,
                name: BUILTIN.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                digest: None,
                source: BUILTIN.to_owned(),
                summary: "the agent's own logic, without WebAssembly".to_owned(),
                calls: record.calls,
                fallbacks: record.fallbacks,
                p50_micros: record.p50_micros,
                p99_micros: record.p99_micros,
                last_fault,
                demoted: None,
            },
        }
    }

    /// What an operator should know, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let line = self.line();
        let load =
            self.load_fault.as_ref().map(|fault| format!("policy {}: {}", fault.policy, fault.message));
        let demoted = line.active.as_ref().and_then(|policy| {
            policy.record.demoted().map(|fault| format!("policy {}: {}", policy.name, fault.message))
        });
        load.into_iter().chain(demoted)
    }
}

impl Wasm {
    async fn ask<D: Asked>(&self, climb: Climb<D>, steps: Vec<Step>) -> Outcome<D::Answer> {
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

/// Writes the outcome into the records and says who decided.
fn finish<D: Asked>(slot: Option<&Slot>, outcome: Outcome<D::Answer>, begun: Instant) -> Decided<D::Answer> {
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
                    report::<D>(&fault, record.failed(&fault, attempt.blame, now));
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
        Ok((answer, note)) => (Ok(answer), note.map(|note| super::sandbox::clean(&note, 1 << 10))),
        Err(refusal) => (Err(refusal), None),
    };
    let decided_by = DecidedBy {
        world: D::WORLD,
        function: D::FUNCTION.to_owned(),
        policy: by.as_ref().map_or_else(|| BUILTIN.to_owned(), |step| step.policy.name.to_string()),
        version: by
            .as_ref()
            .map_or_else(|| env!("CARGO_PKG_VERSION").to_owned(), |step| step.policy.version.clone()),
        digest: by.as_ref().map(|step| step.policy.digest),
        rung: by.as_ref().map_or(Rung::Builtin, |step| step.rung),
        faults,
        micros: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        note,
    };
    Decided { answer, by: decided_by }
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
            "the policy failed too often and is not asked any more until the agent restarts"
        );
    }
}
