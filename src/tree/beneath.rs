//! Lookup beneath directory fds by `openat2`: never over a symbolic link, never out (invariant 11).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{TreeError, split};

/// Bits that an archive may set on what it makes; the set-id and sticky bits are not among them.
pub(super) const MODE_BITS: u32 = 0o777;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// A tree: a folder, and what lies at places in it that are not the folder's own (mounts).
#[derive(Debug)]
pub struct Roots {
    main: OwnedFd,
    grafts: BTreeMap<PathBuf, Graft>,
}

/// What lies at a place instead of what the folder has there.
#[derive(Debug)]
pub enum Graft {
    /// Another folder, or a file in it.
    There {
        /// The folder.
        dir: OwnedFd,
        /// The file's name; none: the folder itself is there.
        file: Option<OsString>,
        /// Whether nothing may be written.
        read_only: bool,
    },
    /// It cannot be reached, for this reason: the rest of a sentence that begins with the path.
    Closed(String),
}

/// Where a path is looked up.
struct Found<'a> {
    dir: BorrowedFd<'a>,
    path: PathBuf,
    read_only: bool,
    is_mounted_file: bool,
}

impl Roots {
    /// A folder by a path that is trusted, links and all.
    ///
    /// # Errors
    /// When it cannot be opened, or is no folder.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let main = rustix::fs::openat(CWD, path, FOLDER, Mode::empty());
        Ok(Self { main: main.map_err(|errno| TreeError::of("open", path, errno))?, grafts: BTreeMap::new() })
    }

    /// Puts something at a place, given as a path of plain names.
    pub fn graft(&mut self, at: PathBuf, what: Graft) {
        self.grafts.insert(at, what);
    }

    /// Whether something else lies exactly there.
    pub(super) fn has_graft(&self, path: &Path) -> bool {
        !self.grafts.is_empty() && self.grafts.contains_key(path)
    }

    /// The places below a path where something else lies.
    pub(super) fn grafts_below(&self, path: &Path) -> BTreeSet<PathBuf> {
        self.grafts.keys().filter(|at| at.starts_with(path) && *at != path).cloned().collect()
    }

    /// A folder, to be read.
    pub(super) fn folder(&self, path: &Path) -> Result<OwnedFd, TreeError> {
        let found = self.find(path)?;
        open(found.dir, &found.path, FOLDER, Mode::empty())
            .map_err(|errno| TreeError::of("open", path, errno))
    }

    /// The folder that a path lies in, and the path's last name there.
    pub(super) fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString), TreeError> {
        let found = self.find(path)?;
        // The place itself has no name that could be looked up from above.
        let (above, name) = split(&found.path).unwrap_or((Path::new(""), OsStr::new(".")));
        let dir = open(found.dir, above, FOLDER, Mode::empty())
            .map_err(|errno| TreeError::of("open", path, errno))?;
        Ok((dir, name.to_owned()))
    }

    /// What lies at a path, a link being itself.
    pub(super) fn stat(&self, path: &Path) -> Result<Stat, TreeError> {
        let (dir, name) = self.parent(path)?;
        stat(dir.as_fd(), &name).map_err(|errno| TreeError::of("look at", path, errno))
    }

    /// A regular file, to be read.
    pub(super) fn regular(&self, path: &Path) -> Result<(File, Stat), TreeError> {
        let (dir, name) = self.parent(path)?;
        regular(dir.as_fd(), &name)
            .map_err(|errno| TreeError::of("open", path, errno))?
            .ok_or_else(|| TreeError::Other { path: path.to_owned(), wanted: "file" })
    }

    /// A folder to write in, made with what is missing above it. Also says whether it was made.
    pub(super) fn make(&self, path: &Path) -> Result<(OwnedFd, bool), TreeError> {
        let refuse = |errno| TreeError::of("make", path, errno);
        let found = self.writable(path)?;
        match open(found.dir, &found.path, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => {}
            other => return Ok((other.map_err(refuse)?, false)),
        }
        let mut dir = open(found.dir, Path::new(""), FOLDER, Mode::empty()).map_err(refuse)?;
        let mut made = false;
        for component in found.path.components() {
            let Component::Normal(name) = component else { return Err(refuse(Errno::XDEV)) };
            made = match rustix::fs::mkdirat(dir.as_fd(), name, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(refuse(errno)),
            };
            dir = open(dir.as_fd(), Path::new(name), FOLDER, Mode::empty()).map_err(refuse)?;
        }
        Ok((dir, made))
    }

    /// A place for a file to appear at: the folder above, made if it is missing, and the name.
    pub(super) fn place(&self, path: &Path) -> Result<(OwnedFd, OsString), TreeError> {
        if self.writable(path)?.is_mounted_file {
            return Err(TreeError::Closed {
                path: path.to_owned(),
                problem: "is a mounted file, which cannot be replaced".to_owned(),
            });
        }
        if self.has_graft(path) {
            return Err(TreeError::Other { path: path.to_owned(), wanted: "file" });
        }
        let (above, name) =
            split(path).ok_or_else(|| TreeError::Other { path: path.to_owned(), wanted: "file" })?;
        Ok((self.make(above)?.0, name.to_owned()))
    }

    fn writable(&self, path: &Path) -> Result<Found<'_>, TreeError> {
        let found = self.find(path)?;
        if found.read_only {
            return Err(TreeError::ReadOnly(path.to_owned()));
        }
        Ok(found)
    }

    /// By the graft that is nearest above the path, else in the folder.
    fn find(&self, path: &Path) -> Result<Found<'_>, TreeError> {
        let nearest = path.ancestors().find_map(|above| Some((above, self.grafts.get(above)?)));
        let Some((at, graft)) = nearest else {
            return Ok(Found {
                dir: self.main.as_fd(),
                path: path.to_owned(),
                read_only: false,
                is_mounted_file: false,
            });
        };
        match graft {
            Graft::There { dir, file, read_only } => {
                let rest = path.strip_prefix(at).unwrap_or(Path::new(""));
                Ok(Found {
                    dir: dir.as_fd(),
                    path: file.iter().map(Path::new).chain([rest]).filter(|p| *p != "").collect(),
                    read_only: *read_only,
                    is_mounted_file: file.is_some() && rest.as_os_str().is_empty(),
                })
            }
            Graft::Closed(problem) => {
                Err(TreeError::Closed { path: path.to_owned(), problem: problem.clone() })
            }
        }
    }
}

impl Graft {
    /// What lies at an absolute path on this host that had no links in it when it was looked at first, and may have
    /// been written to since: still over no link.
    #[must_use]
    pub fn at(source: &Path, read_only: bool) -> Self {
        let opened = (|| -> Result<_, Errno> {
            let top = rustix::fs::openat(CWD, "/", FOLDER, Mode::empty())?;
            let path = source.strip_prefix("/").map_err(|_| Errno::INVAL)?;
            match open(top.as_fd(), path, FOLDER, Mode::empty()) {
                Err(Errno::NOTDIR) => {
                    let (above, name) = split(path).ok_or(Errno::NOTDIR)?;
                    let dir = open(top.as_fd(), above, FOLDER, Mode::empty())?;
                    Ok((dir, Some(name.to_owned())))
                }
                other => Ok((other?, None)),
            }
        })();
        match opened {
            Ok((dir, file)) => Self::There { dir, file, read_only },
            Err(errno) => Self::Closed(format!(
                "is a mount of {}, which cannot be opened: {}",
                source.display(),
                std::io::Error::from(errno)
            )),
        }
    }
}

/// Opens a path beneath a directory fd; the empty path is the directory.
pub(super) fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, path, flags, mode, confined) {
        // Linux before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS) => step_by_step(dir, path, flags, mode),
        other => other,
    }
}

/// The same without `openat2`: for a single name, `O_NOFOLLOW` says as much.
pub(super) fn step_by_step(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::openat(dir, ".", FOLDER, Mode::empty())?;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => OsStr::new("."),
            _ => return Err(Errno::XDEV),
        };
        let is_last = components.peek().is_none();
        let how = if is_last { flags } else { FOLDER };
        let opened = rustix::fs::openat(&at, name, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode);
        at = opened.map_err(|errno| match errno {
            // With O_DIRECTORY the system says of a link that it is no directory.
            Errno::NOTDIR if is_link(at.as_fd(), name) => Errno::LOOP,
            errno => errno,
        })?;
    }
    Ok(at)
}

/// What a name is in its folder, a link being itself.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// A regular file to be read; none for anything else, which is not even opened: a device may act on it. So it is
/// looked at by an `O_PATH` fd first, and then it is that very file which is opened.
pub(super) fn regular(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<(File, Stat)>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = open(dir, Path::new(name), flags, Mode::empty())?;
    let found = rustix::fs::fstat(&path)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(Errno::LOOP),
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Ok(None),
    }
    let itself = format!("/proc/self/fd/{}", path.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, itself.as_str(), flags, Mode::empty())?;
    let found = rustix::fs::fstat(&file)?;
    Ok(Some((File::from(file), found)))
}

fn is_link(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    stat(dir, name).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink)
}
