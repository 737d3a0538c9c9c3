//! A kernel's folders on this host: layout, what the agent writes there, removal (contracts: kernel §2.5).
//!
//! ```text
//! <scratch root>/<kernel id>/config   -> /home/config, read-only in the kernel
//! <scratch root>/<kernel id>/work     -> /home/work
//! <state dir>/link/<kernel id>/       -> /opt/kernel/link, read-only; parent 0700, itself 0755
//! ```
//!
//! Kernels write to `work` only. The host reaches into it by [`tree`](crate::tree) alone (invariant 11). Everything
//! here blocks; callers use `spawn_blocking`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::ids::KernelId;

pub mod files;
#[cfg(test)]
mod tests;

/// Why a folder cannot be used or removed.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The scratch root cannot be used.
    #[error("the scratch root {path} {problem}")]
    Root {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// How to mend it.
        remedy: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

pub(crate) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ScratchError + use<'a> {
    move |source| ScratchError::Io { what, path: path.to_owned(), source }
}

/// Where the folders of all kernels lie.
#[derive(Debug, Clone)]
pub struct Scratch {
    root: PathBuf,
    links: PathBuf,
}

/// The folders of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// `<scratch root>/<kernel id>`.
    pub base: PathBuf,
    /// Read by the kernel.
    pub config: PathBuf,
    /// Written by the kernel.
    pub work: PathBuf,
    /// Its sockets.
    pub link: PathBuf,
}

/// What lies here of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Which.
    pub kernel: KernelId,
    /// Its work and link folders.
    pub folders: Vec<PathBuf>,
    /// Its sockets.
    pub sockets: Vec<PathBuf>,
}

impl Scratch {
    /// Checks the scratch root and makes what is ours. A root that was *named* must exist and belong to
    /// the agent's user; the default (`<state dir>/scratch`) is made 0700.
    ///
    /// # Errors
    /// [`ScratchError::Root`] says what is wrong and how to mend it.
    pub fn open(named: Option<&Path>, state_dir: &Path) -> Result<Self, ScratchError> {
        let links = state_dir.join("link");
        make_dir(&links, 0o700)?;
        let root = match named {
            Some(root) => root.to_owned(),
            None => {
                let root = state_dir.join("scratch");
                // Kernels' folders are bound into containers by the engine, not walked to by kernels.
                make_dir(&root, 0o700)?;
                root
            }
        };
        check_root(&root)?;
        Ok(Self { root, links })
    }

    /// The same folders without a look at them and without making any.
    #[must_use]
    pub fn at(named: Option<&Path>, state_dir: &Path) -> Self {
        let root = named.map_or_else(|| state_dir.join("scratch"), Path::to_owned);
        Self { root, links: state_dir.join("link") }
    }

    /// The scratch root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a kernel's folders lie, whether they exist or not.
    #[must_use]
    pub fn folders(&self, kernel: KernelId) -> Folders {
        let base = self.root.join(kernel.to_string());
        Folders {
            config: base.join("config"),
            work: base.join("work"),
            link: self.links.join(kernel.to_string()),
            base,
        }
    }

    /// Makes a kernel's folders; `owner` gets the work folder when this process may give it away.
    ///
    /// # Errors
    /// When the system refuses; what was made is left for [`Self::remove`].
    pub fn make(&self, kernel: KernelId, owner: (u32, u32)) -> Result<Folders, ScratchError> {
        let folders = self.folders(kernel);
        make_dir(&folders.base, 0o755)?;
        make_dir(&folders.config, 0o755)?;
        make_dir(&folders.work, 0o755)?;
        make_dir(&folders.link, 0o755)?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&folders.work, Some(owner.0), Some(owner.1))
                .map_err(io_error("give away", &folders.work))?;
        }
        Ok(folders)
    }

    /// Removes a kernel's folders. Removing missing ones is no error; nothing outside is touched,
    /// whatever links the kernel left.
    ///
    /// # Errors
    /// When something cannot be removed, e.g. files of uid 0 in the scratch of an agent that is not root.
    pub fn remove(&self, kernel: KernelId) -> Result<(), ScratchError> {
        let folders = self.folders(kernel);
        for path in [&folders.link, &folders.base] {
            remove_tree(path)?;
        }
        Ok(())
    }

    /// What lies here of kernels, by kernel. A folder that is missing holds nothing.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn present(&self) -> Result<Vec<Present>, ScratchError> {
        let mut found: BTreeMap<KernelId, Present> = BTreeMap::new();
        for dir in [&self.root, &self.links] {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(io_error("read", dir))?,
            };
            for entry in entries.flatten() {
                let Some(kernel) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let present = found.entry(kernel).or_insert_with(|| Present {
                    kernel,
                    folders: Vec::new(),
                    sockets: Vec::new(),
                });
                if dir == &self.links {
                    present.sockets = sockets_in(&entry.path());
                }
                present.folders.push(entry.path());
            }
        }
        Ok(found.into_values().collect())
    }

    /// Removes sockets that nobody is bound to any more: those of an agent that was killed, or of a kernel that
    /// has ended.
    ///
    /// # Errors
    /// When one cannot be removed. A missing one is no error.
    pub fn remove_sockets(&self, kernel: KernelId) -> Result<(), ScratchError> {
        for socket in sockets_in(&self.folders(kernel).link) {
            match fs::remove_file(&socket) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(io_error("remove", &socket))?,
            }
        }
        Ok(())
    }
}

/// The sockets in a link folder, which kernels cannot write to.
fn sockets_in(link: &Path) -> Vec<PathBuf> {
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    let entries = fs::read_dir(link).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = entries.filter(is_socket).map(|entry| entry.path()).collect();
    sockets.sort();
    sockets
}

/// `remove_dir_all` of the standard library works beneath directory fds and never follows links.
fn remove_tree(path: &Path) -> Result<(), ScratchError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_error("remove", path)),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), ScratchError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
            if !meta.is_dir() {
                let source = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(ScratchError::Io { what: "use", path: path.to_owned(), source });
            }
        }
        other => other.map_err(io_error("make", path))?,
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("set the mode of", path))
}

fn check_root(root: &Path) -> Result<(), ScratchError> {
    let wrong = |problem: &str, remedy: String| ScratchError::Root {
        path: root.to_owned(),
        problem: problem.to_owned(),
        remedy,
    };
    let shown = root.display();
    let me = rustix::process::geteuid().as_raw();
    if !root.is_absolute() {
        return Err(wrong("is not an absolute path", "name it from / on".to_owned()));
    }
    let meta = match fs::symlink_metadata(root) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(wrong("does not exist", format!("make it: install -d -m 0700 -o {me} {shown}")));
        }
        Err(error) => {
            return Err(wrong(&format!("cannot be looked at ({error})"), "name another folder".into()));
        }
    };
    if meta.file_type().is_symlink() {
        let target = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        return Err(wrong("is a symbolic link", format!("name the folder itself: {}", target.display())));
    }
    if !meta.is_dir() {
        return Err(wrong("is not a folder", "name a folder".to_owned()));
    }
    if meta.uid() != me {
        return Err(wrong(
            &format!("belongs to uid {}, the agent runs as uid {me}", meta.uid()),
            format!("chown {me} {shown}, or name another folder"),
        ));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(wrong("may be written by others", format!("chmod go-w {shown}")));
    }
    let mount = rustix::fs::statvfs(root)
        .map_err(|errno| wrong(&format!("cannot be looked at ({errno})"), String::new()))?;
    if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        return Err(wrong(
            "lies on a file system mounted noexec, so kernels could not run what they build",
            format!("name a folder elsewhere, or mount -o remount,exec the file system of {shown}"),
        ));
    }
    if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(wrong("lies on a read-only file system", "name a folder elsewhere".to_owned()));
    }
    Ok(())
}
