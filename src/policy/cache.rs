//! The compile cache: machine code of modules that were compiled before, so that an agent starts at once also with
//! a guest of 18 MB (componentised Python compiles for five seconds).
//!
//! To load compiled code is to run it with the agent's rights, so an entry counts only if this node wrote it: the
//! folder (0700) and each file (0600) belong to the agent's user and to nobody else, and each file begins with a hash
//! over a secret that lies beside it (0600, random, made once), the module's digest, the engine's settings and the
//! code. What is not so, is cut short, or is of another engine is compiled again, never trusted. wasmtime itself then
//! compares its version and settings with those in the code.
//!
//! An entry is `<sha256 of the module>-<hash of the engine's settings>`. The folder is bounded: what was used longest
//! ago goes first.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compile::problem_of;
use super::error::Problem;
use crate::ids::Digest;

/// Bytes that all entries take together.
const LIMIT: u64 = 512 << 20;
const SECRET: &str = "secret";
/// Begins every entry.
const MAGIC: &[u8; 16] = b"berth-compiled-1";
const SEAL_BYTES: usize = 32;

/// The folder, with what seals its entries.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    secret: Secret,
    limit: u64,
}

/// Prints nothing of itself.
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Cache {
    /// Opens the folder, and makes it and its secret where there is none.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else could have written into it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let folder = fs::symlink_metadata(dir)?;
        if !folder.is_dir() || !is_private(&folder) {
            return Err(io::Error::other(format!(
                "{} is not a folder of this user alone (0700)",
                dir.display()
            )));
        }
        let path = dir.join(SECRET);
        let secret = match read_private(&path, 32) {
            Ok(bytes) if bytes.len() == 32 => bytes,
            // What was sealed with another one is compiled again.
            _ => new_secret(&path)?,
        };
        let secret = secret.try_into().map_err(|_| io::Error::other("the secret is no secret"))?;
        Ok(Self { dir: dir.to_owned(), secret: Secret(secret), limit: LIMIT })
    }

    /// Where the entries lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was compiled of the module with that digest before, if anything.
    ///
    /// # Errors
    /// When it needs more than a call may use here.
    pub fn get(&self, engine: &Engine, module: Digest) -> Result<Option<Component>, Problem> {
        let path = self.path(engine, module);
        let entry = match read_private(&path, self.limit) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled code is not used and made again");
                return Ok(None);
            }
        };
        match self.open_entry(engine, module, &entry) {
            Ok(component) => {
                // Used now; an entry whose time cannot be set is only removed sooner.
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Ok(Some(component))
            }
            Err(problem @ Problem::DoesNotFit(_)) => Err(problem),
            Err(problem) => {
                tracing::warn!(path = %path.display(), "compiled code is not used and made again: {problem}");
                Ok(None)
            }
        }
    }

    #[expect(unsafe_code, reason = "loading compiled code; see SAFETY")]
    #[expect(clippy::disallowed_methods, reason = "this is the cache")]
    fn open_entry(&self, engine: &Engine, module: Digest, entry: &[u8]) -> Result<Component, Problem> {
        let damaged = |how: &str| Problem::Read(how.to_owned());
        let sealed = entry.strip_prefix(&MAGIC[..]).and_then(|rest| rest.split_at_checked(SEAL_BYTES));
        let (seal, code) = sealed.ok_or_else(|| damaged("it is cut short"))?;
        if *seal != self.seal(engine, module, code) {
            return Err(damaged("it is not what this node has written"));
        }
        // SAFETY: `deserialize` asks for bytes that `Component::serialize` made and nobody has changed. The seal says
        // that: it is a hash over these very bytes, which were read into memory once, and over a secret that only
        // this user can read; `put` makes it over what `serialize` returned, and nothing else is ever sealed.
        let loaded = unsafe { Component::deserialize(engine, code) };
        loaded.map_err(|error| problem_of(&error))
    }

    /// Keeps what was compiled.
    ///
    /// # Errors
    /// Why it cannot be kept, which is no more than a slower start next time.
    pub fn put(&self, engine: &Engine, module: Digest, component: &Component) -> io::Result<()> {
        let code = component.serialize().map_err(|error| io::Error::other(format!("{error:#}")))?;
        let written = self.write(engine, module, &code);
        self.remove_oldest();
        written
    }

    fn write(&self, engine: &Engine, module: Digest, code: &[u8]) -> io::Result<()> {
        let path = self.path(engine, module);
        let seal = self.seal(engine, module, code);
        // In one step, so that a reader finds it whole; not synced, since a torn one is made again.
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir)?;
        for part in [&MAGIC[..], &seal, code] {
            file.write_all(part)?;
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn remove_oldest(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter(|entry| entry.file_name() != SECRET)
            .filter_map(|entry| {
                let found = entry.metadata().ok()?;
                Some((found.modified().ok()?, found.len(), entry.path()))
            })
            .collect();
        entries.sort_unstable();
        let mut all: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if all <= self.limit {
                return;
            }
            if fs::remove_file(&path).is_ok() {
                all -= bytes;
            }
        }
    }

    fn path(&self, engine: &Engine, module: Digest) -> PathBuf {
        self.dir.join(format!("{module}-{:016x}", settings_of(engine)))
    }

    /// Every part has a length of its own or a fixed one, so nothing else hashes to the same.
    fn seal(&self, engine: &Engine, module: Digest, code: &[u8]) -> [u8; SEAL_BYTES] {
        let mut hash = Sha256::new();
        hash.update(self.secret.0);
        hash.update(settings_of(engine).to_be_bytes());
        hash.update(module.to_string());
        hash.update(Sha256::digest(code));
        hash.finalize().into()
    }
}

/// What compiled code depends on: the compiler's version and settings, and this machine's instructions.
fn settings_of(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

/// Whether it is this user's and nobody else can read or write it.
fn is_private(found: &fs::Metadata) -> bool {
    found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0
}

/// The bytes of a private file; an error when it is somebody else's, a link or larger than `most`.
fn read_private(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || !is_private(&found) {
        return Err(io::Error::other("it is not a file of this user alone (0600)"));
    }
    if found.len() > most {
        return Err(io::Error::other("it is larger than it can be"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn new_secret(path: &Path) -> io::Result<Vec<u8>> {
    let mut secret = vec![0; 32];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    // Made private by tempfile.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(&secret)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::{Config, Workshop, WorldKind, host, shipped};
    use super::*;

    struct Kept {
        dir: tempfile::TempDir,
        engine: Engine,
        component: Component,
        module: Digest,
    }

    impl Kept {
        fn new() -> Self {
            let engine = host::sandbox(&Config::default(), 1, &Workshop::IN_MEMORY).unwrap().engine;
            let bytes = shipped::module(WorldKind::SlotReporter);
            let component = Component::from_binary(&engine, bytes).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), engine, component, module: Digest::of(bytes) }
        }

        fn cache(&self) -> Cache {
            Cache::open(&self.dir.path().join("policy-cache")).unwrap()
        }

        /// Whether what is in the file is used.
        fn is_used(&self) -> bool {
            self.cache().get(&self.engine, self.module).unwrap().is_some()
        }

        fn entry(&self) -> PathBuf {
            self.cache().path(&self.engine, self.module)
        }
    }

    #[test]
    fn what_was_compiled_is_found_again_and_is_private() {
        let kept = Kept::new();
        assert!(!kept.is_used());
        kept.cache().put(&kept.engine, kept.module, &kept.component).unwrap();
        assert!(kept.is_used());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = kept.entry().parent().unwrap().to_owned();
        assert_eq!((mode(&dir), mode(&kept.entry()), mode(&dir.join(SECRET))), (0o700, 0o600, 0o600));
        assert!(kept.cache().get(&kept.engine, Digest::of(b"another")).unwrap().is_none());
    }

    #[test]
    fn a_damaged_or_foreign_entry_is_never_loaded() {
        let kept = Kept::new();
        kept.cache().put(&kept.engine, kept.module, &kept.component).unwrap();
        let whole = fs::read(kept.entry()).unwrap();
        let write = |bytes: &[u8]| fs::write(kept.entry(), bytes).unwrap();
        // Cut short, empty, and one bit changed: in the magic, in the seal, in the code.
        for length in [0, 10, MAGIC.len() + 5, MAGIC.len() + SEAL_BYTES, whole.len() / 2, whole.len() - 1] {
            write(&whole[..length]);
            assert!(!kept.is_used(), "{length} of {} bytes", whole.len());
        }
        for at in [0, MAGIC.len(), MAGIC.len() + SEAL_BYTES, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            write(&changed);
            assert!(!kept.is_used(), "byte {at}");
        }
        write(&whole);
        assert!(kept.is_used());

        // Another module's code under this one's name.
        let other = kept.cache().path(&kept.engine, Digest::of(b"another"));
        fs::copy(kept.entry(), &other).unwrap();
        assert!(kept.cache().get(&kept.engine, Digest::of(b"another")).unwrap().is_none());
        // Somebody else could have written it; it is a link.
        fs::set_permissions(kept.entry(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(!kept.is_used());
        fs::set_permissions(kept.entry(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(kept.is_used());
        fs::rename(kept.entry(), kept.dir.path().join("moved")).unwrap();
        symlink(kept.dir.path().join("moved"), kept.entry()).unwrap();
        assert!(!kept.is_used());
    }

    #[test]
    fn what_another_node_has_sealed_counts_for_nothing() {
        let kept = Kept::new();
        kept.cache().put(&kept.engine, kept.module, &kept.component).unwrap();
        fs::remove_file(kept.entry().with_file_name(SECRET)).unwrap();
        assert!(!kept.is_used());
        let dir = kept.dir.path().join("policy-cache");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Cache::open(&dir).is_err(), "others can look into it");
    }

    #[test]
    fn the_folder_stays_small_and_what_was_used_last_stays() {
        let kept = Kept::new();
        let mut cache = kept.cache();
        let names = ["a", "b", "c"].map(|name| Digest::of(name.as_bytes()));
        for (seconds, name) in (0..).zip(names) {
            cache.put(&kept.engine, name, &kept.component).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::open(cache.path(&kept.engine, name)).unwrap().set_modified(at).unwrap();
        }
        assert!(cache.get(&kept.engine, names[0]).unwrap().is_some(), "that makes it the newest");
        let one = fs::metadata(cache.path(&kept.engine, names[0])).unwrap().len();
        cache.limit = 2 * one;
        cache.remove_oldest();
        let there = names.map(|name| cache.path(&kept.engine, name).exists());
        assert_eq!(there, [true, false, true]);
    }
}
