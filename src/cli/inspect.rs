//! `berth inspect`: all about one kernel.

use super::Context;
use super::error::CliError;
use super::output::{Output, age, decisions};
use super::ps::{holds, state};
use crate::amount::format_bytes;
use crate::control::policy_api::WhyView;
use crate::ids::KernelRef;
use crate::kernel::{KernelView, RunState, RunView};
use crate::policy::journal::Entry;

/// Show a kernel, its container, its last runs, and which policy decided what about it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth inspect k1
  berth inspect k1 -o json | jq -r .container")]
pub(super) struct Inspect {
    /// Name or id of the kernel
    #[arg(value_name = "KERNEL")]
    kernel: KernelRef,
    #[command(flatten)]
    output: Output,
}

impl Inspect {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let kernel = context.agent.kernel(&self.kernel).await?;
        if self.output.is_json() {
            return self.output.print(&kernel, |kernel| text(kernel, &[]));
        }
        // An agent that writes no journal still knows who decided.
        let why = context.agent.get::<WhyView>(&format!("/v1/kernels/{}/why", kernel.id)).await;
        let told = why.map_or_else(|_| Vec::new(), |why| why.decisions);
        self.output.print(&kernel, |kernel| text(kernel, &told))
    }
}

fn text(kernel: &KernelView, told: &[Entry]) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text += &format!("{what:<12} {value}\n");
    line("name", kernel.name.to_string());
    line("id", kernel.id.to_string());
    line("state", format!("{}, made {} ago", state(kernel), age(kernel.created_at_ms)));
    if let Some(message) = kernel.termination.as_ref().and_then(|end| end.message.clone()) {
        line("because", message);
    }
    line("image", kernel.image.clone());
    line("engine", kernel.engine.clone());
    if let Some(container) = &kernel.container {
        let name = kernel.container_name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
        line("container", format!("{container}{name}"));
    }
    line("holds", holds(kernel));
    let cores = kernel.cpuset.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    line("cores", if cores.is_empty() { "all that are offered, shared".to_owned() } else { cores });
    line("memory", kernel.memory_limit.map_or_else(|| "no limit".to_owned(), format_bytes));
    line("runs as", format!("{}:{}", kernel.runs_as.0, kernel.runs_as.1));
    line("work folder", kernel.work_dir.display().to_string());
    if let Some(boot) = kernel.runner_boot_ms {
        line("runner boot", format!("{boot:.1} ms"));
    }
    if kernel.leased {
        line("lease", "ends with its client".to_owned());
    }
    for sentence in &kernel.not_enforced {
        line("not enforced", sentence.clone());
    }
    text + &runs(&kernel.runs) + "decisions\n" + &decisions(&kernel.decisions, told)
}

fn runs(runs: &[RunView]) -> String {
    let mut text = String::new();
    for run in runs {
        let mut how = match (run.state, run.exit_code) {
            (RunState::Running, _) => "running".to_owned(),
            (RunState::Finished, Some(code)) if code < 0 => format!("killed by signal {}", -i64::from(code)),
            (RunState::Finished, Some(code)) => format!("exit code {code}"),
            (RunState::Finished, None) => "ended".to_owned(),
            (RunState::TimedOut, _) => "ended by its timeout".to_owned(),
            (RunState::Cancelled, _) => "given up".to_owned(),
            (RunState::RunnerRestarted, _) => "lost with its runner".to_owned(),
            (RunState::Detached, _) => "lost with its kernel".to_owned(),
        };
        if run.lost_bytes > 0 {
            how += &format!(", {} bytes of its output were lost", run.lost_bytes);
        }
        if let Some(ended_at_ms) = run.ended_at_ms {
            how += &format!(", {} ago", age(ended_at_ms));
        }
        text += &format!("  {}  {how}\n", run.run);
    }
    if text.is_empty() { text } else { format!("runs\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Allocation;
    use crate::ids::{Digest, KernelId, SessionId};
    use crate::kernel::{Phase, Termination};
    use crate::policy::{DecidedBy, Fault, PolicyFault, Rung, WorldKind};

    #[test]
    fn a_kernel_is_shown_with_its_decisions() {
        let digest = Digest::of(b"abc");
        let fault = PolicyFault {
            policy: "mine".to_owned(),
            digest: Some(digest),
            fault: Fault::Deadline,
            message: "took longer than 10 ms".to_owned(),
        };
        let kernel = KernelView {
            id: "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001".parse::<KernelId>().unwrap(),
            session: SessionId::random(),
            name: "k1".parse().unwrap(),
            phase: Phase::Collected,
            image: "python:3.13".to_owned(),
            engine: "docker".to_owned(),
            container: Some("0123abcd".parse().unwrap()),
            container_name: Some("kernel.python.k1".to_owned()),
            allocations: vec![Allocation {
                slot: "cpu".parse().unwrap(),
                device: "0".to_owned(),
                amount: 1_000_000,
            }],
            cpuset: vec![0],
            memory_limit: None,
            runs_as: (1000, 1000),
            created_at_ms: u64::MAX,
            starting_at_ms: Some(1),
            ready_at_ms: Some(1),
            runner_boot_ms: Some(12.34),
            silent_ms: None,
            termination: Some(Termination {
                reason: "self-terminated".to_owned(),
                exit_code: Some(1),
                oom: false,
                message: Some("the runner ended".to_owned()),
            }),
            decisions: vec![DecidedBy {
                world: WorldKind::Scheduler,
                function: "place".to_owned(),
                policy: "builtin".to_owned(),
                version: "0.1.0".to_owned(),
                digest: None,
                rung: Rung::Builtin,
                faults: vec![fault],
                micros: 17,
                note: Some("one NUMA node".to_owned()),
            }],
            not_enforced: vec!["memory is not limited".to_owned()],
            leased: true,
            work_dir: "/var/lib/berth/scratch/k1/work".into(),
            mounts: Vec::new(),
            runs: [
                (RunState::Finished, Some(3), 0, Some(u64::MAX)),
                (RunState::Finished, Some(-9), 70, Some(u64::MAX)),
                (RunState::Cancelled, None, 0, Some(u64::MAX)),
                (RunState::Running, None, 0, None),
            ]
            .into_iter()
            .enumerate()
            .map(|(at, (state, exit_code, lost_bytes, ended_at_ms))| RunView {
                run: format!("r{at}").parse().unwrap(),
                state,
                exit_code,
                lost_bytes,
                ended_at_ms,
            })
            .collect(),
        };
        insta::assert_snapshot!(text(&kernel, &[]));
    }
}
