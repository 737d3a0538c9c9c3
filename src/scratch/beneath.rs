//! File operations beneath a directory that a kernel can write: by directory fd and `openat2`, never over
//! a symbolic link, never out of it (invariant 11).

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{ScratchError, io_error};

/// Creates (or empties) the file `path` below `work` and returns it open for writing. Missing parents are
/// made. Files and folders it makes belong to `owner` when this process may give them away.
///
/// # Errors
/// [`ScratchError::Outside`] for a path that is absolute, holds `..` or goes over a link.
pub fn create_file(work: &Path, path: &str, mode: u32, owner: (u32, u32)) -> Result<File, ScratchError> {
    let outside = || ScratchError::Outside(path.to_owned());
    let mut names = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(outside()),
        }
    }
    let file_name = names.pop().ok_or_else(outside)?;
    let may_give = rustix::process::geteuid().is_root();
    let give = |fd: &OwnedFd| -> Result<(), Errno> {
        if may_give {
            rustix::fs::fchown(
                fd,
                Some(rustix::fs::Uid::from_raw(owner.0)),
                Some(rustix::fs::Gid::from_raw(owner.1)),
            )?;
        }
        Ok(())
    };
    let refuse = |errno: Errno| match errno {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => outside(),
        errno => io_error("write", &work.join(path))(errno.into()),
    };
    let directory = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut dir = rustix::fs::openat(CWD, work, directory | OFlags::RDONLY, Mode::empty()).map_err(refuse)?;
    for name in names {
        let made = match rustix::fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(refuse(errno)),
        };
        let next =
            rustix::fs::openat2(dir.as_fd(), name, directory | OFlags::RDONLY, Mode::empty(), confined)
                .map_err(refuse)?;
        if made {
            give(&next).map_err(refuse)?;
        }
        dir = next;
    }
    // NONBLOCK: a FIFO that the kernel put there must not hang the agent.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        rustix::fs::openat2(dir.as_fd(), file_name, flags, Mode::from_raw_mode(mode & 0o777), confined)
            .map_err(refuse)?;
    let stat = rustix::fs::fstat(&file).map_err(refuse)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(outside());
    }
    // A hard link to a file elsewhere would be written through: only a file with one name is ours to empty.
    if stat.st_nlink != 1 {
        return Err(outside());
    }
    rustix::fs::ftruncate(&file, 0).map_err(refuse)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777)).map_err(refuse)?;
    give(&file).map_err(refuse)?;
    Ok(File::from(file))
}
