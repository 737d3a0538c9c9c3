//! What lies in a folder, typed and in the reference's form (contracts: kernel §6).

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Dir, FileType, Stat};
use serde::{Deserialize, Serialize};

use super::beneath::stat;
use super::{Roots, TreeError, shown, split};

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

/// One thing in a folder. A name that is not UTF-8 has replacement characters in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// `st_mode`: permission bits and, above them, the type.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When its inode was changed, Unix time in seconds.
    pub ctime: f64,
    /// When its content was changed.
    pub mtime: f64,
    /// When it was read.
    pub atime: f64,
}

/// A folder, or a single thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The thing itself.
    pub itself: Entry,
    /// What a folder holds, by name; empty for anything else.
    pub entries: Vec<Entry>,
    /// Whether there is more than was asked for.
    pub is_cut: bool,
}

/// Looks at a path; of a folder at no more than `most` of what it holds.
///
/// # Errors
/// [`TreeError`]: nothing is there, or it may not be read.
pub fn list(roots: &Roots, path: &Path, most: usize) -> Result<Listing, TreeError> {
    let name = split(path).map_or_else(|| shown(path), |(_, name)| name.to_string_lossy().into_owned());
    let itself = entry(name, &roots.stat(path)?);
    let mut listing = Listing { itself, entries: Vec::new(), is_cut: false };
    if listing.itself.kind != Kind::Folder || most == 0 {
        return Ok(listing);
    }
    let refuse = |errno| TreeError::of("read", path, errno);
    let folder = roots.folder(path)?;
    for found in Dir::read_from(&folder).map_err(refuse)? {
        let found = found.map_err(refuse)?;
        let name = OsStr::from_bytes(found.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if listing.entries.len() >= most {
            listing.is_cut = true;
            break;
        }
        let inner = path.join(name);
        let looked = match roots.has_graft(&inner) {
            true => roots.stat(&inner).ok(),
            // What is gone since is not there.
            false => stat(folder.as_fd(), name).ok(),
        };
        listing.entries.extend(looked.map(|stat| entry(name.to_string_lossy().into_owned(), &stat)));
    }
    listing.entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(listing)
}

/// The `files` of the reference's `list_files`: a JSON text of rows, which goes into its answer as a string.
#[must_use]
pub fn reference_json(entries: &[Entry]) -> String {
    let row = |entry: &Entry| {
        serde_json::json!({
            "mode": mode_text(entry.mode),
            "size": entry.size,
            "ctime": entry.ctime,
            "mtime": entry.mtime,
            "atime": entry.atime,
            "filename": entry.name,
        })
    };
    serde_json::Value::from_iter(entries.iter().map(row)).to_string()
}

/// As `ls -l` writes it, `-rw-r--r--` (Python's `stat.filemode`, which the reference calls).
fn mode_text(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '?',
    };
    let has = |bit: u32, letter: char| if mode & bit != 0 { letter } else { '-' };
    let runs = |run: u32, special: u32, letters: (char, char)| match (mode & run != 0, mode & special != 0) {
        (true, true) => letters.0,
        (false, true) => letters.1,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind,
        has(0o400, 'r'),
        has(0o200, 'w'),
        runs(0o100, 0o4000, ('s', 'S')),
        has(0o040, 'r'),
        has(0o020, 'w'),
        runs(0o010, 0o2000, ('s', 'S')),
        has(0o004, 'r'),
        has(0o002, 'w'),
        runs(0o001, 0o1000, ('t', 'T')),
    ]
    .into_iter()
    .collect()
}

fn entry(name: String, stat: &Stat) -> Entry {
    let at = |seconds: i64, nanos: u64| seconds as f64 + nanos as f64 / 1e9;
    Entry {
        name,
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Folder,
            FileType::Symlink => Kind::Link,
            _ => Kind::Special,
        },
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        ctime: at(stat.st_ctime, stat.st_ctime_nsec),
        mtime: at(stat.st_mtime, stat.st_mtime_nsec),
        atime: at(stat.st_atime, stat.st_atime_nsec),
    }
}
