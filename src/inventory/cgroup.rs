//! The limits of the cgroup that this process is in, version 1, 2 or both (cgroups(7)).
//!
//! A limit holds if it is set anywhere between the process's own group and the top of what is mounted:
//! each is read from every folder on that way, and the smallest counts. What is not there limits nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::detect::parse_cpu_list;

/// Where the groups of this process are.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    root: PathBuf,
    memberships: Vec<Membership>,
    mounts: Vec<Mount>,
}

/// A line of `/proc/self/cgroup`: the controllers (none for version 2) and the group.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    controllers: Vec<String>,
    path: String,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    v2: bool,
    controllers: Vec<String>,
    /// Which group is mounted there.
    root: String,
    point: String,
}

impl Cgroups {
    /// Reads `/proc/self/cgroup` and `/proc/self/mountinfo` below `root`.
    pub(super) fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        Self {
            root: root.to_owned(),
            memberships: parse_memberships(&text("proc/self/cgroup")),
            mounts: parse_mounts(&text("proc/self/mountinfo")),
        }
    }

    /// `v1`, `v2`, `hybrid` or `none`.
    pub(super) fn version(&self) -> &'static str {
        let v1 = self.mounts.iter().any(|mount| !mount.v2 && !mount.controllers.is_empty());
        match (v1, self.mounts.iter().any(|mount| mount.v2)) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }

    /// The cores of the group's cpuset; none: not limited.
    pub(super) fn cpuset(&self) -> Option<Vec<u32>> {
        let (v2, folders) = self.folders("cpuset");
        let names: &[&str] =
            if v2 { &["cpuset.cpus.effective"] } else { &["cpuset.effective_cpus", "cpuset.cpus"] };
        // The nearest set that is not empty is the one in force.
        folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name))).find_map(|file| {
            let cores = parse_cpu_list(fs::read_to_string(file).ok()?.trim())?;
            (!cores.is_empty()).then_some(cores)
        })
    }

    /// CPU time per time in micro-units of a core; none: not limited.
    pub(super) fn cpu_quota(&self) -> Option<u64> {
        let (v2, folders) = self.folders("cpu");
        let read = |folder: &PathBuf, name: &str| fs::read_to_string(folder.join(name)).ok();
        folders
            .iter()
            .filter_map(|folder| {
                if v2 {
                    parse_cpu_max(&read(folder, "cpu.max")?)
                } else {
                    parse_quota(&read(folder, "cpu.cfs_quota_us")?, &read(folder, "cpu.cfs_period_us")?)
                }
            })
            .min()
    }

    /// Bytes; none: not limited.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        let (v2, folders) = self.folders("memory");
        let name = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        folders
            .iter()
            .filter_map(|folder| parse_memory_limit(&fs::read_to_string(folder.join(name)).ok()?))
            .min()
    }

    /// The folders of a controller from the process's own group up to the mount, and whether they are of
    /// version 2. A controller that version 1 has is not in version 2's hierarchy.
    fn folders(&self, controller: &str) -> (bool, Vec<PathBuf>) {
        let has = |controllers: &[String]| controllers.iter().any(|name| name == controller);
        let v1 = self.mounts.iter().find(|mount| !mount.v2 && has(&mount.controllers));
        let (mount, membership) = match v1 {
            Some(mount) => (mount, self.memberships.iter().find(|entry| has(&entry.controllers))),
            None => match self.mounts.iter().find(|mount| mount.v2) {
                Some(mount) => (mount, self.memberships.iter().find(|entry| entry.controllers.is_empty())),
                None => return (false, Vec::new()),
            },
        };
        let point = self.root.join(mount.point.trim_start_matches('/'));
        let group = membership.map_or("", |membership| relative(&membership.path, &mount.root));
        let mut folders = vec![point.clone()];
        for part in group.split('/').filter(|part| !part.is_empty()) {
            let next = folders[folders.len() - 1].join(part);
            folders.push(next);
        }
        folders.reverse();
        (mount.v2, folders)
    }
}

/// The group as seen from the mounted one. In a container the group may lie outside of what is mounted:
/// then the mounted one is all that can be known.
fn relative<'a>(group: &'a str, mounted: &str) -> &'a str {
    if group.split('/').any(|part| part == "..") {
        return "";
    }
    match group.strip_prefix(mounted.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => "",
    }
}

fn parse_memberships(text: &str) -> Vec<Membership> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
        Some(Membership { controllers: controllers.collect(), path: fields.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Of proc_pid_mountinfo(5) the cgroup mounts.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (unescape(before.next()?), unescape(before.next()?));
        let mut after = after.split(' ');
        let v2 = match after.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = after.nth(1).unwrap_or_default().split(',');
        // Among the options of a version 1 hierarchy its controllers are named beside `rw` and `name=…`.
        let controllers = if v2 {
            Vec::new()
        } else {
            options.filter(|option| is_controller(option)).map(str::to_owned).collect()
        };
        Some(Mount { v2, controllers, root, point })
    };
    text.lines().filter_map(line).collect()
}

fn is_controller(option: &str) -> bool {
    !matches!(option, "rw" | "ro" | "xattr" | "noprefix" | "clone_children") && !option.contains('=')
}

/// Spaces and the like are octal in mountinfo: `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// `max 100000` or `150000 100000`.
fn parse_cpu_max(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    parse_quota(quota, period)
}

/// Microseconds per microseconds, as micro-units of a core; -1 and `max` are no limit.
fn parse_quota(quota: &str, period: &str) -> Option<u64> {
    let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    quota.checked_mul(1_000_000)?.checked_div(period)
}

/// Bytes; `max` is no limit, and neither is what version 1 writes for none (the largest page count).
fn parse_memory_limit(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < i64::MAX as u64 / 65_536 * 65_536).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_become_micro_cores() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1_500_000));
        assert_eq!(parse_quota("-1\n", "100000\n"), None);
        assert_eq!(parse_quota("50000\n", "100000\n"), Some(500_000));
        assert_eq!(parse_quota("50000", "0"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn unlimited_memory_is_no_limit() {
        assert_eq!(parse_memory_limit("max\n"), None);
        assert_eq!(parse_memory_limit("9223372036854771712\n"), None);
        assert_eq!(parse_memory_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(parse_memory_limit("lots"), None);
    }

    #[test]
    fn groups_outside_of_the_mount_are_the_mount() {
        assert_eq!(relative("/system.slice/berth", "/"), "/system.slice/berth");
        assert_eq!(relative("/docker/abc", "/docker/abc"), "");
        assert_eq!(relative("/docker/abc/x", "/docker/abc"), "/x");
        assert_eq!(relative("/docker/abcd", "/docker/abc"), "");
        assert_eq!(relative("/../other", "/"), "");
    }

    #[test]
    fn mountinfo_names_hierarchies_and_escapes() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 /a\\040b /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            nonsense\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(mounts[1].controllers, Vec::<String>::new());
        assert_eq!((mounts[2].v2, &*mounts[2].root), (true, "/a b"));
    }
}
