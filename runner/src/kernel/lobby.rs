//! Where peers that connect by TCP shake hands (contracts: kernel §1.1).
//!
//! Only one that has become a ZeroMQ peer of the right kind is let in, and then it takes the place of the one
//! before it: an agent that was killed comes back, and nobody else is told to leave. Who connects to look what
//! is here, sends garbage or nothing at all, disturbs neither.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::console::Console;
use crate::zmtp::{ProtocolError, Session, SocketType};

/// Who has not shaken hands by then is sent away (libzmq's ZMQ_HANDSHAKE_IVL).
const HANDSHAKE: Duration = Duration::from_secs(30);
/// One more, and the oldest is sent away: an agent shakes hands within milliseconds.
const GUESTS_MAX: usize = 16;
/// Refusals that are logged until somebody is let in: a scanner must not fill the log.
const NOTES_MAX: usize = 8;
/// Between attempts to accept where the system has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket with those who knock.
#[derive(Debug)]
pub struct Lobby {
    listener: TcpListener,
    role: SocketType,
    /// The oldest first.
    guests: Vec<Guest>,
    refused: usize,
}

/// A connection that has shaken hands, with what came after.
pub type Peer = (OwnedFd, Session);

#[derive(Debug)]
struct Guest {
    fd: OwnedFd,
    session: Session,
    since: Instant,
}

impl Lobby {
    /// Listens on every address, as that kind of socket.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(port: u16, role: SocketType) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        // One that is gone between poll and accept must not stop the thread.
        listener.set_nonblocking(true)?;
        Ok(Self { listener, role, guests: Vec::new(), refused: 0 })
    }

    /// What [`Lobby::turn`] wants to read from.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.guests.iter().map(|guest| guest.fd.as_fd()))
    }

    /// When it wants a turn though nothing can be read.
    pub fn timeout(&self) -> Option<Duration> {
        // A little more, so that it has passed.
        self.guests
            .first()
            .map(|guest| HANDSHAKE.saturating_sub(guest.since.elapsed()) + Duration::from_millis(1))
    }

    /// Goes on with those of [`Lobby::fds`] that can be read; one that may come in, if there is one.
    pub fn turn(&mut self, ready: &[bool], console: &Console) -> Option<Peer> {
        let (knocks, ready) = ready.split_first().unwrap_or((&false, &[]));
        let mut peer = None;
        let mut ready = ready.iter();
        let guests = std::mem::take(&mut self.guests);
        for mut guest in guests {
            let is_ready = ready.next() == Some(&true);
            if is_ready && peer.is_none() {
                match guest.shake() {
                    Ok(()) if guest.session.is_ready() => {
                        peer = Some((guest.fd, guest.session));
                        continue;
                    }
                    Ok(()) => {}
                    Err(why) => {
                        self.refuse(why, console);
                        continue;
                    }
                }
            }
            if guest.since.elapsed() < HANDSHAKE {
                self.guests.push(guest);
            }
        }
        if *knocks {
            self.accept();
        }
        if peer.is_some() {
            self.refused = 0;
        }
        peer
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nodelay(true).is_err() || stream.set_nonblocking(true).is_err() {
                    return;
                }
                let session = Session::new(self.role);
                let mut guest = Guest { fd: stream.into(), session, since: Instant::now() };
                if guest.write().is_ok() {
                    if self.guests.len() >= GUESTS_MAX {
                        self.guests.remove(0);
                    }
                    self.guests.push(guest);
                }
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(_) => thread::sleep(PAUSE),
        }
    }

    fn refuse(&mut self, why: Refusal, console: &Console) {
        let Refusal::Protocol(why) = why else { return };
        self.refused = self.refused.saturating_add(1);
        if self.refused <= NOTES_MAX {
            console.note(format_args!("a connection by TCP is refused: {why}"));
        }
    }
}

enum Refusal {
    /// It went away.
    Gone,
    Protocol(ProtocolError),
}

impl Guest {
    /// Reads what came and answers.
    fn shake(&mut self) -> Result<(), Refusal> {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => return Err(Refusal::Gone),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.session.receive(bytes).map_err(Refusal::Protocol)?;
            }
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Refusal::Gone),
        }
        self.write()
    }

    /// The few bytes of a handshake always find room in a socket's buffer.
    fn write(&mut self) -> Result<(), Refusal> {
        let output = std::mem::take(self.session.output());
        if output.is_empty() {
            return Ok(());
        }
        match rustix::io::write(&self.fd, &output) {
            Ok(count) if count == output.len() => Ok(()),
            _ => Err(Refusal::Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn turn(lobby: &mut Lobby) -> Option<Peer> {
        let mut fds: Vec<PollFd<'_>> =
            lobby.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut fds, None).unwrap();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        lobby.turn(&ready, &Console::default())
    }

    #[test]
    fn only_a_peer_that_shook_hands_is_let_in_however_many_others_knock() {
        let mut lobby = Lobby::listen(0, SocketType::Pull).unwrap();
        let port = lobby.listener.local_addr().unwrap().port();
        let knock = |bytes: &[u8]| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        };
        let strangers: Vec<TcpStream> = (0..3 * GUESTS_MAX)
            .map(|at| {
                let bytes: &[u8] = [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\xff\0\0"][at % 3];
                let stream = knock(bytes);
                assert!(turn(&mut lobby).is_none());
                stream
            })
            .collect();
        assert!(lobby.guests.len() <= GUESTS_MAX);

        let mut session = Session::new(SocketType::Push);
        let mut agent = knock(&std::mem::take(session.output()));
        let mut peer = None;
        while peer.is_none() {
            agent.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let mut buffer = [0; 256];
            if let Ok(count) = agent.read(&mut buffer) {
                session.receive(&buffer[..count]).unwrap();
                agent.write_all(&std::mem::take(session.output())).unwrap();
            }
            peer = turn(&mut lobby);
        }
        assert!(peer.unwrap().1.is_ready());
        drop(strangers);
    }
}
