//! Files, links and names that appear when they are whole: made under a name of their own, then renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::beneath::{MODE_BITS, open};
use super::{Note, Roots, TreeError};

/// How a file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits; others are dropped.
    pub mode: u32,
    /// When it was changed, Unix time in seconds; none: now.
    pub mtime: Option<i64>,
}

/// Bytes taken and written at once.
const PIECE: usize = 256 * 1024;

/// Writes a file; folders above it are made. Nobody sees it before it is whole, and nothing of it stays when it does
/// not get so. A link, a FIFO or a file that has the name is replaced. Returns its size in bytes.
///
/// # Errors
/// [`TreeError`]; that of `content` as [`TreeError::Broken`].
pub fn write(roots: &Roots, path: &Path, meta: Meta, content: &mut dyn Read) -> Result<u64, TreeError> {
    let (dir, name) = roots.place(path)?;
    file(&dir, &name, path, meta, None, content)
}

/// Hands the content of a regular file on, as it is when it is opened and at most `limit` bytes. Returns a note when the
/// file shrank meanwhile.
///
/// # Errors
/// [`TreeError::TooLarge`] before anything is handed on; that of `out` as [`TreeError::Broken`].
pub fn read(
    roots: &Roots,
    path: &Path,
    limit: Option<u64>,
    out: &mut dyn Write,
) -> Result<Option<Note>, TreeError> {
    let (mut file, found) = roots.regular(path)?;
    let size = u64::try_from(found.st_size).unwrap_or(0);
    if let Some(limit) = limit.filter(|limit| size > *limit) {
        return Err(TreeError::TooLarge(limit));
    }
    let mut buffer = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = match file.read(buffer.get_mut(..most).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TreeError::of_io("read", path, error)),
        };
        out.write_all(buffer.get(..count).unwrap_or_default()).map_err(TreeError::Broken)?;
        left -= count as u64;
    }
    out.flush().map_err(TreeError::Broken)?;
    let shrank = || Note::lost(path, format!("shrank while it was read, by {left} bytes"));
    Ok((left > 0).then(shrank))
}

/// [`write`] in a folder that is open. `size` is how much will come, where that is known.
pub(super) fn file(
    dir: &impl AsFd,
    name: &OsStr,
    path: &Path,
    meta: Meta,
    size: Option<u64>,
    content: &mut dyn Read,
) -> Result<u64, TreeError> {
    let refuse = |errno| TreeError::of("write", path, errno);
    if size.is_some_and(|size| size > 0 && free(dir).is_some_and(|free| size > free)) {
        return Err(TreeError::NoSpace(path.to_owned()));
    }
    let temporary = Temporary::new(dir);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made = open(dir.as_fd(), Path::new(&temporary.name), flags, Mode::from_raw_mode(0o600));
    let mut file = File::from(made.map_err(refuse)?);
    let mut buffer =
        vec![0; PIECE.min(size.map_or(PIECE, |size| usize::try_from(size).unwrap_or(PIECE) + 1))];
    let mut written = 0_u64;
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TreeError::Broken(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        file.write_all(piece).map_err(|error| TreeError::of_io("write", path, error))?;
        written += count as u64;
    }
    if size.is_some_and(|size| size != written) {
        return Err(TreeError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(meta.mode & MODE_BITS)).map_err(refuse)?;
    if let Some(mtime) = meta.mtime {
        rustix::fs::futimens(&file, &times(mtime)).map_err(refuse)?;
    }
    temporary.becomes(name).map_err(refuse)?;
    Ok(written)
}

/// A symbolic link, which may lead anywhere: nobody here follows it.
pub(super) fn link(dir: &impl AsFd, name: &OsStr, path: &Path, target: &OsStr) -> Result<(), TreeError> {
    let refuse = |errno| TreeError::of("make the link", path, errno);
    let temporary = Temporary::new(dir);
    rustix::fs::symlinkat(target, dir, &temporary.name).map_err(refuse)?;
    temporary.becomes(name).map_err(refuse)
}

/// A second name of a file.
pub(super) fn name_again(from: (&impl AsFd, &OsStr), dir: &impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let temporary = Temporary::new(dir);
    rustix::fs::linkat(from.0, from.1, dir, &temporary.name, AtFlags::empty())?;
    // Renaming to a name of the same file does nothing, and leaves ours to be removed.
    rustix::fs::renameat(dir, &temporary.name, dir, name)
}

/// An access and change time of that many seconds.
pub(super) fn times(mtime: i64) -> Timestamps {
    let at = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

/// Bytes that this process may still write there; none where the system does not tell.
fn free(dir: &impl AsFd) -> Option<u64> {
    let found = rustix::fs::fstatvfs(dir).ok()?;
    // Some network file systems say 0 blocks of 0.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// A name that nobody looks for, removed unless it became another.
struct Temporary<'a, D: AsFd> {
    dir: &'a D,
    name: OsString,
    is_there: bool,
}

impl<'a, D: AsFd> Temporary<'a, D> {
    fn new(dir: &'a D) -> Self {
        let name = format!(".berth-{}.part", uuid::Uuid::new_v4().simple());
        Self { dir, name: name.into(), is_there: true }
    }

    fn becomes(mut self, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::renameat(self.dir, &self.name, self.dir, name)?;
        self.is_there = false;
        Ok(())
    }
}

impl<D: AsFd> Drop for Temporary<'_, D> {
    fn drop(&mut self) {
        if self.is_there {
            // There may be none: then nothing was made of it.
            let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
        }
    }
}
