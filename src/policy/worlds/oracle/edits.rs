//! The rules for edits of a container a second time, as plainly as they can be said.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::configuring::{self, Edit, Mount, MountKind};
use super::super::{AdjustQuestion, grants};
use super::questions::{GIB, ONE};

/// What a rule says, and the same in plain words: a kind, and whole texts, prefixes or folders.
pub fn rules() -> impl Strategy<Value = Vec<String>> {
    let rule = prop_oneof![
        4 => proptest::sample::select(&grants::ALL_EDITS[..]).prop_map(str::to_owned),
        1 => Just("add-mount:/data/**".to_owned()),
        1 => Just("set-env:A".to_owned()),
        1 => Just("set-network:host".to_owned()),
        1 => Just("add-capability:CAP_SYS_PTRACE".to_owned()),
        1 => Just("add-file:/scratch/*".to_owned()),
    ];
    vec(rule, 0..12)
}

fn is_granted(rules: &[String], edit: &Edit) -> bool {
    let has = |rule: &str| rules.iter().any(|other| other == rule);
    match edit {
        Edit::SetEnv((name, _)) => has("set-env") || (has("set-env:A") && name == "A"),
        Edit::UnsetEnv(_) => has("unset-env"),
        Edit::AddMount(mount) => {
            let below = mount.source == "/data" || mount.source.starts_with("/data/");
            has("add-mount") || (has("add-mount:/data/**") && below && mount.kind != MountKind::Tmpfs)
        }
        Edit::RemoveMount(_) => has("remove-mount"),
        Edit::AddFile(file) => {
            let below = file.target.strip_prefix("/scratch/").is_some_and(|rest| !rest.contains('/'));
            has("add-file") || (has("add-file:/scratch/*") && below)
        }
        Edit::SetLabel(_) => has("set-label"),
        Edit::AddCapability(name) => {
            let traces = name.trim_start_matches("CAP_") == "SYS_PTRACE";
            has("add-capability") || (has("add-capability:CAP_SYS_PTRACE") && traces)
        }
        Edit::DropCapability(_) => has("drop-capability"),
        Edit::SetUlimit(_) => has("set-ulimit"),
        Edit::SetSysctl(_) => has("set-sysctl"),
        Edit::SetShmSize(_) => has("set-shm-size"),
        Edit::SetPidsLimit(_) => has("set-pids-limit"),
        Edit::SetCpuLimit(_) => has("set-cpu-limit"),
        Edit::SetMemorySwap(_) => has("set-memory-swap"),
        Edit::SetNetwork(name) if name == "host" => has("set-network:host"),
        Edit::SetNetwork(_) => has("set-network"),
        Edit::AddHost(_) => has("add-host"),
        Edit::AddDns(_) => has("add-dns"),
        Edit::AddDevice(_) => has("add-device"),
        Edit::SetSecurityOption(_) => has("set-security-option"),
        Edit::SetReadOnlyRoot(_) => has("set-read-only-root"),
        Edit::SetOomScore(_) => has("set-oom-score"),
        Edit::Extra(_) => has("extra"),
    }
}

fn is_path(text: &str) -> bool {
    let plain = |text: &str| !text.chars().any(|c| c.is_control() || c == ':' || c == ',');
    let parts = |text: &str| text.split('/').skip(1).all(|part| !["", ".", ".."].contains(&part));
    text == "/" || (text.starts_with('/') && text.len() < 4096 && plain(text) && parts(text))
}

fn is_target(text: &str) -> bool {
    let first_two: Vec<&str> = text.split('/').skip(1).take(2).collect();
    let agents = [["home", "config"], ["opt", "kernel"]].iter().any(|reserved| first_two == reserved);
    let engines = first_two.first().is_some_and(|first| ["proc", "sys", "dev"].contains(first));
    is_path(text) && !["/", "/home", "/home/work", "/opt"].contains(&text) && !agents && !engines
}

fn is_variable(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || ['_', '.', '-'].contains(&c);
    (1..=256).contains(&text.len())
        && text.chars().all(fine)
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_word(text: &str, others: &[char]) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || others.contains(&c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fine) && text.len() < 256
}

fn is_sane(edit: &Edit, plan: &configuring::Plan) -> bool {
    let size = |bytes: u64| (64 << 10..=1 << 50).contains(&bytes);
    let printable = |text: &str| text.chars().all(|c| !c.is_ascii_control());
    match edit {
        Edit::SetEnv((name, value)) => is_variable(name) && value.len() <= 120 << 10 && !value.contains('\0'),
        Edit::UnsetEnv(name) => is_variable(name),
        Edit::AddMount(mount) => {
            let source = match mount.kind {
                MountKind::Bind => is_path(&mount.source),
                MountKind::Volume => is_word(&mount.source, &['_', '.', '-']),
                MountKind::Tmpfs => mount.source.is_empty() || mount.source == "tmpfs",
            };
            source && is_target(&mount.target)
        }
        Edit::RemoveMount(target) => is_target(target),
        Edit::AddFile(file) => is_target(&file.target) && file.mode <= 0o777 && file.content.len() <= 1 << 20,
        Edit::SetLabel((name, value)) => {
            let graphic = name.chars().all(|c| c.is_ascii_graphic() && c != '=');
            let own = name.starts_with("ai.berth.") || name.starts_with("ai.backend.");
            (1..=256).contains(&name.len()) && graphic && !own && value.len() <= 64 << 10 && printable(value)
        }
        Edit::AddCapability(name) | Edit::DropCapability(name) => {
            let bare = name.strip_prefix("CAP_").unwrap_or(name);
            let fine = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let all = matches!(edit, Edit::AddCapability(_)) && name.trim_start_matches("CAP_") == "ALL";
            (1..=40).contains(&bare.len()) && bare.chars().all(fine) && !all
        }
        Edit::SetUlimit(ulimit) => {
            let unlimited = |value: i64| if value == -1 { i128::MAX } else { i128::from(value) };
            let known = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack";
            known.split(' ').any(|name| name == ulimit.name)
                && ulimit.soft >= -1
                && ulimit.hard >= -1
                && unlimited(ulimit.soft) <= unlimited(ulimit.hard)
        }
        Edit::SetSysctl((name, value)) => {
            let ipc = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced";
            let own = name.starts_with("net.")
                || name.starts_with("fs.mqueue.")
                || name.strip_prefix("kernel.").is_some_and(|rest| ipc.split(' ').any(|known| known == rest));
            let words = name.split('.').all(|part| !part.is_empty());
            let fine = value.chars().all(|c| !c.is_ascii_control() || c == '\t');
            own && words && is_word(name, &['_', '.', '-']) && (1..=256).contains(&value.len()) && fine
        }
        Edit::SetShmSize(bytes) => size(*bytes),
        Edit::SetPidsLimit(limit) => (16..=1 << 22).contains(limit),
        Edit::SetCpuLimit(amount) => (ONE / 100..=ONE << 20).contains(amount),
        Edit::SetMemorySwap(bytes) => size(*bytes) && *bytes >= plan.memory_limit,
        Edit::SetNetwork(name) => is_word(name, &['_', '.', '-']),
        Edit::AddHost((host, address)) => {
            let address = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
            is_word(host, &['.', '-', '_']) && address
        }
        Edit::AddDns(address) => address.parse::<std::net::IpAddr>().is_ok(),
        Edit::AddDevice(path) => is_path(path) && path.starts_with("/dev/"),
        Edit::SetSecurityOption(option) => {
            (1..=4096).contains(&option.len())
                && option.chars().all(|c| c.is_ascii_graphic())
                && option.starts_with(|c: char| c.is_ascii_lowercase())
        }
        Edit::SetReadOnlyRoot(_) => true,
        Edit::SetOomScore(score) => (-1000..=1000).contains(score),
        Edit::Extra(_) => false,
    }
}

/// Whether two edits of one answer are about the same thing.
fn same_thing(one: &Edit, other: &Edit) -> bool {
    let variable = |edit: &Edit| match edit {
        Edit::SetEnv((name, _)) | Edit::UnsetEnv(name) => Some(name.clone()),
        _ => None,
    };
    let target = |edit: &Edit| match edit {
        Edit::AddMount(mount) => Some(mount.target.clone()),
        Edit::AddFile(file) => Some(file.target.clone()),
        _ => None,
    };
    let capability = |edit: &Edit| match edit {
        Edit::AddCapability(name) | Edit::DropCapability(name) => {
            Some(name.trim_start_matches("CAP_").to_owned())
        }
        _ => None,
    };
    let both = |of: &dyn Fn(&Edit) -> Option<String>| of(one).is_some() && of(one) == of(other);
    if both(&variable) || both(&target) || both(&capability) {
        return true;
    }
    match (one, other) {
        (Edit::RemoveMount(a), Edit::RemoveMount(b)) => a == b,
        (Edit::SetLabel((a, _)), Edit::SetLabel((b, _)))
        | (Edit::SetSysctl((a, _)), Edit::SetSysctl((b, _))) => a == b,
        (Edit::SetUlimit(a), Edit::SetUlimit(b)) => a.name == b.name,
        (Edit::AddHost(a), Edit::AddHost(b)) => a == b,
        (Edit::SetNetwork(a), Edit::SetNetwork(b))
        | (Edit::AddDns(a), Edit::AddDns(b))
        | (Edit::AddDevice(a), Edit::AddDevice(b))
        | (Edit::SetSecurityOption(a), Edit::SetSecurityOption(b)) => a == b,
        (Edit::SetShmSize(_), Edit::SetShmSize(_))
        | (Edit::SetPidsLimit(_), Edit::SetPidsLimit(_))
        | (Edit::SetCpuLimit(_), Edit::SetCpuLimit(_))
        | (Edit::SetMemorySwap(_), Edit::SetMemorySwap(_))
        | (Edit::SetReadOnlyRoot(_), Edit::SetReadOnlyRoot(_))
        | (Edit::SetOomScore(_), Edit::SetOomScore(_)) => true,
        _ => false,
    }
}

pub fn edits_are_right(question: &AdjustQuestion, rules: &[String], edits: &[Edit]) -> bool {
    edits.iter().enumerate().all(|(index, edit)| {
        let target = match edit {
            Edit::AddMount(mount) => Some(&mount.target),
            Edit::AddFile(file) => Some(&file.target),
            _ => None,
        };
        let free = target.is_none_or(|target| {
            edits.iter().any(|other| matches!(other, Edit::RemoveMount(removed) if removed == target))
                || question.placed_by_chain.contains(target)
                || question.plan.mounts.iter().all(|mount| mount.target != *target)
        });
        let once = edits.iter().skip(index + 1).all(|other| !same_thing(edit, other));
        is_sane(edit, &question.plan) && is_granted(rules, edit) && free && once
    })
}

/// Edits as a policy would really make them, many of them right.
pub fn sensible_edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = proptest::sample::select(vec!["A", "B", "C", "HTTP_PROXY"]).prop_map(str::to_owned);
    let path =
        proptest::sample::select(vec!["/data", "/data/x", "/scratch", "/scratch/a", "/scratch/a/b", "/srv"]);
    let path = path.prop_map(str::to_owned);
    let capability =
        proptest::sample::select(vec!["SYS_PTRACE", "CAP_SYS_PTRACE", "CHOWN"]).prop_map(str::to_owned);
    let mount = (path.clone(), path.clone(), any::<bool>());
    let mount = mount.prop_map(|(source, target, read_only)| Mount {
        kind: MountKind::Bind,
        source,
        target,
        read_only,
    });
    let edit = prop_oneof![
        (name.clone(), name.clone()).prop_map(Edit::SetEnv),
        name.clone().prop_map(Edit::UnsetEnv),
        mount.prop_map(Edit::AddMount),
        path.clone().prop_map(Edit::RemoveMount),
        (path, 0..0o1001_u32).prop_map(|(target, mode)| {
            Edit::AddFile(configuring::TextFile { target, content: "x".to_owned(), mode })
        }),
        (name.clone(), name.clone()).prop_map(Edit::SetLabel),
        capability.clone().prop_map(Edit::AddCapability),
        capability.prop_map(Edit::DropCapability),
        (Just("nofile".to_owned()), -2..9_i64, -2..9_i64)
            .prop_map(|(name, soft, hard)| Edit::SetUlimit(configuring::Ulimit { name, soft, hard })),
        "(net|fs.mqueue|kernel)\\.(core|sem|)(\\.x|)"
            .prop_map(|name| Edit::SetSysctl((name, "1".to_owned()))),
        (1_u64 << 15..1 << 40).prop_map(Edit::SetShmSize),
        (10_u64..5000).prop_map(Edit::SetPidsLimit),
        (0..4 * ONE).prop_map(Edit::SetCpuLimit),
        (GIB / 2..4 * GIB).prop_map(Edit::SetMemorySwap),
        "(host|none|my-net|-x)".prop_map(Edit::SetNetwork),
        ("(db|a b)", "(10\\.0\\.0\\.[12]|host-gateway|x)").prop_map(Edit::AddHost),
        "(::1|10\\.0\\.0\\.1|x)".prop_map(Edit::AddDns),
        "(/dev/fuse|/dev/kvm|/etc|/dev/\\.\\.)".prop_map(Edit::AddDevice),
        "(apparmor=x|no-new-privileges|X|)".prop_map(Edit::SetSecurityOption),
        any::<bool>().prop_map(Edit::SetReadOnlyRoot),
        (-1100..1100_i32).prop_map(Edit::SetOomScore),
    ];
    vec(edit, 0..5)
}
