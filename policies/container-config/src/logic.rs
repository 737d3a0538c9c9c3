//! How a container is configured: variables, mounts and limits of the operator. Pure.
//!
//! Included twice: by the guest beside it, and by the agent as its built-in (`src/policy/worlds/`),
//! whose checks use the same rules for names and paths.
//! The parent module has the types of the WIT as `configuring` and `types`.

use super::configuring::{Edit, Mount, MountKind, Plan};
use super::types::{Context, DeviceKind, Node, SettingValue, Share};

/// Micro-units of one whole core.
const ONE: u64 = 1_000_000;

/// Table of variables: `env.HTTP_PROXY`.
pub const ENV: &str = "env.";
/// Bind mounts, `SRC:DST` or `SRC:DST:ro`.
pub const MOUNTS: &str = "mounts";
/// Most processes in a container.
pub const PIDS_LIMIT: &str = "pids-limit";
/// Default of [`PIDS_LIMIT`]: enough for a build with many threads, far from the kernel's own limit.
pub const PIDS_LIMIT_DEFAULT: i64 = 4096;
/// Bytes of `/dev/shm`; 0 leaves it as it is.
pub const SHM_SIZE: &str = "shm-size";
/// How readily the kernel's OOM killer takes a container.
pub const OOM_SCORE: &str = "oom-score";
/// Default of [`OOM_SCORE`]: before the services of the node.
pub const OOM_SCORE_DEFAULT: i64 = 100;
/// Whether thread pools are told how many cores there are.
pub const THREAD_VARIABLES: &str = "thread-variables";

/// The kinds of edit it makes.
pub const NEEDS: [&str; 5] = ["set-env", "add-mount", "set-pids-limit", "set-shm-size", "set-oom-score"];

/// Libraries that would start a thread per core of the host otherwise.
const THREADS: [&str; 5] =
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NPROC"];

/// The edits. A variable that the kernel has already stays, and so does a mount on the same target.
pub fn adjust(ctx: &Context, node: &Node, shares: &[Share], plan: &Plan) -> Vec<Edit> {
    let mut edits = Vec::new();
    variables(ctx, node, shares, plan, &mut edits);
    mounts(ctx, plan, &mut edits);
    if let Ok(limit) = u64::try_from(integer(ctx, PIDS_LIMIT, PIDS_LIMIT_DEFAULT))
        && pids_limit_problem(limit).is_none()
    {
        edits.push(Edit::SetPidsLimit(limit));
    }
    if let Ok(size) = u64::try_from(integer(ctx, SHM_SIZE, 0))
        && size > 0
        && size_problem(size).is_none()
    {
        edits.push(Edit::SetShmSize(size));
    }
    if let Ok(score) = i32::try_from(integer(ctx, OOM_SCORE, OOM_SCORE_DEFAULT))
        && oom_score_problem(score).is_none()
    {
        edits.push(Edit::SetOomScore(score));
    }
    edits
}

fn variables(ctx: &Context, node: &Node, shares: &[Share], plan: &Plan, edits: &mut Vec<Edit>) {
    let set = |name: &str, edits: &[Edit]| {
        plan.env.iter().any(|variable| variable.name == name)
            || edits.iter().any(|edit| matches!(edit, Edit::SetEnv((earlier, _)) if earlier == name))
    };
    for setting in &ctx.settings {
        if let (Some(name), SettingValue::Text(value)) = (setting.key.strip_prefix(ENV), &setting.value)
            && variable_problem(name).or_else(|| value_problem(value)).is_none()
            && !set(name, edits)
        {
            edits.push(Edit::SetEnv((name.to_owned(), value.clone())));
        }
    }
    let wanted = !ctx
        .settings
        .iter()
        .any(|setting| setting.key == THREAD_VARIABLES && matches!(setting.value, SettingValue::Flag(false)));
    let cores = cores(node, shares);
    if !wanted || cores == 0 {
        return;
    }
    for name in THREADS {
        if !set(name, edits) {
            edits.push(Edit::SetEnv((name.to_owned(), cores.to_string())));
        }
    }
}

/// Cores that the kernel holds; where it holds none it shares those it sees.
fn cores(node: &Node, shares: &[Share]) -> u64 {
    let is_core = |device: u32| {
        let device = node.devices.get(device as usize);
        let model = device.and_then(|device| node.models.get(device.model as usize));
        model.is_some_and(|model| model.kind == DeviceKind::Cpu)
    };
    let held = shares.iter().filter(|share| is_core(share.device));
    let held = held.fold(0_u64, |sum, share| sum.saturating_add(share.amount)).div_ceil(ONE);
    if held > 0 {
        return held;
    }
    (0..node.devices.len()).filter(|index| u32::try_from(*index).is_ok_and(is_core)).count() as u64
}

fn mounts(ctx: &Context, plan: &Plan, edits: &mut Vec<Edit>) {
    let texts = ctx.settings.iter().filter_map(|setting| match &setting.value {
        SettingValue::Texts(texts) if setting.key == MOUNTS => Some(texts),
        _ => None,
    });
    for text in texts.flatten() {
        let Ok(mount) = parse_mount(text) else { continue };
        let taken = plan.mounts.iter().any(|other| other.target == mount.target)
            || edits.iter().any(|edit| matches!(edit, Edit::AddMount(other) if other.target == mount.target));
        if !taken {
            edits.push(Edit::AddMount(mount));
        }
    }
}

/// Reads `SRC:DST[:ro|:rw]`.
pub fn parse_mount(text: &str) -> Result<Mount, &'static str> {
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("must read SRC:DST or SRC:DST:ro");
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err("may end in :ro or :rw only"),
    };
    if let Some(problem) = path_problem(source).or_else(|| target_problem(target)) {
        return Err(problem);
    }
    Ok(Mount { kind: MountKind::Bind, source: source.to_owned(), target: target.to_owned(), read_only })
}

/// What is wrong with the name of a variable.
pub fn variable_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 256 {
        return Some("a variable's name has 1 to 256 bytes");
    }
    if name.starts_with(|first: char| first.is_ascii_digit())
        || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    {
        return Some("a variable's name holds letters, digits, `_`, `.` and `-`, and begins with no digit");
    }
    None
}

/// What is wrong with the value of a variable.
pub fn value_problem(value: &str) -> Option<&'static str> {
    // The kernel's limit for one string of the environment is 128 KiB.
    (value.len() > 120 * 1024 || value.contains('\0'))
        .then_some("a variable's value holds at most 120 KiB and no NUL")
}

/// What is wrong with a path.
pub fn path_problem(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("a path must be absolute");
    }
    if path.len() > 4095 || path.contains(|c: char| c.is_control() || c == ':' || c == ',') {
        return Some("a path holds at most 4095 bytes and no `:`, `,` or control character");
    }
    if path != "/" && path.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
        return Some("a path must be normalized: no `.`, `..`, `//` or `/` at its end");
    }
    None
}

/// What is wrong with the place of a mount or a file in the container.
pub fn target_problem(target: &str) -> Option<&'static str> {
    if let Some(problem) = path_problem(target) {
        return Some(problem);
    }
    let below = |folder: &str| {
        target.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if matches!(target, "/" | "/home" | "/home/work" | "/opt") {
        return Some("a mount there would hide what the kernel needs");
    }
    if below("/home/config") || below("/opt/kernel") {
        return Some("/home/config and /opt/kernel belong to the agent");
    }
    if below("/proc") || below("/sys") || below("/dev") {
        return Some("/proc, /sys and /dev belong to the container engine");
    }
    None
}

/// What is wrong with a limit of processes.
pub fn pids_limit_problem(limit: u64) -> Option<&'static str> {
    // The most that Linux can count is 2^22.
    (!(16..=4_194_304).contains(&limit)).then_some("a limit of processes lies between 16 and 4194304")
}

/// What is wrong with a size in bytes.
pub fn size_problem(size: u64) -> Option<&'static str> {
    (!(65_536..=1 << 50).contains(&size)).then_some("a size lies between 64 KiB and 1 PiB")
}

/// What is wrong with an OOM score.
pub fn oom_score_problem(score: i32) -> Option<&'static str> {
    (!(-1000..=1000).contains(&score)).then_some("an OOM score lies between -1000 and 1000")
}

fn integer(ctx: &Context, key: &str, default: i64) -> i64 {
    ctx.settings
        .iter()
        .find_map(|setting| match &setting.value {
            SettingValue::Integer(number) if setting.key == key => Some(*number),
            _ => None,
        })
        .unwrap_or(default)
}
