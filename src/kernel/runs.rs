//! The last runs of a kernel, for people who come too late for their output. Pure.
//!
//! Nothing is written to disk for a run: the agent sees its end, and one that comes back reads the ends that
//! it missed from the runner's first answer.

use serde::{Deserialize, Serialize};

use crate::ids::RunId;
use crate::route::{RunEnd, RunnerStatus};

/// Runs that are shown.
const SHOWN: usize = 16;

/// A run of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Where it is, or how it ended.
    pub state: RunState,
    /// As the runner told it; negative: killed by that signal.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Output that did not reach its client.
    #[serde(default)]
    pub lost_bytes: u64,
    /// Unix time in milliseconds, as far as it is known.
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
}

/// How a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It goes on.
    Running,
    /// Its program ended.
    Finished,
    /// It took longer than its timeout.
    TimedOut,
    /// It was cancelled, or its client was gone for too long.
    Cancelled,
    /// The runner was started anew.
    RunnerRestarted,
    /// The kernel, or the agent, went away.
    Detached,
}

impl From<&RunEnd> for RunState {
    fn from(end: &RunEnd) -> Self {
        match end {
            RunEnd::Finished { .. } => Self::Finished,
            RunEnd::TimedOut => Self::TimedOut,
            RunEnd::Cancelled => Self::Cancelled,
            RunEnd::RunnerRestarted => Self::RunnerRestarted,
            RunEnd::Detached { .. } => Self::Detached,
        }
    }
}

/// The route saw a run end.
pub fn ended(runs: &mut Vec<RunView>, run: RunId, end: &RunEnd, now_ms: u64) {
    let view = entry(runs, run);
    view.state = end.into();
    if let RunEnd::Finished { exit_code } = end {
        view.exit_code = Some(*exit_code);
    }
    view.ended_at_ms = Some(now_ms);
}

/// So much output of a run was lost, from its start.
pub fn lost(runs: &mut Vec<RunView>, run: RunId, bytes: u64) {
    let view = entry(runs, run);
    view.lost_bytes = view.lost_bytes.max(bytes);
}

/// The runner told what it knows; whether that is news.
pub fn told(runs: &mut Vec<RunView>, status: &RunnerStatus, now_ms: u64) -> bool {
    let before = runs.clone();
    for task in &status.recent {
        let Some(run) = id(task.run.as_deref()) else { continue };
        // Another agent of this node has seen as much, or this one knows better how it ended.
        let known = runs.iter_mut().find(|view| view.run == run);
        if let Some(view) = known.filter(|view| view.state != RunState::Running) {
            view.exit_code = view.exit_code.or(Some(task.exit_code));
            continue;
        }
        let view = entry(runs, run);
        view.state = RunState::Finished;
        view.exit_code = Some(task.exit_code);
        let age = task.ended_at.zip(status.replied_at).map(|(ended, replied)| millis(replied - ended));
        view.ended_at_ms = age.map(|age| now_ms.saturating_sub(age));
    }
    if let Some(run) = id(status.run.as_deref()).filter(|_| status.running.is_some()) {
        // Enters it when it is not there; one that was given up here is not running for anybody.
        entry(runs, run);
    }
    *runs != before
}

/// A run's entry, a new one when there is none. The oldest goes when there are too many.
fn entry(runs: &mut Vec<RunView>, run: RunId) -> &mut RunView {
    let at = runs.iter().position(|view| view.run == run).unwrap_or_else(|| {
        let excess = (runs.len() + 1).saturating_sub(SHOWN);
        runs.drain(..excess);
        let state = RunState::Running;
        runs.push(RunView { run, state, exit_code: None, lost_bytes: 0, ended_at_ms: None });
        runs.len() - 1
    });
    &mut runs[at]
}

fn id(word: Option<&str>) -> Option<RunId> {
    word?.parse().ok()
}

/// Of a runner's clock: whatever it says, some number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut to the range")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1e3) as u64
}

#[cfg(test)]
mod tests {
    use berth_link::EndedTask;

    use super::*;

    fn run(name: &str) -> RunId {
        name.parse().unwrap()
    }

    fn task(name: &str, exit_code: i32, ended_at: f64) -> EndedTask {
        let ended_at = Some(ended_at);
        EndedTask { run: Some(name.into()), op: "exec".into(), exit_code, output_bytes: 0, ended_at }
    }

    #[test]
    fn what_an_agent_missed_it_reads_from_the_runner_and_only_once() {
        let mut runs = Vec::new();
        ended(&mut runs, run("seen"), &RunEnd::Cancelled, 50_000);
        let status = RunnerStatus {
            replied_at: Some(100.0),
            recent: vec![task("seen", -2, 90.0), task("missed", 7, 98.5)],
            running: Some("exec".into()),
            run: Some("now".into()),
            ..RunnerStatus::default()
        };
        assert!(told(&mut runs, &status, 60_000));
        assert!(!told(&mut runs, &status, 70_000), "nothing new");
        lost(&mut runs, run("missed"), 5);
        let seen: Vec<_> = runs
            .iter()
            .map(|view| (view.run.as_str(), view.state, view.exit_code, view.lost_bytes, view.ended_at_ms))
            .collect();
        assert_eq!(
            seen,
            [
                ("seen", RunState::Cancelled, Some(-2), 0, Some(50_000)),
                ("missed", RunState::Finished, Some(7), 5, Some(58_500)),
                ("now", RunState::Running, None, 0, None),
            ]
        );
        ended(&mut runs, run("now"), &RunEnd::Finished { exit_code: 0 }, 80_000);
        assert_eq!((runs[2].state, runs[2].exit_code), (RunState::Finished, Some(0)));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut runs = Vec::new();
        for at in 0..20 {
            ended(&mut runs, run(&format!("r{at}")), &RunEnd::TimedOut, at);
        }
        assert_eq!((runs.len(), runs[0].run.as_str()), (SHOWN, "r4"));
    }

    #[test]
    fn a_clock_that_makes_no_sense_does_no_harm() {
        let mut runs = Vec::new();
        for ended_at in [f64::NAN, f64::INFINITY, -1e300] {
            let recent = vec![task(&format!("r{}", runs.len()), 0, ended_at)];
            told(&mut runs, &RunnerStatus { replied_at: Some(1.0), recent, ..RunnerStatus::default() }, 9);
        }
        assert_eq!(runs.len(), 3);
    }
}
