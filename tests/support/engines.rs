//! What tests with real agents share: on which engines they run, and how nothing of their kernels stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Process,
    Docker,
}

impl Engine {
    /// As `--engine` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

/// The static runner, without which there are no kernels; none, and a word about it, when it was not built.
pub fn runner() -> Option<PathBuf> {
    let berth = Path::new(env!("CARGO_BIN_EXE_berth"));
    let runner = berth.ancestors().nth(2).map(|target| target.join("libexec/berth/berth-runner"));
    let runner = runner.filter(|runner| runner.is_file());
    if runner.is_none() {
        println!("skipped: no static runner (cargo xtask build)");
    }
    runner
}

/// The image that kernels run in on Docker; none, and a word about it, where there is no engine or no image.
pub fn docker_image() -> Option<String> {
    let output = Command::new("docker")
        .args(["images", "--filter", "label=ai.berth.default", "--format", "{{.Repository}}:{{.Tag}}"])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let Some(output) = output else {
        println!("skipped: no Docker engine");
        return None;
    };
    let image = String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
    if image.is_none() {
        println!("skipped: no kernel image (scripts/kernel-image.sh)");
    }
    image
}

/// Names in a folder; none when it is not there.
pub fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes the containers of every kernel that an agent, which is no more, left in its state directory.
pub fn remove_containers(state: &Path) {
    let kernels = names(&state.join("scratch")).into_iter().chain(names(&state.join("link")));
    for kernel in kernels.collect::<BTreeSet<_>>() {
        let filter = format!("label=ai.backend.kernel-id={kernel}");
        let found = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output();
        for id in found.iter().flat_map(|out| std::str::from_utf8(&out.stdout)).flat_map(str::lines) {
            let _ = Command::new("docker").args(["rm", "-fv", id]).output();
        }
    }
}

/// Kills what an agent, which is no more, left running on the process engine.
pub fn kill_processes(state: &Path) {
    for container in names(&state.join("process")) {
        for pid in marked(&container).into_keys() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Processes that carry the mark of a container of the process engine, with the times they began, so that an id
/// that was used again is another one.
pub fn marked(container: &str) -> BTreeMap<u32, u64> {
    let mark = format!("BERTH_CONTAINER={container}");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(began) = began(pid)
        {
            found.insert(pid, began);
        }
    }
    found
}

/// When a process began, in clock ticks since boot (proc(5), stat).
pub fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the name in field 2 may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
