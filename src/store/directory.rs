//! The state directory: whose it must be, who may write to it, and who holds it.
//!
//! Everything is opened beneath the directory's descriptor and never through a symbolic link. The file
//! `pid` is locked (`flock`) for as long as the agent lives, so that the database can be opened again
//! after a full disk without a moment in which another agent could take it; redb holds a lock of its own
//! on the database. Both go with the process, whatever ends it.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StoreError;

const PID_FILE: &str = "pid";
const DATABASE_FILE: &str = "berth.redb";

/// A locked state directory; unlocked when it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
    pid_file: File,
}

impl Directory {
    /// Makes the directory where it is missing (0700), checks it and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        // Without a trailing slash, behind which the kernel would follow a symbolic link.
        let path: PathBuf = path.components().collect();
        let fd = open_directory(&path)?;
        let mut pid_file = open_file(&path, &fd, PID_FILE)?;
        match rustix::fs::flock(&pid_file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::Locked { dir: path, pid: read_pid(&mut pid_file) });
            }
            Err(errno) => return Err(refuse(&path, format!("it cannot be locked: {errno}"))),
        }
        write_pid(&mut pid_file, Some(std::process::id()))
            .map_err(|error| refuse(&path, format!("its file {PID_FILE} cannot be written: {error}")))?;
        Ok(Self { path, fd, pid_file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database_path(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }

    /// The database file, made (0600, empty) where it is missing.
    pub(super) fn open_database_file(&self) -> Result<File, StoreError> {
        open_file(&self.path, &self.fd, DATABASE_FILE)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // So that nobody is told the pid of an agent that is gone. Only for the message: the lock counts.
        let _ = write_pid(&mut self.pid_file, None);
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, StoreError> {
    if path.as_os_str().is_empty() {
        return Err(refuse(path, "its name is empty; name one with --state-dir".to_owned()));
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return Err(refuse(path, "it is a symbolic link; name the directory it points to".to_owned()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        refuse(path, format!("it cannot be made: {error}; name another with --state-dir"))
    })?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| refuse(path, format!("it cannot be opened: {errno}")))?;
    let found = stat(path, &fd)?;
    let us = rustix::process::geteuid().as_raw();
    if found.st_uid != us {
        let problem = format!(
            "it belongs to uid {}, the agent runs as uid {us}: `chown {us} {}`, or name another with --state-dir",
            found.st_uid,
            path.display()
        );
        return Err(refuse(path, problem));
    }
    if found.st_mode & 0o022 != 0 {
        let problem = format!(
            "others may write to it (mode {:04o}): `chmod 0700 {}`",
            found.st_mode & 0o7777,
            path.display()
        );
        return Err(refuse(path, problem));
    }
    Ok(fd)
}

/// Opens a regular file of ours in the directory, made where it is missing.
fn open_file(path: &Path, directory: &OwnedFd, name: &str) -> Result<File, StoreError> {
    // NONBLOCK: a FIFO in its place is refused below instead of waited for.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).map_err(|errno| {
        let problem = match errno {
            Errno::LOOP => format!("its file {name} is a symbolic link; remove it"),
            errno => format!("its file {name} cannot be opened: {errno}"),
        };
        refuse(path, problem)
    })?;
    if FileType::from_raw_mode(stat(path, &fd)?.st_mode) != FileType::RegularFile {
        return Err(refuse(path, format!("its {name} is no regular file; remove it")));
    }
    Ok(File::from(fd))
}

fn stat(path: &Path, fd: &OwnedFd) -> Result<Stat, StoreError> {
    rustix::fs::fstat(fd).map_err(|errno| refuse(path, format!("it cannot be examined: {errno}")))
}

fn refuse(dir: &Path, problem: String) -> StoreError {
    StoreError::Directory { dir: dir.to_owned(), problem }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File, pid: Option<u32>) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    match pid {
        Some(pid) => writeln!(file, "{pid}"),
        None => Ok(()),
    }
}
