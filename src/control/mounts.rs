//! What a caller may mount into a kernel.
//!
//! A bind mount passes by every permission on the way to its source, and the agent may be root. So a
//! source is looked at as the caller could look at it: links resolved, below `[mounts] allow` (or, where
//! nothing is configured, the caller's own), and reachable by the caller through every directory above it.
//! The kernel's processes run as the caller, so the permissions *in* the source hold as they are.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::api::{ErrorBody, MountAsk};
use super::peer::Caller;
use crate::engine::{MountKind, MountSpec};

/// What the agent itself puts into a kernel, or the system does.
const RESERVED: &[&str] = &["/opt/kernel", "/home/config", "/proc", "/sys", "/dev"];

/// Checks every mount that `caller` asks for and resolves its source.
///
/// # Errors
/// `bad-mount`, `mount-source-missing`, `mount-not-allowed`, each with the next step.
pub fn resolve(asked: &[MountAsk], caller: &Caller, allow: &[PathBuf]) -> Result<Vec<MountSpec>, ErrorBody> {
    let mut mounts: Vec<MountSpec> = Vec::with_capacity(asked.len());
    for mount in asked {
        check_target(&mount.target)?;
        if mounts.iter().any(|other| other.target == mount.target) {
            return Err(ErrorBody::new("bad-mount", format!("two mounts have the target {}", mount.target)));
        }
        mounts.push(MountSpec {
            kind: MountKind::Bind,
            source: resolve_source(&mount.source, caller, allow)?,
            target: mount.target.clone(),
            read_only: mount.read_only,
        });
    }
    Ok(mounts)
}

fn check_target(target: &str) -> Result<(), ErrorBody> {
    let refuse = |problem: &str| {
        Err(ErrorBody::new("bad-mount", format!("mount target {target:?} {problem}"))
            .with_hint("give an absolute path in the kernel, e.g. --mount ./data:/home/work/data:ro"))
    };
    let path = Path::new(target);
    if !path.is_absolute() {
        return refuse("is not absolute");
    }
    if path.components().skip(1).any(|part| !matches!(part, Component::Normal(_)))
        || path.components().collect::<PathBuf>().as_os_str() != path.as_os_str()
        || target.contains('\0')
    {
        return refuse("is not a plain path (no `..`, no `//`, no `/` at its end)");
    }
    if target == "/" {
        return refuse("is the root of the kernel's file system");
    }
    if let Some(reserved) = RESERVED.iter().find(|reserved| path.starts_with(reserved)) {
        return refuse(&format!("lies in {reserved}, which is not yours to replace"));
    }
    Ok(())
}

fn resolve_source(source: &str, caller: &Caller, allow: &[PathBuf]) -> Result<String, ErrorBody> {
    if !Path::new(source).is_absolute() {
        return Err(ErrorBody::new("bad-mount", format!("mount source {source:?} is not absolute")));
    }
    let missing = |error: &io::Error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("mount source {source} does not exist"),
            _ => format!("mount source {source} cannot be reached: {error}"),
        };
        ErrorBody::new("mount-source-missing", message)
            .with_hint("make it first: a mount never makes a folder on this host")
    };
    let resolved = fs::canonicalize(source).map_err(|error| missing(&error))?;
    let found = fs::metadata(&resolved).map_err(|error| missing(&error))?;

    let shown = if resolved == Path::new(source) {
        source.to_owned()
    } else {
        format!("{source} (that is {})", resolved.display())
    };
    let refuse =
        |message: String, hint: String| Err(ErrorBody::new("mount-not-allowed", message).with_hint(hint));
    if !(found.is_dir() || found.is_file()) {
        return refuse(
            format!("mount source {shown} is neither a file nor a folder"),
            "sockets and devices of this host are not mounted".to_owned(),
        );
    }
    if !allow.is_empty() && !is_below(&resolved, allow) {
        let roots = allow.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
        return refuse(
            format!("mount source {shown} does not lie below what this agent allows"),
            format!("allowed: {roots} ([mounts] allow)"),
        );
    }
    if allow.is_empty() && caller.uid != 0 && found.uid() != caller.uid {
        return refuse(
            format!("mount source {shown} belongs to uid {}, you are uid {}", found.uid(), caller.uid),
            "mount what is your own, or ask the operator to list the folder in [mounts] allow".to_owned(),
        );
    }
    if let Some(closed) = closed_above(&resolved, caller).map_err(|error| missing(&error))? {
        return refuse(
            format!("mount source {shown} lies below {}, which you may not enter", closed.display()),
            "mount what you can reach yourself".to_owned(),
        );
    }
    resolved.into_os_string().into_string().map_err(|_| {
        ErrorBody::new("bad-mount", format!("mount source {shown} is not UTF-8")).with_hint("rename it")
    })
}

/// Whether `path` is one of the roots or lies below one, links in the roots resolved.
fn is_below(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().filter_map(|root| fs::canonicalize(root).ok()).any(|root| path.starts_with(root))
}

/// The first directory above `path` that the caller may not enter.
fn closed_above<'a>(path: &'a Path, caller: &Caller) -> io::Result<Option<&'a Path>> {
    for dir in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        if !may_enter(&fs::metadata(dir)?, caller) {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// By owner, group and mode. An access list may say more than these; then this is the stricter one.
fn may_enter(dir: &Metadata, caller: &Caller) -> bool {
    let shift = match () {
        () if caller.uid == 0 => return true,
        () if dir.uid() == caller.uid => 6,
        () if caller.is_in(dir.gid()) => 3,
        () => 0,
    };
    dir.mode() >> shift & 0o1 != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder of this process's user that others may enter.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn me() -> Caller {
        caller(rustix::process::geteuid().as_raw())
    }

    fn caller(uid: u32) -> Caller {
        Caller { uid, gid: 54321, groups: vec![] }
    }

    fn stranger() -> Caller {
        caller(54321)
    }

    fn ask(source: &Path, target: &str) -> MountAsk {
        MountAsk { source: source.display().to_string(), target: target.to_owned(), read_only: true }
    }

    fn code(result: Result<Vec<MountSpec>, ErrorBody>) -> String {
        result.map_or_else(|error| error.code, |_| "ok".to_owned())
    }

    #[test]
    fn ones_own_folder_is_mounted_by_its_real_path() {
        let dir = folder();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        symlink(&real, dir.path().join("link")).unwrap();
        let mounts = resolve(&[ask(&dir.path().join("link"), "/home/work/data")], &me(), &[]).unwrap();
        assert_eq!(
            mounts,
            [MountSpec {
                kind: MountKind::Bind,
                source: fs::canonicalize(real).unwrap().display().to_string(),
                target: "/home/work/data".to_owned(),
                read_only: true,
            }]
        );
    }

    #[test]
    fn a_missing_source_is_said_and_not_made() {
        let dir = folder();
        let error = resolve(&[ask(&dir.path().join("nix"), "/data")], &me(), &[]).unwrap_err();
        assert_eq!(error.code, "mount-source-missing");
        assert!(error.message.ends_with("does not exist"), "{}", error.message);
        assert!(!dir.path().join("nix").exists());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused_unless_it_is_allowed() {
        let dir = folder();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let asked = [ask(&data, "/data")];
        assert_eq!(code(resolve(&asked, &stranger(), &[])), "mount-not-allowed");
        assert_eq!(code(resolve(&asked, &stranger(), &[dir.path().to_owned()])), "ok");
        assert_eq!(code(resolve(&asked, &stranger(), &[PathBuf::from("/nowhere")])), "mount-not-allowed");
        // With roots configured, also one's own must lie below them.
        assert_eq!(code(resolve(&asked, &me(), &[PathBuf::from("/nowhere")])), "mount-not-allowed");
    }

    #[test]
    fn a_link_out_of_an_allowed_root_is_refused() {
        let (inside, outside) = (folder(), folder());
        symlink(outside.path(), inside.path().join("link")).unwrap();
        let asked = [ask(&inside.path().join("link"), "/data")];
        assert_eq!(code(resolve(&asked, &me(), &[inside.path().to_owned()])), "mount-not-allowed");
    }

    #[test]
    fn a_folder_in_a_closed_one_stays_closed() {
        let dir = folder();
        let closed = dir.path().join("closed");
        let data = closed.join("data");
        fs::create_dir_all(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let error = resolve(&[ask(&data, "/data")], &stranger(), &[dir.path().to_owned()]).unwrap_err();
        assert_eq!(error.code, "mount-not-allowed");
        assert!(error.message.contains("which you may not enter"), "{}", error.message);
        assert_eq!(code(resolve(&[ask(&data, "/data")], &caller(0), &[dir.path().to_owned()])), "ok");
    }

    #[test]
    fn sockets_and_devices_are_not_mounted() {
        assert_eq!(code(resolve(&[ask(Path::new("/dev/null"), "/x")], &caller(0), &[])), "mount-not-allowed");
    }

    #[test]
    fn targets_are_plain_absolute_paths_outside_the_agents_own() {
        for (target, fine) in [
            ("/data", true),
            ("/home/work/data", true),
            ("data", false),
            ("/", false),
            ("/a/../b", false),
            ("/a//b", false),
            ("/a/", false),
            ("/a/./b", false),
            ("/opt/kernel", false),
            ("/opt/kernel/link", false),
            ("/opt/kernels", true),
            ("/proc/self", false),
            ("", false),
        ] {
            assert_eq!(check_target(target).is_ok(), fine, "{target:?}");
        }
    }

    #[test]
    fn no_target_twice() {
        let dir = folder();
        let asked = [ask(dir.path(), "/data"), ask(dir.path(), "/data")];
        assert_eq!(code(resolve(&asked, &me(), &[])), "bad-mount");
    }
}
