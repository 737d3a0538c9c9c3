//! Bubblewrap: a view of this host that is read-only but for what the kernel was given.
//!
//! Whether it works depends on the kernel, on AppArmor and on where the agent itself runs, so it is
//! tried, once.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::engine::{ContainerSpec, EngineError, MountKind, MountSpec};

/// Folders that are empty and writable in every sandbox, so that targets below them can be made.
const SCRATCH: [&str; 2] = ["/tmp", "/var/tmp"];

/// How many processes stand between the supervisor and the kernel: bubblewrap, its init, the kernel.
pub(super) const DEPTH: usize = 3;

/// Bubblewrap, tried and found to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bubblewrap {
    program: PathBuf,
}

impl Bubblewrap {
    /// Finds and tries it. The error says why there is none, in one phrase.
    pub(super) fn probe() -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path)
            .map(|dir| dir.join("bwrap"))
            .find(|program| program.is_absolute() && program.is_file())
            .ok_or("bubblewrap is not installed")?;
        let mut words = frame(None);
        words.extend(["--hostname", "probe", "--", "/bin/true"].map(OsString::from));
        let tried = Command::new(&program)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
        if tried.status.success() {
            return Ok(Self { program });
        }
        let reason = String::from_utf8_lossy(&tried.stderr);
        let reason = reason.lines().next().unwrap_or_default().trim_start_matches("bwrap: ").trim();
        Err(format!("bubblewrap does not work here: {reason}"))
    }

    /// The words before a kernel's own.
    pub(super) fn words(&self, spec: &ContainerSpec) -> Vec<OsString> {
        let mut words = vec![self.program.clone().into_os_string()];
        words.extend(frame(spec.shm_size));
        // A root agent's kernels run as another user, which may not pass through private folders.
        if rustix::process::geteuid().is_root() {
            for dir in covers(spec, is_open) {
                words.extend(["--perms".into(), "0755".into(), "--tmpfs".into(), dir.into_os_string()]);
            }
        }
        // The program may lie in a folder that was just covered.
        if let Some(program) = spec.entrypoint.first().filter(|program| program.starts_with('/')) {
            words.extend(["--ro-bind", program, program].map(OsString::from));
        }
        for mount in &spec.mounts {
            words.extend(bind(mount).into_iter().map(OsString::from));
        }
        if spec.network.as_deref() == Some("none") {
            words.push("--unshare-net".into());
        }
        words.extend(["--hostname", &spec.hostname, "--chdir", &spec.working_dir, "--"].map(OsString::from));
        words
    }
}

/// What every sandbox has.
fn frame(shm_size: Option<u64>) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"].map(Into::into).into();
    if let Some(bytes) = shm_size {
        words.extend(["--size".to_owned(), bytes.to_string()].map(OsString::from));
    }
    words.extend(["--perms", "1777", "--tmpfs", "/dev/shm"].map(OsString::from));
    for dir in SCRATCH.into_iter().filter(|dir| is_real_dir(Path::new(dir))) {
        words.extend(["--perms", "1777", "--tmpfs", dir].map(OsString::from));
    }
    words
        .extend(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"].map(OsString::from));
    words
}

fn bind(mount: &MountSpec) -> Vec<String> {
    match mount.kind {
        MountKind::Tmpfs => ["--perms", "1777", "--tmpfs", &mount.target].map(str::to_owned).into(),
        MountKind::Bind | MountKind::Volume => {
            let how = if mount.read_only { "--ro-bind" } else { "--bind" };
            [how, &mount.source, &mount.target].map(str::to_owned).into()
        }
    }
}

/// The topmost folders on the way to what the kernel was given that others may not pass through. They
/// are covered by empty ones, in which only what was given is seen.
fn covers(spec: &ContainerSpec, is_open: impl Fn(&Path) -> bool) -> BTreeSet<PathBuf> {
    let given = spec.mounts.iter().map(|mount| &mount.target).chain(spec.entrypoint.first());
    given
        .map(Path::new)
        .filter(|path| path.is_absolute() && !SCRATCH.iter().any(|dir| path.starts_with(dir)))
        .filter_map(|path| {
            let above: Vec<_> = path.ancestors().skip(1).filter(|dir| dir.parent().is_some()).collect();
            above.into_iter().rev().find(|dir| !is_open(dir)).map(Path::to_owned)
        })
        .collect()
}

fn is_open(dir: &Path) -> bool {
    // What is not there cannot be in the way.
    std::fs::metadata(dir).map_or(true, |metadata| metadata.permissions().mode() & 0o001 != 0)
}

/// Refuses mounts that this engine cannot give.
pub(super) fn check(spec: &ContainerSpec, sandbox: Option<&Bubblewrap>) -> Result<(), EngineError> {
    let unsupported = |what| EngineError::Unsupported { engine: "process", what };
    let refused = |message| EngineError::Refused { call: "create", message };
    match (spec.network.as_deref(), sandbox) {
        (None | Some("host" | "bridge" | "default"), _) | (Some("none"), Some(_)) => {}
        (Some("none"), None) => return Err(unsupported("take the network away without bubblewrap")),
        (Some(_), _) => return Err(unsupported("join a container network")),
    }
    for mount in &spec.mounts {
        match (mount.kind, sandbox) {
            (MountKind::Volume, _) => return Err(unsupported("mount volumes")),
            (MountKind::Tmpfs, None) => return Err(unsupported("mount a tmpfs without bubblewrap")),
            (MountKind::Bind, None) if mount.source != mount.target => {
                return Err(unsupported("mount a folder at another path without bubblewrap"));
            }
            _ => {}
        }
        if mount.kind == MountKind::Bind && !Path::new(&mount.source).exists() {
            return Err(refused(format!("the mount source {} does not exist", mount.source)));
        }
        // The host's own tree is read-only in there: no target can be made in it.
        if sandbox.is_some() && !can_be_a_target(Path::new(&mount.target), spec) {
            return Err(refused(format!("the mount target {} does not exist on this host", mount.target)));
        }
    }
    Ok(())
}

fn can_be_a_target(target: &Path, spec: &ContainerSpec) -> bool {
    let below_scratch = SCRATCH.iter().any(|dir| target.starts_with(dir));
    let below_mount = spec.mounts.iter().any(|other| {
        !other.read_only && target != Path::new(&other.target) && target.starts_with(&other.target)
    });
    target.is_absolute() && (below_scratch || below_mount || target.exists())
}

fn is_real_dir(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}
