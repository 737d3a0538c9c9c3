//! One slot: a world, or one member of its chain. Who is asked there is one pointer ([`Line`]) that a decision
//! takes once; what is swapped meanwhile is for the next one, so no decision ever mixes two sets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use super::bindings::types;
use super::config::{PolicyConfig, Source};
use super::error::Problem;
use super::ladder::Step;
use super::load::{self, Policy};
use super::probation::{Probation, Standing};
use super::record::Record;
use super::replay::Decider;
use super::rows::{Choice, Chosen, SlotRow};
use super::sandbox::Sandbox;
use super::shadow::Shadow;
use super::shelf::Shelf;
use super::tally::{Active, SlotTally, Tallies};
use super::{Fault, PolicyFault, PolicyView, Rung, WorldKind, fixture, shipped};
use crate::ids::Digest;

pub(super) const BUILTIN: &str = "builtin";
/// `source` of a module that an operator made active.
pub(super) const PUSHED: &str = "pushed";

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub world: WorldKind,
    pub link: usize,
    line: RwLock<Arc<Line>>,
    /// Of the built-in, where that is what is active.
    pub builtin: Record,
    /// What became of its decisions, whoever was active.
    pub tallies: Tallies,
    /// What an operator had made active and did not load when the agent started.
    saved_fault: Mutex<Option<PolicyFault>>,
    /// Of the one that was activated last.
    probation: Mutex<Option<Probation>>,
    /// Who is asked beside the active one.
    shadow: Mutex<Option<Arc<Shadow>>>,
    /// That it was rolled back without an operator.
    rolled_back: Mutex<Option<String>>,
    /// Why what `agent.toml` says now is not active.
    held_back: Mutex<Option<String>>,
}

/// All that can be swapped: who is asked, first to last (after them the twin), and what `[policy]` says.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub active: Member,
    pub last_good: Option<Member>,
    /// What `[policy]` says, or what stands in for it.
    pub configured: Member,
    /// The section; pushed modules get its settings and grants.
    pub config: Arc<PolicyConfig>,
    /// What was configured and did not load.
    pub config_fault: Option<PolicyFault>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// How it came to be one.
    pub chosen: Chosen,
    /// None: the built-in.
    pub policy: Option<Arc<Policy>>,
    /// The operator's settings, where they are meant for the logic that the twin shares.
    pub twin_settings: Arc<[types::Setting]>,
}

impl Member {
    /// `config`: the section of `agent.toml` under which it stands.
    pub fn new(chosen: Chosen, policy: Option<Policy>, config: &PolicyConfig) -> Self {
        let own = matches!(chosen.choice, Choice::Configured);
        let twin_settings = match (&config.source, &policy) {
            (Source::File(_), _) => Vec::new(),
            (_, Some(policy)) if own => policy.settings.clone(),
            _ => super::settings::as_given(&config.settings),
        };
        Self { chosen, policy: policy.map(Arc::new), twin_settings: twin_settings.into() }
    }

    pub fn name(&self) -> String {
        self.policy.as_ref().map_or_else(|| BUILTIN.to_owned(), |policy| policy.name.to_string())
    }

    pub fn version(&self) -> String {
        let builtin = || env!("CARGO_PKG_VERSION").to_owned();
        self.policy.as_ref().map_or_else(builtin, |policy| policy.version.clone())
    }

    pub fn digest(&self) -> Option<Digest> {
        self.policy.as_ref().map(|policy| policy.digest)
    }

    /// Whether both decide the same: one module, one set of settings and grants, one twin.
    pub fn decides_as(&self, other: &Self) -> bool {
        let policies = match (&self.policy, &other.policy) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                one.digest == two.digest
                    && one.settings == two.settings
                    && one.terms == two.terms
                    && one.budgets == two.budgets
            }
            _ => false,
        };
        policies && self.twin_settings == other.twin_settings
    }

    /// To be asked again, e.g. by a replay.
    pub fn decider(&self) -> Decider {
        match &self.policy {
            Some(policy) => Decider::Module(Arc::clone(policy)),
            None => Decider::Builtin(Arc::clone(&self.twin_settings)),
        }
    }
}

/// What slots are loaded with.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub sandbox: Option<&'a Sandbox>,
    /// Why there is no sandbox, though one was wanted.
    pub trouble: Option<&'a Problem>,
    pub shelf: Option<&'a Shelf>,
}

/// Loads one policy as it is configured.
pub(super) fn load(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
) -> Result<Option<Policy>, Problem> {
    let module = module(sandbox, world, config)?;
    module.map(|module| module.configure(sandbox, config, config.source.to_string())).transpose()
}

/// The same of a module that decides only when its own fixtures pass.
pub(super) fn load_tested(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
) -> Result<Option<Policy>, Problem> {
    let Some(module) = module(sandbox, world, config)? else { return Ok(None) };
    let failed = fixture::problems(sandbox, &module);
    if !failed.is_empty() {
        return Err(Problem::Fixtures(failed));
    }
    module.configure(sandbox, config, config.source.to_string()).map(Some)
}

fn module(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
) -> Result<Option<load::Module>, Problem> {
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
    of_world(sandbox, world, bytes).map(Some)
}

/// Loads what was chosen for a slot: what `config` says, or a module of the shelf with the grants of the section;
/// with settings of its own or those of the section.
pub(super) fn load_chosen(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
    chosen: Chosen,
    shelf: &Shelf,
) -> Result<Member, Problem> {
    let mut given = match chosen.choice {
        Choice::Configured => config.clone(),
        Choice::Pushed(_) => as_pushed(config),
    };
    if let Some(settings) = &chosen.settings {
        given.settings = settings.clone();
    }
    let policy = match chosen.choice {
        Choice::Configured => load(sandbox, world, &given)?,
        Choice::Pushed(digest) => {
            let module = of_world(sandbox, world, &shelf.get(digest)?)?;
            Some(module.configure(sandbox, &given, PUSHED.to_owned())?)
        }
    };
    Ok(Member::new(chosen, policy, config))
}

/// A slot's settings and grants for a module that was pushed: what is granted without being named is granted to
/// the shipped module only.
pub(super) fn as_pushed(config: &PolicyConfig) -> PolicyConfig {
    PolicyConfig { source: Source::File(PUSHED.into()), ..config.clone() }
}

pub(super) fn of_world(sandbox: &Sandbox, world: WorldKind, bytes: &[u8]) -> Result<load::Module, Problem> {
    let module = load::module(sandbox, bytes)?;
    if module.world == world {
        Ok(module)
    } else {
        Err(Problem::OtherWorld { found: module.world, wanted: world })
    }
}

impl Loader<'_> {
    fn configured(&self, world: WorldKind, config: &PolicyConfig) -> Result<Option<Policy>, Problem> {
        match (self.sandbox, self.trouble) {
            (Some(sandbox), _) => load(sandbox, world, config),
            (None, Some(problem)) if config.source != Source::Builtin => Err(problem.clone()),
            (None, _) => Ok(None),
        }
    }

    fn chosen(&self, slot: &Slot, chosen: Chosen) -> Result<Member, Problem> {
        let line = slot.line();
        if chosen == Chosen::CONFIGURED {
            return Ok(line.configured.clone());
        }
        let (Some(sandbox), Some(shelf)) = (self.sandbox, self.shelf) else {
            return Err(self.trouble.cloned().unwrap_or(Problem::BuiltinsOnly));
        };
        load_chosen(sandbox, slot.world, &line.config, chosen, shelf)
    }
}

impl Slot {
    /// The policy that an operator made active, else its last good, else the configured one, else the shipped
    /// one with its defaults, else the built-in: what does not load is passed over and shown.
    pub fn start(
        (world, link): (WorldKind, usize),
        config: &PolicyConfig,
        loader: Loader<'_>,
        row: Option<&SlotRow>,
    ) -> Self {
        let (policy, config_fault) = match loader.configured(world, config) {
            Ok(policy) => (policy, None),
            Err(problem) => {
                let source = config.source.to_string();
                tracing::error!(world = %world, link, policy = source, "the policy was not loaded: {problem}");
                let shipped = PolicyConfig::default();
                let instead = match *config == shipped {
                    true => None,
                    false => loader.configured(world, &shipped).ok().flatten(),
                };
                (instead, Some(not_loaded(source, None, &problem)))
            }
        };
        let configured = Member::new(Chosen::CONFIGURED, policy, config);
        let line = Line {
            active: configured.clone(),
            last_good: None,
            configured,
            config: Arc::new(config.clone()),
            config_fault,
        };
        let slot = Self {
            world,
            link,
            line: RwLock::new(Arc::new(line)),
            builtin: Record::default(),
            tallies: Tallies::default(),
            saved_fault: Mutex::default(),
            probation: Mutex::default(),
            shadow: Mutex::default(),
            rolled_back: Mutex::default(),
            held_back: Mutex::default(),
        };
        if let Some(row) = row {
            slot.restore(row, loader);
        }
        slot
    }

    /// What the store knows of it.
    fn restore(&self, row: &SlotRow, loader: Loader<'_>) {
        let mut earlier = row.earlier.iter().rev().cloned();
        let load =
            |chosen: Chosen| loader.chosen(self, chosen.clone()).map_err(|problem| (chosen.choice, problem));
        let tell = |(choice, problem): &(Choice, Problem)| {
            let name = row.history.iter().rev().find(|event| event.choice == *choice);
            let (name, digest) = (name.map_or(PUSHED, |event| &event.name), digest_of(*choice));
            let shown = digest.map(|digest| digest.short());
            tracing::error!(world = %self.world, link = self.link, policy = name, digest = shown,
                "a policy that an operator chose was not loaded: {problem}");
            not_loaded(name.to_owned(), digest, problem)
        };
        let active = load(row.active.clone()).or_else(|failed| {
            *lock(&self.saved_fault) = Some(tell(&failed));
            earlier.by_ref().find_map(|chosen| load(chosen).ok()).ok_or(failed)
        });
        let line = self.line();
        let active = active.unwrap_or_else(|_| line.configured.clone());
        let last_good = earlier.find_map(|chosen| load(chosen).map_err(|failed| tell(&failed)).ok());
        for member in std::iter::once(&active).chain(&last_good).chain([&line.configured]) {
            let Some(policy) = &member.policy else { continue };
            if let Some(demoted) = row.demoted.iter().find(|demoted| demoted.digest == policy.digest) {
                policy.record.demote(demoted.fault.clone());
            }
        }
        self.swap(Line { active, last_good, ..(*line).clone() });
    }

    /// The one pointer; a decision takes it once.
    pub fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next decision on.
    pub fn swap(&self, line: Line) {
        *self.line.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(line);
    }

    /// An operator has decided: what did not load when the agent started, or was rolled back, is no matter any more.
    pub fn decided(&self) {
        *lock(&self.saved_fault) = None;
        *lock(&self.rolled_back) = None;
        *lock(&self.held_back) = None;
    }

    /// The agent has rolled back by itself.
    pub fn was_rolled_back(&self, sentence: String) {
        *lock(&self.rolled_back) = Some(sentence);
    }

    /// What `agent.toml` says now is not active, because of this; none: it is.
    pub fn hold_back(&self, sentence: Option<String>) {
        *lock(&self.held_back) = sentence;
    }

    /// The active one begins a probation, or has none.
    pub fn on_probation(&self, probation: Option<Probation>) {
        *lock(&self.probation) = probation;
    }

    /// How the active one's probation stands; one that is over is over.
    pub fn standing(&self) -> Option<Standing> {
        let line = self.line();
        let mut probation = lock(&self.probation);
        let one = probation.as_ref()?;
        let policy = line.active.policy.as_ref().filter(|policy| policy.digest == one.digest);
        let standing = policy.map(|policy| one.standing(policy.record.counts(), Instant::now()));
        if standing != Some(Standing::On) {
            *probation = None;
        }
        standing
    }

    /// Another one is asked beside the active one, or nobody. Returns who was before.
    pub fn shadow_by(&self, shadow: Option<Arc<Shadow>>) -> Option<Arc<Shadow>> {
        std::mem::replace(&mut *lock(&self.shadow), shadow)
    }

    pub fn steps(line: &Line) -> Vec<Step> {
        let step = |rung, member: &Member| {
            let policy = Arc::clone(member.policy.as_ref()?);
            let demoted = policy.record.demoted();
            Some(Step { rung, policy, demoted })
        };
        let active = step(Rung::Active, &line.active);
        let last_good = line.last_good.as_ref().and_then(|member| step(Rung::LastGood, member));
        active.into_iter().chain(last_good).collect()
    }

    pub fn view(&self) -> PolicyView {
        let line = self.line();
        let policy = line.active.policy.as_ref();
        let record = policy.map_or(&self.builtin, |policy| &policy.record).snapshot();
        let last_fault = record.last_fault.clone().or_else(|| self.load_fault(&line));
        PolicyView {
            world: self.world,
            link: self.link,
            name: line.active.name(),
            version: line.active.version(),
            digest: policy.map(|policy| policy.digest),
            source: policy.map_or_else(|| BUILTIN.to_owned(), |policy| policy.source.clone()),
            summary: policy.map_or_else(
                || "the agent's own logic, without WebAssembly".to_owned(),
                |policy| policy.summary.clone(),
            ),
            calls: record.calls,
            fallbacks: record.fallbacks,
            signer: policy.and_then(|policy| policy.signer.clone()),
            outcomes: record.outcomes,
            p50_micros: record.p50_micros,
            p99_micros: record.p99_micros,
            last_fault,
            demoted: policy.and(record.demoted),
            last_good: line.last_good.as_ref().map(Member::name),
            own_settings: line.active.chosen.settings.is_some(),
            probation: policy.and_then(|policy| {
                let probation = lock(&self.probation);
                let one = probation.as_ref().filter(|one| one.digest == policy.digest)?;
                let counts = policy.record.counts();
                (one.standing(counts, Instant::now()) == Standing::On).then(|| one.view(counts))
            }),
            shadow: lock(&self.shadow).as_ref().map(|shadow| shadow.view()),
            notices: self.notices(),
        }
    }

    /// What became of its decisions since the agent started.
    pub fn tally(&self) -> SlotTally {
        let line = self.line();
        let demoted = line.active.policy.as_ref().is_some_and(|policy| policy.record.demoted().is_some());
        let (answers, modules) = self.tallies.now();
        let active = Active {
            name: line.active.name(),
            version: line.active.version(),
            digest: line.active.digest(),
            demoted,
        };
        SlotTally { world: self.world, link: self.link, active, answers, modules }
    }

    /// What an operator should know beside failures.
    fn notices(&self) -> Vec<String> {
        [&self.rolled_back, &self.held_back].into_iter().filter_map(|told| lock(told).clone()).collect()
    }

    fn load_fault(&self, line: &Line) -> Option<PolicyFault> {
        let saved = lock(&self.saved_fault).clone();
        let config = || line.config_fault.clone().filter(|_| line.active.chosen.choice == Choice::Configured);
        saved.or_else(config)
    }

    /// What an operator should know, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> + use<> {
        let line = self.line();
        let load = self.load_fault(&line).map(|fault| match fault.digest {
            Some(digest) => format!("policy {} ({}): {}", fault.policy, digest.short(), fault.message),
            None => format!("policy {}: {}", fault.policy, fault.message),
        });
        let demoted = line.active.policy.as_ref().and_then(|policy| {
            policy.record.demoted().map(|fault| format!("policy {}: {}", policy.name, fault.message))
        });
        load.into_iter().chain(demoted).chain(self.notices())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn digest_of(choice: Choice) -> Option<Digest> {
    match choice {
        Choice::Configured => None,
        Choice::Pushed(digest) => Some(digest),
    }
}

pub(super) fn not_loaded(policy: String, digest: Option<Digest>, problem: &Problem) -> PolicyFault {
    PolicyFault { policy, digest, fault: Fault::Link, message: format!("it was not loaded: {problem}") }
}
