//! The door's sockets on the routing thread: a ROUTER that calls come in by, and with CURVE the socket that
//! libzmq asks who may come in.
//!
//! Answers go to the peer that asked. One that takes nothing has them kept, within bounds, so that it holds up
//! nobody else; what it does not take then is dropped, as libzmq would do at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use zmq::{DONTWAIT, Message, SNDMORE, Socket, SocketType};

use super::door::{Answer, Asked, Caller, Door, Envelope, Frames};
use super::inbox::{Inbox, Request};
use super::{RouteError, zap};
use crate::ids::KernelId;

/// Largest message that is taken (design §3).
const MESSAGE_MAX: i64 = 64 << 20;
/// Messages read before kernels have their turn.
const TURN_MESSAGES: usize = 256;
/// Frames of a message that are looked at; a call has four.
const FRAMES_MAX: usize = 8;
/// Output above this is decoded on another thread (design §3).
const BUILD_HERE: usize = 256 << 10;
/// How nice the thread is that decodes large output.
const RESULTS_NICE: i32 = 10;
/// Frames up to this size are copied when they are sent.
const COPY_UP_TO: usize = 4 << 10;
/// Bytes of answers kept for peers that take nothing.
const KEPT_BYTES: usize = 64 << 20;
/// How often they are offered again.
const AGAIN: Duration = Duration::from_millis(20);

/// What is needed to open a door.
#[derive(Debug)]
pub struct Doorway {
    /// Where it listens, `tcp://HOST:PORT`; port 0 lets the system choose.
    pub listen: String,
    /// Who may come in; none: everybody who can connect.
    pub curve: Option<Curve>,
    /// The protocol.
    pub door: Box<dyn Door>,
}

/// CURVE keys of a door.
#[derive(Clone)]
pub struct Curve {
    /// The server's own secret key.
    pub secret: zap::Key,
    /// Public keys of the clients that are let in.
    pub clients: Vec<zap::Key>,
}

impl std::fmt::Debug for Curve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Curve").field("secret", &"***").field("clients", &self.clients.len()).finish()
    }
}

/// An open door.
pub(super) struct Desk {
    router: Socket,
    /// With the keys that are let in.
    zap: Option<(Socket, Vec<zap::Key>)>,
    door: Box<dyn Door>,
    /// Calls under way.
    calls: HashMap<Caller, KernelId>,
    /// Answers for peers that take nothing, by peer.
    kept: HashMap<Vec<u8>, VecDeque<Frames>>,
    kept_bytes: usize,
    again: Option<Instant>,
    builder: Sender<(Envelope, Answer)>,
    /// Something was sent since libzmq last said that there is nothing to read.
    unsettled: bool,
    /// Where it listens.
    endpoint: String,
    /// The sockets' context, which must outlive them.
    _context: zmq::Context,
}

impl Desk {
    /// Binds the sockets.
    pub(super) fn open(doorway: Doorway, inbox: &Arc<Inbox>) -> Result<Self, RouteError> {
        let listen = doorway.listen.clone();
        let refuse = |problem: String| RouteError::Door { listen: listen.clone(), problem };
        let bound = bind(&doorway).map_err(|error| refuse(error.to_string()))?;
        let Bound { context, router, zap } = bound;
        let endpoint = match router.get_last_endpoint() {
            Ok(Ok(endpoint)) => endpoint,
            _ => listen.clone(),
        };
        let builder = start_builder(inbox).map_err(|error| refuse(error.to_string()))?;
        Ok(Self {
            router,
            zap: zap.zip(doorway.curve.map(|curve| curve.clients)),
            door: doorway.door,
            calls: HashMap::new(),
            kept: HashMap::new(),
            kept_bytes: 0,
            again: None,
            builder,
            unsettled: true,
            endpoint,
            _context: context,
        })
    }

    /// Where it listens.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The descriptors that become readable when the sockets want attention.
    pub(super) fn fds(&self) -> Result<Vec<i32>, zmq::Error> {
        std::iter::once(&self.router)
            .chain(self.zap.as_ref().map(|(socket, _)| socket))
            .map(Socket::get_fd)
            .collect()
    }

    /// Reads what came, at most one turn's worth, and hands calls on. True when there is more to read.
    pub(super) fn turn(&mut self, mut take: impl FnMut(Call)) -> bool {
        self.let_in();
        let mut message = Vec::with_capacity(FRAMES_MAX);
        for _ in 0..TURN_MESSAGES {
            if !self.receive(&mut message) {
                self.unsettled = false;
                return false;
            }
            match self.door.read(&message) {
                Asked::Nothing => {}
                Asked::Now(frames) => self.send(frames),
                Asked::Call { caller, kernel, what } => {
                    self.calls.insert(caller, kernel);
                    take(Call::Ask { caller, kernel, what });
                }
                Asked::Cancel(caller) => {
                    if let Some(&kernel) = self.calls.get(&caller) {
                        take(Call::Cancel { caller, kernel });
                    }
                }
            }
        }
        true
    }

    /// Handles the mailbox after sending; true when there is something to read, for which the descriptor may not
    /// fire again. To be called before sleeping.
    pub(super) fn settle(&mut self) -> bool {
        std::mem::take(&mut self.unsettled)
            && self.router.get_events().is_ok_and(|events| events.contains(zmq::POLLIN))
    }

    /// One message; false when there is none.
    fn receive(&self, message: &mut Vec<Message>) -> bool {
        message.clear();
        loop {
            let Ok(frame) = self.router.recv_msg(DONTWAIT) else { return false };
            let more = frame.get_more();
            // One with too many frames is no call, and its door sees that.
            if message.len() <= FRAMES_MAX {
                message.push(frame);
            }
            if !more {
                return true;
            }
        }
    }

    /// Answers libzmq's questions.
    fn let_in(&self) {
        let Some((socket, allowed)) = &self.zap else { return };
        while let Ok(request) = socket.recv_multipart(DONTWAIT) {
            let Some((reply, welcome)) = zap::reply(&request, allowed) else { continue };
            if !welcome {
                let address = request.get(3).map(|address| String::from_utf8_lossy(address).into_owned());
                tracing::warn!(
                    address = address.as_deref().unwrap_or("?"),
                    "a client with an unknown key was turned away at the RPC port"
                );
            }
            // A REP has room for the reply to what it has just received.
            let _ = socket.send_multipart(reply, DONTWAIT);
        }
        let _ = socket.get_events();
    }

    /// Answers a call, at once or when another thread has decoded what is large.
    pub(super) fn answer(&mut self, caller: Caller, answer: Answer) {
        self.calls.remove(&caller);
        let Some(envelope) = self.door.close(caller) else { return };
        if answer.bytes() > BUILD_HERE {
            // It lives as long as this does.
            let _ = self.builder.send((envelope, answer));
        } else {
            self.send(seal(envelope, answer));
        }
    }

    /// Sends an answer to its peer, or keeps it.
    pub(super) fn send(&mut self, frames: Frames) {
        self.unsettled = true;
        let Some(peer) = frames.first() else { return };
        if self.kept.contains_key(peer) {
            return self.keep(frames);
        }
        if let Err(frames) = send_now(&self.router, frames) {
            self.keep(frames);
        }
    }

    fn keep(&mut self, frames: Frames) {
        let bytes = bytes_of(&frames);
        if self.kept_bytes + bytes > KEPT_BYTES {
            tracing::warn!(bytes, "an answer is dropped: its client takes nothing");
            return;
        }
        self.kept_bytes += bytes;
        self.kept.entry(frames[0].clone()).or_default().push_back(frames);
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    /// When answers that were not taken are offered again.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Offers them again.
    pub(super) fn offer_again(&mut self, now: Instant) {
        if self.again.is_none_or(|again| again > now) {
            return;
        }
        self.unsettled = true;
        let (router, kept_bytes) = (&self.router, &mut self.kept_bytes);
        self.kept.retain(|_, answers| {
            while let Some(frames) = answers.pop_front() {
                let bytes = bytes_of(&frames);
                if let Err(frames) = send_now(router, frames) {
                    answers.push_front(frames);
                    return true;
                }
                *kept_bytes -= bytes;
            }
            false
        });
        self.again = (!self.kept.is_empty()).then(|| now + AGAIN);
    }
}

/// What a turn of the door brings for kernels.
#[derive(Debug)]
pub(super) enum Call {
    Ask { caller: Caller, kernel: KernelId, what: super::door::Ask },
    Cancel { caller: Caller, kernel: KernelId },
}

struct Bound {
    context: zmq::Context,
    router: Socket,
    zap: Option<Socket>,
}

fn bind(doorway: &Doorway) -> Result<Bound, zmq::Error> {
    let context = zmq::Context::new();
    let router = context.socket(SocketType::ROUTER)?;
    // As the reference's (contracts: manager §1.1); what waits longer at the end is nobody's.
    router.set_linger(100)?;
    router.set_maxmsgsize(MESSAGE_MAX)?;
    // So that a peer that takes nothing is known.
    router.set_router_mandatory(true)?;
    let mut zap = None;
    if let Some(curve) = &doorway.curve {
        // Before the first client can come.
        let socket = context.socket(SocketType::REP)?;
        socket.set_linger(0)?;
        socket.bind(zap::ENDPOINT)?;
        zap = Some(socket);
        router.set_curve_server(true)?;
        router.set_curve_secretkey(&curve.secret)?;
        router.set_zap_domain(zap::DOMAIN)?;
    }
    router.bind(&doorway.listen)?;
    Ok(Bound { context, router, zap })
}

fn seal(envelope: Envelope, answer: Answer) -> Frames {
    let Envelope { mut frames, seal } = envelope;
    seal(&mut frames, answer.built());
    frames
}

fn bytes_of(frames: &Frames) -> usize {
    frames.iter().map(Vec::len).sum()
}

/// Gives the frames back when the peer has no room now.
fn send_now(router: &Socket, frames: Frames) -> Result<(), Frames> {
    // Whether there is room shows at the first frame, which names the peer.
    let Some(peer) = frames.first() else { return Ok(()) };
    match router.send(&peer[..], DONTWAIT | SNDMORE) {
        Err(zmq::Error::EAGAIN) => return Err(frames),
        // The peer has gone; so has its interest.
        Err(_) => return Ok(()),
        Ok(()) => {}
    }
    let mut rest = frames.into_iter().skip(1).peekable();
    while let Some(frame) = rest.next() {
        let flags = DONTWAIT | if rest.peek().is_some() { SNDMORE } else { 0 };
        // Large ones are handed over, small ones are cheaper to copy.
        let sent = match frame.len() {
            0..=COPY_UP_TO => router.send(&frame[..], flags),
            _ => router.send(Message::from(frame), flags),
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer was cut short");
        }
    }
    Ok(())
}

/// The thread that decodes large output, so that no kernel waits for it.
fn start_builder(inbox: &Arc<Inbox>) -> std::io::Result<Sender<(Envelope, Answer)>> {
    let (sender, jobs) = channel::<(Envelope, Answer)>();
    let inbox = Arc::clone(inbox);
    std::thread::Builder::new().name("route-results".to_owned()).spawn(move || {
        // Behind the routing thread, which short answers wait for. A system that refuses leaves it as it is.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), RESULTS_NICE);
        for (envelope, answer) in jobs {
            inbox.push_always(Request::Deliver(seal(envelope, answer)));
        }
    })?;
    Ok(sender)
}
