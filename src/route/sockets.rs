//! Sockets of a kernel: the files in its link directory and the PUSH and PULL bound to them.
//!
//! The files are made by the caller's thread ([`prepare`]), as ordinary listening Unix sockets; libzmq
//! gets the descriptors (`ZMQ_USE_FD`). So the files are ours to name, to chmod and to remove. Left to
//! itself libzmq removes a socket file by its path on its own thread some time after the close, and the
//! path here goes through a descriptor number (`/proc/self/fd/N`, because a socket's path may have only
//! 107 bytes) that by then can mean the directory of another kernel.

use std::fmt;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_link::{SOCKET_IN, SOCKET_OUT};
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use zmq::{DONTWAIT, Message, SNDMORE, Socket, SocketType};

use super::RouteError;
use super::inbox::Inbox;
use crate::ids::KernelId;

/// Messages that libzmq may hold of one kernel; with [`berth_link::MESSAGE_MAX`] at most 64 MiB (design
/// §3). With only a few each hand-over between libzmq's thread and ours would carry two records
/// (`docs/performance.md`).
const PULL_MESSAGES: i32 = 64;
/// Received frames up to this size lie in libzmq's 8 KiB read buffer, which the whole buffer stays for:
/// they are copied, so that a record of 60 bytes does not hold 8 KiB.
const COPY_UP_TO: usize = 8 << 10;
/// Sockets of one context; libzmq's own limit is 1023 and closed ones leave a little later.
const SOCKETS_PER_CONTEXT: usize = 900;

/// A kernel's link directory while it is in use. Dropping it removes the two socket files.
#[derive(Debug)]
pub(super) struct LinkDir {
    path: PathBuf,
    dir: OwnedFd,
    kernel: KernelId,
    inbox: Arc<Inbox>,
}

impl LinkDir {
    /// The directory, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LinkDir {
    fn drop(&mut self) {
        for name in [SOCKET_IN, SOCKET_OUT] {
            // Gone already (with its directory, perhaps) is as good.
            let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
        }
        self.inbox.release(self.kernel);
    }
}

/// A link directory with its listening sockets.
#[derive(Debug)]
pub(super) struct Link {
    listen_in: UnixListener,
    listen_out: UnixListener,
    pub(super) dir: LinkDir,
}

/// Makes the socket files of a kernel anew, removing what an earlier agent left.
pub(super) fn prepare(inbox: &Arc<Inbox>, kernel: KernelId, path: &Path) -> Result<Link, RouteError> {
    if !inbox.reserve(kernel) {
        return Err(RouteError::AlreadyAttached(kernel));
    }
    let refuse =
        |problem: std::io::Error| RouteError::Bind { dir: path.to_owned(), problem: problem.to_string() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(problem) => {
            inbox.release(kernel);
            return Err(refuse(problem.into()));
        }
    };
    // From here on a failure removes the files and the reservation by `Drop`.
    let dir = LinkDir { path: path.to_owned(), dir, kernel, inbox: Arc::clone(inbox) };
    let listen_in = listen(&dir, SOCKET_IN).map_err(refuse)?;
    let listen_out = listen(&dir, SOCKET_OUT).map_err(refuse)?;
    Ok(Link { listen_in, listen_out, dir })
}

fn listen(dir: &LinkDir, name: &str) -> std::io::Result<UnixListener> {
    match rustix::fs::unlinkat(&dir.dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(problem) => return Err(problem.into()),
    }
    let listener = UnixListener::bind(path_in(dir, name))?;
    // Whatever uid the kernel's processes have; the directory's parent is 0700 (design §5).
    rustix::fs::chmodat(&dir.dir, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn path_in(dir: &LinkDir, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.dir.as_raw_fd())
}

/// Contexts, as many as the sockets need: the `zmq` crate has no way to raise `ZMQ_MAX_SOCKETS`.
#[derive(Default)]
pub(super) struct Contexts {
    contexts: Vec<(zmq::Context, usize)>,
}

impl Contexts {
    fn take(&mut self, sockets: usize) -> (usize, zmq::Context) {
        let free = self.contexts.iter().position(|(_, used)| used + sockets <= SOCKETS_PER_CONTEXT);
        let at = free.unwrap_or_else(|| {
            self.contexts.push((zmq::Context::new(), 0));
            self.contexts.len() - 1
        });
        self.contexts[at].1 += sockets;
        (at, self.contexts[at].0.clone())
    }

    fn give_back(&mut self, at: usize, sockets: usize) {
        if let Some((_, used)) = self.contexts.get_mut(at) {
            *used = used.saturating_sub(sockets);
        }
    }
}

/// The two sockets of a kernel. They never leave the routing thread.
pub(super) struct Pair {
    push: Socket,
    pull: Socket,
    context: usize,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// What a read of the PULL found.
pub(super) enum Received {
    /// Nothing is there.
    Nothing,
    /// Type and payload.
    Message(Message, Message),
    /// Not two frames; how many bytes they had together.
    Malformed(usize),
}

impl Pair {
    /// Gives the listeners to two new sockets.
    pub(super) fn bind(contexts: &mut Contexts, link: Link) -> Result<(Self, LinkDir), zmq::Error> {
        let Link { listen_in, listen_out, dir } = link;
        let (at, context) = contexts.take(2);
        let open = |kind, listener, name| -> Result<Socket, zmq::Error> {
            let mut socket = context.socket(kind)?;
            socket.set_linger(0)?;
            if kind == SocketType::PULL {
                socket.set_maxmsgsize(i64::try_from(berth_link::MESSAGE_MAX).unwrap_or(i64::MAX))?;
                socket.set_rcvhwm(PULL_MESSAGES)?;
            }
            adopt(&mut socket, listener, &path_in(&dir, name))?;
            Ok(socket)
        };
        let sockets = open(SocketType::PUSH, listen_in, SOCKET_IN)
            .and_then(|push| Ok((push, open(SocketType::PULL, listen_out, SOCKET_OUT)?)));
        match sockets {
            Ok((push, pull)) => Ok((Self { push, pull, context: at }, dir)),
            Err(error) => {
                contexts.give_back(at, 2);
                Err(error)
            }
        }
    }

    /// Closes both; nothing lingers.
    pub(super) fn close(self, contexts: &mut Contexts) {
        contexts.give_back(self.context, 2);
    }

    /// The descriptors that become readable when the sockets want attention: PUSH, PULL.
    pub(super) fn fds(&self) -> Result<[i32; 2], zmq::Error> {
        Ok([self.push.get_fd()?, self.pull.get_fd()?])
    }

    /// Reads one message without waiting. After `Nothing` the PULL's descriptor will fire again.
    pub(super) fn recv(&self) -> Received {
        let Ok(kind) = self.pull.recv_msg(DONTWAIT) else { return Received::Nothing };
        if !kind.get_more() {
            return Received::Malformed(kind.len());
        }
        // The frames of a message arrive together.
        let Ok(payload) = self.pull.recv_msg(DONTWAIT) else { return Received::Malformed(kind.len()) };
        if !payload.get_more() {
            return Received::Message(kind, payload);
        }
        let mut bytes = kind.len() + payload.len();
        loop {
            match self.pull.recv_msg(DONTWAIT) {
                Ok(frame) => {
                    bytes += frame.len();
                    if !frame.get_more() {
                        return Received::Malformed(bytes);
                    }
                }
                Err(_) => return Received::Malformed(bytes),
            }
        }
    }

    /// Sends one message without waiting; false when there is no peer or its queue is full.
    pub(super) fn send(&self, kind: &str, payload: &[u8]) -> bool {
        // Once the first frame is in, the second one is taken too.
        self.push.send(kind, SNDMORE | DONTWAIT).is_ok() && self.push.send(payload, DONTWAIT).is_ok()
    }

    /// Whether the PUSH has a peer with room. Also handles what is in its mailbox, as must be done after
    /// every send and after its descriptor fired, for the descriptor to fire again.
    pub(super) fn is_writable(&self) -> bool {
        self.push.get_events().is_ok_and(|events| events.contains(zmq::POLLOUT))
    }
}

/// The payload without a copy where that does not hold more memory than it has bytes.
pub(super) fn payload(frame: Message) -> Bytes {
    struct Frame(Message);
    impl AsRef<[u8]> for Frame {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    if frame.len() <= COPY_UP_TO { Bytes::copy_from_slice(&frame) } else { Bytes::from_owner(Frame(frame)) }
}

/// Lets a socket accept on a listening descriptor of ours.
#[expect(unsafe_code, reason = "the zmq crate has no setter for ZMQ_USE_FD")]
fn adopt(socket: &mut Socket, listener: UnixListener, path: &str) -> Result<(), zmq::Error> {
    let fd: i32 = listener.as_raw_fd();
    let option = i32::try_from(zmq_sys::ZMQ_USE_FD).map_err(|_| zmq::Error::EINVAL)?;
    // SAFETY: `socket` is open and used by this thread only; the option's value is an int, and libzmq
    // copies the `size_of::<i32>()` bytes at the pointer before the call returns.
    let rc = unsafe {
        zmq_sys::zmq_setsockopt(
            socket.as_mut_ptr(),
            option,
            std::ptr::from_ref(&fd).cast(),
            std::mem::size_of::<i32>(),
        )
    };
    if rc != 0 {
        return Err(zmq::Error::EINVAL);
    }
    socket.bind(&format!("ipc://{path}"))?;
    // The bind took it over: libzmq closes it with the socket.
    let _ = listener.into_raw_fd();
    Ok(())
}
