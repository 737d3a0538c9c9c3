//! What tests with real agents share: on which engines they run, and how nothing of their kernels stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
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
