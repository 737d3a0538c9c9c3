//! Trees of files, as a tar stream in and out, beneath directories that somebody hostile may write to.
//!
//! A kernel can put links, FIFOs and devices wherever it may write, and swap them while the agent looks; an archive
//! can name anything. So every path here is looked up beneath a directory fd and over no symbolic link
//! ([`beneath`]), nothing but regular files is ever opened for reading, and what is written appears under its name
//! when it is whole. `berth cp` writes on its side by the same functions: to it, the agent's archive is hostile.
//!
//! * [`beneath`]: [`Roots`], the lookup; [`whole`]: files that appear whole
//! * [`pack`]: a tree becomes an archive; [`unpack`]: an archive becomes a tree; [`pieces`]: how it goes from thread to
//!   thread; [`list`]: what lies in a folder
//!
//! Depends on no room. Everything blocks; callers give it a thread.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub mod beneath;
pub mod list;
pub mod pack;
pub mod pieces;
#[cfg(test)]
mod tests;
pub mod unpack;
pub mod whole;

pub use beneath::{Graft, Roots};

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A name in an archive, or a path, that is not below the place it belongs to.
    #[error("{} does not lie below its place", shown(.0))]
    Outside(PathBuf),
    /// A symbolic link is on the way; it is not followed.
    #[error("{} is a symbolic link, or lies behind one", shown(.0))]
    Link(PathBuf),
    /// Nothing is there.
    #[error("there is no {}", shown(.0))]
    Missing(PathBuf),
    /// Something else is there than what is needed.
    #[error("{} is no {wanted}", shown(path))]
    Other {
        /// Where.
        path: PathBuf,
        /// `folder`, `file`.
        wanted: &'static str,
    },
    /// The place may only be read.
    #[error("{} lies in a mount that is read-only", shown(.0))]
    ReadOnly(PathBuf),
    /// The place cannot be reached from here, or not in this way.
    #[error("{} {problem}", shown(path))]
    Closed {
        /// Where.
        path: PathBuf,
        /// Why, as the rest of the sentence.
        problem: String,
    },
    /// There is no room for it.
    #[error("no space left for {}", shown(.0))]
    NoSpace(PathBuf),
    /// More bytes than were allowed; nothing past the limit was handed on.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// What came is no archive, or not all of one.
    #[error("the archive is malformed: {0}")]
    Archive(io::Error),
    /// What was to be read or written stopped: the other side is gone.
    #[error("the transfer broke off: {0}")]
    Broken(io::Error),
    /// The system refused.
    #[error("cannot {what} {}: {source}", shown(path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Something that is not, or not quite, as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub path: String,
    /// A phrase that goes on after the path.
    pub problem: String,
    /// Whether content is missing that a copy would have.
    pub is_loss: bool,
}

/// What was carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
}

impl Note {
    fn left_out(path: &Path, problem: impl Into<String>) -> Self {
        Self { path: shown(path), problem: problem.into(), is_loss: false }
    }

    fn lost(path: &Path, problem: impl Into<String>) -> Self {
        Self { is_loss: true, ..Self::left_out(path, problem) }
    }
}

impl TreeError {
    /// What the system says of a path, in our words.
    pub(crate) fn of(what: &'static str, path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::LOOP => Self::Link(path),
            Errno::XDEV => Self::Outside(path),
            Errno::NOENT => Self::Missing(path),
            Errno::NOTDIR => Self::Other { path, wanted: "folder" },
            Errno::ISDIR => Self::Other { path, wanted: "file" },
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace(path),
            errno => Self::Io { what, path, source: errno.into() },
        }
    }

    /// The same of an error of the standard library's.
    pub(crate) fn of_io(what: &'static str, path: &Path, error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::of(what, path, errno),
            None => Self::Io { what, path: path.to_owned(), source: error },
        }
    }
}

/// A path as people read it; the place itself is `.`.
#[must_use]
pub fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

/// A relative path of plain names: what somebody wrote, without `.`, and with each `..` taken with the name before
/// it. None for an absolute path and for one that leaves its place.
#[must_use]
pub fn normal(path: &Path) -> Option<PathBuf> {
    let mut names: Vec<OsString> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => drop(names.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.into_iter().collect())
}

/// The path above and the last name of a path of plain names; none for the place itself.
fn split(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent()?, path.file_name()?))
}
