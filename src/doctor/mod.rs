//! `berth doctor`: what is not as it should be on this node, and the next step for each.
//!
//! Two looks, each at what is there without touching it: `node` gathers facts about engine, limits, folders,
//! runner, policies and clock, which `checks` judges (pure); and the reconciler's own look at kernels,
//! containers and folders ([`crate::kernel::reconcile::look`]), whose findings are what it would mend.
//!
//! A running agent looks for itself ([`online`]); where none answers, a command does ([`offline`]).

use serde::{Deserialize, Serialize};

use crate::agent;
use crate::config::Config;
use crate::engine::{self, SharedEngine};
use crate::kernel::reconcile::{self, Finding, Observed};
use crate::kernel::{KernelError, KernelRecord, Kernels, now_ms};
use crate::policy::{self, PolicyView};
use crate::scratch::Scratch;
use crate::store::{self, StoreError};

mod checks;
mod node;

use node::Facts;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether a running agent looked for itself.
    pub online: bool,
    /// Everything that was looked at, in order.
    pub checks: Vec<Check>,
    /// What the reconciler would mend.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `engine`, `runner`, …
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// In one line.
    pub text: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing; nothing to be done.
    Note,
    /// Something should be done.
    Bad,
}

impl Report {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.is_empty() && self.checks.iter().all(|check| check.verdict != Verdict::Bad)
    }
}

impl Check {
    fn good(name: &str, text: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Good, text: text.into(), hint: None }
    }

    fn note(name: &str, text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::good(name, text) }
    }

    fn bad(name: &str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, hint: Some(hint.into()), ..Self::good(name, text) }
    }

    fn of_error(name: &str, error: &KernelError) -> Self {
        let hint = error.hint.clone().unwrap_or_else(|| "see the agent's log".to_owned());
        Self::bad(name, &error.message, hint)
    }
}

/// The look of a running agent at itself and its node.
pub async fn online(kernels: &Kernels, policies: Vec<PolicyView>, state_dir: std::path::PathBuf) -> Report {
    let shared = kernels.shared();
    let newest_ms = kernels.list(true).iter().map(|kernel| kernel.created_at_ms).max();
    let (state, runner) = node::look_at_files(Some(state_dir), shared.runner.clone()).await;
    let facts = Facts {
        engine: Some(shared.engine.info().await.map_err(KernelError::from)),
        open_files: node::open_files(),
        state,
        runner: Ok(runner),
        policies: Ok(policies),
        now_ms: now_ms(),
        newest_ms,
    };
    let mut checks = checks::judge(&facts);
    let findings = match reconcile::survey(kernels).await {
        Ok(findings) => findings,
        Err(error) => {
            checks.push(Check::of_error("kernels", &error));
            Vec::new()
        }
    };
    Report { online: true, checks, findings }
}

/// What is on disk of an agent that does not run.
struct Records {
    records: Vec<KernelRecord>,
    instance: crate::ids::InstanceId,
}

/// The look where no agent answers, with the configuration that one would start with. Nothing is changed,
/// but for the lock that is held meanwhile.
pub async fn offline(config: &Config) -> Report {
    let mut checks =
        vec![Check::note("agent", format!("none answers at {}", config.control.socket.display()))];
    checks.extend(
        config
            .warnings
            .iter()
            .map(|line| Check::note("configuration", line))
            .chain(config.file.iter().map(|file| Check::good("configuration", file.display().to_string()))),
    );
    let state_dir = config.standalone.state_dir.clone();
    let is_there = state_dir.is_dir();
    let records = if is_there { read_records(&state_dir, &mut checks).await } else { None };

    let runner = config.kernel_runner.find();
    let engine = match &runner {
        Ok(runner) => Some(connect(config, runner.clone(), is_there).await),
        Err(_) => None,
    };
    let info = match &engine {
        Some(Ok((engine, _))) => Some(engine.info().await.map_err(KernelError::from)),
        Some(Err(error)) => Some(Err(error.clone())),
        None => None,
    };
    let newest_ms =
        records.as_ref().and_then(|found| found.records.iter().map(|it| it.view.created_at_ms).max());
    let looked_at = runner.as_ref().ok().cloned().unwrap_or_default();
    let (state, looked_at) = node::look_at_files(is_there.then_some(state_dir), looked_at).await;
    let facts = Facts {
        engine: info,
        open_files: node::open_files(),
        state,
        runner: runner.map(|_| looked_at),
        policies: policies(config).await,
        now_ms: now_ms(),
        newest_ms,
    };
    checks.extend(checks::judge(&facts));
    let findings = match (records, engine) {
        (Some(records), Some(Ok((engine, _guard)))) => match findings(config, records, &engine).await {
            Ok(findings) => findings,
            Err(error) => {
                checks.push(Check::of_error("kernels", &error));
                Vec::new()
            }
        },
        _ => Vec::new(),
    };
    Report { online: false, checks, findings }
}

async fn read_records(state_dir: &std::path::Path, checks: &mut Vec<Check>) -> Option<Records> {
    let dir = state_dir.to_owned();
    let opened = match tokio::task::spawn_blocking(move || store::open(&dir)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            let hint = match &error {
                StoreError::Locked { .. } => {
                    "that agent does not answer here: name its socket with --socket, or restart it"
                }
                StoreError::Directory { .. } => "mend the folder, or name another with --state-dir",
                StoreError::Database(_) | StoreError::Closed => {
                    "see whether the disk is full; keep the file and start with another --state-dir"
                }
            };
            checks.push(Check::bad("records", error.to_string(), hint));
            return None;
        }
        Err(error) => {
            checks.push(Check::bad("records", error.to_string(), "try again"));
            return None;
        }
    };
    let read = opened.handle.look::<KernelRecord>().await;
    opened.handle.close().await;
    match read {
        Ok((records, damaged)) => {
            checks.push(Check::good("records", format!("{} kernels", records.len())));
            for row in damaged {
                let text = format!("the record {} cannot be read: {}", row.key, row.problem);
                checks.push(Check::bad(
                    "records",
                    text,
                    "it is set aside at the next start; its kernel is removed",
                ));
            }
            Some(Records { records, instance: opened.instance })
        }
        Err(error) => {
            checks.push(Check::of_error("records", &error.into()));
            None
        }
    }
}

/// The engine, and a folder for one that needs some and has none yet.
async fn connect(
    config: &Config,
    runner: std::path::PathBuf,
    has_state: bool,
) -> Result<(SharedEngine, Option<tempfile::TempDir>), KernelError> {
    let mut place = agent::place(config, runner);
    let mut guard = None;
    if !has_state {
        let dir = tempfile::tempdir()
            .map_err(|error| KernelError::new("no-folder", format!("no temporary folder: {error}")))?;
        place.process_dir = dir.path().join("process");
        guard = Some(dir);
    }
    Ok((engine::connect(config.standalone.engine, place).await?, guard))
}

/// Compiles and loads them, as a start would.
async fn policies(config: &Config) -> Result<Vec<PolicyView>, String> {
    let config = config.policy.clone();
    let loaded = tokio::task::spawn_blocking(move || policy::start(config).map(|host| host.list()));
    match loaded.await {
        Ok(list) => list.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn findings(
    config: &Config,
    found: Records,
    engine: &SharedEngine,
) -> Result<Vec<Finding>, KernelError> {
    let containers = engine.list(found.instance).await?;
    let scratch = Scratch::at(config.container.scratch_root.as_deref(), &config.standalone.state_dir);
    let folders = tokio::task::spawn_blocking(move || scratch.present())
        .await
        .map_err(|error| KernelError::new("internal", error.to_string()))??;
    let desired = found.records.iter().map(|record| (&record.view).into()).collect::<Vec<_>>();
    Ok(reconcile::look(&desired, &Observed { containers, folders }))
}
