//! A tree becomes an archive (POSIX ustar, with GNU's form for long names), piece by piece, in bounded memory.
//!
//! What is read may change meanwhile. A file's header says its size, so exactly as much follows: the rest of one that
//! has shrunk is zeros, what one has grown is left out, and both are said.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::{MODE_BITS, open, regular, stat};
use super::{Carried, Note, Roots, TreeError};

/// Folders in folders that are gone into: each one costs a file descriptor while what is in it is read.
const DEPTH_MAX: usize = 256;

/// What somebody who watches may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something was carried whole.
    Carried {
        /// Bytes of its content.
        bytes: u64,
    },
    /// Something was not, or not as it is.
    Note(Note),
}

/// Makes one archive of one or more things.
pub struct Packer<'a, W: Write> {
    archive: tar::Builder<Limited<W>>,
    carried: Carried,
    watch: &'a mut dyn FnMut(Step),
}

impl<'a, W: Write> Packer<'a, W> {
    /// An archive of at most `limit` bytes that goes to `sink` as it is made.
    pub fn new(sink: W, limit: Option<u64>, watch: &'a mut dyn FnMut(Step)) -> Self {
        let sink = Limited { sink, left: limit.unwrap_or(u64::MAX), limit, is_over: false };
        Self { archive: tar::Builder::new(sink), carried: Carried::default(), watch }
    }

    /// Adds what lies at `path`, folders with all that is in them, under the name `name` in the archive (`.`: what
    /// is in the folder). Links are added as links.
    ///
    /// # Errors
    /// When it cannot be read at all, is over the limit, or nobody takes the archive any more. What cannot be read
    /// below a folder is left out and said.
    pub fn add(&mut self, roots: &Roots, path: &Path, name: &Path) -> Result<(), TreeError> {
        let (above, own) = roots.parent(path)?;
        let refuse = |errno| TreeError::of("read", path, errno);
        let found = stat(above.as_fd(), &own).map_err(refuse)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => self.folder(roots, path, name),
            FileType::Symlink => self.link((above.as_fd(), &own), path, name, &found),
            _ => match regular(above.as_fd(), &own).map_err(refuse)? {
                Some((file, found)) => self.file(file, &found, path, name),
                None => Err(TreeError::Other { path: path.to_owned(), wanted: "file or folder" }),
            },
        }
    }

    /// Writes the end of the archive.
    ///
    /// # Errors
    /// When it is over the limit, or nobody takes it.
    pub fn finish(mut self) -> Result<Carried, TreeError> {
        if let Err(error) = self.archive.finish() {
            return Err(self.failed(error));
        }
        if let Err(error) = self.archive.get_mut().flush() {
            return Err(self.failed(error));
        }
        Ok(self.carried.clone())
    }

    /// A folder and all below it, depth first.
    fn folder(&mut self, roots: &Roots, path: &Path, name: &Path) -> Result<(), TreeError> {
        let mut open_folders: Vec<(Dir, PathBuf, PathBuf)> = Vec::new();
        // Mounts whose place is missing in the folder itself are in the kernel all the same.
        let mut grafts: BTreeSet<PathBuf> = roots.grafts_below(path);
        let top = self.enter(roots.folder(path)?, path, name)?;
        open_folders.push((top, path.to_owned(), name.to_owned()));
        while let Some((dir, path, name)) = open_folders.last_mut() {
            let next = dir.read();
            let (path, name) = (path.clone(), name.clone());
            let Some(next) = next else {
                open_folders.pop();
                continue;
            };
            let own = match &next {
                Ok(entry) => OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                Err(errno) => {
                    self.lost(&path, format!("could not be read to its end: {}", words(*errno)));
                    open_folders.pop();
                    continue;
                }
            };
            if own == "." || own == ".." {
                continue;
            }
            let (inner, inner_name) = (path.join(&own), name.join(&own));
            if grafts.contains(&inner) {
                grafts.retain(|at| !at.starts_with(&inner));
                self.graft(roots, &inner, &inner_name)?;
                continue;
            }
            let Some((dir, ..)) = open_folders.last() else { break };
            let here = match dir.fd() {
                Ok(fd) => fd,
                Err(errno) => return Err(TreeError::of("read", &path, errno)),
            };
            let depth = open_folders.len();
            if let Some(folder) = self.entry((here, &own), &inner, &inner_name, depth)? {
                open_folders.push((folder, inner, inner_name));
            }
        }
        while let Some(at) = grafts.pop_first() {
            grafts.retain(|other| !other.starts_with(&at));
            let below = at.strip_prefix(path).unwrap_or(&at);
            self.graft(roots, &at, &name.join(below))?;
        }
        Ok(())
    }

    /// Something in a folder; a folder comes back open.
    fn entry(
        &mut self,
        at: (BorrowedFd<'_>, &OsStr),
        path: &Path,
        name: &Path,
        depth: usize,
    ) -> Result<Option<Dir>, TreeError> {
        let found = match stat(at.0, at.1) {
            Ok(found) => found,
            // Gone since.
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => {
                self.lost(path, words(errno));
                return Ok(None);
            }
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if depth >= DEPTH_MAX => {
                self.lost(path, format!("lies deeper than {DEPTH_MAX} folders"));
                Ok(None)
            }
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
                match open(at.0, Path::new(at.1), flags, Mode::empty()) {
                    Ok(folder) => self.enter(folder, path, name).map(Some),
                    Err(errno) => {
                        self.lost(path, words(errno));
                        Ok(None)
                    }
                }
            }
            FileType::RegularFile => {
                match regular(at.0, at.1) {
                    Ok(Some((file, found))) => self.file(file, &found, path, name)?,
                    Ok(None) | Err(Errno::NOENT) => {}
                    Err(errno) => self.lost(path, words(errno)),
                }
                Ok(None)
            }
            FileType::Symlink => self.link(at, path, name, &found).map(|()| None),
            _ => {
                (self.watch)(Step::Note(Note::left_out(path, "is a FIFO, a socket or a device")));
                Ok(None)
            }
        }
    }

    /// What is mounted somewhere below.
    fn graft(&mut self, roots: &Roots, path: &Path, name: &Path) -> Result<(), TreeError> {
        match self.add(roots, path, name) {
            Err(TreeError::Closed { problem, .. }) => self.lost(path, problem),
            Err(error @ (TreeError::Missing(_) | TreeError::Io { .. } | TreeError::Other { .. })) => {
                self.lost(path, error.to_string());
            }
            other => return other,
        }
        Ok(())
    }

    fn enter(&mut self, folder: std::os::fd::OwnedFd, path: &Path, name: &Path) -> Result<Dir, TreeError> {
        let refuse = |errno| TreeError::of("read", path, errno);
        let mut header = header(&rustix::fs::fstat(&folder).map_err(refuse)?, tar::EntryType::Directory);
        header.set_size(0);
        // With the slash that other programs expect.
        let added = self.archive.append_data(&mut header, name.join(""), io::empty());
        self.added(added, 0)?;
        Dir::new(folder).map_err(refuse)
    }

    fn file(&mut self, file: File, found: &Stat, path: &Path, name: &Path) -> Result<(), TreeError> {
        let size = u64::try_from(found.st_size).unwrap_or(0);
        if !self.archive.get_mut().has_room_for(size) {
            return Err(self.failed(io::ErrorKind::FileTooLarge.into()));
        }
        let mut header = header(found, tar::EntryType::Regular);
        header.set_size(size);
        let mut content = Exactly { file, left: size, missing: None };
        let added = self.archive.append_data(&mut header, name, &mut content);
        self.added(added, size)?;
        match content.missing {
            Some((bytes, None)) => {
                self.lost(path, format!("shrank while it was read: its last {bytes} bytes are zeros"));
            }
            Some((bytes, Some(error))) => {
                self.lost(path, format!("could not be read: its last {bytes} bytes are zeros: {error}"));
            }
            None if rustix::fs::fstat(&content.file).is_ok_and(|now| now.st_size > found.st_size) => {
                self.lost(path, "grew while it was read: what was added is left out");
            }
            None => {}
        }
        Ok(())
    }

    fn link(
        &mut self,
        at: (BorrowedFd<'_>, &OsStr),
        path: &Path,
        name: &Path,
        found: &Stat,
    ) -> Result<(), TreeError> {
        let target = match rustix::fs::readlinkat(at.0, at.1, Vec::new()) {
            Ok(target) => target,
            Err(errno) => {
                self.lost(path, words(errno));
                return Ok(());
            }
        };
        let mut header = header(found, tar::EntryType::Symlink);
        header.set_size(0);
        let added = self.append_link(header, name, target.as_bytes());
        self.added(added, 0)
    }

    /// Not by the library's way, which takes `.` and doubled slashes out of where a link leads.
    fn append_link(&mut self, mut header: tar::Header, name: &Path, target: &[u8]) -> io::Result<()> {
        if header.set_link_name_literal(target).is_err() {
            // Longer than its field: an entry before it has the whole, with a zero behind it (GNU tar).
            let mut whole = tar::Header::new_gnu();
            whole.set_path("././@LongLink")?;
            whole.set_entry_type(tar::EntryType::GNULongLink);
            whole.set_mode(0o644);
            whole.set_size(target.len() as u64 + 1);
            whole.set_cksum();
            self.archive.append(&whole, target.chain(&b"\0"[..]))?;
        }
        self.archive.append_data(&mut header, name, io::empty())
    }

    fn lost(&mut self, path: &Path, problem: impl Into<String>) {
        (self.watch)(Step::Note(Note::lost(path, problem)));
    }

    fn added(&mut self, added: io::Result<()>, bytes: u64) -> Result<(), TreeError> {
        added.map_err(|error| self.failed(error))?;
        self.carried.entries += 1;
        self.carried.bytes += bytes;
        (self.watch)(Step::Carried { bytes });
        Ok(())
    }

    fn failed(&mut self, error: io::Error) -> TreeError {
        let sink = self.archive.get_mut();
        let over = sink.is_over || error.kind() == io::ErrorKind::FileTooLarge;
        match sink.limit {
            Some(limit) if over => {
                // The end of the archive, written when it is dropped, is over the limit too.
                (sink.is_over, sink.left) = (true, 0);
                TreeError::TooLarge(limit)
            }
            _ => TreeError::Broken(error),
        }
    }
}

/// Permission bits, owner by number and time; who reads the archive makes of them what they may.
fn header(found: &Stat, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.st_mode & MODE_BITS);
    header.set_uid(u64::from(found.st_uid));
    header.set_gid(u64::from(found.st_gid));
    header.set_mtime(u64::try_from(found.st_mtime).unwrap_or(0));
    header
}

fn words(errno: Errno) -> String {
    format!("could not be read: {}", io::Error::from(errno))
}

/// As many bytes as were promised, whatever the file has.
struct Exactly {
    file: File,
    left: u64,
    /// Bytes that it lacked, and the failure when there was one.
    missing: Option<(u64, Option<io::Error>)>,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let count = match self.missing {
            Some(_) => 0,
            None => match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    self.missing = Some((self.left, Some(error)));
                    0
                }
                Ok(0) => {
                    self.missing = Some((self.left, None));
                    0
                }
                Ok(count) => count,
            },
        };
        let count = if count == 0 {
            buffer.fill(0);
            most
        } else {
            count
        };
        self.left -= count as u64;
        Ok(count)
    }
}

/// Hands on no byte past the limit.
struct Limited<W> {
    sink: W,
    left: u64,
    limit: Option<u64>,
    is_over: bool,
}

impl<W> Limited<W> {
    /// Whether that many more bytes fit, if nothing else comes.
    fn has_room_for(&self, bytes: u64) -> bool {
        self.limit.is_none() || bytes <= self.left
    }
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.limit.is_none() {
            return self.sink.write(bytes);
        }
        if bytes.len() as u64 > self.left {
            self.is_over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.sink.write(bytes)?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
