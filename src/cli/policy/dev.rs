//! `berth policy dev`: build, fixtures and times on every save.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::author::{say_idle, told};
use super::steps::{self, Came};
use super::{bench, test};
use crate::cli::client::bytes;
use crate::cli::error::{CliError, say};
use crate::cli::output::{self, Output};
use crate::cli::{Context, talk};
use crate::policy::Workshop;
use crate::policy::author::{self, AuthorError, Questions};
use crate::policy::replay::diff;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Decisions of a running agent that are made again with it.
const DECISIONS: usize = 256;
/// Calls that are timed; a look at a figure, not a measurement.
const CALLS: usize = 200;
/// What builds write, not authors.
const NOT_SOURCES: [&str; 6] = ["target", ".git", ".venv", "venv", "__pycache__", "Cargo.lock"];

/// Build a policy, ask its fixtures and time it; again on every save
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy dev gpu-quota
  berth policy dev --once gpu-quota      one round, as in a pre-commit hook; exits 1 when it fails

Where an agent runs, its last decisions are made again with the new build, and what would have been
another is shown. Ctrl-C ends it. What fails is shown, and the next save is waited for.")]
pub(super) struct Dev {
    /// One round only
    #[arg(long)]
    once: bool,
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

impl Dev {
    /// `socket`: the agent's, when it was named.
    pub(super) fn run(self, socket: Option<PathBuf>) -> Result<(), CliError> {
        if !author::is_project(&self.dir) {
            return Err(AuthorError::Project(format!("{} is no policy's project", self.dir.display())).into());
        }
        loop {
            let before = sources(&self.dir);
            let round = round(&self.dir, socket.as_ref());
            if self.once {
                return round;
            }
            if let Err(error) = round {
                if error.code == "broken-pipe" {
                    return Err(error);
                }
                error.report(1);
            }
            say(&format!("waiting for a change in {}; Ctrl-C ends this", self.dir.display()));
            while sources(&self.dir) == before {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Everything that is worth knowing after a save.
fn round(dir: &Path, socket: Option<&PathBuf>) -> Result<(), CliError> {
    let workshop = Workshop::of_user();
    let built = author::build(dir, None, &workshop)?;
    output::print(&told(&built))?;
    let subject = built.file.display().to_string();
    let component = author::read(&built.file)?;
    let fixtures = dir.join("fixtures");
    let questions = if fixtures.is_dir() { Questions::Folder(fixtures) } else { Questions::Manifest };
    match author::test(&subject, component.clone(), &questions, &workshop) {
        // A policy without fixtures is no mistake while it is being written.
        Err(AuthorError::NoFixtures(_)) => say("there are no fixtures/ yet: nothing was asked"),
        Err(error) => return Err(error.into()),
        Ok(tested) => {
            say_idle(&tested.idle);
            output::print(&test::text(&tested))?;
            if let Some(failure) = test::failure(&tested) {
                return Err(failure);
            }
            output::print(&bench::text(&author::bench(
                &subject,
                component.clone(),
                questions,
                CALLS,
                &workshop,
            )?))?;
        }
    }
    differs(component, socket)
}

/// What an agent that answers would have decided otherwise with it. Without one nothing is said, unless it was named.
fn differs(component: Vec<u8>, socket: Option<&PathBuf>) -> Result<(), CliError> {
    let context = Context::new(socket.cloned(), false)?;
    let path = format!("/v1/policies/replay?most={DECISIONS}");
    match talk(async { steps::ask(&context, &path, bytes(component), Output::TEXT).await }) {
        Ok(Came::Replayed(report)) => output::print(&diff::text(&report, steps::MOST)),
        Ok(Came::Done(_)) => Ok(()),
        Err(error) if error.code == "no-agent" && socket.is_none() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The project's files with the time and the size of each.
fn sources(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut sources = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if NOT_SOURCES.iter().any(|skipped| name == *skipped)
                || path.extension().is_some_and(|end| end == "wasm")
            {
                continue;
            }
            // Links are not followed: what they lead to may be large.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(path);
            } else if let Ok(modified) = metadata.modified() {
                sources.insert(path, (modified, metadata.len()));
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_seen_and_what_builds_write_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("src/lib.rs", "one");
        let before = sources(dir.path());
        assert_eq!(before.len(), 1);
        write("target/release/x", "");
        write("a.wasm", "");
        write("Cargo.lock", "");
        assert_eq!(sources(dir.path()), before);
        write("src/lib.rs", "three");
        assert_ne!(sources(dir.path()), before);
        write("src/lib.rs", "one");
        write("fixtures/a.json", "{}");
        assert_eq!(sources(dir.path()).len(), 2);
    }
}
