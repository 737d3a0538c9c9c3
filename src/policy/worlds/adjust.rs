//! `adjust`: how a container is configured.
//!
//! Grants are matched by [`super::grants`]. The source of a mount is matched as written here; who makes the
//! mount must resolve it and match again.

use std::collections::HashSet;
use std::net::IpAddr;

use super::configuring::{Edit, Mount, MountKind};
use super::container_config as rules;
use super::{Decision, Refusal, WorldKind, configuring, grants, types};

/// `adjust`: how a container is configured.
#[derive(Debug)]
pub struct Adjust;

/// A container as the agent would make it.
#[derive(Debug, Clone)]
pub struct AdjustQuestion {
    /// The kernel as it was asked for.
    pub request: types::KernelRequest,
    /// The kernel's devices only.
    pub node: types::Node,
    /// What it got, indices into `node`.
    pub shares: Vec<types::Share>,
    /// The container so far.
    pub plan: configuring::Plan,
    /// Edits the operator grants, e.g. `set-env`, `add-mount:/data/**` (`[policy.container-config] grants`).
    pub grants: Vec<String>,
    /// Targets of mounts and files that policies before this one have added. Not shown to the policy beside the plan,
    /// which has them.
    pub placed_by_chain: Vec<String>,
}

/// What the built-in and the shipped policy need to be granted to make all their edits.
pub const BUILTIN_NEEDS: [&str; 5] = rules::NEEDS;

impl Decision for Adjust {
    const WORLD: WorldKind = WorldKind::ContainerConfig;
    const FUNCTION: &'static str = "adjust";
    type Question = AdjustQuestion;
    type Raw = Vec<Edit>;
    /// Checked edits: granted kinds, sane values, no key and no target twice.
    type Answer = Vec<Edit>;

    /// Of the built-in's edits those that are granted.
    fn twin(ctx: &types::Context, question: &AdjustQuestion) -> Result<Self::Raw, Refusal> {
        Ok(twin_granted(ctx, question, &question.grants))
    }

    fn check(
        _: &types::Context,
        question: &AdjustQuestion,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        check_granted(question, &question.grants, &raw)?;
        Ok((raw, None))
    }
}

/// The built-in's edits for one who is granted `grants`; [`AdjustQuestion::grants`] counts for nothing.
#[must_use]
pub fn twin_granted(ctx: &types::Context, question: &AdjustQuestion, grants: &[String]) -> Vec<Edit> {
    let mut edits = rules::adjust(ctx, &question.node, &question.shares, &question.plan);
    edits.retain(|edit| allowed(grants, &subject(edit)));
    edits
}

/// Whether these edits may be made by one who is granted `grants`; [`AdjustQuestion::grants`] counts for nothing.
///
/// # Errors
/// What is wrong with the first one that may not.
pub fn check_granted(question: &AdjustQuestion, grants: &[String], raw: &[Edit]) -> Result<(), String> {
    let mut touched = HashSet::with_capacity(raw.len());
    let removed: HashSet<&str> = raw
        .iter()
        .filter_map(|edit| match edit {
            Edit::RemoveMount(target) => Some(&**target),
            _ => None,
        })
        .collect();
    let mut taken: Option<HashSet<&str>> = None;
    for edit in raw {
        let subject = subject(edit);
        let show = || format!("{} {:?}", subject.kind, shorten(subject.name));
        if let Some(problem) = problem(edit, &question.plan) {
            return Err(format!("{}: {problem}", show()));
        }
        if !allowed(grants, &subject) {
            return Err(format!("{}: this edit is not granted (`grants`)", show()));
        }
        if let Edit::AddMount(Mount { target, .. }) | Edit::AddFile(configuring::TextFile { target, .. }) =
            edit
            && !removed.contains(&**target)
            && taken.get_or_insert_with(|| taken_targets(question)).contains(&**target)
        {
            return Err(format!("{}: something is mounted at {target} already", show()));
        }
        if !touched.insert(key(edit, &subject)) {
            return Err(format!("{}: the same is edited twice", show()));
        }
    }
    Ok(())
}

/// Targets at which the agent itself or the user has mounted something. What an earlier policy of the chain has put
/// somewhere is left to the chain: the same again is fine, another one is a conflict of the two.
fn taken_targets(question: &AdjustQuestion) -> HashSet<&str> {
    let mut taken: HashSet<&str> = question.plan.mounts.iter().map(|mount| &*mount.target).collect();
    for target in &question.placed_by_chain {
        taken.remove(&**target);
    }
    taken
}

/// What an edit is about: its name in the WIT, and what a grant's pattern is matched with.
#[derive(Clone, Copy)]
struct Subject<'e> {
    kind: &'static str,
    name: &'e str,
}

fn subject(edit: &Edit) -> Subject<'_> {
    let (kind, name): (_, &str) = match edit {
        Edit::SetEnv((name, _)) => ("set-env", name),
        Edit::UnsetEnv(name) => ("unset-env", name),
        Edit::AddMount(mount) => match mount.kind {
            MountKind::Bind | MountKind::Volume => ("add-mount", &mount.source),
            MountKind::Tmpfs => ("add-mount", "tmpfs"),
        },
        Edit::RemoveMount(target) => ("remove-mount", target),
        Edit::AddFile(file) => ("add-file", &file.target),
        Edit::SetLabel((name, _)) => ("set-label", name),
        Edit::AddCapability(name) => ("add-capability", bare(name)),
        Edit::DropCapability(name) => ("drop-capability", bare(name)),
        Edit::SetUlimit(ulimit) => ("set-ulimit", &ulimit.name),
        Edit::SetSysctl((name, _)) => ("set-sysctl", name),
        Edit::SetShmSize(_) => ("set-shm-size", ""),
        Edit::SetPidsLimit(_) => ("set-pids-limit", ""),
        Edit::SetCpuLimit(_) => ("set-cpu-limit", ""),
        Edit::SetMemorySwap(_) => ("set-memory-swap", ""),
        Edit::SetNetwork(name) => ("set-network", name),
        Edit::AddHost((name, _)) => ("add-host", name),
        Edit::AddDns(address) => ("add-dns", address),
        Edit::AddDevice(path) => ("add-device", path),
        Edit::SetSecurityOption(option) => ("set-security-option", option),
        Edit::SetReadOnlyRoot(_) => ("set-read-only-root", ""),
        Edit::SetOomScore(_) => ("set-oom-score", ""),
        Edit::Extra((name, _)) => ("extra", name),
    };
    Subject { kind, name }
}

fn allowed(rules: &[String], subject: &Subject<'_>) -> bool {
    grants::allow(rules, subject.kind, subject.name)
}

/// A capability without the prefix that some write.
fn bare(capability: &str) -> &str {
    capability.strip_prefix("CAP_").unwrap_or(capability)
}

/// Edits with the same key contradict each other.
fn key<'e>(edit: &'e Edit, subject: &Subject<'e>) -> (&'static str, &'e str, &'e str) {
    match edit {
        Edit::SetEnv(_) | Edit::UnsetEnv(_) => ("variable", subject.name, ""),
        Edit::AddMount(mount) => ("target", &mount.target, ""),
        Edit::AddFile(file) => ("target", &file.target, ""),
        Edit::AddCapability(_) | Edit::DropCapability(_) => ("capability", subject.name, ""),
        // A host may have several addresses.
        Edit::AddHost((host, address)) => (subject.kind, host, address),
        _ => (subject.kind, subject.name, ""),
    }
}

/// What is wrong with an edit by itself.
fn problem(edit: &Edit, plan: &configuring::Plan) -> Option<String> {
    let fixed = match edit {
        Edit::SetEnv((name, value)) => rules::variable_problem(name).or_else(|| rules::value_problem(value)),
        Edit::UnsetEnv(name) => rules::variable_problem(name),
        Edit::AddMount(mount) => mount_problem(mount),
        Edit::RemoveMount(target) => rules::target_problem(target),
        Edit::AddFile(file) => rules::target_problem(&file.target).or(match file {
            file if file.mode > 0o777 => Some("a file's mode holds the permission bits only"),
            file if file.content.len() > 1 << 20 => Some("a file has at most 1 MiB"),
            _ => None,
        }),
        Edit::SetLabel((name, value)) => label_problem(name, value),
        Edit::AddCapability(name) if name.trim_start_matches("CAP_") == "ALL" => {
            Some("all capabilities at once are never added")
        }
        Edit::AddCapability(name) | Edit::DropCapability(name) => {
            let rest = name.strip_prefix("CAP_").unwrap_or(name);
            let fine = (1..=40).contains(&rest.len())
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            (!fine).then_some("a capability reads like SYS_PTRACE")
        }
        Edit::SetUlimit(ulimit) => ulimit_problem(ulimit),
        Edit::SetSysctl((name, value)) => sysctl_problem(name, value),
        Edit::SetShmSize(size) => rules::size_problem(*size),
        Edit::SetPidsLimit(limit) => rules::pids_limit_problem(*limit),
        Edit::SetCpuLimit(amount) => (!(10_000..=1_000_000 << 20).contains(amount))
            .then_some("a limit of CPU time is at least a hundredth of a core"),
        Edit::SetMemorySwap(size) if *size < plan.memory_limit => {
            Some("memory and swap together cannot be less than the memory")
        }
        Edit::SetMemorySwap(size) => rules::size_problem(*size),
        Edit::SetNetwork(name) => {
            (!is_word(name, b"_.-")).then_some("a network's name holds letters, digits, `_`, `.` and `-`")
        }
        Edit::AddHost((host, address)) => {
            if !is_word(host, b".-_") {
                Some("a host's name holds letters, digits, `.`, `-` and `_`")
            } else if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
                Some("a host's address is an IP address or `host-gateway`")
            } else {
                None
            }
        }
        Edit::AddDns(address) => address.parse::<IpAddr>().err().map(|_| "a name server is an IP address"),
        Edit::AddDevice(path) => rules::path_problem(path)
            .or_else(|| (!path.starts_with("/dev/")).then_some("a device lies below /dev/")),
        Edit::SetSecurityOption(option) => {
            let fine = (1..=4096).contains(&option.len())
                && option.bytes().all(|byte| byte.is_ascii_graphic())
                && option.as_bytes()[0].is_ascii_lowercase();
            (!fine).then_some("a security option reads like `no-new-privileges` or `apparmor=NAME`")
        }
        Edit::SetReadOnlyRoot(_) => None,
        Edit::SetOomScore(score) => rules::oom_score_problem(*score),
        Edit::Extra(_) => Some("this agent knows no such key"),
    };
    fixed.map(str::to_owned)
}

fn mount_problem(mount: &Mount) -> Option<&'static str> {
    let source = match mount.kind {
        MountKind::Bind => rules::path_problem(&mount.source),
        MountKind::Volume => (!is_word(&mount.source, b"_.-"))
            .then_some("a volume's name holds letters, digits, `_`, `.` and `-`"),
        MountKind::Tmpfs => (!matches!(&*mount.source, "" | "tmpfs")).then_some("a tmpfs has no source"),
    };
    source.or_else(|| rules::target_problem(&mount.target))
}

fn label_problem(name: &str, value: &str) -> Option<&'static str> {
    let printable = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control());
    if name.is_empty()
        || name.len() > 256
        || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=')
    {
        return Some("a label's name has 1 to 256 printable bytes and no `=`");
    }
    if value.len() > 64 * 1024 || !printable(value) {
        return Some("a label's value has at most 64 KiB and no control characters");
    }
    // By these the agent finds its own containers again (design §4).
    (name.starts_with("ai.berth.") || name.starts_with("ai.backend."))
        .then_some("labels below `ai.berth.` and `ai.backend.` belong to the agent")
}

fn ulimit_problem(ulimit: &configuring::Ulimit) -> Option<&'static str> {
    // getrlimit(2); the names are those of container engines.
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let order = |value: i64| if value == -1 { i64::MAX } else { value };
    if !NAMES.contains(&&*ulimit.name) {
        return Some("there is no such limit");
    }
    if ulimit.soft < -1 || ulimit.hard < -1 {
        return Some("a limit is -1 (none) or not below 0");
    }
    (order(ulimit.soft) > order(ulimit.hard)).then_some("the soft limit is above the hard one")
}

fn sysctl_problem(name: &str, value: &str) -> Option<&'static str> {
    // Those that a container has of its own: ipc and network namespaces (namespaces(7)).
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if !IPC.contains(&name) && !name.starts_with("net.") && !name.starts_with("fs.mqueue.") {
        return Some("this sysctl would be the whole node's");
    }
    if !is_word(name, b"_.-") || name.ends_with('.') || name.contains("..") {
        return Some("a sysctl reads like net.core.somaxconn");
    }
    (value.is_empty()
        || value.len() > 256
        || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'))
    .then_some("a sysctl's value has 1 to 256 bytes and no control characters")
}

/// Up to 255 letters, digits and `others`, beginning with a letter or a digit.
fn is_word(text: &str, others: &[u8]) -> bool {
    text.len() <= 255
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
