//! Applies a policy's checked edits to a plan. Pure.
//!
//! The answer's own checks (granted kinds, sane values, no target twice) are in `policy/worlds`; here two
//! policies of the chain that set the same thing differently are found.

use std::collections::BTreeMap;

use crate::engine::{MountKind, MountSpec, Ulimit};
use crate::policy::bindings::configuring::{self, Edit};

use super::{Plan, TextFile};

/// Two policies of the chain set the same thing differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policies {first} and {second} both set {field}, differently")]
pub struct Conflict {
    /// What both set.
    pub field: String,
    /// The policy that set it first.
    pub first: String,
    /// The one after it.
    pub second: String,
}

/// Who set what, over the whole chain: field -> (policy, value).
pub type Settled = BTreeMap<String, (String, String)>;

/// Applies `edits` of `policy` to `plan`.
///
/// # Errors
/// The first [`Conflict`] with an earlier policy; the plan is unusable then.
pub fn apply(plan: &mut Plan, settled: &mut Settled, policy: &str, edits: Vec<Edit>) -> Result<(), Conflict> {
    for edit in edits {
        if let Some((field, value)) = field_of(&edit) {
            match settled.get(&field) {
                Some((first, before)) if *before != value && first != policy => {
                    return Err(Conflict { field, first: first.clone(), second: policy.to_owned() });
                }
                _ => settled.insert(field, (policy.to_owned(), value)),
            };
        }
        apply_one(plan, edit);
    }
    Ok(())
}

/// What an edit sets, by name, and to what; none for edits that only add.
fn field_of(edit: &Edit) -> Option<(String, String)> {
    let (field, value) = match edit {
        Edit::SetEnv((name, value)) => (format!("env {name}"), value.clone()),
        Edit::UnsetEnv(name) => (format!("env {name}"), "\0unset".to_owned()),
        Edit::AddMount(mount) => (format!("mount {}", mount.target), format!("{mount:?}")),
        Edit::RemoveMount(target) => (format!("mount {target}"), "\0removed".to_owned()),
        Edit::AddFile(file) => (format!("mount {}", file.target), format!("{file:?}")),
        Edit::SetLabel((name, value)) => (format!("label {name}"), value.clone()),
        Edit::AddCapability(name) => (format!("capability {name}"), "add".to_owned()),
        Edit::DropCapability(name) => (format!("capability {name}"), "drop".to_owned()),
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
        Edit::AddDns(_) | Edit::AddDevice(_) | Edit::SetSecurityOption(_) | Edit::Extra(_) => return None,
    };
    Some((field, value))
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
            spec.cap_drop.retain(|other| *other != name);
            push_new(&mut spec.cap_add, name);
        }
        Edit::DropCapability(name) => {
            spec.cap_add.retain(|other| *other != name);
            push_new(&mut spec.cap_drop, name);
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
