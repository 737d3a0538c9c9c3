//! One slot: a world, or one member of its chain. Who is asked there is one pointer ([`Line`]) that a decision
//! takes once; what is swapped meanwhile is for the next one, so no decision ever mixes two sets.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::bindings::types;
use super::config::{Budgets, PolicyConfig, Source};
use super::error::Problem;
use super::ladder::Step;
use super::load::{self, Policy};
use super::record::Record;
use super::rows::{Choice, SlotRow};
use super::sandbox::Sandbox;
use super::shelf::Shelf;
use super::{Fault, PolicyFault, PolicyView, Rung, WorldKind, shipped};

pub(super) const BUILTIN: &str = "builtin";
/// `source` of a module that an operator made active.
pub(super) const PUSHED: &str = "pushed";

/// See the module.
#[derive(Debug)]
pub(super) struct Slot {
    pub world: WorldKind,
    pub link: usize,
    pub config: PolicyConfig,
    pub budgets: Budgets,
    /// What `[policy]` says, or what stands in for it.
    pub configured: Member,
    line: RwLock<Arc<Line>>,
    /// Of the built-in, where that is what is active.
    pub builtin: Record,
    /// What was configured and did not load.
    config_fault: Option<PolicyFault>,
    /// What an operator had made active and did not load when the agent started.
    saved_fault: Mutex<Option<PolicyFault>>,
    /// The operator's settings, where they are meant for the logic that the twin shares.
    pub twin_settings: Arc<[types::Setting]>,
}

/// Who is asked, first to last; after them the twin.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub active: Member,
    pub last_good: Option<Member>,
}

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// How it came to be one.
    pub choice: Choice,
    /// None: the built-in.
    pub policy: Option<Arc<Policy>>,
}

impl Member {
    pub fn name(&self) -> String {
        self.policy.as_ref().map_or_else(|| BUILTIN.to_owned(), |policy| policy.name.to_string())
    }

    pub fn version(&self) -> String {
        let builtin = || env!("CARGO_PKG_VERSION").to_owned();
        self.policy.as_ref().map_or_else(builtin, |policy| policy.version.clone())
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
    of_world(sandbox, world, bytes)?.configure(sandbox, config, config.source.to_string()).map(Some)
}

/// Loads a module that was pushed, with the settings and grants of the slot.
pub(super) fn load_pushed(
    sandbox: &Sandbox,
    world: WorldKind,
    config: &PolicyConfig,
    bytes: &[u8],
) -> Result<Policy, Problem> {
    of_world(sandbox, world, bytes)?.configure(sandbox, &as_pushed(config), PUSHED.to_owned())
}

/// A slot's settings and grants for a module that was pushed: what is granted without being named is granted to
/// the shipped module only.
pub(super) fn as_pushed(config: &PolicyConfig) -> PolicyConfig {
    PolicyConfig { source: Source::File(PUSHED.into()), ..config.clone() }
}

fn of_world(sandbox: &Sandbox, world: WorldKind, bytes: &[u8]) -> Result<load::Module, Problem> {
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

    fn pushed(&self, slot: &Slot, choice: Choice) -> Result<Member, Problem> {
        let Choice::Pushed(digest) = choice else { return Ok(slot.configured.clone()) };
        let (Some(sandbox), Some(shelf)) = (self.sandbox, self.shelf) else {
            return Err(self.trouble.cloned().unwrap_or(Problem::BuiltinsOnly));
        };
        let policy = load_pushed(sandbox, slot.world, &slot.config, &shelf.get(digest)?)?;
        Ok(Member { choice, policy: Some(Arc::new(policy)) })
    }
}

impl Slot {
    /// The policy that an operator made active, else its last good, else the configured one, else the shipped
    /// one with its defaults, else the built-in: what does not load is passed over and shown.
    pub fn start(
        (world, link): (WorldKind, usize),
        config: &PolicyConfig,
        budgets: Budgets,
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
        let twin_settings = match (&config.source, &policy) {
            (Source::File(_), _) => Vec::new(),
            (_, Some(policy)) => policy.settings.clone(),
            (_, None) => {
                let settings = config.settings.0.iter();
                settings
                    .map(|(key, value)| types::Setting { key: key.clone(), value: value.into() })
                    .collect()
            }
        };
        let configured = Member { choice: Choice::Configured, policy: policy.map(Arc::new) };
        let slot = Self {
            world,
            link,
            config: config.clone(),
            budgets: budgets.with(config),
            line: RwLock::new(Arc::new(Line { active: configured.clone(), last_good: None })),
            configured,
            builtin: Record::default(),
            config_fault,
            saved_fault: Mutex::default(),
            twin_settings: twin_settings.into(),
        };
        if let Some(row) = row {
            slot.restore(row, loader);
        }
        slot
    }

    /// What the store knows of it.
    fn restore(&self, row: &SlotRow, loader: Loader<'_>) {
        let mut earlier = row.earlier.iter().rev().copied();
        let load = |choice: Choice| loader.pushed(self, choice).map_err(|problem| (choice, problem));
        let tell = |(choice, problem): &(Choice, Problem)| {
            let name = row.history.iter().rev().find(|event| event.choice == *choice);
            let (name, digest) = (name.map_or(PUSHED, |event| &event.name), digest_of(*choice));
            let shown = digest.map(|digest| digest.short());
            tracing::error!(world = %self.world, link = self.link, policy = name, digest = shown,
                "a pushed policy was not loaded: {problem}");
            not_loaded(name.to_owned(), digest, problem)
        };
        let active = load(row.active).or_else(|failed| {
            *self.saved_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell(&failed));
            earlier.by_ref().find_map(|choice| load(choice).ok()).ok_or(failed)
        });
        let active = active.unwrap_or_else(|_| self.configured.clone());
        let last_good = earlier.find_map(|choice| load(choice).map_err(|failed| tell(&failed)).ok());
        for member in std::iter::once(&active).chain(&last_good).chain([&self.configured]) {
            let Some(policy) = &member.policy else { continue };
            if let Some(demoted) = row.demoted.iter().find(|demoted| demoted.digest == policy.digest) {
                policy.record.demote(demoted.fault.clone());
            }
        }
        self.swap(Line { active, last_good });
    }

    /// The one pointer; a decision takes it once.
    pub fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From the next decision on.
    pub fn swap(&self, line: Line) {
        *self.line.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(line);
    }

    /// An operator has decided: what did not load when the agent started is no matter any more.
    pub fn decided(&self) {
        *self.saved_fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        }
    }

    fn load_fault(&self, line: &Line) -> Option<PolicyFault> {
        let saved = self.saved_fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = || self.config_fault.clone().filter(|_| line.active.choice == Choice::Configured);
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
        load.into_iter().chain(demoted)
    }
}

pub(super) fn digest_of(choice: Choice) -> Option<crate::ids::Digest> {
    match choice {
        Choice::Configured => None,
        Choice::Pushed(digest) => Some(digest),
    }
}

fn not_loaded(policy: String, digest: Option<crate::ids::Digest>, problem: &Problem) -> PolicyFault {
    PolicyFault { policy, digest, fault: Fault::Link, message: format!("it was not loaded: {problem}") }
}
