//! The words of `berth cp`: which are places in a kernel, and what things are called where they go. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::ids::KernelRef;
use crate::kernel::files::LISTED_MAX;
use crate::tree::list::Listing;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// `KERNEL:PATH`.
    Kernel(KernelRef, String),
    /// A path on this side.
    Here(PathBuf),
    /// `-`.
    Pipe,
}

/// Where something goes: the folder, and its name there. The name `.` means what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) folder: PathBuf,
    pub(super) name: OsString,
}

/// What is at the place that something is to be copied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Folder,
    Other,
}

impl Place {
    /// A word is in a kernel when it has a colon, and no slash before it.
    pub(super) fn parse(word: &OsString) -> Result<Self, CliError> {
        if word == "-" {
            return Ok(Self::Pipe);
        }
        let bytes = word.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let Some(colon) = colon.filter(|at| *at > 0 && !bytes.iter().take(*at).any(|b| *b == b'/')) else {
            return Ok(Self::Here(PathBuf::from(word)));
        };
        let text = word.to_str().ok_or_else(|| {
            CliError::usage(format!("{} is not UTF-8", word.display()))
                .with_hint("copy the folder it lies in")
        })?;
        let (kernel, path) = text.split_at(colon);
        let kernel = kernel.parse().map_err(|error| {
            CliError::usage(format!("{kernel:?} is no kernel: {error}"))
                .with_hint(format!("a file of that name is ./{text}"))
        })?;
        Ok(Self::Kernel(kernel, path.strip_prefix(':').unwrap_or(path).to_owned()))
    }
}

/// Whether a path says that it means a folder.
pub(super) fn ends_as_folder(path: &OsStr) -> bool {
    let bytes = path.as_bytes();
    bytes.is_empty() || bytes.ends_with(b"/") || is_content(path)
}

/// Whether a path means what is in a folder: `DIR/.`, `.`, `..`, or nothing, which is the work folder.
pub(super) fn is_content(path: &OsStr) -> bool {
    let last = path.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    path.is_empty() || last == b"." || last == b".."
}

/// What something is called by its own path; `.` for what is in a folder.
pub(super) fn own_name(path: &OsStr) -> OsString {
    match Path::new(path).file_name() {
        Some(name) if !is_content(path) => name.to_owned(),
        _ => OsString::from("."),
    }
}

/// Where a thing goes, as `cp -r` has it: into a folder that is there, or is written as one, under its own name; else it
/// gets the name that is written.
pub(super) fn target(to: &OsStr, found: Found, own: &OsStr, is_one: bool) -> Result<Target, CliError> {
    let shown = to.display();
    match found {
        Found::Other if !is_one || ends_as_folder(to) => {
            Err(CliError::new(format!("{shown} is no folder")).with_hint("name a folder to copy into"))
        }
        Found::Nothing if !is_one && !ends_as_folder(to) => {
            Err(CliError::new(format!("there is no folder {shown}"))
                .with_hint(format!("several things go into a folder: write {shown}/ to have it made")))
        }
        _ if found == Found::Folder || ends_as_folder(to) || own == "." => {
            Ok(Target { folder: PathBuf::from(to), name: own.to_owned() })
        }
        _ => {
            let to = Path::new(to);
            let name = to.file_name().unwrap_or(own).to_owned();
            Ok(Target { folder: to.parent().unwrap_or(Path::new("")).to_owned(), name })
        }
    }
}

/// The folder and the pattern of a path whose last name has `*` or `?` in it.
pub(super) fn pattern(path: &str) -> Option<(&str, &str)> {
    let (folder, last) = match path.rfind('/') {
        Some(slash) => path.split_at(slash + 1),
        None => ("", path),
    };
    last.contains(['*', '?']).then_some((folder, last))
}

/// The paths that match.
///
/// # Errors
/// When none does, or the folder is too large to be looked at whole.
pub(super) fn matching(folder: &str, pattern: &str, listing: &Listing) -> Result<Vec<String>, CliError> {
    if listing.is_cut {
        return Err(CliError::new(format!("{folder:?} holds more than {LISTED_MAX} things"))
            .with_hint("copy the folder whole"));
    }
    let names = listing.entries.iter().filter(|entry| matches(pattern.as_bytes(), entry.name.as_bytes()));
    let found: Vec<String> = names.map(|entry| format!("{folder}{}", entry.name)).collect();
    if found.is_empty() {
        return Err(CliError::new(format!("nothing there matches {folder}{pattern}"))
            .with_code("no-such-file")
            .with_hint("`berth exec KERNEL -- ls -a` shows what is there"));
    }
    Ok(found)
}

/// `*` is any characters and `?` is one; a dot at the beginning only matches itself, as in shells.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    fn rest(pattern: &[u8], name: &[u8]) -> bool {
        // Where to go on after the last star, one character later each time.
        let (mut at, mut on, mut star) = (0, 0, None);
        while let Some(c) = name.get(on) {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at + 1, on + 1));
                    at += 1;
                }
                Some(p) if *p == b'?' || p == c => (at, on) = (at + 1, on + 1),
                _ => match &mut star {
                    Some((after, from)) => {
                        (at, on) = (*after, *from);
                        *from += 1;
                    }
                    None => return false,
                },
            }
        }
        pattern.get(at..).unwrap_or_default().iter().all(|p| *p == b'*')
    }
    (name.first() != Some(&b'.') || pattern.first() == Some(&b'.')) && rest(pattern, name)
}
