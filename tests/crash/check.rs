//! What must be true whenever nobody is at work: books, folders, sockets and containers are exactly those of
//! the kernels that there are, and every event was told once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth::events::{Event, EventKind};
use berth::ids::KernelId;
use serde_json::Value;

use super::agent::{self, Agent, PATIENCE};
use super::engines::names;

/// Waits until everything is as it must be; panics with what is not.
pub fn settled(agent: &Agent) {
    let began = Instant::now();
    loop {
        let Err(problem) = look(agent) else { return };
        assert!(began.elapsed() < PATIENCE, "{problem}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn look(agent: &Agent) -> Result<(), String> {
    let status = agent.json(&["status"]);
    let kernels = agent.json(&["ps", "-a"]);
    let kernels: &Vec<Value> = kernels.as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let phases: BTreeMap<String, String> =
        kernels.iter().map(|kernel| (text(&kernel["id"]), text(&kernel["phase"]))).collect();
    let unsettled: Vec<_> =
        phases.iter().filter(|(_, phase)| !matches!(phase.as_str(), "running" | "collected")).collect();
    same("kernels on their way", &Vec::<(&String, &String)>::new(), &unsettled)?;
    let ids: BTreeSet<String> = phases.keys().cloned().collect();
    same("scratch folders", &ids, &names(&agent.state().join("scratch")))?;
    let links = agent.state().join("link");
    same("link folders", &ids, &names(&links))?;
    for (id, phase) in &phases {
        let sockets =
            if phase == "running" { BTreeSet::from(["in".into(), "out".into()]) } else { BTreeSet::new() };
        same(&format!("sockets of {id}"), &sockets, &names(&links.join(id)))?;
    }
    let wanted: BTreeSet<String> = kernels.iter().map(|kernel| text(&kernel["container"])).collect();
    same("containers", &wanted, &agent::containers(agent, status["instance"].as_str().unwrap()))?;

    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    for kernel in kernels.iter().filter(|kernel| kernel["phase"] == "running") {
        for share in kernel["allocations"].as_array().unwrap() {
            *held.entry(text(&share["slot"])).or_default() += share["amount"].as_u64().unwrap();
        }
    }
    let slots = agent.json(&["slots"]);
    let booked: BTreeMap<String, u64> = slots["slots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| (text(&slot["slot"]), slot["held"].as_u64().unwrap()))
        .filter(|(_, held)| *held > 0)
        .collect();
    same("booked amounts", &held, &booked)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, found: &T) -> Result<(), String> {
    if wanted == found { Ok(()) } else { Err(format!("{what}: wanted {wanted:?}, found {found:?}")) }
}

/// Every event of an agent, read while it lives: it retains only the newest.
#[derive(Debug, Default)]
pub struct Events(Vec<Event>);

impl Events {
    /// Reads those that are new.
    pub fn read_on(&mut self, agent: &Agent) {
        let from = (self.0.len() + 1).to_string();
        for line in agent.ok(&["events", "--from", &from, "-o", "json"]).lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line.get("lost"), None, "events are no longer there");
            let event: Event = serde_json::from_value(line["event"].clone()).unwrap();
            assert_eq!(event.seq, self.0.len() as u64 + 1, "an event is missing, or there twice");
            self.0.push(event);
        }
    }

    /// Each kernel's came in order and once, and those that are not `alive` have ended. Returns how many there were.
    pub fn came_once(&self, alive: &BTreeSet<KernelId>) -> usize {
        came_once(&self.0, alive);
        self.0.len()
    }
}

fn came_once(events: &[Event], alive: &BTreeSet<KernelId>) {
    let mut by_kernel: BTreeMap<KernelId, Vec<&EventKind>> = BTreeMap::new();
    for event in events {
        by_kernel.entry(event.kernel).or_default().push(&event.kind);
    }
    let order = |kind: &EventKind| match kind {
        EventKind::KernelPreparing => 0,
        EventKind::KernelCreating => 1,
        EventKind::KernelStarted => 2,
        EventKind::KernelTerminated { .. } => 3,
    };
    for (kernel, kinds) in &by_kernel {
        let places: Vec<i32> = kinds.iter().map(|kind| order(kind)).collect();
        assert!(places.is_sorted_by(|a, b| a < b), "kernel {kernel}: {kinds:?}");
        assert_eq!(places.first(), Some(&0), "kernel {kernel}: {kinds:?}");
        assert_eq!(places.last() == Some(&3), !alive.contains(kernel), "kernel {kernel}: {kinds:?}");
    }
    for kernel in alive {
        assert_eq!(by_kernel.get(kernel).map(Vec::len), Some(3), "kernel {kernel} lives");
    }
}
