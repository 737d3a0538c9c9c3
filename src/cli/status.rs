//! `berth status`: whether the agent is ready.

use super::Context;
use super::drain::left;
use super::error::CliError;
use super::output::{Output, age, time};
use crate::agent::{DrainStatus, NodeStatus};
use crate::manager::ClusterStatus;
use crate::manager::membership::State;

/// Show the agent's state; exits 0 as soon as it is ready
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth status
  until berth status >/dev/null 2>&1; do sleep 0.1; done     wait for a new agent

Exits 1 while the agent is starting, degraded or stopping, and when there is none. A drained node
is ready for everything but new kernels: 0.")]
pub(super) struct Status {
    #[command(flatten)]
    output: Output,
}

impl Status {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let status: NodeStatus = context.agent.get("/v1/status").await?;
        self.output.print(&status, text)?;
        Ok(u8::from(!matches!(status.state.as_str(), "ready" | "draining")))
    }
}

fn text(status: &NodeStatus) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| text += &format!("{what:<12} {value}\n");
    line("state", format!("{}, for {}", status.state, age(status.started_at_ms)));
    if let Some(drain) = &status.drain {
        line("drained", drain_text(drain));
    }
    for problem in &status.problems {
        line("problem", problem.clone());
    }
    line("agent", format!("{}, berth {}, pid {}", status.agent, status.version, status.pid));
    line("instance", status.instance.to_string());
    match &status.engine {
        Some(engine) => {
            let api = engine.api_version.as_ref().map_or(String::new(), |api| format!(", API {api}"));
            line(
                "engine",
                format!("{} {}{api} at {}", engine.kind.as_str(), engine.version, engine.endpoint),
            );
            for sentence in &engine.not_enforced {
                line("not enforced", sentence.clone());
            }
        }
        None => line("engine", "none answers".to_owned()),
    }
    if let Some(rpc) = &status.rpc {
        let who = if rpc.encrypted { "the manager's key only" } else { "whoever reaches it" };
        line("calls", format!("{}, {who}", rpc.endpoint));
    }
    if let Some(cluster) = &status.cluster {
        line("cluster", cluster_text(cluster));
        for problem in cluster.problem.iter().chain(&cluster.heartbeat_problem) {
            line("problem", problem.clone());
        }
        if !cluster.withheld.is_empty() {
            let slots = cluster.withheld.join(", ");
            line("withheld", format!("{slots}: register them at the manager as resource slot types"));
        }
    }
    line("state dir", status.state_dir.display().to_string());
    line("scratch root", status.scratch_root.display().to_string());
    text
}

fn cluster_text(cluster: &ClusterStatus) -> String {
    let state = match cluster.state {
        State::LookingForEtcd => "looking for etcd".to_owned(),
        State::WaitingForManager => "waiting for a manager".to_owned(),
        State::Joined => match (&cluster.address, cluster.heartbeat_ms) {
            (Some(address), Some(beat)) => format!("joined as {address}, last heartbeat {} ago", age(beat)),
            _ => "joined, no heartbeat yet".to_owned(),
        },
    };
    format!("{} by etcd at {}: {state}", cluster.namespace, cluster.etcd)
}

fn drain_text(drain: &DrainStatus) -> String {
    let until = drain
        .draining
        .deadline_ms
        .map_or_else(|| "which may run on".to_owned(), |deadline| format!("stopped at {}", time(deadline)));
    let left = match drain.kernels_left {
        0 => "no kernel is left".to_owned(),
        some => format!("{}, {until}", left(some)),
    };
    format!("since {}: {left}; `berth undrain` ends that", time(drain.draining.since_ms))
}
