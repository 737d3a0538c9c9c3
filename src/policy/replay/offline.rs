//! Replay without an agent: an exported journal, modules from files, the built-in of this program.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::run::{Asked, Report, Run};
use super::{Bench, Decider};
use crate::ids::Digest;
use crate::policy::journal::{Wanted, exported};
use crate::policy::load::{self, Policy};
use crate::policy::{
    Config, PolicyError, Problem, Settings, Source, WORLDS, Workshop, host, on_a_thread, settings, shipped,
    slot,
};

/// Time for one call of a policy that made a decision: long enough for a slow machine.
pub(in crate::policy) const AMPLE: Duration = Duration::from_millis(500);

/// What is to be replayed, and on whom.
#[derive(Debug, Clone)]
pub struct Offline {
    /// The exported journal.
    pub journal: PathBuf,
    /// Which of its entries.
    pub wanted: Wanted,
    /// None: by the modules that decided.
    pub candidate: Option<Candidate>,
    /// Folders in which those modules may lie, as `.wasm` files of any name.
    pub modules: Vec<PathBuf>,
    /// Settings and grants of the candidate are those of its world's section, budgets those of `[policy]`.
    pub config: Config,
    /// Where what was compiled is kept.
    pub workshop: Workshop,
}

/// Who would decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// A module's file or `builtin`.
    pub source: Source,
    /// Its settings; none: those of its world's section.
    pub settings: Option<Settings>,
}

/// Replays on a thread of its own and waits for it. `progress` hears how many are done.
///
/// # Errors
/// When the journal or the candidate cannot be read, or the candidate does not load.
pub fn replay(ask: Offline, progress: impl FnMut(u64) + Send + 'static) -> Result<Report, PolicyError> {
    on_a_thread(move || work(&ask, progress))
}

fn work(ask: &Offline, mut progress: impl FnMut(u64)) -> Result<Report, PolicyError> {
    let sandbox = host::sandbox(&ask.config, 1, &ask.workshop).map_err(|problem| problem.of("policy"))?;
    let mut wanted = ask.wanted.clone();
    let bench = |share| Bench { sandbox: Some(Arc::new(sandbox)), share };
    let mut run = match &ask.candidate {
        None => {
            let bench = bench(AMPLE);
            let files = Files::of(&ask.modules);
            let sandbox = bench.sandbox.clone();
            let find = move |digest| {
                let sandbox = sandbox.as_deref()?;
                let module = load::module(sandbox, &files.bytes(digest)?).ok()?;
                Some(Arc::new(module.bare(sandbox.budgets)))
            };
            Run::new(bench, Asked::Makers(Box::new(find)), None)
        }
        Some(candidate) => {
            let share = Duration::from_millis(ask.config.deadline_ms) / 2;
            let bench = bench(share);
            let decider = match &candidate.source {
                Source::Builtin => Decider::Builtin(
                    settings::as_given(&candidate.settings.clone().unwrap_or_default()).into(),
                ),
                source => {
                    let policy =
                        module(&bench, ask, candidate).map_err(|problem| problem.of(source.to_string()))?;
                    let world = policy.0;
                    if wanted.world.is_some_and(|wanted| wanted != world) {
                        let found =
                            Problem::OtherWorld { found: world, wanted: wanted.world.unwrap_or(world) };
                        return Err(found.of(source.to_string()));
                    }
                    wanted.world = Some(world);
                    Decider::Module(Arc::new(policy.1))
                }
            };
            Run::new(bench, Asked::Candidate(decider), None)
        }
    };
    exported::scan(&ask.journal, &wanted, |entry| {
        run.take(&entry);
        progress(run.taken());
        ControlFlow::Continue(())
    })
    .map_err(|error| Problem::Read(error.to_string()).of(ask.journal.display().to_string()))?;
    Ok(run.report())
}

/// The candidate, with the settings and grants of its own world.
fn module(
    bench: &Bench,
    ask: &Offline,
    candidate: &Candidate,
) -> Result<(crate::policy::WorldKind, Policy), Problem> {
    let sandbox = bench.sandbox.as_ref().ok_or(Problem::BuiltinsOnly)?;
    let Source::File(path) = &candidate.source else { return Err(Problem::BuiltinsOnly) };
    let module = load::module(sandbox, &load::read(path)?)?;
    let world = module.world;
    let chain = ask.config.chain(world);
    let section = chain.get(ask.wanted.link.unwrap_or(0)).or(chain.first()).cloned().unwrap_or_default();
    let mut section = slot::as_pushed(&section);
    if let Some(settings) = &candidate.settings {
        section.settings = settings.clone();
    }
    let policy = module.configure(sandbox, &section, path.display().to_string())?;
    Ok((world, policy))
}

/// Modules by digest: those of this program, and those in folders.
struct Files {
    known: HashMap<Digest, PathBuf>,
}

impl Files {
    /// What cannot be read is not there.
    fn of(folders: &[PathBuf]) -> Self {
        let found = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let files = found.map(|file| file.path());
        let modules = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "wasm"));
        let known = modules.filter_map(|path| Some((Digest::of(&load::read(&path).ok()?), path)));
        Self { known: known.collect() }
    }

    fn bytes(&self, digest: Digest) -> Option<Vec<u8>> {
        shipped_of(digest).or_else(|| load::read(self.known.get(&digest)?).ok())
    }
}

/// A module that comes with this program.
pub(in crate::policy) fn shipped_of(digest: Digest) -> Option<Vec<u8>> {
    WORLDS.into_iter().map(shipped::module).find(|module| Digest::of(module) == digest).map(<[u8]>::to_vec)
}

/// Whether a text names a file and not a pushed module.
#[must_use]
pub fn names_a_file(text: &str) -> bool {
    text.contains('/') || Path::new(text).extension().is_some_and(|suffix| suffix == "wasm")
}
