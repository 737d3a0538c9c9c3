//! Where pushed modules lie: `<state>/policies/<sha256>.wasm`, readable by the agent's user alone. A file is
//! there whole or not at all, and what is read is held against its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::Problem;
use super::load;
use crate::ids::Digest;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Puts a module there; true: it was there already.
    pub fn put(&self, bytes: &[u8]) -> io::Result<bool> {
        let digest = Digest::of(bytes);
        if self.get(digest).is_ok() {
            return Ok(true);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let temporary = self.dir.join(format!("{digest}.new"));
        let written = self.write(&temporary, bytes).and_then(|()| {
            fs::rename(&temporary, self.path(digest))?;
            File::open(&self.dir)?.sync_all()
        });
        if written.is_err() {
            // What was written of it is of no use; that it cannot be removed either changes nothing.
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| false)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// The module of that digest.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, Problem> {
        let bytes = load::read(&self.path(digest))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(Problem::Damaged) }
    }

    /// Takes a module away; one that is not there is gone already.
    pub fn remove(&self, digest: Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_module_is_private_whole_and_held_against_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().join("policies"));
        let digest = Digest::of(b"module");
        assert!(matches!(shelf.get(digest), Err(Problem::Read(_))));
        assert!(!shelf.put(b"module").unwrap());
        assert!(shelf.put(b"module").unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&shelf.dir), mode(&shelf.path(digest))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&shelf.dir).unwrap().count(), 1);

        fs::write(shelf.path(digest), b"modul").unwrap();
        assert_eq!(shelf.get(digest), Err(Problem::Damaged));
        assert!(!shelf.put(b"module").unwrap(), "a damaged one is replaced");
        assert_eq!(shelf.get(digest).unwrap(), b"module");
        shelf.remove(digest).unwrap();
        shelf.remove(digest).unwrap();
        assert!(shelf.get(digest).is_err());
    }
}
