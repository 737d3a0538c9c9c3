//! What the node has: one immutable snapshot, and what it offers of it (asks `slot-reporter`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::amount;
use crate::ids::SlotName;
use crate::policy::DecidedBy;
use crate::policy::bindings::types;

mod cgroup;
mod offer;

pub use offer::{offer, watch};

/// One device of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Index into [`Inventory::models`].
    pub model: usize,
    /// Core number; 0 for memory.
    pub number: u32,
    /// Stable id: core number as text, `root` for memory (contracts: manager §6.1).
    pub id: String,
    /// NUMA node, when known.
    pub numa_node: Option<u32>,
    /// Health.
    pub health: types::Health,
}

/// Everything found on this node, sorted by kind and number.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Kinds of devices.
    pub models: Vec<types::DeviceModel>,
    /// Devices.
    pub devices: Vec<Device>,
    /// About the node: `architecture`, `kernel`, `cgroup`.
    pub facts: Vec<(String, String)>,
}

/// What the node offers under one slot.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedSlot {
    /// Its name.
    pub name: SlotName,
    /// Its kind.
    pub kind: types::SlotKind,
    /// Shares are multiples of it.
    pub quantum: u64,
    /// Slots of one group exclude each other.
    pub exclusive_group: Option<u32>,
    /// (index into [`Inventory::devices`], amount), every amount above 0.
    pub offers: Vec<(usize, u64)>,
}

/// What is not offered, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithheldView {
    /// Family and device id, e.g. `cpu 3`.
    pub device: String,
    /// Amount; none: all of it.
    pub amount: Option<u64>,
    /// Why.
    pub reason: String,
}

/// What the node offers now: inventory and the checked answer of `slot-reporter`.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What there is.
    pub inventory: std::sync::Arc<Inventory>,
    /// What is offered.
    pub slots: Vec<OfferedSlot>,
    /// What is not.
    pub withheld: Vec<WithheldView>,
    /// Who decided it.
    pub by: DecidedBy,
}

/// Looks at this machine.
#[must_use]
pub fn detect() -> Inventory {
    let affinity = rustix::thread::sched_getaffinity(None).ok();
    // CPU_SETSIZE of sched_setaffinity(2).
    let cores = (0..1024).filter(|core| affinity.as_ref().is_none_or(|set| set.is_set(*core as usize)));
    detect_below(Path::new("/"), cores.collect())
}

/// The same with another root for `/proc` and `/sys`, and given cores.
fn detect_below(root: &Path, affinity: Vec<u32>) -> Inventory {
    let limits = cgroup::Limits::read(root);
    let nodes = numa_nodes(root);
    let online = read(root, "sys/devices/system/cpu/online").and_then(|text| cgroup::parse_cpu_list(&text));
    let mut cores: Vec<u32> = affinity
        .into_iter()
        .filter(|core| online.as_ref().is_none_or(|set| set.contains(core)))
        .filter(|core| limits.cpuset.as_ref().is_none_or(|set| set.contains(core)))
        .collect();
    if let Some(millicores) = limits.cpu_millicores {
        // A quota below one core still is one core to share.
        let whole = usize::try_from(millicores / 1000).unwrap_or(usize::MAX).max(1);
        cores.truncate(whole);
    }
    let installed = read(root, "proc/meminfo").and_then(|text| mem_total(&text)).unwrap_or(0);
    let memory = limits.memory_bytes.map_or(installed, |limit| limit.min(installed));
    let models = vec![
        types::DeviceModel {
            kind: types::DeviceKind::Cpu,
            family: "cpu".to_owned(),
            name: read(root, "proc/cpuinfo")
                .and_then(|text| model_name(&text))
                .unwrap_or_else(|| "core".to_owned()),
            memory_bytes: 0,
            processing_units: 1,
            capacity: amount::ONE,
            partition: None,
            attributes: Vec::new(),
        },
        types::DeviceModel {
            kind: types::DeviceKind::Memory,
            family: "mem".to_owned(),
            name: "memory".to_owned(),
            memory_bytes: memory,
            processing_units: 0,
            capacity: memory,
            partition: None,
            attributes: Vec::new(),
        },
    ];
    let mut devices: Vec<Device> = cores
        .into_iter()
        .map(|core| Device {
            model: 0,
            number: core,
            id: core.to_string(),
            numa_node: nodes.get(&core).copied(),
            health: types::Health::Healthy,
        })
        .collect();
    devices.push(Device {
        model: 1,
        number: 0,
        id: "root".to_owned(),
        numa_node: None,
        health: types::Health::Healthy,
    });
    let uname = rustix::system::uname();
    let fact = |key: &str, value: String| (key.to_owned(), value);
    let mut facts = vec![
        fact("architecture", std::env::consts::ARCH.to_owned()),
        fact("kernel", uname.release().to_string_lossy().into_owned()),
    ];
    if let Some(version) = limits.version {
        facts.push(fact("cgroup", version.to_string()));
    }
    Inventory { models, devices, facts }
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// Core number -> NUMA node, from `/sys/devices/system/node/node*/cpulist`.
fn numa_nodes(root: &Path) -> BTreeMap<u32, u32> {
    let mut nodes = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(root.join("sys/devices/system/node")) else { return nodes };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok()) else {
            continue;
        };
        let list = std::fs::read_to_string(entry.path().join("cpulist")).ok();
        for core in list.and_then(|text| cgroup::parse_cpu_list(&text)).unwrap_or_default() {
            nodes.insert(core, number);
        }
    }
    nodes
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_may_not_use_is_not_in_the_inventory() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       16384000 kB\n"),
            ("proc/cpuinfo", "processor : 0\nmodel name\t: Example CPU\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu\n"),
            ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/devices/system/cpu/online", "0-5\n"),
            ("sys/devices/system/node/node0/cpulist", "0-3\n"),
            ("sys/devices/system/node/node1/cpulist", "4-7\n"),
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let inventory = detect_below(dir.path(), vec![3, 4, 5, 6]);
        let cores: Vec<_> = inventory.devices.iter().map(|d| (d.id.as_str(), d.numa_node)).collect();
        assert_eq!(cores, [("3", Some(0)), ("4", Some(1)), ("root", None)]);
        assert_eq!(inventory.models[1].capacity, 1 << 30);
        assert_eq!(inventory.models[0].name, "Example CPU");
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let inventory = detect();
        assert!(inventory.devices.len() >= 2);
        assert!(inventory.models.iter().all(|model| model.capacity > 0));
    }
}
