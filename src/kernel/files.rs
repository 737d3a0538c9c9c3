//! Files of a kernel: in and out of its work folder and of what is mounted below (contracts: kernel §6).
//!
//! Paths are what the kernel sees, relative to its work folder. A mount of a host folder is reached by its source,
//! as the plan has it; one that is read-only stays so. The work is done by a thread per transfer that has the
//! kernel's user as its own: it opens the folders as the agent, then may no more than the kernel's processes may, and
//! what it makes belongs to them. Such a thread cannot go back into a pool. Everything below an opened folder is
//! [`tree`](crate::tree)'s: never over a link.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{KernelError, KernelView, Kernels, Phase};
use crate::engine::{Layout, MountKind, MountSpec};
use crate::ids::KernelRef;
use crate::tree::list::{Listing, list};
use crate::tree::pack::{Packer, Step};
use crate::tree::whole::Meta;
use crate::tree::{Carried, Graft, Note, Roots, TreeError, normal, pieces, unpack, whole};

/// What a listing looks at at most.
pub const LISTED_MAX: usize = 100_000;

/// The work folder as kernels in containers see it (contracts: kernel §2.5).
const HOME: &str = "/home/work";
/// Transfers at once; each has a thread.
const TRANSFERS: usize = 32;
/// Pieces that may wait.
const QUEUE: usize = 4;
/// Notes of an upload that are told; more are counted.
const NOTES_MAX: usize = 100;

/// The way to the files of all kernels. Clones are one.
#[derive(Debug, Clone)]
pub struct Files {
    kernels: Kernels,
    room: Arc<Semaphore>,
}

/// What comes out of a kernel, in order. The end of the channel is the end of what was asked for.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the archive, or of the file.
    Data(Bytes),
    /// Something in it is not as it was.
    Note(Note),
    /// It came to nothing. Last.
    Failed(KernelError),
}

/// What went into a kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// How much.
    pub carried: Carried,
    /// What was left out, the first hundred.
    pub notes: Vec<Note>,
    /// How many more notes there were.
    pub more_notes: u64,
}

/// What is on its way into a kernel. An empty piece is its end; a channel that ends without one, or an error, says that it
/// did not arrive whole.
pub type Incoming = mpsc::Receiver<io::Result<Bytes>>;

impl Files {
    /// The files of these kernels.
    #[must_use]
    pub fn new(kernels: Kernels) -> Self {
        Self { kernels, room: Arc::new(Semaphore::new(TRANSFERS)) }
    }

    /// Writes one file, made with what is missing above it, under its name when it is whole. Returns its size in
    /// bytes (`upload_file`).
    ///
    /// # Errors
    /// `no-such-kernel`, `not-running`, `outside-work-folder`, `read-only`, `no-space`, or the system's refusal.
    pub async fn write(
        &self,
        which: &KernelRef,
        path: &str,
        meta: Meta,
        content: Incoming,
    ) -> Result<u64, KernelError> {
        let (view, path) = self.writable(which, path)?;
        let mut content = reader(content);
        self.work(view, path, move |roots, path| whole::write(roots, path, meta, &mut content)).await?
    }

    /// Unpacks a tar archive into the folder at `path`, which is made if it is missing.
    ///
    /// # Errors
    /// As of [`Self::write`], and `bad-archive`. What was unpacked before stays, each file whole.
    pub async fn unpack(
        &self,
        which: &KernelRef,
        path: &str,
        archive: Incoming,
    ) -> Result<Received, KernelError> {
        let (view, path) = self.writable(which, path)?;
        let archive = reader(archive);
        let unpacking = self.work(view, path, move |roots, path| {
            let mut received = Received::default();
            let mut watch = |step| match step {
                Step::Note(note) if received.notes.len() < NOTES_MAX => received.notes.push(note),
                Step::Note(_) => received.more_notes += 1,
                Step::Carried { .. } => {}
            };
            let carried = unpack::unpack(roots, path, archive, &mut watch)?;
            Ok(Received { carried, ..received })
        });
        unpacking.await?
    }

    /// What lies at `path`, as a tar archive of at most `limit` bytes in which it is called `name`; none: its own
    /// name (`download_file`). Dropping the receiver ends it.
    ///
    /// # Errors
    /// `no-such-kernel`, `outside-work-folder`, `busy`; what comes later is [`Piece::Failed`].
    pub fn pack(
        &self,
        which: &KernelRef,
        path: &str,
        name: Option<&str>,
        limit: Option<u64>,
    ) -> Result<mpsc::Receiver<Piece>, KernelError> {
        let (view, path) = self.readable(which, path)?;
        let name = match name {
            Some(name) => normal(Path::new(name)).ok_or_else(|| outside(name))?,
            None => path.file_name().map(PathBuf::from).unwrap_or_default(),
        };
        let name = if name.as_os_str().is_empty() { PathBuf::from(".") } else { name };
        self.stream(view, path, move |roots, path, out| {
            let mut watch = |step| {
                if let Step::Note(note) = step {
                    // Who hung up is noticed by the next piece.
                    let _ = out.blocking_send(Piece::Note(note));
                }
            };
            let mut packer = Packer::new(writer(out), limit, &mut watch);
            packer.add(roots, path, &name)?;
            packer.finish().map(drop)
        })
    }

    /// What is in the regular file at `path`, which may have at most `limit` bytes (`download_single`).
    ///
    /// # Errors
    /// As of [`Self::pack`].
    pub fn read(
        &self,
        which: &KernelRef,
        path: &str,
        limit: Option<u64>,
    ) -> Result<mpsc::Receiver<Piece>, KernelError> {
        let (view, path) = self.readable(which, path)?;
        self.stream(view, path, move |roots, path, out| {
            let missing = whole::read(roots, path, limit, &mut writer(out))?;
            if let Some(note) = missing {
                let _ = out.blocking_send(Piece::Note(note));
            }
            Ok(())
        })
    }

    /// What lies at `path`, and in it, up to `most` entries and [`LISTED_MAX`] (`list_files`).
    ///
    /// # Errors
    /// `no-such-kernel`, `outside-work-folder`, `no-such-file`, `busy`, or the system's refusal.
    pub async fn list(&self, which: &KernelRef, path: &str, most: usize) -> Result<Listing, KernelError> {
        let (view, path) = self.readable(which, path)?;
        self.work(view, path, move |roots, path| list(roots, path, most.min(LISTED_MAX))).await?
    }

    fn readable(&self, which: &KernelRef, path: &str) -> Result<(KernelView, PathBuf), KernelError> {
        let view = self.kernels.get(which)?;
        let path = within(&self.home(&view), path).ok_or_else(|| outside(path))?;
        Ok((view, path))
    }

    fn writable(&self, which: &KernelRef, path: &str) -> Result<(KernelView, PathBuf), KernelError> {
        let (view, path) = self.readable(which, path)?;
        if view.phase != Phase::Running {
            let message = format!("kernel {} is not running", view.name);
            return Err(
                KernelError::new("not-running", message).hint("its files can still be copied out of it")
            );
        }
        Ok((view, path))
    }

    /// The work folder as the kernel sees it.
    fn home(&self, view: &KernelView) -> PathBuf {
        match self.kernels.engine().layout() {
            Layout::Container => PathBuf::from(HOME),
            Layout::Host => view.work_dir.clone(),
        }
    }

    /// Runs `work` as the kernel's user, with what of its folders matters for `path`. The kernel stays meanwhile.
    async fn work<T: Send + 'static>(
        &self,
        view: KernelView,
        path: PathBuf,
        work: impl FnOnce(&Roots, &Path) -> Result<T, TreeError> + Send + 'static,
    ) -> Result<Result<T, KernelError>, KernelError> {
        let (done, answer) = oneshot::channel();
        self.begin(view, path, move |opened| {
            let came = opened
                .and_then(|(roots, path, uid)| work(&roots, &path).map_err(|error| explain(error, uid)));
            // Who asked may be gone.
            let _ = done.send(came);
        })?;
        answer.await.map_err(|_| KernelError::new("internal", "the transfer failed inside the agent"))
    }

    fn stream(
        &self,
        view: KernelView,
        path: PathBuf,
        work: impl FnOnce(&Roots, &Path, &mpsc::Sender<Piece>) -> Result<(), TreeError> + Send + 'static,
    ) -> Result<mpsc::Receiver<Piece>, KernelError> {
        let (out, pieces) = mpsc::channel(QUEUE);
        self.begin(view, path, move |opened| {
            let came = opened.and_then(|(roots, path, uid)| {
                work(&roots, &path, &out).map_err(|error| explain(error, uid))
            });
            if let Err(error) = came {
                let _ = out.blocking_send(Piece::Failed(error));
            }
        })?;
        Ok(pieces)
    }

    /// Starts the thread of a transfer.
    fn begin(
        &self,
        view: KernelView,
        path: PathBuf,
        work: impl FnOnce(Result<(Roots, PathBuf, u32), KernelError>) + Send + 'static,
    ) -> Result<(), KernelError> {
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            KernelError::new("busy", format!("{TRANSFERS} transfers of files go on already"))
                .hint("try again when one of them has ended")
        })?;
        let (lease, home) = (self.kernels.lease(view.id), self.home(&view));
        let body = move || {
            let _held = (permit, lease);
            let opened = roots(&view, &home, &path).map_err(|error| explain(error, view.runs_as.0));
            let opened = opened.and_then(|roots| {
                act_as(view.runs_as).map_err(|errno| {
                    let problem = io::Error::from(errno);
                    KernelError::new(
                        "files-failed",
                        format!("the agent cannot act as uid {}: {problem}", view.runs_as.0),
                    )
                })?;
                Ok((roots, path, view.runs_as.0))
            });
            work(opened);
        };
        std::thread::Builder::new()
            .name("files".to_owned())
            .spawn(body)
            .map(drop)
            .map_err(|error| KernelError::new("busy", format!("a transfer could not be started: {error}")))
    }
}

/// A path as somebody gives it, relative to the kernel's work folder; none when it lies elsewhere.
fn within(home: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    // Of a kernel that sees this host's paths, both its own path and the usual one are its work folder.
    let inner = path.strip_prefix(home).or_else(|_| path.strip_prefix(HOME)).unwrap_or(path);
    normal(inner)
}

fn outside(path: &str) -> KernelError {
    KernelError::new("outside-work-folder", format!("{path:?} does not lie below the kernel's work folder"))
        .hint(format!("name a path relative to it, or one that begins with {HOME}/"))
}

/// Opens what matters for a path: the work folder, and what is mounted above the path or below it.
fn roots(view: &KernelView, home: &Path, path: &Path) -> Result<Roots, TreeError> {
    let mut roots = Roots::open(&view.work_dir)?;
    for (at, mount) in mounts(&view.mounts, home) {
        if !(at.starts_with(path) || path.starts_with(&at)) || Path::new(&mount.source) == view.work_dir {
            continue;
        }
        roots.graft(
            at,
            match mount.kind {
                MountKind::Bind => Graft::at(Path::new(&mount.source), mount.read_only),
                MountKind::Volume => Graft::Closed("is a volume, which only the kernel can reach".to_owned()),
                MountKind::Tmpfs => {
                    Graft::Closed("lies in the kernel's memory, which only it can reach".to_owned())
                }
            },
        );
    }
    Ok(roots)
}

/// The mounts in the work folder, by their path in it.
fn mounts<'a>(mounts: &'a [MountSpec], home: &Path) -> impl Iterator<Item = (PathBuf, &'a MountSpec)> {
    mounts.iter().filter_map(move |mount| {
        let at = Path::new(&mount.target).strip_prefix(home).ok()?;
        Some((normal(at)?, mount))
    })
}

/// Makes this thread, and no other, act as a kernel's user. Its real user stays, which nothing asks for.
fn act_as((uid, gid): (u32, u32)) -> Result<(), Errno> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (is_uid, is_gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // Of an agent that is not root, all kernels run as its own user.
    if !is_uid.is_root() || (is_uid, is_gid) == (uid, gid) {
        return Ok(());
    }
    set_thread_groups(&[])?;
    set_thread_res_gid(None, gid, None)?;
    set_thread_res_uid(None, uid, None)
}

/// What went wrong, for people; `uid` is who tried.
fn explain(error: TreeError, uid: u32) -> KernelError {
    let message = match &error {
        TreeError::Broken(source) => format!("the transfer broke off: {source}"),
        error => error.to_string(),
    };
    let (code, hint) = match &error {
        TreeError::Outside(_) => ("outside-work-folder", Some("names in it must stay below it".to_owned())),
        TreeError::Link(_) => {
            ("link-in-path", Some("links of a kernel are not followed: name the place itself".to_owned()))
        }
        TreeError::Missing(_) => {
            ("no-such-file", Some("paths are relative to /home/work of the kernel".to_owned()))
        }
        TreeError::Other { .. } => ("wrong-kind-of-file", None),
        TreeError::ReadOnly(_) => ("read-only", Some("use another folder of the kernel".to_owned())),
        TreeError::Closed { .. } => {
            ("out-of-reach", Some("`berth exec` reads and writes it from inside the kernel".to_owned()))
        }
        TreeError::NoSpace(_) => ("no-space", Some("make room there, or mount a larger disk".to_owned())),
        TreeError::TooLarge(_) => ("too-large", None),
        TreeError::Archive(_) => ("bad-archive", Some("give a tar archive that is not packed".to_owned())),
        TreeError::Broken(_) => ("broken-off", None),
        TreeError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => (
            "permission-denied",
            Some(format!("the kernel's user (uid {uid}) may not; see mode and owner there")),
        ),
        TreeError::Io { .. } => ("files-failed", None),
    };
    let told = KernelError::new(code, message);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// What comes in, as something that can be read. A sender that is gone before the end is no end.
fn reader(mut incoming: Incoming) -> impl Read + Send {
    pieces::Incoming::new(move || {
        incoming.blocking_recv().unwrap_or_else(|| Err(io::Error::other("it did not arrive whole")))
    })
}

/// Where what goes out is written.
fn writer(out: &mpsc::Sender<Piece>) -> impl Write {
    let out = out.clone();
    pieces::Outgoing::new(move |piece| {
        out.blocking_send(Piece::Data(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn paths_are_relative_to_the_work_folder_whatever_the_kernel_calls_it() {
        let home = Path::new("/var/lib/berth/scratch/k/work");
        for (path, expected) in [
            ("a/b", Some("a/b")),
            ("", Some("")),
            ("/home/work", Some("")),
            ("/home/work/a/../b", Some("b")),
            ("/var/lib/berth/scratch/k/work/a", Some("a")),
            ("/home/workers", None),
            ("/home/work/../config", None),
            ("..", None),
            ("/etc", None),
        ] {
            assert_eq!(within(home, path), expected.map(PathBuf::from), "{path:?}");
        }
    }

    #[test]
    fn only_mounts_in_the_work_folder_matter() {
        let mount = |target: &str| MountSpec {
            kind: MountKind::Bind,
            source: "/data".to_owned(),
            target: target.to_owned(),
            read_only: false,
        };
        let all = ["/home/work", "/home/work/a/b", "/home/config", "/data", "/home/workers"].map(mount);
        let found: Vec<_> = mounts(&all, Path::new(HOME)).map(|(at, _)| at).collect();
        assert_eq!(found, [Path::new(""), Path::new("a/b")]);
    }

    #[tokio::test]
    async fn what_was_cut_off_is_no_end() {
        let (feed, fed) = mpsc::channel(4);
        feed.send(Ok(Bytes::from("half"))).await.unwrap();
        drop(feed);
        let read = |mut reader: Box<dyn Read + Send>| async move {
            let mut text = String::new();
            tokio::task::spawn_blocking(move || reader.read_to_string(&mut text).map(|_| text)).await.unwrap()
        };
        let cut = read(Box::new(reader(fed))).await.unwrap_err();
        assert_eq!(cut.to_string(), "it did not arrive whole");
        let (feed, fed) = mpsc::channel(4);
        for piece in ["wh", "ole", ""] {
            feed.send(Ok(Bytes::from(piece))).await.unwrap();
        }
        assert_eq!(read(Box::new(reader(fed))).await.unwrap(), "whole");
    }

    #[test]
    fn a_thread_acts_as_the_kernels_user_and_no_other_does() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only a root agent has kernels of other users");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(1234), Some(4321)).unwrap();
        fs::write(dir.path().join("locked"), "x").unwrap();
        fs::set_permissions(dir.path().join("locked"), fs::Permissions::from_mode(0o600)).unwrap();
        let roots = Roots::open(dir.path()).unwrap();
        let theirs = std::thread::spawn(move || {
            act_as((1234, 4321)).unwrap();
            let meta = Meta { mode: 0o640, mtime: None };
            whole::write(&roots, Path::new("a/b"), meta, &mut io::empty()).unwrap();
            whole::read(&roots, Path::new("locked"), None, &mut io::sink())
                .map_err(|error| explain(error, 1234))
        });
        let refused = theirs.join().unwrap().unwrap_err();
        assert_eq!(refused.code, "permission-denied");
        assert_eq!(refused.hint.unwrap(), "the kernel's user (uid 1234) may not; see mode and owner there");
        for name in ["a", "a/b"] {
            let made = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!((made.uid(), made.gid()), (1234, 4321), "{name}");
        }
        assert!(rustix::process::geteuid().is_root());
    }
}
