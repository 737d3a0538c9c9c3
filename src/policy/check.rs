//! Whether modules and sections of `agent.toml` would load, seen by loading them. Nothing is kept.

use std::path::Path;

use super::compile::Workshop;
use super::config::Config;
use super::error::{PolicyError, Problem};
use super::{WORLDS, author, host, load, on_a_thread, slot};

/// Loads a policy's file as the agent would, without settings, and tells what it is.
///
/// # Errors
/// What is wrong with it and what to do.
pub fn check_file(path: &Path) -> Result<author::Inspected, PolicyError> {
    let bytes = load::read(path).map_err(|problem| problem.of(path.display().to_string()))?;
    author::inspect(path.display().to_string(), bytes, &Workshop::IN_MEMORY)
}

/// Loads every configured policy with its settings and grants, as [`super::start`] would, and tells what would
/// not load (for `--check`).
#[must_use]
pub fn check_config(config: &Config) -> Vec<PolicyError> {
    let config = config.clone();
    let checked = on_a_thread(move || {
        let mut errors: Vec<PolicyError> =
            config.problems().into_iter().map(|problem| Problem::Config(problem).of("policy")).collect();
        if errors.is_empty() {
            match host::sandbox(&config, 1, &Workshop::IN_MEMORY) {
                Err(problem) => errors.push(problem.of("policy")),
                Ok(sandbox) => {
                    for world in WORLDS {
                        for policy in config.chain(world) {
                            if let Err(problem) = slot::load(&sandbox, world, policy) {
                                errors.push(problem.of(format!("policy.{world} {}", policy.source)));
                            }
                        }
                    }
                }
            }
        }
        Ok(errors)
    });
    checked.unwrap_or_else(|error| vec![error])
}
