//! An agent with policies on the process engine, and what an operator asks of it. Beside `agent` and `engines`.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::engines::{Engine, runner};
use super::support;

/// See the module. What is not here is [`support::Agent`]'s.
pub struct Agent(support::Agent);

impl Deref for Agent {
    type Target = support::Agent;

    fn deref(&self) -> &support::Agent {
        &self.0
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut support::Agent {
        &mut self.0
    }
}

impl Agent {
    pub fn new() -> Self {
        // A deadline that a loaded machine meets, too.
        Self::with_deadline(20_000)
    }

    pub fn with_deadline(deadline_ms: u64) -> Self {
        Self::with(&format!("[policy]\ndeadline-ms = {deadline_ms}\nprobation-decisions = 0\n"))
    }

    /// With this at the end of `agent.toml`.
    pub fn with(policy: &str) -> Self {
        Self(support::Agent::started(Engine::Process, &config(policy), &[]))
    }

    /// Writes `agent.toml` again, with this at its end.
    pub fn configure(&self, policy: &str) {
        std::fs::write(self.path("agent.toml"), config(policy)).unwrap();
    }

    /// SIGHUP: `[policy]` is read again.
    pub fn hang_up(&self) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    }

    /// Runs a command until what it says is as wanted.
    pub fn until(&self, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let mut said = Value::Null;
        support::until(&format!("{words:?} says so"), || {
            said = self.json(words);
            wanted(&said)
        });
        said
    }

    /// A command that must fail: one line that says what, one that says what next, with these words in them.
    pub fn refuses(&self, words: &[&str], expected: &[&str]) {
        let said = self.fails(words);
        assert!(said.lines().count() == 2 && said.contains("\nhint: "), "{words:?}: {said}");
        for words in expected {
            assert!(said.contains(words), "{said}");
        }
    }

    /// The first policy of a world, as `berth policy list` has it.
    pub fn active(&self, world: &str) -> Value {
        let policies = self.json(&["policy", "list"]);
        policies.as_array().unwrap().iter().find(|policy| policy["world"] == world).unwrap().clone()
    }

    /// Name and source of the scheduler.
    pub fn scheduler(&self) -> (String, String) {
        let active = self.active("scheduler");
        (active["name"].as_str().unwrap().to_owned(), active["source"].as_str().unwrap().to_owned())
    }

    /// The cores that a kernel of one core would get.
    pub fn would_get(&self) -> Value {
        self.json(&["create", "--dry-run", "--cpus", "1"])["cpuset"].clone()
    }

    /// The numbers of the cores offered.
    pub fn cores(&self) -> Vec<u64> {
        let slots = self.json(&["slots"]);
        let cpu = slots["slots"].as_array().unwrap().iter().find(|slot| slot["slot"] == "cpu").unwrap();
        let devices = cpu["devices"].as_array().unwrap().iter();
        let mut cores: Vec<u64> =
            devices.map(|device| device[0].as_str().unwrap().parse().unwrap()).collect();
        cores.sort_unstable();
        cores
    }
}

/// `agent.toml` with this at its end.
pub fn config(policy: &str) -> String {
    let runner = runner().unwrap_or_else(|| PathBuf::from("/bin/true")).display().to_string();
    format!("[agent]\nid = \"i-node7\"\n[kernel-runner]\npath = {runner:?}\n{policy}")
}

/// An example that decides otherwise than the shipped scheduler.
pub fn last_core() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/examples/last-core.wasm").to_owned()
}
