//! `berth-runner clean DIR..`: removes everything below each directory, not the directory itself.
//!
//! It runs where a kernel's user could have prepared the tree, as the user who owns what is in it
//! (in the last container of a kernel that is root): no symbolic link is followed, no mount is entered,
//! and neither depth nor number of entries exhausts stack or descriptors.

use std::ffi::{CStr, CString, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::Failure;

/// Directories deeper than this are first moved up, so that the depth of a tree costs nothing.
const DEPTH_MAX: usize = 32;
/// At most this many problems are printed for one directory.
const PRINTED_MAX: usize = 20;

/// The subcommand.
pub fn main(words: &[OsString]) -> Result<ExitCode, Failure> {
    if words.is_empty() {
        return Err(Failure::Usage("clean needs a directory".into()));
    }
    let (mut left, mut out) = (false, std::io::stdout());
    for word in words {
        let problems = clean(Path::new(word));
        for problem in problems.iter().take(PRINTED_MAX) {
            let _closed = writeln!(out, "{}/{}: {}", word.display(), problem.name.display(), problem.error);
        }
        if problems.len() > PRINTED_MAX {
            let _closed = writeln!(out, "{}: {} more", word.display(), problems.len() - PRINTED_MAX);
        }
        left |= !problems.is_empty();
    }
    Ok(if left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// An entry that is still there.
#[derive(Debug)]
struct Problem {
    /// Its path below the directory, as far as it is known.
    name: std::path::PathBuf,
    error: Errno,
}

fn clean(path: &Path) -> Vec<Problem> {
    let own = |error| vec![Problem { name: ".".into(), error }];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(root) => root,
        // What is not there is clean.
        Err(Errno::NOENT) => return Vec::new(),
        Err(error) => return own(error),
    };
    let mount = match mount_of(root.as_fd()) {
        Ok(mount) => mount,
        Err(error) => return own(error),
    };
    let mut sweep = Sweep { root: root.as_fd(), mount, moved: 0, problems: Vec::new() };
    // Directories that were moved up are new entries of the root: look again while there are any.
    loop {
        let moved = sweep.moved;
        sweep.problems.clear();
        sweep.empty(root.as_fd(), Path::new(""), 0);
        if sweep.moved == moved {
            return sweep.problems;
        }
    }
}

struct Sweep<'a> {
    root: BorrowedFd<'a>,
    mount: u64,
    moved: u64,
    problems: Vec<Problem>,
}

impl Sweep<'_> {
    fn empty(&mut self, directory: BorrowedFd<'_>, path: &Path, depth: usize) {
        make_ours(directory);
        let names = match names(directory) {
            Ok(names) => names,
            Err(error) => return self.problem(path, error),
        };
        for name in names {
            let path = path.join(Path::new(&*name.to_string_lossy()));
            if let Err(error) = self.remove(directory, &name, &path, depth) {
                self.problem(&path, error);
            }
        }
    }

    fn remove(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), Errno> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            // Linux says EISDIR, POSIX EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::NOENT) => return Ok(()),
            other => return other,
        }
        if rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        if depth >= DEPTH_MAX {
            let up = format!(".berth-clean-{}-{}", std::process::id(), self.moved);
            if rustix::fs::renameat(parent, name, self.root, up).is_ok() {
                self.moved += 1;
                return Ok(());
            }
        }
        let directory = open_directory(parent, name)?;
        if mount_of(directory.as_fd())? != self.mount {
            return Err(Errno::XDEV);
        }
        let before = self.problems.len();
        self.empty(directory.as_fd(), path, depth + 1);
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Said already, by what is in it.
            Err(_) if self.problems.len() > before => Ok(()),
            other => other,
        }
    }

    fn problem(&mut self, path: &Path, error: Errno) {
        // A kernel's user must not make this list grow without bound; the count of it is not needed.
        if self.problems.len() < 10_000 {
            self.problems.push(Problem { name: path.to_owned(), error });
        }
    }
}

/// Opens a directory that may lack its own permissions, never through a link.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {}
        other => return other,
    }
    // A handle without rights can be had; chmod through /proc reaches exactly what it points to.
    let handle = rustix::fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Lets us remove entries of a directory of ours; that it is not ours is said by what then fails.
fn make_ours(directory: BorrowedFd<'_>) {
    if let Ok(stat) = rustix::fs::fstat(directory)
        && !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU)
    {
        let _not_ours = rustix::fs::fchmod(directory, Mode::RWXU);
    }
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The id of the mount that a descriptor lies in: two bind mounts of one filesystem have the same
/// device, so only this tells them apart (proc(5), fdinfo).
fn mount_of(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.and_then(|id| id.trim().parse().ok()).ok_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_below_goes_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        fs::write(dir.path().join(".hidden"), "x").unwrap();
        symlink(outside.path(), dir.path().join("a/link")).unwrap();
        fs::set_permissions(dir.path().join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();

        assert!(clean(dir.path()).is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_descriptors_and_paths_allow_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = |parent: BorrowedFd<'_>| {
            rustix::fs::mkdirat(parent, "d", Mode::RWXU).unwrap();
            open_directory(parent, c"d").unwrap()
        };
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut at = open(root.as_fd());
        for _ in 0..5_000 {
            at = open(at.as_fd());
        }
        assert!(clean(dir.path()).is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        assert_eq!(clean(&dir.path().join("link")).len(), 1);
        assert!(outside.path().join("kept").exists());
    }
}
