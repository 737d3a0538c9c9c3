//! The callosum door: calls of a manager (or of any client that speaks as one) on the routing thread. Pure.
//!
//! * [`methods`]: which methods there are and what their arguments mean;
//! * [`answers`]: what is answered, in the shapes of the contract (contracts: manager §2.2, kernel §1.8).
//!
//! The execution path is answered on the routing thread; other methods are handed to the workers
//! ([`super::methods`]), and what is not built yet says so. What cannot be read is dropped, as the contract says; a call that can be read is always
//! answered.

use std::collections::HashMap;

use callosum::{
    Call, CallId, FRAME_PING, FRAME_PONG, FRAME_UPPER, Failure, Header, MessageKind, decode_body,
    encode_failure,
};
use tokio::sync::mpsc::{self, error::TrySendError};
use zmq::Message;

use super::methods::{Job, Method};
use crate::ids::AgentId;
use crate::route::door::{Answer, Asked, Caller, Door, Envelope, Frames};

mod answers;
mod methods;

use methods::Wanted;

const TOO_MANY: &str = "too many calls wait for their answers; try again";

/// Calls that may wait for their answers; more are told to come back.
const OPEN_MAX: usize = 16_384;
/// Frames behind the peer's that may come before the three that count (contracts: manager §1.2).
const FRAMES_MAX: usize = 8;
/// What a transport ping may carry; it is sent back.
const PING_MAX: usize = 4096;

/// The door. One for all clients.
#[derive(Debug)]
pub struct CallosumDoor {
    agent: AgentId,
    workers: mpsc::Sender<Job>,
    next: u64,
    open: HashMap<Caller, Open>,
}

#[derive(Debug)]
struct Open {
    peer: Vec<u8>,
    call: CallId,
    /// Whether the workers answer it.
    is_handed_on: bool,
}

impl CallosumDoor {
    /// A door of the agent with that id, which hands what is not for the routing thread to the workers.
    #[must_use]
    pub fn new(agent: AgentId, workers: mpsc::Sender<Job>) -> Self {
        Self { agent, workers, next: 0, open: HashMap::new() }
    }

    /// Notes who asks.
    fn enter(&mut self, peer: &[u8], call: CallId, is_handed_on: bool) -> Caller {
        self.next += 1;
        let caller = Caller(self.next);
        self.open.insert(caller, Open { peer: peer.to_vec(), call, is_handed_on });
        caller
    }

    fn hand_on(&mut self, peer: &[u8], id: CallId, method: Method, call: Call) -> Asked {
        let caller = self.enter(peer, id, true);
        let Err(refused) = self.workers.try_send(Job::Call { caller, method, call }) else {
            return Asked::Nothing;
        };
        let why = match refused {
            TrySendError::Full(_) => TOO_MANY,
            TrySendError::Closed(_) => "the agent is ending",
        };
        match self.open.remove(&caller) {
            Some(Open { peer, call, .. }) => {
                Asked::Now(failed(&peer, &call, MessageKind::Failure, &Failure::new("RuntimeError", why)))
            }
            None => Asked::Nothing,
        }
    }

    fn call(&mut self, peer: &[u8], header: &Header<'_>, body: &[u8]) -> Asked {
        let id = CallId::from(header);
        let wanted = match read_call(header, body) {
            Ok(call) => methods::read(&self.agent, header.method, call),
            // An exception inside the RPC layer (contracts: manager §1.3).
            Err(error) => {
                let failure = Failure::new("ValueError", &format!("the call cannot be read: {error}"));
                return Asked::Now(failed(peer, &id, MessageKind::Error, &failure));
            }
        };
        match wanted {
            Ok(Wanted::Echo(value)) => Asked::Now(answers::result(peer, &id, &value)),
            Ok(_) if self.open.len() >= OPEN_MAX => {
                let failure = Failure::new("RuntimeError", TOO_MANY);
                Asked::Now(failed(peer, &id, MessageKind::Failure, &failure))
            }
            Ok(Wanted::Worker(method, call)) => self.hand_on(peer, id, method, call),
            Ok(Wanted::Kernel(kernel, what)) => {
                Asked::Call { caller: self.enter(peer, id, false), kernel, what }
            }
            Err(failure) => Asked::Now(failed(peer, &id, MessageKind::Failure, &failure)),
        }
    }
}

impl CallosumDoor {
    /// Managers were never seen to cancel a call (contracts: observed 11), so it is looked for only then. The
    /// latest, when a client used an id again while it was open.
    fn cancelled(&self, peer: &[u8], call: &CallId) -> Asked {
        let of_this = self.open.iter().filter(|(_, open)| open.peer == peer && open.call == *call);
        let latest =
            of_this.map(|(caller, open)| (*caller, open.is_handed_on)).max_by_key(|(caller, _)| *caller);
        match latest {
            None => Asked::Nothing,
            Some((caller, false)) => Asked::Cancel(caller),
            Some((caller, true)) => {
                // When so much waits that this finds no room, the call is answered as if nothing had been said.
                let _ = self.workers.try_send(Job::Cancel(caller));
                Asked::Nothing
            }
        }
    }
}

impl Door for CallosumDoor {
    fn read(&mut self, message: &[Message]) -> Asked {
        let [peer, .., kind, header, body] = message else { return Asked::Nothing };
        if message.len() > FRAMES_MAX {
            return Asked::Nothing;
        }
        if kind[..] == *FRAME_PING {
            if header.len() + body.len() > PING_MAX {
                return Asked::Nothing;
            }
            return Asked::Now(vec![peer.to_vec(), FRAME_PONG.to_vec(), header.to_vec(), body.to_vec()]);
        }
        if kind[..] != *FRAME_UPPER {
            return Asked::Nothing;
        }
        let Ok(header) = Header::decode(header) else { return Asked::Nothing };
        match header.kind {
            MessageKind::Function => self.call(peer, &header, body),
            MessageKind::Cancel => self.cancelled(peer, &CallId::from(&header)),
            _ => Asked::Nothing,
        }
    }

    fn close(&mut self, caller: Caller) -> Option<Envelope> {
        let Open { peer, call, .. } = self.open.remove(&caller)?;
        let header = call.reply_header(MessageKind::Result);
        Some(Envelope { frames: vec![peer, FRAME_UPPER.to_vec(), header], seal })
    }

    fn open_calls(&self) -> usize {
        self.open.len()
    }
}

fn read_call(header: &Header<'_>, body: &[u8]) -> Result<Call, callosum::DecodeError> {
    let body = decode_body(body, header.zip)?;
    body.body.as_deref().map_or(Ok(Call::default()), Call::decode)
}

fn failed(peer: &[u8], id: &CallId, kind: MessageKind, failure: &Failure) -> Frames {
    let mut body = Vec::new();
    encode_failure(failure, &mut body);
    vec![peer.to_vec(), FRAME_UPPER.to_vec(), id.reply_header(kind), body]
}

/// Writes the body, and the header anew where the answer is no RESULT.
fn seal(frames: &mut Frames, answer: Answer) {
    let (kind, body) = answers::body(answer);
    if kind != MessageKind::Result
        && let Some(header) = frames.last_mut()
    {
        let renewed = Header::decode(header).map(|header| CallId::from(&header).reply_header(kind));
        if let Ok(renewed) = renewed {
            *header = renewed;
        }
    }
    frames.push(body);
}

#[cfg(test)]
mod tests;
