//! The agents of these tests.

use super::engines::{Engine, runner};
pub use super::support::{Agent, until};

const CONFIG: &str = "[lifecycle]\nstop-grace-sec = 1\n";

/// On processes of this host; none, and a word about it, where no runner was built.
pub fn on_process() -> Option<Agent> {
    runner().map(|_| Agent::started(Engine::Process, CONFIG, &["--policy", "builtin"]))
}

/// On Docker; none, and a word about it, where no Docker answers.
pub fn on_docker() -> Option<Agent> {
    runner()?;
    let answers = std::process::Command::new("docker").arg("version").output();
    if !answers.is_ok_and(|output| output.status.success()) {
        println!("skipped: no Docker engine");
        return None;
    }
    Some(Agent::started(Engine::Docker, CONFIG, &["--policy", "builtin"]))
}

/// Ends the agent and starts another on the same state.
pub fn restart(agent: &mut Agent) {
    agent.end();
    agent.start();
}
