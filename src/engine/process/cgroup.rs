//! Limits by control groups, where this user may make some.
//!
//! Controllers are found one by one, since a host may mount some of them as version 1 and some as
//! version 2. A container gets a group `berth/ID` in each hierarchy that one of its limits needs; its
//! supervisor is started by a shell that enters the groups first, so that no limit comes late.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use crate::engine::ContainerSpec;
use crate::ids::ContainerId;

/// The group that holds ours.
const PARENT: &str = "berth";
/// Microseconds over which a quota of CPU time counts.
const PERIOD_US: u64 = 100_000;
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuset", "pids"];

/// Enters the groups named before `--`, then becomes what stands after it. `0` is the writer itself.
pub(super) const ENTER: &str =
    "while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 125; shift; done; shift; exec \"$@\"";

/// Where a controller is, and in which version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Controller {
    mount: PathBuf,
    unified: bool,
}

/// The controllers that this user may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    controllers: BTreeMap<&'static str, Controller>,
}

/// The groups of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Group folders.
    groups: Vec<PathBuf>,
    /// File that counts kills for memory.
    kills: Option<PathBuf>,
}

impl Hierarchies {
    /// Looks what there is.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Self::parse(&mounts, |mount| {
            fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
        });
        found.controllers.retain(|_, controller| access(&controller.mount, Access::WRITE_OK).is_ok());
        found
    }

    /// Reads `proc_pid_mountinfo(5)`; `offers` tells the controllers of a version 2 mount.
    fn parse(mounts: &str, offers: impl Fn(&Path) -> String) -> Self {
        let mut controllers = BTreeMap::new();
        for line in mounts.lines() {
            let Some((mount, rest)) = line.split_once(" - ") else { continue };
            let Some(mount) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut rest = rest.split(' ');
            let (kind, options) = (rest.next().unwrap_or_default(), rest.nth(1).unwrap_or_default());
            let (unified, offered) = match kind {
                "cgroup" => (false, options.to_owned()),
                "cgroup2" => (true, offers(&mount)),
                _ => continue,
            };
            for name in CONTROLLERS {
                if offered.split([',', ' ', '\n']).any(|offered| offered == name) {
                    controllers.insert(name, Controller { mount: mount.clone(), unified });
                }
            }
        }
        Self { controllers }
    }

    /// `1` or `2`, by the memory controller; none where there is none for us.
    pub(super) fn version(&self) -> Option<&'static str> {
        self.controllers.get("memory").map(|memory| if memory.unified { "2" } else { "1" })
    }

    /// What is not enforced without the missing controllers, a sentence each.
    pub(super) fn not_enforced(&self) -> Vec<String> {
        let texts = [
            ("memory", "Memory limits are not enforced: this user may not make memory cgroups."),
            ("cpuset", "Kernels are bound to their cores by CPU affinity only, which a program may change."),
            ("cpu", "Quotas of CPU time are not enforced: this user may not make cpu cgroups."),
            ("pids", "The number of processes is not limited: this user may not make pids cgroups."),
        ];
        texts
            .into_iter()
            .filter(|(name, _)| !self.controllers.contains_key(name))
            .map(|(_, text)| text.to_owned())
            .collect()
    }

    /// Makes the groups that `spec` needs and sets its limits. What was made is taken back on error.
    pub(super) fn make(&self, id: &ContainerId, spec: &ContainerSpec) -> io::Result<Limits> {
        let mut limits = Limits::default();
        match self.fill(&mut limits, id, spec) {
            Ok(()) => Ok(limits),
            Err(error) => {
                limits.remove();
                Err(error)
            }
        }
    }

    fn fill(&self, limits: &mut Limits, id: &ContainerId, spec: &ContainerSpec) -> io::Result<()> {
        if let (Some(memory), Some(bytes)) = (self.controllers.get("memory"), spec.memory_limit) {
            let group = group(limits, memory, "memory", id)?;
            let both = spec.memory_swap.unwrap_or(bytes).max(bytes);
            if memory.unified {
                set(&group, "memory.max", &bytes.to_string())?;
                // Missing where swap is not accounted for.
                set_if_there(&group, "memory.swap.max", &(both - bytes).to_string())?;
                limits.kills = Some(group.join("memory.events"));
            } else {
                set(&group, "memory.limit_in_bytes", &bytes.to_string())?;
                set_if_there(&group, "memory.memsw.limit_in_bytes", &both.to_string())?;
                limits.kills = Some(group.join("memory.oom_control"));
            }
        }
        if let (Some(cpu), Some(micro)) = (self.controllers.get("cpu"), spec.cpu_limit) {
            let group = group(limits, cpu, "cpu", id)?;
            // At least 1 ms, else EINVAL.
            let quota = (micro.saturating_mul(PERIOD_US) / 1_000_000).max(1000);
            if cpu.unified {
                set(&group, "cpu.max", &format!("{quota} {PERIOD_US}"))?;
            } else {
                set(&group, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
                set(&group, "cpu.cfs_quota_us", &quota.to_string())?;
            }
        }
        if let (Some(cpuset), false) = (self.controllers.get("cpuset"), spec.cpuset.is_empty()) {
            let group = group(limits, cpuset, "cpuset", id)?;
            let cores: Vec<String> = spec.cpuset.iter().map(u32::to_string).collect();
            set(&group, "cpuset.cpus", &cores.join(","))?;
        }
        if let (Some(pids), Some(most)) = (self.controllers.get("pids"), spec.pids_limit) {
            let group = group(limits, pids, "pids", id)?;
            set(&group, "pids.max", &most.to_string())?;
        }
        Ok(())
    }
}

impl Limits {
    /// The files a process enters the groups by.
    pub(super) fn entrances(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.join("cgroup.procs")).collect()
    }

    /// How many processes were killed for memory.
    pub(super) fn kills_for_memory(&self) -> u64 {
        let count = || {
            let text = fs::read_to_string(self.kills.as_ref()?).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        };
        count().unwrap_or(0)
    }

    /// Removes the groups, and the one that held them when it was the last. False: a process is still
    /// in one.
    pub(super) fn remove(&self) -> bool {
        let mut all = true;
        for group in &self.groups {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => all = false,
                _ => {
                    if let Some(parent) = group.parent() {
                        // Not empty: others are still in there.
                        let _ = fs::remove_dir(parent);
                    }
                }
            }
        }
        all
    }
}

fn group(limits: &mut Limits, controller: &Controller, name: &str, id: &ContainerId) -> io::Result<PathBuf> {
    let parent = controller.mount.join(PARENT);
    let group = parent.join(id.as_str());
    make(&parent)?;
    if controller.unified {
        // Most often on already, or set by systemd.
        let _ = fs::write(controller.mount.join("cgroup.subtree_control"), format!("+{name}"));
        set(&parent, "cgroup.subtree_control", &format!("+{name}"))?;
    } else if name == "cpuset" {
        inherit_cpuset(&controller.mount, &parent)?;
    }
    make(&group)?;
    if !limits.groups.contains(&group) {
        limits.groups.push(group.clone());
    }
    if !controller.unified && name == "cpuset" {
        inherit_cpuset(&parent, &group)?;
    }
    Ok(group)
}

/// A new version 1 cpuset is empty and takes no process until it has cores and memory nodes.
fn inherit_cpuset(from: &Path, to: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(to.join(name))?.trim().is_empty() {
            set(to, name, fs::read_to_string(from.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

fn set(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = group.join(file);
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{} = {value}: {error}", path.display())))
}

fn set_if_there(group: &Path, file: &str, value: &str) -> io::Result<()> {
    if group.join(file).exists() { set(group, file, value) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_is_found_where_it_is_mounted() {
        let mounts = "\
            25 30 0:23 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
            26 30 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            27 30 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            28 30 0:26 / / rw - ext4 /dev/vda rw\n";
        let found = Hierarchies::parse(mounts, |_| "cpuset pids\n".to_owned());
        let at = |name: &str| {
            let controller = found.controllers.get(name).unwrap();
            (controller.mount.to_str().unwrap().to_owned(), controller.unified)
        };
        assert_eq!(at("memory"), ("/sys/fs/cgroup/memory".into(), false));
        assert_eq!(at("cpu"), ("/sys/fs/cgroup/cpu,cpuacct".into(), false));
        assert_eq!(at("cpuset"), ("/sys/fs/cgroup/unified".into(), true));
        assert_eq!(found.version(), Some("1"));
        assert!(found.not_enforced().is_empty());
    }

    #[test]
    fn every_missing_controller_is_said() {
        assert_eq!(Hierarchies::default().not_enforced().len(), CONTROLLERS.len());
        assert_eq!(Hierarchies::default().version(), None);
    }
}
