//! What a crash test wants of its agent beside the usual: failpoints, and who runs in its containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use super::engines::{Engine, began, marked, names};
pub use super::support::{Agent, PATIENCE, output, said};

/// An agent that has not been started.
pub fn new(engine: Engine) -> Agent {
    Agent::new(engine, "[lifecycle]\nstall-limit-sec = 10\n", &[])
}

/// Starts it with `failpoints`, as in `BERTH_FAILPOINTS`. Does not wait.
pub fn spawn_failing(agent: &mut Agent, failpoints: &str) {
    let trace = agent.path("trace");
    agent.spawn(&[("BERTH_FAILPOINTS", failpoints), ("BERTH_FAILPOINT_TRACE", trace.to_str().unwrap())]);
}

/// Places that any agent process has reached so far.
pub fn trace(agent: &Agent) -> BTreeSet<String> {
    let text = fs::read_to_string(agent.path("trace")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Process ids on this host of everything that runs in a container, with the times they began.
pub fn pids(agent: &Agent, container: &str) -> BTreeMap<u32, u64> {
    match agent.engine {
        Engine::Process => marked(container),
        Engine::Docker => {
            let output =
                Command::new("docker").args(["inspect", "-f", "{{.State.Pid}}", container]).output().unwrap();
            let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            BTreeMap::from([(pid, began(pid).unwrap_or_default())])
        }
    }
}

/// Ids of the containers that the engine has of this agent.
pub fn containers(agent: &Agent, instance: &str) -> BTreeSet<String> {
    match agent.engine {
        Engine::Process => names(&agent.state().join("process")),
        Engine::Docker => {
            let filter = format!("label=ai.berth.instance={instance}");
            let output = Command::new("docker")
                .args(["ps", "-aq", "--no-trunc", "--filter", &filter])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
        }
    }
}

/// Whether it was ended by SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}
