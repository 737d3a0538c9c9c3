//! `evict`: who has to go when the node is under pressure.

use super::{Decision, Refusal, WorldKind, scheduler, scheduling, tidy, types};

/// Longest time that a kernel may be given to end, in milliseconds.
const MAX_GRACE_MS: u32 = 10 * 60 * 1000;

/// `evict`: who has to go when the node is under pressure.
#[derive(Debug)]
pub struct Evict;

/// What is short, and who runs.
#[derive(Debug, Clone)]
pub struct EvictQuestion {
    /// What must be freed.
    pub pressure: scheduling::Pressure,
    /// Who runs.
    pub running: Vec<scheduling::RunningKernel>,
    /// All devices and slots.
    pub node: types::Node,
}

impl Decision for Evict {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "evict";
    type Question = EvictQuestion;
    /// None: as the built-in would.
    type Raw = Option<Vec<scheduling::Eviction>>;
    /// Kernels that run, each at most once, first to last. Nobody is added: an empty list is an answer.
    type Answer = Vec<scheduling::Eviction>;

    fn twin(_: &types::Context, question: &EvictQuestion) -> Result<Self::Raw, Refusal> {
        Ok(Some(scheduler::evict(&question.pressure, &question.running)))
    }

    fn check(
        _: &types::Context,
        question: &EvictQuestion,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        let raw = raw.unwrap_or_else(|| scheduler::evict(&question.pressure, &question.running));
        let mut named = vec![false; question.running.len()];
        let mut answer = Vec::with_capacity(raw.len());
        for eviction in raw {
            let kernel = eviction.kernel;
            match named.get_mut(kernel as usize) {
                None => return Err(format!("evicts kernel {kernel}, which does not run")),
                Some(true) => return Err(format!("evicts kernel {kernel} twice")),
                Some(named) => *named = true,
            }
            if let Some(grace) = eviction.grace_ms.filter(|grace| *grace > MAX_GRACE_MS) {
                return Err(format!("gives kernel {kernel} {grace} ms to end; {MAX_GRACE_MS} is the most"));
            }
            answer.push(scheduling::Eviction { reason: tidy(&eviction.reason), ..eviction });
        }
        Ok((answer, None))
    }
}
