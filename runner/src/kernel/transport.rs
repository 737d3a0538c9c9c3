//! The two sockets: one thread receives operations, one sends the outbox.
//!
//! Where the link directory exists this side connects, for ever, so that an agent may go away and come
//! back; else it listens on TCP and the peer that shook hands last wins ([`super::lobby`], design §5). A message whose write
//! broke half-way is sent again whole on the next connection: the peer discards the half.
//!
//! What was written is the peer's: as with every PUSH socket, what an agent that is killed had taken but
//! not read is gone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::console::Console;
use super::lobby::{Lobby, Peer};
use super::outbox::{Message, Outbox};
use crate::zmtp::{ProtocolError, Session, SocketType, encode_message};

/// Pauses between attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A peer that has not shaken hands by then is given up (libzmq's ZMQ_HANDSHAKE_IVL).
const HANDSHAKE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// Written at once.
const BATCH: usize = 128 * 1024;
/// Longest path of a unix socket (unix(7)), without the final zero.
const SOCKET_PATH_MAX: usize = 107;

/// Where the peer is.
#[derive(Debug)]
pub enum Endpoint {
    /// We connect to this socket file.
    Ipc {
        /// The link directory.
        directory: PathBuf,
        /// The file in it.
        name: &'static str,
    },
    /// Peers connect to us.
    Tcp(Lobby),
}

impl Endpoint {
    /// The next peer, however long it takes.
    fn open(&mut self, role: SocketType, console: &Console, backoff: &mut Duration) -> Peer {
        loop {
            match self {
                Self::Ipc { directory, name } => {
                    if let Ok(fd) = connect(directory, name) {
                        return (fd, Session::new(role));
                    }
                    thread::sleep(*backoff);
                    *backoff = (*backoff * 2).min(BACKOFF_MAX);
                }
                Self::Tcp(lobby) => {
                    let timeout = lobby.timeout().map(timespec);
                    let mut fds: Vec<PollFd<'_>> = watched(lobby).collect();
                    // An error shows in the turn.
                    let _seen = poll(&mut fds, timeout.as_ref());
                    let ready = happened(&fds);
                    if let Some(peer) = lobby.turn(&ready, console) {
                        return peer;
                    }
                }
            }
        }
    }
}

fn watched(lobby: &Lobby) -> impl Iterator<Item = PollFd<'_>> {
    lobby.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
}

fn happened(fds: &[PollFd<'_>]) -> Vec<bool> {
    fds.iter().map(|fd| !fd.revents().is_empty()).collect()
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() }
}

fn connect(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = directory.join(name);
    let stream = if path.as_os_str().len() <= SOCKET_PATH_MAX {
        UnixStream::connect(path)?
    } else {
        let handle = File::open(directory)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?
    };
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the agent closed it")]
    Closed,
    #[error("a peer that came later has replaced it")]
    Replaced(Box<Peer>),
    #[error("no handshake within {} s", HANDSHAKE.tv_sec)]
    Handshake,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    System(#[from] Errno),
}

/// A connection with what is being written on it.
struct Connection<'a> {
    fd: OwnedFd,
    endpoint: &'a mut Endpoint,
    console: &'a Console,
    session: Session,
    wire: Vec<u8>,
    written: usize,
    buffer: Vec<u8>,
}

impl<'a> Connection<'a> {
    fn new((fd, session): Peer, endpoint: &'a mut Endpoint, console: &'a Console) -> Self {
        let buffer = vec![0; 64 * 1024];
        Self { fd, endpoint, console, session, wire: Vec::new(), written: 0, buffer }
    }

    /// Writes what the protocol itself needs, then waits.
    fn turn(&mut self, wakeup: Option<&OwnedFd>) -> Result<(), Broken> {
        if self.is_idle() {
            self.wire.clear();
            self.written = 0;
            // Only here, so that it never lands inside a message.
            self.wire.append(self.session.output());
        }
        self.write()?;
        self.wait(wakeup)
    }

    /// Waits until something can be done and reads what came. `wakeup` ends it too, when there is
    /// nothing to write.
    fn wait(&mut self, wakeup: Option<&OwnedFd>) -> Result<(), Broken> {
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, !self.is_idle());
        let mut fds = vec![PollFd::new(&self.fd, events)];
        let mut timeout = (!self.session.is_ready()).then_some(HANDSHAKE);
        if let Endpoint::Tcp(lobby) = &*self.endpoint {
            fds.extend(watched(lobby));
            timeout = timeout.or(lobby.timeout().map(timespec));
        }
        let others = fds.len();
        if let Some(wakeup) = wakeup.filter(|_| self.is_idle() && self.session.is_ready()) {
            fds.push(PollFd::new(wakeup, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) if !self.session.is_ready() => return Err(Broken::Handshake),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = happened(&fds);
        drop(fds);
        if let Endpoint::Tcp(lobby) = &mut *self.endpoint
            && let Some(next) = lobby.turn(happened.get(1..others).unwrap_or_default(), self.console)
        {
            return Err(Broken::Replaced(Box::new(next)));
        }
        if happened.first() == Some(&true) {
            self.read()?;
        }
        Ok(())
    }

    /// Takes what the peer has sent before another one took its place.
    fn read_rest(&mut self) {
        while let Ok(1..) = rustix::io::ioctl_fionread(&self.fd) {
            if self.read().is_err() {
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.written >= self.wire.len()
    }

    fn read(&mut self) -> Result<(), Broken> {
        match rustix::io::read(&self.fd, &mut self.buffer) {
            Ok(0) => Err(Broken::Closed),
            Ok(count) => Ok(self.session.receive(self.buffer.get(..count).unwrap_or_default())?),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self) -> Result<(), Broken> {
        while let Some(rest) = self.wire.get(self.written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(&self.fd, rest) {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Receives for ever; every message goes to `handle`, which must not wait.
pub fn receive(endpoint: Endpoint, console: &Console, mut handle: impl FnMut(Vec<Vec<u8>>)) {
    connections(endpoint, SocketType::Pull, console, |connection| {
        loop {
            // Also before the first turn: some may have come with the handshake.
            while let Some(message) = connection.session.next_message() {
                handle(message);
            }
            if let Err(broken) = connection.turn(None) {
                if let Broken::Replaced(_) = &broken {
                    connection.read_rest();
                }
                while let Some(message) = connection.session.next_message() {
                    handle(message);
                }
                return broken;
            }
        }
    });
}

/// Sends the outbox for ever.
pub fn send(endpoint: Endpoint, console: &Console, outbox: &Arc<Outbox>) {
    connections(endpoint, SocketType::Push, console, |connection| {
        loop {
            if connection.session.is_ready() && connection.is_idle() {
                let batch = outbox.take(BATCH);
                if !batch.is_empty() {
                    if let Err(broken) = send_batch(connection, outbox, batch) {
                        return broken;
                    }
                    continue;
                }
            }
            if let Err(broken) = connection.turn(Some(outbox.wakeup())) {
                return broken;
            }
            // A PULL has nothing to say.
            while connection.session.next_message().is_some() {}
        }
    });
}

fn send_batch(connection: &mut Connection<'_>, outbox: &Outbox, batch: Vec<Message>) -> Result<(), Broken> {
    // What the handshake and heartbeats need goes first.
    connection.wire.clear();
    connection.wire.append(connection.session.output());
    connection.written = 0;
    let mut ends = Vec::with_capacity(batch.len());
    for message in &batch {
        encode_message(&[message.kind.as_bytes(), &message.payload], &mut connection.wire);
        ends.push(connection.wire.len());
    }
    let mut result = connection.write();
    while result.is_ok() && !connection.is_idle() {
        result = connection.wait(None).and_then(|()| connection.write());
    }
    let whole = ends.iter().filter(|end| **end <= connection.written).count();
    outbox.sent(batch, whole);
    result
}

fn connections(
    mut endpoint: Endpoint,
    role: SocketType,
    console: &Console,
    mut serve: impl FnMut(&mut Connection<'_>) -> Broken,
) {
    let mut backoff = BACKOFF_MIN;
    let mut next = None;
    loop {
        let peer = match next.take() {
            Some(peer) => peer,
            None => endpoint.open(role, console, &mut backoff),
        };
        let mut connection = Connection::new(peer, &mut endpoint, console);
        let broken = serve(&mut connection);
        if connection.session.is_ready() {
            backoff = BACKOFF_MIN;
        } else if !matches!(broken, Broken::Closed | Broken::Replaced(_)) {
            console.note(format_args!("a connection to the agent failed: {broken}"));
        }
        match broken {
            Broken::Replaced(peer) => next = Some(*peer),
            _ => {
                thread::sleep(backoff);
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use berth_link::MessageType;

    use super::*;

    /// A PULL at the other end that has shaken hands.
    fn pull(mut stream: UnixStream) -> (UnixStream, Session) {
        let mut session = Session::new(SocketType::Pull);
        while !session.is_ready() {
            stream.write_all(&std::mem::take(session.output())).unwrap();
            read_into(&mut stream, &mut session);
        }
        stream.write_all(&std::mem::take(session.output())).unwrap();
        (stream, session)
    }

    fn read_into(stream: &mut UnixStream, session: &mut Session) -> usize {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        session.receive(&buffer[..count]).unwrap();
        count
    }

    #[test]
    fn a_message_that_broke_half_way_is_sent_again_whole_by_a_path_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("d".repeat(120));
        std::fs::create_dir(&directory).unwrap();
        let handle = File::open(&directory).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/out", handle.as_raw_fd())).unwrap();

        let outbox = Arc::new(Outbox::new(0.0, "test".into(), berth_link::MESSAGE_MAX).unwrap());
        // Larger than any socket buffer, so that it breaks in the middle.
        let large = vec![7u8; berth_link::MESSAGE_MAX];
        outbox.reply(MessageType::Media, large.clone());
        outbox.reply(MessageType::Log, "next");
        let sender = Arc::clone(&outbox);
        // Runs until the test process ends.
        std::thread::spawn(move || {
            send(Endpoint::Ipc { directory, name: "out" }, &Console::default(), &sender);
        });

        let (mut stream, mut session) = pull(listener.accept().unwrap().0);
        assert!(read_into(&mut stream, &mut session) > 0);
        drop(stream);

        let (mut stream, mut session) = pull(listener.accept().unwrap().0);
        let mut messages = Vec::new();
        while messages.len() < 2 {
            read_into(&mut stream, &mut session);
            messages.extend(std::iter::from_fn(|| session.next_message()));
        }
        assert_eq!(messages, [vec![b"media".to_vec(), large], vec![b"log".to_vec(), b"next".to_vec()]]);
        outbox.wait_sent(Duration::from_secs(10));
        assert!(outbox.take(1).is_empty());
    }
}
