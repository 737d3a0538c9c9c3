//! Finds cores and memory of this machine, as far as this process may use them.
//!
//! Everything is read from `/proc` and `/sys` below a root folder, so that tests bring their own.

use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::Cgroups;
use super::{Device, Inventory};
use crate::amount::ONE;
use crate::policy::bindings::types;

/// Why this machine's devices could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectError {
    /// A file that every Linux has could not be read.
    #[error("cannot read {}: is /proc mounted?", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("{} has no usable `{key}`", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        key: &'static str,
    },
    /// Affinity and cpuset have no core in common.
    #[error("this process may run on no core: look at its affinity (`taskset -p`) and its cpuset")]
    NoCores,
}

/// Finds what this machine has. Reads a few small files; blocks for well below a millisecond per core.
///
/// # Errors
/// Where `/proc` is missing or says nothing of use.
pub fn detect() -> Result<Inventory, DetectError> {
    detect_at(Path::new("/"))
}

/// [`detect`] with another root folder.
///
/// # Errors
/// Where `proc` in it is missing or says nothing of use.
pub fn detect_at(root: &Path) -> Result<Inventory, DetectError> {
    let cgroups = Cgroups::read(root);
    let quota = cgroups.cpu_quota();
    let numa = numa_nodes(root);
    let cores = cores(root, &cgroups, quota)?;
    let memory = memory(root, &cgroups)?;

    let models = vec![
        types::DeviceModel {
            kind: types::DeviceKind::Cpu,
            family: "cpu".to_owned(),
            name: cpu_name(root),
            memory_bytes: 0,
            processing_units: 1,
            capacity: ONE,
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
    let core = |number: u32| Device {
        model: 0,
        number,
        id: number.to_string(),
        numa_node: numa.iter().find(|(_, cores)| cores.contains(&number)).map(|(node, _)| *node),
        health: types::Health::Healthy,
    };
    let mut devices: Vec<Device> = cores.into_iter().map(core).collect();
    devices.push(Device {
        model: 1,
        number: 0,
        id: "root".to_owned(),
        numa_node: None,
        health: types::Health::Healthy,
    });

    let mut facts = vec![
        ("architecture".to_owned(), std::env::consts::ARCH.to_owned()),
        ("cgroup".to_owned(), cgroups.version().to_owned()),
    ];
    if let Ok(release) = fs::read_to_string(root.join("proc/sys/kernel/osrelease")) {
        facts.push(("kernel".to_owned(), release.trim().to_owned()));
    }
    if let Some(quota) = quota {
        facts.push(("cpu-quota-micro".to_owned(), quota.to_string()));
    }
    Ok(Inventory { models, devices, facts })
}

/// Cores of the affinity and the cpuset, as many as the CPU quota pays for, the first ones; at least one.
fn cores(root: &Path, cgroups: &Cgroups, quota: Option<u64>) -> Result<Vec<u32>, DetectError> {
    // The affinity of the main thread, as sched_getaffinity(2) tells it, but without a limit of 1024 cores.
    let key = "Cpus_allowed_list";
    let (path, text) = read(root, "proc/self/status")?;
    let list = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let mut cores =
        list.and_then(|list| parse_cpu_list(list.trim())).ok_or(DetectError::Malformed { path, key })?;
    if let Some(cpuset) = cgroups.cpuset() {
        cores.retain(|core| cpuset.contains(core));
    }
    if cores.is_empty() {
        return Err(DetectError::NoCores);
    }
    let paid = quota.map_or(usize::MAX, |quota| usize::try_from(quota / ONE).unwrap_or(usize::MAX));
    cores.truncate(paid.max(1));
    Ok(cores)
}

/// The machine's memory or the group's limit, whichever is less.
fn memory(root: &Path, cgroups: &Cgroups) -> Result<u64, DetectError> {
    let (path, text) = read(root, "proc/meminfo")?;
    let total = parse_mem_total(&text).ok_or(DetectError::Malformed { path, key: "MemTotal" })?;
    Ok(cgroups.memory_limit().map_or(total, |limit| limit.min(total)))
}

fn read(root: &Path, file: &str) -> Result<(PathBuf, String), DetectError> {
    let path = root.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(DetectError::Unreadable { path, source }),
    }
}

/// NUMA nodes and their cores, by number; empty where the kernel shows none.
fn numa_nodes(root: &Path) -> Vec<(u32, Vec<u32>)> {
    let entries = fs::read_dir(root.join("sys/devices/system/node")).into_iter().flatten().flatten();
    let mut nodes: Vec<(u32, Vec<u32>)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((number, parse_cpu_list(list.trim())?))
        })
        .collect();
    nodes.sort();
    nodes
}

fn cpu_name(root: &Path) -> String {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// `MemTotal:       24684092 kB`, as bytes.
fn parse_mem_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// `0-3,8,10-11` (cpuset(7), "List format"), sorted, each once. None: not such a list.
pub(super) fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    /// More than any kernel is built for.
    const CORES_MAX: u32 = 65_536;
    let mut cores = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CORES_MAX {
            return None;
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// A tree of files with eight cores on two NUMA nodes and 16 GiB, and what else is given.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let usual = [
            ("proc/self/status", "Name:\tberth\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n"),
            ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:        1 kB\n"),
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: A Fine CPU\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("sys/devices/system/node/node0/cpulist", "0-3\n"),
            ("sys/devices/system/node/node1/cpulist", "4-7\n"),
            ("sys/devices/system/node/online", "0-1\n"),
        ];
        for (path, text) in usual.iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], cores: &[u32], gibibytes: u64, cgroup: &str) {
        let root = tree(files);
        let inventory = detect_at(root.path()).unwrap();
        let (memory, found) = inventory.devices.split_last().unwrap();
        assert_eq!(found.iter().map(|device| device.number).collect::<Vec<_>>(), cores);
        assert_eq!((memory.id.as_str(), inventory.models[1].capacity), ("root", gibibytes << 30));
        assert!(inventory.facts.contains(&("cgroup".to_owned(), cgroup.to_owned())), "{:?}", inventory.facts);
    }

    #[test]
    fn a_machine_without_cgroups_is_found_whole() {
        check(&[], &[0, 1, 2, 3, 4, 5, 6, 7], 16, "none");
        let inventory = detect_at(tree(&[]).path()).unwrap();
        assert_eq!(inventory.models[0].name, "A Fine CPU");
        assert_eq!(inventory.devices[5].numa_node, Some(1));
        assert_eq!(inventory.devices[5].id, "5");
        assert!(inventory.facts.contains(&("kernel".to_owned(), "6.1.0".to_owned())));
    }

    #[test]
    fn version_2_limits_hold_from_any_group_on_the_way_up() {
        check(
            &[
                ("proc/self/mountinfo", V2),
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/a/cpu.max", "350000 100000\n"),
                ("sys/fs/cgroup/a/b/memory.max", "8589934592\n"),
                ("sys/fs/cgroup/a/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/a/b/cpuset.cpus.effective", "2-7\n"),
            ],
            &[2, 3, 4],
            4,
            "v2",
        );
    }

    #[test]
    fn version_1_limits_hold_from_any_group_on_the_way_up() {
        check(
            &[
                ("proc/self/mountinfo", V1),
                ("proc/self/cgroup", "5:memory:/a/b\n4:cpuset:/c\n3:cpu,cpuacct:/a\n0::/x\n"),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2147483648\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/cpuset/c/cpuset.cpus", "1,3,5\n"),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
            &[1, 3],
            2,
            "v1",
        );
    }

    #[test]
    fn missing_files_and_groups_limit_nothing() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        check(&[("proc/self/mountinfo", V2), ("proc/self/cgroup", "0::/gone\n")], &all, 16, "v2");
        check(&[("proc/self/mountinfo", V1)], &all, 16, "v1");
        check(
            &[
                ("proc/self/mountinfo", V2),
                ("proc/self/cgroup", "0::/a\n"),
                ("sys/fs/cgroup/a/cpuset.cpus.effective", "\n"),
                ("sys/fs/cgroup/a/cpu.max", "much\n"),
                ("sys/fs/cgroup/a/memory.max", "max\n"),
            ],
            &all,
            16,
            "v2",
        );
    }

    #[test]
    fn less_than_a_core_is_still_one() {
        check(
            &[
                ("proc/self/mountinfo", V2),
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ],
            &[0],
            16,
            "v2",
        );
    }

    #[test]
    fn in_a_container_the_mounted_group_counts() {
        let mounted = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        check(
            &[
                ("proc/self/mountinfo", mounted),
                ("proc/self/cgroup", "0::/docker/abc\n"),
                ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ],
            &[0, 1, 2, 3, 4, 5, 6, 7],
            1,
            "v2",
        );
    }

    #[test]
    fn without_proc_the_error_says_so() {
        let root = tempfile::tempdir().unwrap();
        let error = detect_at(root.path()).unwrap_err().to_string();
        assert!(error.ends_with("proc/self/status: is /proc mounted?"), "{error}");
        let root = tree(&[("proc/self/status", "Name:\tberth\n")]);
        let error = detect_at(root.path()).unwrap_err().to_string();
        assert!(error.ends_with("has no usable `Cpus_allowed_list`"), "{error}");
    }

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_cpu_list("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_cpu_list(""), Some(Vec::new()));
        assert_eq!(parse_cpu_list("3-1"), None);
        assert_eq!(parse_cpu_list("0-4294967295"), None);
        assert_eq!(parse_cpu_list("all"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let inventory = detect().unwrap();
        assert!(inventory.devices.len() >= 2);
        assert!(inventory.models[1].capacity > 1 << 20);
    }
}
