//! Sockets of a kernel: the files in its link directory and the PUSH and PULL bound to them, or connected to a
//! runner that listens.
//!
//! The files are made by the caller's thread ([`prepare`]), as ordinary listening Unix sockets; libzmq
//! gets the descriptors (`ZMQ_USE_FD`). So the files are ours to name, to chmod and to remove. Left to
//! itself libzmq removes a socket file by its path on its own thread some time after the close, and the
//! path here goes through a descriptor number (`/proc/self/fd/N`, because a socket's path may have only
//! 107 bytes) that by then can mean the directory of another kernel.

use std::fmt;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use berth_link::{SOCKET_IN, SOCKET_OUT};
use bytes::{Bytes, BytesMut};
use rustix::fs::{AtFlags, Mode, OFlags};
use zmq::{DONTWAIT, Message, SNDMORE, Socket, SocketType};

use super::inbox::Inbox;
use super::{LinkAt, RouteError};
use crate::ids::KernelId;

/// Messages that libzmq may hold of one kernel; with [`berth_link::MESSAGE_MAX`] at most 64 MiB (design
/// §3). With only a few each hand-over between libzmq's thread and ours would carry two records
/// (`docs/performance.md`).
const PULL_MESSAGES: i32 = 64;
/// The same for a runner that listens, whose records may be larger: the reference's sends what Jupyter gives it. So
/// fewer, at most 512 MiB; with 4 of them small records came at 6 % of what `zmq::proxy` does, with 32 at 62 %
/// (`docs/performance.md`).
const DIALLED_MESSAGES: i32 = 32;
/// Largest message of such a runner (design §3).
const DIALLED_MESSAGE_MAX: i64 = 16 << 20;
/// Received frames up to this size lie in libzmq's 8 KiB read buffer, which the whole buffer stays for:
/// they are copied, so that a record of 60 bytes does not hold 8 KiB.
const COPY_UP_TO: usize = 8 << 10;
/// Bytes of small payloads that share an allocation; twice [`COPY_UP_TO`] at least.
const CHUNK: usize = 16 << 10;
/// Sockets of one context; libzmq's own limit is 1023 and closed ones leave a little later.
const SOCKETS_PER_CONTEXT: usize = 900;

/// A kernel's link while it is in use. Dropping it removes the two socket files, where it has some.
#[derive(Debug)]
pub(super) struct Place {
    at: LinkAt,
    dir: Option<OwnedFd>,
    kernel: KernelId,
    inbox: Arc<Inbox>,
}

impl Place {
    /// Where the link is.
    pub(super) fn at(&self) -> &LinkAt {
        &self.at
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in [SOCKET_IN, SOCKET_OUT] {
            if let Some(dir) = &self.dir {
                // Gone already (with its directory, perhaps) is as good.
                let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
            }
        }
        self.inbox.release(self.kernel);
    }
}

/// A link that is ready for its sockets.
#[derive(Debug)]
pub(super) struct Link {
    ends: Ends,
    pub(super) place: Place,
}

/// Who waits for whom.
#[derive(Debug)]
enum Ends {
    /// The runner connects to these.
    Listening { listen_in: UnixListener, listen_out: UnixListener },
    /// The runner listens.
    Dialled { port_in: u16, port_out: u16 },
}

/// Prepares a kernel's link; makes its socket files anew, removing what an earlier agent left.
pub(super) fn prepare(inbox: &Arc<Inbox>, kernel: KernelId, at: LinkAt) -> Result<Link, RouteError> {
    if !inbox.reserve(kernel) {
        return Err(RouteError::AlreadyAttached(kernel));
    }
    // From here on a failure removes the files and the reservation by `Drop`.
    let mut place = Place { at, dir: None, kernel, inbox: Arc::clone(inbox) };
    let ends = open_ends(&mut place);
    match ends {
        Ok(ends) => Ok(Link { ends, place }),
        Err(problem) => Err(RouteError::Bind { at: place.at.clone(), problem: problem.to_string() }),
    }
}

fn open_ends(place: &mut Place) -> std::io::Result<Ends> {
    let path = match &place.at {
        LinkAt::Directory(path) => path,
        LinkAt::Loopback { port_in, port_out } => {
            return Ok(Ends::Dialled { port_in: *port_in, port_out: *port_out });
        }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    let dir = place.dir.insert(dir);
    let listen_in = listen(dir, SOCKET_IN)?;
    let listen_out = listen(dir, SOCKET_OUT)?;
    Ok(Ends::Listening { listen_in, listen_out })
}

fn listen(dir: &OwnedFd, name: &str) -> std::io::Result<UnixListener> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(problem) => return Err(problem.into()),
    }
    let listener = UnixListener::bind(path_in(dir, name))?;
    // Whatever uid the kernel's processes have; the directory's parent is 0700 (design §5).
    rustix::fs::chmodat(dir, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn path_in(dir: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
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
    /// A message, in the reader.
    Message,
    /// Not two frames; how many bytes they had together.
    Malformed(usize),
}

impl Pair {
    /// Opens two new sockets on a link.
    pub(super) fn open(contexts: &mut Contexts, link: Link) -> Result<(Self, Place), zmq::Error> {
        let Link { ends, place } = link;
        let (at, context) = contexts.take(2);
        let sockets = match (ends, &place.dir) {
            (Ends::Listening { listen_in, listen_out }, Some(dir)) => {
                bind(&context, dir, listen_in, listen_out)
            }
            (Ends::Dialled { port_in, port_out }, _) => dial(&context, port_in, port_out),
            // Listeners come with their directory.
            (Ends::Listening { .. }, None) => Err(zmq::Error::EINVAL),
        };
        match sockets {
            Ok((push, pull)) => Ok((Self { push, pull, context: at }, place)),
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
    pub(super) fn recv(&self, reader: &mut Reader) -> Received {
        let Reader { kind, payload, .. } = reader;
        if self.pull.recv(kind, DONTWAIT).is_err() {
            return Received::Nothing;
        }
        if !kind.get_more() {
            return Received::Malformed(kind.len());
        }
        // The frames of a message arrive together.
        if self.pull.recv(payload, DONTWAIT).is_err() {
            return Received::Malformed(kind.len());
        }
        if !payload.get_more() {
            return Received::Message;
        }
        let mut bytes = kind.len() + payload.len();
        while payload.get_more() && self.pull.recv(payload, DONTWAIT).is_ok() {
            bytes += payload.len();
        }
        Received::Malformed(bytes)
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

/// Gives the listeners to a PUSH and a PULL.
fn bind(
    context: &zmq::Context,
    dir: &OwnedFd,
    listen_in: UnixListener,
    listen_out: UnixListener,
) -> Result<(Socket, Socket), zmq::Error> {
    let mut push = plain(context, SocketType::PUSH)?;
    adopt(&mut push, listen_in, &path_in(dir, SOCKET_IN))?;
    let mut pull = plain(context, SocketType::PULL)?;
    pull.set_maxmsgsize(i64::try_from(berth_link::MESSAGE_MAX).unwrap_or(i64::MAX))?;
    pull.set_rcvhwm(PULL_MESSAGES)?;
    adopt(&mut pull, listen_out, &path_in(dir, SOCKET_OUT))?;
    Ok((push, pull))
}

/// Connects to a runner that listens on this host's loopback (contracts: kernel §1.1).
fn dial(context: &zmq::Context, port_in: u16, port_out: u16) -> Result<(Socket, Socket), zmq::Error> {
    let push = plain(context, SocketType::PUSH)?;
    // A connection that is still to be made takes nothing: what it took for a runner that died would go to
    // the one after it.
    push.set_immediate(true)?;
    let pull = plain(context, SocketType::PULL)?;
    pull.set_maxmsgsize(DIALLED_MESSAGE_MAX)?;
    pull.set_rcvhwm(DIALLED_MESSAGES)?;
    for (socket, port) in [(&push, port_in), (&pull, port_out)] {
        // The published port's entry in the host's tables must not be forgotten (contracts: kernel §1.10).
        socket.set_tcp_keepalive(1)?;
        socket.set_tcp_keepalive_idle(60)?;
        socket.set_tcp_keepalive_intvl(20)?;
        socket.set_tcp_keepalive_cnt(3)?;
        socket.connect(&format!("tcp://127.0.0.1:{port}"))?;
    }
    Ok((push, pull))
}

fn plain(context: &zmq::Context, kind: SocketType) -> Result<Socket, zmq::Error> {
    let socket = context.socket(kind)?;
    socket.set_linger(0)?;
    Ok(socket)
}

/// Messages of one kernel's turn, read into the same two frames. Small payloads are copied, many to one allocation:
/// what is kept of a turn holds what else was copied in it, so it is one kernel's only, and small.
#[derive(Debug)]
pub(super) struct Reader {
    kind: Message,
    payload: Message,
    chunk: BytesMut,
    /// One small payload was copied in this turn.
    copied: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { kind: Message::new(), payload: Message::new(), chunk: BytesMut::new(), copied: false }
    }

    /// The type of the message that was read last.
    pub(super) fn kind(&self) -> &[u8] {
        &self.kind
    }

    /// Bytes of that message.
    pub(super) fn bytes(&self) -> usize {
        self.kind.len() + self.payload.len()
    }

    /// Its payload, without a copy where that does not hold more memory than it has bytes.
    pub(super) fn take_payload(&mut self) -> Bytes {
        struct Frame(Message);
        impl AsRef<[u8]> for Frame {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if self.payload.len() > COPY_UP_TO {
            return Bytes::from_owner(Frame(std::mem::replace(&mut self.payload, Message::new())));
        }
        // One message in a turn is what most turns have.
        if !std::mem::replace(&mut self.copied, true) {
            return Bytes::copy_from_slice(&self.payload);
        }
        if self.chunk.capacity() < self.payload.len() {
            self.chunk = BytesMut::with_capacity(CHUNK);
        }
        self.chunk.extend_from_slice(&self.payload);
        self.chunk.split().freeze()
    }
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
