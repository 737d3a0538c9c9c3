//! The agent's own cgroup limits, version 1 and 2: what it may not use it cannot offer.
//!
//! Parsers are pure; [`Limits::read`] walks up the tree below a root that tests replace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What this process may use at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// `1` or `2`; none where no cgroup file system is mounted.
    pub version: Option<u8>,
    /// CPU time per time in thousandths of a core.
    pub cpu_millicores: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Core numbers.
    pub cpuset: Option<BTreeSet<u32>>,
}

impl Limits {
    /// Reads the limits of the process whose `/proc/self/cgroup` lies below `root`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mount = root.join("sys/fs/cgroup");
        if mount.join("cgroup.controllers").is_file() {
            Self::read_v2(&mount, path_of(&membership, ""))
        } else {
            Self::read_v1(&mount, &membership)
        }
    }

    fn read_v2(mount: &Path, path: Option<&str>) -> Self {
        let mut limits = Self { version: Some(2), ..Self::default() };
        for dir in upwards(mount, path) {
            let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
            tighten(&mut limits.cpu_millicores, read("cpu.max").and_then(|text| parse_cpu_max(&text)));
            tighten(&mut limits.memory_bytes, read("memory.max").and_then(|text| parse_limit(&text)));
            if limits.cpuset.is_none() {
                limits.cpuset = read("cpuset.cpus.effective").and_then(|text| parse_cpu_list(&text));
            }
        }
        limits
    }

    fn read_v1(mount: &Path, membership: &str) -> Self {
        let mut limits = Self::default();
        for controller in ["cpu", "memory", "cpuset"] {
            let base = mount.join(controller);
            if !base.is_dir() {
                continue;
            }
            limits.version = Some(1);
            for dir in upwards(&base, path_of(membership, controller)) {
                let read = |file: &str| fs::read_to_string(dir.join(file)).ok();
                match controller {
                    "cpu" => {
                        let quota = read("cpu.cfs_quota_us").and_then(|text| parse_limit(&text));
                        let period = read("cpu.cfs_period_us").and_then(|text| parse_limit(&text));
                        tighten(&mut limits.cpu_millicores, millicores(quota, period));
                    }
                    "memory" => {
                        let bytes = read("memory.limit_in_bytes").and_then(|text| parse_limit(&text));
                        tighten(&mut limits.memory_bytes, bytes);
                    }
                    _ => {
                        if limits.cpuset.is_none() {
                            limits.cpuset = read("cpuset.effective_cpus")
                                .or_else(|| read("cpuset.cpus"))
                                .and_then(|text| parse_cpu_list(&text));
                        }
                    }
                }
            }
        }
        limits
    }
}

/// The path of a controller (`""`: the unified hierarchy) in the text of `/proc/self/cgroup`.
fn path_of<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

/// The cgroup's directory and those above it, up to the mount. In a cgroup namespace, and where the path
/// is not below the mount, the mount itself is the process's own.
fn upwards(mount: &Path, path: Option<&str>) -> Vec<PathBuf> {
    let relative = path.unwrap_or("/").trim_start_matches('/');
    let own = mount.join(relative);
    let own =
        if own.is_dir() && !relative.split('/').any(|part| part == "..") { own } else { mount.to_owned() };
    own.ancestors().take_while(|dir| dir.starts_with(mount)).map(Path::to_owned).collect()
}

fn tighten(limit: &mut Option<u64>, other: Option<u64>) {
    *limit = match (*limit, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}

/// A number; none for `max`, `-1` and what version 1 says for "no limit" (a page-aligned i64::MAX).
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().filter(|limit| *limit < (i64::MAX as u64) / 4096 * 4096)
}

/// `cpu.max`: `<quota or max> <period>`.
fn parse_cpu_max(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let quota = words.next()?.parse().ok();
    let period = words.next().and_then(|word| word.parse().ok());
    millicores(quota, period)
}

fn millicores(quota: Option<u64>, period: Option<u64>) -> Option<u64> {
    quota?.checked_mul(1000)?.checked_div(period?)
}

/// `0-3,8`: core numbers. None for an empty list or anything else.
pub(super) fn parse_cpu_list(text: &str) -> Option<BTreeSet<u32>> {
    let mut cores = BTreeSet::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // More cores than Linux knows is no list of cores.
        if last < first || last > 65_535 {
            return None;
        }
        cores.extend(first..=last);
    }
    (!cores.is_empty()).then_some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn version_2_limits_are_the_tightest_on_the_way_up() {
        let dir = tree(&[
            ("proc/self/cgroup", "0::/system.slice/berth.service\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n"),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
            ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/system.slice/berth.service/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/system.slice/berth.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/berth.service/cpuset.cpus.effective", "2-3\n"),
        ]);
        let limits = Limits::read(dir.path());
        assert_eq!(
            (limits.version, limits.cpu_millicores, limits.memory_bytes),
            (Some(2), Some(1500), Some(8 << 30))
        );
        assert_eq!(limits.cpuset, Some(BTreeSet::from([2, 3])));
    }

    #[test]
    fn version_1_knows_each_controllers_own_path() {
        let dir = tree(&[
            ("proc/self/cgroup", "5:memory:/user\n4:cpu,cpuacct:/jobs\n3:cpuset:/\n"),
            ("sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/memory/user/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/cpuset/cpuset.cpus", "0,2\n"),
        ]);
        let limits = Limits::read(dir.path());
        assert_eq!(
            (limits.version, limits.cpu_millicores, limits.memory_bytes),
            (Some(1), Some(2000), Some(1 << 30))
        );
        assert_eq!(limits.cpuset, Some(BTreeSet::from([0, 2])));
    }

    #[test]
    fn a_host_without_cgroups_has_no_limits() {
        assert_eq!(Limits::read(tree(&[("proc/x", "")]).path()), Limits::default());
    }

    #[test]
    fn core_lists_are_read_or_refused() {
        assert_eq!(parse_cpu_list("0-1,4\n"), Some(BTreeSet::from([0, 1, 4])));
        for text in ["", "\n", "a", "3-1", "0-99999999"] {
            assert_eq!(parse_cpu_list(text), None, "{text:?}");
        }
    }
}
