//! An archive becomes a tree beneath a folder. Whoever made the archive is not trusted: see the module above.
//!
//! Files, folders, symbolic links and further names of files are made; set-id bits are dropped; devices, FIFOs and
//! what is unknown is left out and said. Folders that are there already stay as they are; files are replaced.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::Mode;

use super::beneath::MODE_BITS;
use super::pack::Step;
use super::whole::{self, Meta, times};
use super::{Carried, Note, Roots, TreeError, split};

/// The most that names and attributes of one entry may take, which the reader of archives keeps in memory.
const HEAD_MAX: u64 = 1024 * 1024;

/// Unpacks an archive into the folder at `base`, which is made if it is missing.
///
/// # Errors
/// [`TreeError`]. What was unpacked before it stays, each file whole.
pub fn unpack(
    roots: &Roots,
    base: &Path,
    archive: impl Read,
    watch: &mut dyn FnMut(Step),
) -> Result<Carried, TreeError> {
    let budget = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Metered { source: archive, budget: Rc::clone(&budget) });
    let mut into = Unpacker { roots, base, near: None, made: Vec::new(), carried: Carried::default(), watch };
    roots.make(base)?;
    let mut entries = archive.entries().map_err(TreeError::Archive)?;
    loop {
        budget.set(HEAD_MAX);
        let next = entries.next();
        budget.set(u64::MAX);
        let Some(entry) = next else { break };
        let mut entry = entry.map_err(TreeError::Archive)?;
        check_form(&mut entry)?;
        into.entry(&mut entry)?;
        // What is left of one that was not written must not count as the next one's head.
        io::copy(&mut entry, &mut io::sink()).map_err(TreeError::Broken)?;
    }
    into.leave(None);
    // Other programs end archives with more zeros than are needed.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(TreeError::Broken)?;
    Ok(into.carried)
}

/// Where unpacking is.
struct Unpacker<'a> {
    roots: &'a Roots,
    base: &'a Path,
    /// The folder of the last file: the next one mostly lies there too.
    near: Option<(PathBuf, OwnedFd)>,
    /// Folders that were made and are still written to, each in the one before it, with what they are to be.
    made: Vec<(PathBuf, Meta)>,
    carried: Carried,
    watch: &'a mut dyn FnMut(Step),
}

impl Unpacker<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), TreeError> {
        use tar::EntryType as Type;
        let raw = entry.path_bytes().into_owned();
        let inner = plain(&raw)?;
        let path = self.base.join(&inner);
        let header = entry.header();
        let meta = Meta {
            mode: header.mode().map_err(TreeError::Archive)?,
            mtime: header.mtime().ok().and_then(|at| i64::try_from(at).ok()),
        };
        let kind = header.entry_type();
        let is_folder = kind == Type::Directory || (kind == Type::Regular && raw.ends_with(b"/"));
        if inner.as_os_str().is_empty() && !is_folder {
            return Err(TreeError::Outside(PathBuf::from(OsStr::from_bytes(&raw))));
        }
        self.leave(Some(&path));
        let mut bytes = 0;
        match kind {
            _ if is_folder => self.folder(&path, meta)?,
            Type::Regular | Type::Continuous | Type::GNUSparse => {
                let size = entry.size();
                let (dir, name) = self.place(&path)?;
                bytes = whole::file(dir, &name, &path, meta, Some(size), entry)?;
            }
            Type::Symlink => {
                let target = entry.link_name_bytes().map(|target| target.into_owned());
                let target = OsString::from(OsStr::from_bytes(target.as_deref().unwrap_or_default()));
                let (dir, name) = self.place(&path)?;
                whole::link(dir, &name, &path, &target)?;
            }
            Type::Link => {
                let target = entry.link_name_bytes().map(|target| target.into_owned());
                let target = self.base.join(plain(target.as_deref().unwrap_or_default())?);
                let (from, from_name) = self.roots.parent(&target)?;
                let (dir, name) = self.place(&path)?;
                whole::name_again((&from, &from_name), dir, &name)
                    .map_err(|errno| TreeError::of("link to", &target, errno))?;
            }
            // What git and others write for themselves.
            Type::XGlobalHeader => return Ok(()),
            _ => {
                let note = Note::left_out(&path, "is a FIFO, a device, or of a kind that is not known");
                (self.watch)(Step::Note(note));
                return Ok(());
            }
        }
        self.carried.entries += 1;
        self.carried.bytes += bytes;
        (self.watch)(Step::Carried { bytes });
        Ok(())
    }

    /// A folder. Its own mode and time come when everything is in it.
    fn folder(&mut self, path: &Path, meta: Meta) -> Result<(), TreeError> {
        let (dir, was_made) = self.roots.make(path)?;
        if was_made {
            let mode = Mode::from_raw_mode((meta.mode & MODE_BITS) | 0o700);
            rustix::fs::fchmod(&dir, mode).map_err(|errno| TreeError::of("make", path, errno))?;
            self.made.push((path.to_owned(), meta));
        }
        self.near = Some((path.to_owned(), dir));
        Ok(())
    }

    /// The open folder above a path, and its last name.
    fn place(&mut self, path: &Path) -> Result<(&OwnedFd, OsString), TreeError> {
        let other = || TreeError::Other { path: path.to_owned(), wanted: "file" };
        let (above, name) = split(path).ok_or_else(other)?;
        // A place that is a mount's, or lies in one, is looked at each time.
        if self.near.as_ref().is_none_or(|(near, _)| near != above) || self.roots.has_graft(path) {
            let (dir, _) = self.roots.place(path)?;
            self.near = Some((above.to_owned(), dir));
        }
        let (_, dir) = self.near.as_ref().ok_or_else(other)?;
        Ok((dir, name.to_owned()))
    }

    /// Settles the folders that the next path does not lie in.
    fn leave(&mut self, next: Option<&Path>) {
        while let Some((path, meta)) =
            self.made.pop_if(|(path, _)| next.is_none_or(|next| !next.starts_with(path)))
        {
            let settled = self.roots.folder(&path).and_then(|dir| {
                let refuse = |errno| TreeError::of("set the mode of", &path, errno);
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(meta.mode & MODE_BITS)).map_err(refuse)?;
                match meta.mtime {
                    Some(mtime) => rustix::fs::futimens(&dir, &times(mtime)).map_err(refuse),
                    None => Ok(()),
                }
            });
            if let Err(error) = settled {
                // It was there a moment ago: somebody else is at work in it.
                (self.watch)(Step::Note(Note::left_out(&path, format!("has another mode: {error}"))));
            }
        }
    }
}

/// Refuses what would be misread: a sparse file of the POSIX format is its map and then its pieces, under a made-up name.
fn check_form<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<(), TreeError> {
    let extensions = entry.pax_extensions().map_err(TreeError::Archive)?;
    let is_sparse = |key: &[u8]| key.starts_with(b"GNU.sparse.");
    if extensions.into_iter().flatten().flatten().any(|extension| is_sparse(extension.key_bytes())) {
        let problem =
            "it has sparse files in a form that is not read here: make it without -S, or with --format=gnu";
        return Err(TreeError::Archive(io::Error::new(io::ErrorKind::Unsupported, problem)));
    }
    Ok(())
}

/// A name in an archive as a path of plain names.
fn plain(name: &[u8]) -> Result<PathBuf, TreeError> {
    let path = Path::new(OsStr::from_bytes(name));
    let is_plain = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !path.components().all(|part| is_plain(&part)) {
        return Err(TreeError::Outside(path.to_owned()));
    }
    Ok(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}

/// Gives no more than the budget that was set.
struct Metered<R> {
    source: R,
    budget: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a name in it is too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.source.read(buffer.get_mut(..most).unwrap_or_default())?;
        if left != u64::MAX {
            self.budget.set(left - count as u64);
        }
        Ok(count)
    }
}
