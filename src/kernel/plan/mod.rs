//! The container plan: what a kernel's container will be, as a value.
//!
//! [`Plan::base`] is what the agent itself decides (contracts: kernel §2.2–2.5), [`chain`] lets the
//! `container-config` policies edit it, [`render`](Plan::render) turns it into what an engine makes.
//! All pure but the asking.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::admission::Allocation;
use crate::amount;
use crate::engine::{
    ContainerSpec, LABEL_INSTANCE, LABEL_KERNEL_ID, LABEL_SESSION_ID, Layout, MountKind, MountSpec, Ulimit,
};
use crate::ids::{AgentId, InstanceId, KernelId, KernelName, SessionId};
use crate::scratch::Folders;

pub mod chain;
mod edits;
mod sources;
#[cfg(test)]
mod tests;

pub use edits::{Conflict, Member, apply};

/// Where things lie in a container (contracts: kernel §2.5; design §5).
const WORK: &str = "/home/work";
const CONFIG: &str = "/home/config";
const LINK: &str = "/opt/kernel/link";
const RUNNER: &str = "/opt/kernel/berth-runner";

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The agent's id, for labels.
    pub agent: &'a AgentId,
    /// The state directory's identity, for labels.
    pub instance: InstanceId,
    /// The kernel.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// Its name.
    pub name: &'a KernelName,
    /// Image reference as asked for.
    pub image: &'a str,
    /// Labels of the image.
    pub image_labels: &'a BTreeMap<String, String>,
    /// Environment asked for.
    pub env: &'a BTreeMap<String, String>,
    /// Mounts asked for.
    pub mounts: &'a [MountSpec],
    /// What it holds.
    pub allocations: &'a [Allocation],
    /// All offered core numbers, for kernels that hold no core of their own.
    pub shared_cores: &'a [u32],
    /// Bytes for kernels that hold no memory.
    pub default_memory: u64,
    /// uid and gid of its processes.
    pub runs_as: (u32, u32),
    /// Its folders.
    pub folders: &'a Folders,
    /// The runner's file on this host.
    pub runner: &'a Path,
    /// Which paths its engine shows it.
    pub layout: Layout,
    /// Bytes of console log to keep.
    pub log_max_bytes: u64,
}

/// A small file, read-only in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFile {
    /// Absolute path in the container.
    pub target: String,
    /// What it holds.
    pub content: String,
    /// Permission bits.
    pub mode: u32,
}

/// A container to be; see the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the engine will be asked for, as far as it is settled.
    pub spec: ContainerSpec,
    /// Files that policies add; written below the kernel's config folder.
    pub files: Vec<TextFile>,
    /// Where those files go on this host.
    files_dir: PathBuf,
}

impl Plan {
    /// The plan before any policy has seen it.
    #[must_use]
    pub fn base(inputs: &Inputs<'_>) -> Self {
        let cores = cores(inputs.allocations);
        let memory = held(inputs.allocations, "mem").unwrap_or(inputs.default_memory);
        let paths = Paths::of(inputs);
        let mut env = base_env(inputs);
        env.extend(inputs.env.clone());
        corecount_env(inputs, cores.len(), &mut env);
        let mut mounts = match inputs.layout {
            Layout::Container => vec![
                bind(&inputs.folders.work, WORK, false),
                bind(&inputs.folders.config, CONFIG, true),
                bind(&inputs.folders.link, LINK, true),
                bind(inputs.runner, RUNNER, true),
            ],
            Layout::Host => vec![
                bind(&inputs.folders.work, &paths.work, false),
                bind(&inputs.folders.config, &paths.config, true),
                bind(&inputs.folders.link, &paths.link, true),
                bind(inputs.runner, &paths.runner, true),
            ],
        };
        mounts.extend(inputs.mounts.iter().cloned());
        let spec = ContainerSpec {
            name: container_name(inputs.image, inputs.kernel),
            kernel: inputs.kernel,
            image: inputs.image.to_owned(),
            command: paths.command(inputs),
            entrypoint: vec![paths.runner],
            env,
            // The image's own USER does not matter: the runner sets the user up and drops (design §9).
            user: "0:0".to_owned(),
            working_dir: paths.work,
            hostname: "main1".to_owned(),
            labels: labels(inputs),
            mounts,
            // contracts: kernel §2.2
            cap_add: vec!["IPC_LOCK".to_owned(), "SYS_NICE".to_owned()],
            cap_drop: Vec::new(),
            ulimits: vec![
                Ulimit { name: "nofile".to_owned(), soft: 1_048_576, hard: 1_048_576 },
                Ulimit { name: "memlock".to_owned(), soft: -1, hard: -1 },
            ],
            cpuset: if cores.is_empty() { inputs.shared_cores.to_vec() } else { cores },
            cpu_limit: None,
            memory_limit: Some(memory),
            memory_swap: Some(memory),
            shm_size: None,
            pids_limit: None,
            network: None,
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            security_options: Vec::new(),
            read_only_root: false,
            oom_score_adj: None,
            log_max_bytes: inputs.log_max_bytes,
        };
        Self { spec, files: Vec::new(), files_dir: inputs.folders.config.join("files") }
    }

    /// What the engine is asked for. Files of policies become mounts of files on this host, which the
    /// caller writes first ([`Self::files_on_host`]).
    #[must_use]
    pub fn render(&self) -> ContainerSpec {
        let mut spec = self.spec.clone();
        for (path, file) in self.files_on_host() {
            spec.mounts.push(bind(&path, &file.target, true));
        }
        spec
    }

    /// Where each added file is to be written before the container is made.
    pub fn files_on_host(&self) -> impl Iterator<Item = (PathBuf, &TextFile)> {
        self.files.iter().enumerate().map(|(i, file)| (self.files_dir.join(i.to_string()), file))
    }
}

/// Paths as the kernel sees them.
struct Paths {
    work: String,
    config: String,
    link: String,
    runner: String,
}

impl Paths {
    fn of(inputs: &Inputs<'_>) -> Self {
        let host = |path: &Path| path.display().to_string();
        match inputs.layout {
            Layout::Container => Self {
                work: WORK.to_owned(),
                config: CONFIG.to_owned(),
                link: LINK.to_owned(),
                runner: RUNNER.to_owned(),
            },
            Layout::Host => Self {
                work: host(&inputs.folders.work),
                config: host(&inputs.folders.config),
                link: host(&inputs.folders.link),
                runner: host(inputs.runner),
            },
        }
    }

    fn command(&self, inputs: &Inputs<'_>) -> Vec<String> {
        let mut words = vec!["kernel".to_owned()];
        if inputs.layout == Layout::Host {
            for (flag, path) in [("--link", &self.link), ("--work", &self.work), ("--config", &self.config)] {
                words.extend([flag.to_owned(), path.clone()]);
            }
            words.push("--host".to_owned());
        }
        let (uid, gid) = inputs.runs_as;
        words.extend(["--uid".to_owned(), uid.to_string(), "--gid".to_owned(), gid.to_string()]);
        words
    }
}

/// `kernel.<last part of image name>.<kernel id>` (contracts: kernel §2.2).
fn container_name(image: &str, kernel: KernelId) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split(['@', ':']).next().unwrap_or(last);
    let clean: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' }).collect();
    format!("kernel.{}.{kernel}", if clean.is_empty() { "image" } else { &clean })
}

/// contracts: kernel §2.3, and the instance label of design §4.
fn labels(inputs: &Inputs<'_>) -> BTreeMap<String, String> {
    let own = |key: &str, value: String| (key.to_owned(), value);
    BTreeMap::from([
        own(LABEL_INSTANCE, inputs.instance.to_string()),
        own(LABEL_KERNEL_ID, inputs.kernel.to_string()),
        own(LABEL_SESSION_ID, inputs.session.to_string()),
        own("ai.backend.agent-id", inputs.agent.to_string()),
        own("ai.backend.owner", inputs.agent.to_string()),
        own("ai.backend.internal.block-service-ports", "0".to_owned()),
        own("ai.berth.kernel-name", inputs.name.to_string()),
    ])
}

/// contracts: kernel §2.4; a kernel without a manager is a session of its own.
fn base_env(inputs: &Inputs<'_>) -> BTreeMap<String, String> {
    let (uid, gid) = inputs.runs_as;
    [
        ("LOCAL_USER_ID", uid.to_string()),
        ("LOCAL_GROUP_ID", gid.to_string()),
        ("BACKENDAI_KERNEL_ID", inputs.kernel.to_string()),
        ("BACKENDAI_KERNEL_IMAGE", inputs.image.to_owned()),
        ("BACKENDAI_SESSION_ID", inputs.session.to_string()),
        ("BACKENDAI_SESSION_NAME", inputs.name.to_string()),
        ("BACKENDAI_CLUSTER_SIZE", "1".to_owned()),
        ("BACKENDAI_CLUSTER_ROLE", "main".to_owned()),
        ("BACKENDAI_CLUSTER_IDX", "1".to_owned()),
        ("BACKENDAI_CLUSTER_LOCAL_RANK", "0".to_owned()),
        ("BACKENDAI_CLUSTER_HOST", "main1".to_owned()),
        ("BACKENDAI_CLUSTER_HOSTS", "main1".to_owned()),
        ("GPU_COUNT", "0".to_owned()),
        ("N_GPUS", "0".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Label `ai.backend.envs.corecount`: names that get the number of the kernel's cores unless set.
fn corecount_env(inputs: &Inputs<'_>, own_cores: usize, env: &mut BTreeMap<String, String>) {
    let Some(names) = inputs.image_labels.get("ai.backend.envs.corecount") else { return };
    let count = if own_cores == 0 { inputs.shared_cores.len() } else { own_cores };
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        env.entry(name.to_owned()).or_insert_with(|| count.to_string());
    }
}

/// Core numbers held, sorted.
fn cores(allocations: &[Allocation]) -> Vec<u32> {
    let mut cores: Vec<u32> = allocations
        .iter()
        .filter(|a| a.slot.as_str() == "cpu" && a.amount >= amount::ONE)
        .filter_map(|a| a.device.parse().ok())
        .collect();
    cores.sort_unstable();
    cores
}

fn held(allocations: &[Allocation], slot: &str) -> Option<u64> {
    let total: u64 = allocations.iter().filter(|a| a.slot.as_str() == slot).map(|a| a.amount).sum();
    (total > 0).then_some(total)
}

fn bind(source: &Path, target: &str, read_only: bool) -> MountSpec {
    MountSpec {
        kind: MountKind::Bind,
        source: source.display().to_string(),
        target: target.to_owned(),
        read_only,
    }
}
