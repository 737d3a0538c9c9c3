//! Applies a policy's checked edits to a plan. Pure.
//!
//! The answer's own checks (granted kinds, sane values, no target twice) are in `policy/worlds`; here two
//! policies of the chain that set the same thing differently are found.

use std::collections::BTreeMap;

use crate::engine::{MountKind, MountSpec, Ulimit};
use crate::policy::bindings::configuring::{self, Edit};

use super::{Plan, TextFile};

/// A policy of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its place in the chain, from 0: the same module may be there twice.
    pub link: usize,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (link {})", self.name, self.link)
    }
}

/// Two policies of the chain set the same thing differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the container-config policies {first} and {second} both set {field}, differently")]
pub struct Conflict {
    /// What both set.
    pub field: String,
    /// The policy that set it first.
    pub first: Member,
    /// The one after it.
    pub second: Member,
}

/// Who set what, over the whole chain: field -> (policy, value).
#[derive(Debug, Default)]
pub struct Settled {
    fields: BTreeMap<String, (Member, String)>,
}

/// How a mount's field begins.
const MOUNT: &str = "mount ";
/// In place of a value, where something was taken away.
const REMOVED: &str = "\0removed";

impl Settled {
    /// Targets at which a policy of the chain has put something.
    pub fn targets(&self) -> Vec<String> {
        let there = |(field, (_, value)): (&String, &(Member, String))| {
            field.strip_prefix(MOUNT).filter(|_| value != REMOVED).map(str::to_owned)
        };
        self.fields.iter().filter_map(there).collect()
    }

    fn check(&self, member: &Member, edits: &[Edit]) -> Result<(), Conflict> {
        for (field, value) in edits.iter().filter_map(field_of) {
            if let Some((first, before)) = self.fields.get(&field)
                && *before != value
                && first.link != member.link
            {
                return Err(Conflict { field, first: first.clone(), second: member.clone() });
            }
        }
        Ok(())
    }
}

/// Applies `edits` of `member` to `plan`.
///
/// # Errors
/// The first [`Conflict`] with an earlier policy; nothing has changed then.
pub fn apply(
    plan: &mut Plan,
    settled: &mut Settled,
    member: &Member,
    edits: Vec<Edit>,
) -> Result<(), Conflict> {
    settled.check(member, &edits)?;
    for edit in edits {
        if let Some((field, value)) = field_of(&edit) {
            settled.fields.insert(field, (member.clone(), value));
        }
        apply_one(plan, edit);
    }
    Ok(())
}

/// What an edit sets, by name, and to what; none for edits that only add.
fn field_of(edit: &Edit) -> Option<(String, String)> {
    let (field, value) = match edit {
        Edit::SetEnv((name, value)) => (format!("env {name}"), value.clone()),
        Edit::UnsetEnv(name) => (format!("env {name}"), REMOVED.to_owned()),
        Edit::AddMount(mount) => (format!("{MOUNT}{}", mount.target), format!("{mount:?}")),
        Edit::RemoveMount(target) => (format!("{MOUNT}{target}"), REMOVED.to_owned()),
        Edit::AddFile(file) => (format!("{MOUNT}{}", file.target), format!("{file:?}")),
        Edit::SetLabel((name, value)) => (format!("label {name}"), value.clone()),
        Edit::AddCapability(name) => (format!("capability {}", bare(name)), "add".to_owned()),
        Edit::DropCapability(name) => (format!("capability {}", bare(name)), "drop".to_owned()),
        Edit::SetUlimit(limit) => (format!("ulimit {}", limit.name), format!("{limit:?}")),
        Edit::SetSysctl((name, value)) => (format!("sysctl {name}"), value.clone()),
        Edit::SetShmSize(bytes) => ("shm-size".to_owned(), bytes.to_string()),
        Edit::SetPidsLimit(count) => ("pids-limit".to_owned(), count.to_string()),
        Edit::SetCpuLimit(micros) => ("cpu-limit".to_owned(), micros.to_string()),
        Edit::SetMemorySwap(bytes) => ("memory-swap".to_owned(), bytes.to_string()),
        Edit::SetNetwork(name) => ("network".to_owned(), name.clone()),
        Edit::SetReadOnlyRoot(value) => ("read-only-root".to_owned(), value.to_string()),
        Edit::SetOomScore(score) => ("oom-score".to_owned(), score.to_string()),
        Edit::AddHost((host, address)) => (format!("host {host}"), address.clone()),
        Edit::SetSecurityOption(option) => {
            (format!("security option {}", option_name(option)), option.clone())
        }
        Edit::AddDns(_) | Edit::AddDevice(_) | Edit::Extra(_) => return None,
    };
    Some((field, value))
}

/// `apparmor` of `apparmor=NAME`, `label=type` of `label=type:NAME`: what can be said once.
fn option_name(option: &str) -> &str {
    match option.split_once('=') {
        Some(("label", _)) => option.split(':').next().unwrap_or(option),
        Some((name, _)) => name,
        None => option,
    }
}

/// A capability without the prefix that some write.
fn bare(capability: &str) -> &str {
    capability.strip_prefix("CAP_").unwrap_or(capability)
}

fn apply_one(plan: &mut Plan, edit: Edit) {
    let spec = &mut plan.spec;
    match edit {
        Edit::SetEnv((name, value)) => {
            spec.env.insert(name, value);
        }
        Edit::UnsetEnv(name) => {
            spec.env.remove(&name);
        }
        Edit::AddMount(mount) => {
            let kind = match mount.kind {
                configuring::MountKind::Bind => MountKind::Bind,
                configuring::MountKind::Volume => MountKind::Volume,
                configuring::MountKind::Tmpfs => MountKind::Tmpfs,
            };
            remove_target(plan, &mount.target);
            plan.spec.mounts.push(MountSpec {
                kind,
                source: mount.source,
                target: mount.target,
                read_only: mount.read_only,
            });
        }
        Edit::RemoveMount(target) => remove_target(plan, &target),
        Edit::AddFile(file) => {
            remove_target(plan, &file.target);
            plan.files.push(TextFile { target: file.target, content: file.content, mode: file.mode & 0o777 });
        }
        Edit::SetLabel((name, value)) => {
            spec.labels.insert(name, value);
        }
        Edit::AddCapability(name) => {
            spec.cap_drop.retain(|other| bare(other) != bare(&name));
            push_new(&mut spec.cap_add, bare(&name).to_owned());
        }
        Edit::DropCapability(name) => {
            spec.cap_add.retain(|other| bare(other) != bare(&name));
            push_new(&mut spec.cap_drop, bare(&name).to_owned());
        }
        Edit::SetUlimit(limit) => {
            spec.ulimits.retain(|other| other.name != limit.name);
            spec.ulimits.push(Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard });
        }
        Edit::SetSysctl((name, value)) => {
            spec.sysctls.insert(name, value);
        }
        Edit::SetShmSize(bytes) => spec.shm_size = Some(bytes),
        Edit::SetPidsLimit(count) => spec.pids_limit = Some(count),
        Edit::SetCpuLimit(micros) => spec.cpu_limit = Some(micros),
        Edit::SetMemorySwap(bytes) => spec.memory_swap = Some(bytes),
        Edit::SetNetwork(name) => spec.network = Some(name),
        Edit::AddHost((host, address)) => push_new(&mut spec.extra_hosts, format!("{host}:{address}")),
        Edit::AddDns(address) => push_new(&mut spec.dns, address),
        Edit::AddDevice(path) => push_new(&mut spec.devices, path),
        Edit::SetSecurityOption(option) => push_new(&mut spec.security_options, option),
        Edit::SetReadOnlyRoot(value) => spec.read_only_root = value,
        Edit::SetOomScore(score) => spec.oom_score_adj = Some(score),
        // The checks refuse keys that this agent does not know, and it knows none yet.
        Edit::Extra(_) => {}
    }
}

fn remove_target(plan: &mut Plan, target: &str) {
    plan.spec.mounts.retain(|mount| mount.target != target);
    plan.files.retain(|file| file.target != target);
}

fn push_new(list: &mut Vec<String>, value: String) {
    if !list.contains(&value) {
        list.push(value);
    }
}
