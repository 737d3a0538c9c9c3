//! The control socket in the file system: where it lies, who may reach it, and what to do with an old one.
//!
//! The socket is as good as root on the host, by what it can mount (design §9). So its directory is made
//! 0700 and, where others can write beside it, checked for its owner, by the agent and by the client alike;
//! and every connection's peer is asked for by `SO_PEERCRED`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::ControlError;

/// Longest path of a unix socket (`sun_path`, unix(7)).
const PATH_MAX: usize = 107;

/// Where the agent of this user has its socket: `/run/berth/berth.sock` as root, else below
/// `$XDG_RUNTIME_DIR` when that is the user's own directory, else below `/tmp/berth-<uid>`.
#[must_use]
pub fn default_path() -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    default_path_for(rustix::process::geteuid().as_raw(), runtime_dir.as_deref())
}

fn default_path_for(uid: u32, runtime_dir: Option<&Path>) -> PathBuf {
    let own = |dir: &&Path| {
        dir.is_absolute() && fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == uid)
    };
    match runtime_dir.filter(own) {
        _ if uid == 0 => PathBuf::from("/run/berth/berth.sock"),
        Some(dir) => dir.join("berth/berth.sock"),
        None => PathBuf::from(format!("/tmp/berth-{uid}/berth.sock")),
    }
}

/// Whether nobody else can have put the socket there: its directory must be a directory that belongs to
/// this user (or root), and that not everybody may write to. A missing directory is fine.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_directory(socket: &Path) -> Result<(), String> {
    let dir = parent(socket);
    let link = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| format!("{}: {error}", dir.display()))?,
    };
    let found = fs::metadata(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let me = rustix::process::geteuid().as_raw();
    let foreign = |uid: u32| uid != me && uid != 0;
    if !found.is_dir() {
        return Err(format!("{} is no directory", dir.display()));
    }
    if foreign(link.uid()) || foreign(found.uid()) {
        let owner = if foreign(found.uid()) { found.uid() } else { link.uid() };
        return Err(format!("{} belongs to uid {owner}, not to you", dir.display()));
    }
    if found.mode() & 0o1002 == 0o002 {
        return Err(format!("everybody may write to {}", dir.display()));
    }
    Ok(())
}

/// A listening socket and the file it left.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The socket's file; removed when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(socket = %self.path.display(), %error, "the control socket could not be removed");
        }
    }
}

/// Binds the control socket, 0600, or 0660 and the group's when there is one. A socket that nobody answers
/// on is replaced.
pub(super) fn bind(path: &Path, group: Option<Gid>) -> Result<Bound, ControlError> {
    if path.as_os_str().len() > PATH_MAX {
        return Err(ControlError::PathTooLong { path: path.to_owned() });
    }
    let failed =
        |what: &'static str, error: io::Error| ControlError::Socket { path: path.to_owned(), what, error };

    let dir = parent(path);
    make_directory(dir, group).map_err(|error| failed("its directory could not be made", error))?;
    check_directory(path).map_err(|problem| ControlError::Directory { path: path.to_owned(), problem })?;

    // Held until this returns, so that of two agents that find the same stale socket one replaces it and
    // the other finds it answered.
    let lock = File::open(dir).map_err(|error| failed("its directory could not be opened", error))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| failed("its directory could not be locked", error.into()))?;

    match probe(path).map_err(|error| failed("it could not be probed", error))? {
        Found::Nothing => {}
        Found::Stale => {
            tracing::info!(socket = %path.display(), "replacing a control socket that nobody answers on");
            fs::remove_file(path).map_err(|error| failed("the stale socket could not be removed", error))?;
        }
        Found::Live(pid) => return Err(ControlError::AlreadyRunning { path: path.to_owned(), pid }),
        Found::Other => return Err(ControlError::NotASocket { path: path.to_owned() }),
    }

    let listener = UnixListener::bind(path).map_err(|error| failed("it could not be bound", error))?;
    let found = fs::symlink_metadata(path).map_err(|error| failed("it could not be read", error))?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    if let Some(group) = group {
        rustix::fs::chown(path, None, Some(group))
            .map_err(|error| failed("it could not be given to its group", error.into()))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| failed("its permissions could not be set", error))?;
    listener.set_nonblocking(true).map_err(|error| failed("it could not be made non-blocking", error))?;
    Ok(Bound { listener, file })
}

/// A directory that we make is the user's alone, or its group's to enter.
fn make_directory(dir: &Path, group: Option<Gid>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if let Some(group) = group {
        rustix::fs::chown(dir, None, Some(group))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o750))?;
    }
    Ok(())
}

fn parent(socket: &Path) -> &Path {
    match socket.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// What lies where the socket should.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Stale,
    Live(Option<i32>),
    Other,
}

fn probe(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        // connect(2) says "refused" for an ordinary file too.
        Ok(found) if !found.file_type().is_socket() => return Ok(Found::Other),
        Ok(_) => {}
    }
    // Non-blocking: an agent that hangs has a full backlog, and is there all the same.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {
            let peer = rustix::net::sockopt::socket_peercred(&socket).ok();
            Ok(Found::Live(peer.map(|peer| peer.pid.as_raw_nonzero().get())))
        }
        Err(rustix::io::Errno::AGAIN) => Ok(Found::Live(None)),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(Found::Stale),
        Err(rustix::io::Errno::NOENT) => Ok(Found::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// The group of that name or number. Names are looked up in `/etc/group` alone.
pub(super) fn find_group(group: &str) -> Result<Gid, ControlError> {
    if let Ok(number) = group.parse::<u32>() {
        return Ok(Gid::from_raw(number));
    }
    fs::read_to_string("/etc/group")
        .ok()
        .and_then(|text| group_in(&text, group))
        .map(Gid::from_raw)
        .ok_or_else(|| ControlError::NoSuchGroup { group: group.to_owned() })
}

fn group_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_in(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("run/berth.sock")
    }

    #[test]
    fn the_default_lies_where_only_its_user_can_write() {
        let own = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(default_path_for(0, Some(own.path())), Path::new("/run/berth/berth.sock"));
        assert_eq!(default_path_for(4242, None), Path::new("/tmp/berth-4242/berth.sock"));
        assert_eq!(
            default_path_for(4242, Some(Path::new("relative"))),
            Path::new("/tmp/berth-4242/berth.sock")
        );
        // Somebody else's runtime directory, as `su` leaves it behind.
        let other = if uid == 4242 { 4243 } else { 4242 };
        assert_eq!(
            default_path_for(other, Some(own.path())),
            PathBuf::from(format!("/tmp/berth-{other}/berth.sock"))
        );
        if uid != 0 {
            assert_eq!(default_path_for(uid, Some(own.path())), own.path().join("berth/berth.sock"));
        }
    }

    #[test]
    fn the_socket_and_its_directory_are_the_users_alone_and_go_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        let bound = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_may_enter_the_directory_and_use_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        let _bound = bind(&path, Some(rustix::process::getegid())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(probe(&path).unwrap(), Found::Stale);
        let _bound = bind(&path, None).unwrap();
        assert!(matches!(probe(&path).unwrap(), Found::Live(_)));
    }

    #[test]
    fn a_live_socket_is_left_alone_and_its_owner_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        let _first = bind(&path, None).unwrap();
        let error = bind(&path, None).unwrap_err();
        let me = std::process::id();
        assert_eq!(
            error.to_string(),
            format!("a berth agent is already running at {} (pid {me})", path.display())
        );
        assert!(matches!(probe(&path).unwrap(), Found::Live(_)), "the first still answers");
    }

    #[test]
    fn a_socket_of_a_later_agent_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        let first = bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        // Keeps the inode's number from being used again at once.
        let _second = bind(&path, None).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berth.sock");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path, None), Err(ControlError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_directory_that_everybody_writes_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_in(&dir);
        let parent = path.parent().unwrap();
        fs::create_dir(parent).unwrap();
        fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(bind(&path, None), Err(ControlError::Directory { .. })));
        fs::set_permissions(parent, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(bind(&path, None).is_ok(), "sticky, like /tmp: a name that was chosen");
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(110));
        assert!(matches!(bind(&path, None), Err(ControlError::PathTooLong { .. })));
    }

    #[test]
    fn groups_are_found_by_name_or_number() {
        let text = "root:x:0:\nberth:x:987:ann,bob\nbroken\n";
        assert_eq!(group_in(text, "berth"), Some(987));
        assert_eq!(group_in(text, "bert"), None);
        assert_eq!(find_group("12").unwrap().as_raw(), 12);
        assert!(find_group("no-such-group-of-berth").is_err());
    }
}
