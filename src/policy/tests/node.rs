//! A state directory with the policies of an agent that is started and stopped over it.

use std::path::Path;

use super::questions::{self, ONE};
use super::*;
use crate::policy::swap::{self, Activation, Order as By, Outcome, Steps, Swap, SwapError, Target};
use crate::policy::worlds::Place;
use crate::store;

pub(super) const SCHEDULER: WorldKind = WorldKind::Scheduler;

/// A state directory, and an agent's policies over it.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
    pub(super) config: Config,
}

pub(super) struct Running {
    pub(super) policy: Handle,
    pub(super) swap: Swap,
    pub(super) store: store::Handle,
}

impl Node {
    pub(super) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("berth-swap-").tempdir().unwrap();
        let mut config = Config::builtin();
        config.threads = 2;
        config.deadline_ms = 20_000;
        config.scheduler.source = Source::Shipped;
        // Tests of what fails want it to stay.
        config.probation_decisions = 0;
        Self { dir, config }
    }

    pub(super) async fn start(&self) -> Running {
        let opened = store::open(self.dir.path()).unwrap();
        let kept = Kept::load(&opened.handle, self.dir.path()).await.unwrap();
        let config = self.config.clone();
        let at_start = kept.clone();
        let policy =
            tokio::task::spawn_blocking(move || start_kept(config, at_start)).await.unwrap().unwrap();
        let swap = Swap::new(policy.clone(), opened.handle.clone(), kept, &self.config);
        Running { policy, swap, store: opened.handle }
    }

    pub(super) fn module(&self, digest: Digest) -> std::path::PathBuf {
        self.dir.path().join("policies").join(format!("{digest}.wasm"))
    }
}

impl Running {
    pub(super) async fn stop(self) {
        self.store.close().await;
    }

    pub(super) async fn push(&self, module: &[u8]) -> Digest {
        self.swap.push(module.to_vec(), None, 1000).await.unwrap().module.digest
    }

    pub(super) async fn activate(&self, digest: Digest) -> swap::Swapped {
        self.activate_target(Target::Pushed(digest.to_string())).await.unwrap()
    }

    /// Whatever it would have decided otherwise.
    pub(super) async fn activate_target(&self, target: Target) -> Result<swap::Swapped, SwapError> {
        let wanted = Activation { accept_diff: true, ..activation(target) };
        match self.swap.activate(wanted, &Steps::default()).await? {
            Outcome::Active(swapped) => Ok(*swapped),
            Outcome::Shadow(view) => panic!("{view:?}"),
        }
    }

    pub(super) async fn roll_back(&self) -> Result<swap::Swapped, SwapError> {
        self.swap.roll_back(SCHEDULER, None, by("a test")).await
    }

    /// Who decides, and which of four cores they give.
    pub(super) async fn asks(&self) -> (String, Rung, u32) {
        let (decided, core) = place(&self.policy).await;
        (decided.policy, decided.rung, core)
    }
}

pub(super) fn by(reason: &str) -> By {
    By { uid: Some(1000), reason: Some(reason.to_owned()) }
}

pub(super) fn activation(target: Target) -> Activation {
    Activation { target, link: None, settings: None, accept_diff: false, shadow: false, order: by("a test") }
}

pub(super) async fn place(policy: &Handle) -> (DecidedBy, u32) {
    let question = questions::place(&questions::inventory(4, 0, 1), &[(0, ONE)], |_| 0);
    let decided = policy.ask::<Place>(question.clone()).await;
    let share = decided.answer.unwrap()[0];
    (decided.by, question.node.devices[share.device as usize].number)
}

pub(super) fn last_core() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/examples/last-core.wasm");
    std::fs::read(Path::new(path)).unwrap()
}

/// Traps whenever it is asked to place.
pub(super) fn trapping() -> Vec<u8> {
    guests::scheduler(guests::NOTHING)
}
