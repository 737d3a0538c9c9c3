//! What authors of policies need beside a toolchain of their language: look at a module, pack its manifest, run its
//! fixtures, time it, begin a project and build it. No agent is needed; a module is loaded and asked exactly as an
//! agent with the default budgets would do it; what was compiled of it before is used where the [`Workshop`] keeps it.
//!
//! Files: `inspect`, `bench`, `project` (templates), `toolchain` and `build`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::compile::Workshop;
use super::config::Config;
use super::error::{PolicyError, Problem};
use super::fixture::{self, Verdict};
use super::load::{self, Module};
use super::manifest::{self, Manifest, ManifestFixture};
use super::sandbox::Sandbox;
use super::{host, on_a_thread};

mod bench;
mod build;

mod inspect;
mod project;
mod toolchain;

pub use bench::{Bench, Figures, bench};

pub use build::{Built, build, is_project, output_of, write};
pub use inspect::{Inspected, inspect};
pub use project::{Language, begin};

/// Why one of the tools came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorError {
    /// The module is not what it should be.
    #[error(transparent)]
    Module(#[from] PolicyError),
    /// Fixtures that cannot be read.
    #[error("{0}")]
    BadFixtures(String),
    /// There is nothing to ask.
    #[error("{0} carries no fixtures, and no folder of them was named")]
    NoFixtures(String),
    /// A journal that cannot be read, or has nothing for this world.
    #[error("{0}")]
    Journal(String),
    /// A folder that is no project, or cannot become one.
    #[error("{0}")]
    Project(String),
    /// A tool that is not there.
    #[error("{what}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// The project's own tool failed; it has said why.
    #[error("{0}")]
    Build(String),
    /// A file that cannot be read or written.
    #[error("{0}")]
    File(String),
}

impl AuthorError {
    /// Stable, for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Module(error) => error.problem.code(),
            Self::BadFixtures(_) => "bad-fixtures",
            Self::NoFixtures(_) => "no-fixtures",
            Self::Journal(_) => "bad-journal",
            Self::Project(_) => "bad-project",
            Self::Missing { .. } => "missing-tool",
            Self::Build(_) => "build-failed",
            Self::File(_) => "file-failed",
        }
    }

    /// The next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Module(PolicyError { problem: Problem::Read(_), .. }) => {
                "name the .wasm file that `berth policy build` made".to_owned()
            }
            Self::Module(_) => {
                "`berth policy new NAME --world W` begins a project that builds; docs/policies.md has the rest"
                    .to_owned()
            }
            Self::BadFixtures(_) => "the format of fixtures is in docs/policies.md".to_owned(),
            Self::NoFixtures(_) => {
                "name a folder of *.json with --fixtures, or pack one into the module with `berth policy pack`"
                    .to_owned()
            }
            Self::Journal(_) => "`berth policy journal -n 1000 -o json > journal.jsonl` writes one".to_owned(),
            Self::Project(_) => {
                "`berth policy new NAME --world W --lang rust` begins a project that builds".to_owned()
            }
            Self::Missing { remedy, .. } => remedy.clone(),
            Self::Build(_) => "what it said stands above".to_owned(),
            Self::File(_) => "see whether it is there, and may be read and written".to_owned(),
        }
    }
}

/// Where fixtures or questions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Questions {
    /// The module's own, in its manifest.
    Manifest,
    /// The `*.json` of a folder.
    Folder(PathBuf),
    /// An exported journal, a record a line.
    Journal(PathBuf),
}

/// What became of a module's fixtures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// What was asked.
    pub policy: Inspected,
    /// Fixture by fixture.
    pub verdicts: Vec<Verdict>,
    /// Files that expect nothing and are nobody's base.
    pub idle: Vec<String>,
}

/// Files of fixtures by name, whole or why not.
type Files = Vec<(String, Result<Value, String>)>;

/// The component with its manifest: what it says of itself, and the fixtures of a folder; without one those that it
/// has.
///
/// # Errors
/// When it does not load, or a fixture cannot be read.
pub fn pack(
    subject: &str,
    component: Vec<u8>,
    fixtures: Option<&Path>,
    workshop: &Workshop,
) -> Result<Vec<u8>, AuthorError> {
    let Some(folder) = fixtures else {
        let earlier = manifest::read(&component).map_err(|problem| problem.of(subject))?;
        let earlier = earlier.map_or_else(Vec::new, |earlier| earlier.fixtures);
        return pack_with(subject, &component, earlier, workshop);
    };
    let folder = fixture::folder(folder).map_err(AuthorError::BadFixtures)?;
    let mut packed = Vec::new();
    for (file, whole) in folder.files {
        let bad = |problem: String| AuthorError::BadFixtures(format!("{file}: {problem}"));
        let fixture = whole.map_err(bad)?;
        if let Some(Err((name, problem))) = fixture::cases(&file, &fixture).into_iter().find(Result::is_err) {
            return Err(AuthorError::BadFixtures(format!("{name}: {problem}")));
        }
        packed.push(ManifestFixture { file, fixture });
    }
    pack_with(subject, &component, packed, workshop)
}

fn pack_with(
    subject: &str,
    component: &[u8],
    fixtures: Vec<ManifestFixture>,
    workshop: &Workshop,
) -> Result<Vec<u8>, AuthorError> {
    // What an earlier build said of itself must not keep the module from being asked.
    let bare = manifest::without(component).map_err(|problem| problem.of(subject))?;
    loaded(subject, bare, workshop, move |_, module, bare| {
        let manifest = Manifest::of(module.world, &module.about, fixtures);
        manifest::write(bare, &manifest).map_err(|problem| problem.of("the manifest").into())
    })
}

/// Asks all fixtures, of a folder or the module's own.
///
/// # Errors
/// When the module does not load, or there are none. Fixtures that fail are no error.
pub fn test(
    subject: &str,
    component: Vec<u8>,
    questions: &Questions,
    workshop: &Workshop,
) -> Result<Tested, AuthorError> {
    let folder = match questions {
        Questions::Folder(dir) => Some(fixture::folder(dir).map_err(AuthorError::BadFixtures)?),
        Questions::Manifest | Questions::Journal(_) => None,
    };
    let name = subject.to_owned();
    loaded(subject, component, workshop, move |sandbox, module, component| {
        let (files, idle) = match folder {
            Some(folder) => (folder.files, folder.idle),
            None => (packed(module), Vec::new()),
        };
        if files.is_empty() {
            return Err(AuthorError::NoFixtures(name));
        }
        let verdicts = fixture::verdicts(sandbox, module, &files);
        let policy = inspect::of(module, component).map_err(|problem| problem.of(name))?;
        Ok(Tested { policy, verdicts, idle })
    })
}

/// The fixtures of a module's manifest.
fn packed(module: &Module) -> Files {
    let fixtures = module.manifest.as_ref().map_or(&[][..], |manifest| &manifest.fixtures);
    fixtures.iter().map(|entry| (entry.file.clone(), Ok(entry.fixture.clone()))).collect()
}

/// Loads a module and works with it, on a thread of its own.
fn loaded<T: Send + 'static, E: From<PolicyError> + Send + 'static>(
    subject: &str,
    component: Vec<u8>,
    workshop: &Workshop,
    work: impl FnOnce(&Sandbox, &Module, &[u8]) -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let (subject, workshop) = (subject.to_owned(), workshop.clone());
    on_a_thread(move || {
        let of = |problem: Problem| E::from(problem.of(subject.clone()));
        let sandbox = host::sandbox(&Config::default(), 1, &workshop).map_err(of)?;
        let module = load::module(&sandbox, &component).map_err(of)?;
        work(&sandbox, &module, &component)
    })
}

/// The bytes of a module's file.
///
/// # Errors
/// When it cannot be read, or is too large.
pub fn read(file: &Path) -> Result<Vec<u8>, AuthorError> {
    load::read(file).map_err(|problem| problem.of(file.display().to_string()).into())
}
