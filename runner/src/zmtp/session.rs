//! One connection's protocol state, and the frames.

use std::collections::VecDeque;

/// Length of the greeting: signature 10, version 2, mechanism 20, as-server 1, filler 31.
const GREETING: usize = 64;
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

const FLAG_MORE: u8 = 1;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

/// Largest frame, and largest sum of one message's frames, that is taken from a peer. A run's source
/// code is the largest thing an agent sends.
pub const MESSAGE_MAX: usize = 64 * 1024 * 1024;
/// Largest command, and largest frame before the handshake is over: who has not shown who they are has no need
/// of much memory of ours.
const COMMAND_MAX: usize = 64 * 1024;
/// More frames than this in one message can only be a mistake: ours have two.
const FRAMES_MAX: usize = 64;

/// Answers to heartbeats that wait at most, in bytes: a peer that sends PINGs and takes nothing gets no more of
/// them, and memory stays bounded.
const OUTPUT_MAX: usize = 64 * 1024;

/// What this side of the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketType {
    /// Only sends.
    Push,
    /// Only receives.
    Pull,
}

impl SocketType {
    const fn name(self) -> &'static str {
        match self {
            Self::Push => "PUSH",
            Self::Pull => "PULL",
        }
    }

    const fn peer(self) -> Self {
        match self {
            Self::Push => Self::Pull,
            Self::Pull => Self::Push,
        }
    }
}

/// Why a connection is given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first bytes are no ZMTP signature.
    #[error("the peer does not speak ZeroMQ's protocol")]
    Signature,
    /// ZMTP 1 or 2.
    #[error("the peer speaks ZMTP {0}; 3 is needed")]
    Version(u8),
    /// Another mechanism than NULL.
    #[error("the peer asks for a security mechanism, and only NULL is known")]
    Mechanism,
    /// A frame with reserved flags, or a command where a message must be.
    #[error("the peer sent a frame that the protocol does not allow")]
    Frame,
    /// A frame above [`MESSAGE_MAX`], or one of a handshake above what any handshake needs.
    #[error("the peer sent a message of more than {} MiB, or a command of more than {} KiB", MESSAGE_MAX >> 20, COMMAND_MAX >> 10)]
    TooLarge,
    /// A READY that cannot be read.
    #[error("the peer's READY command is malformed")]
    Ready,
    /// Neither PUSH to our PULL nor the other way round.
    #[error("the peer's socket is a {0}, which does not fit")]
    SocketType(String),
    /// The peer refused us.
    #[error("the peer refused the connection: {0}")]
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Handshake,
    Ready,
}

/// The protocol's state on one connection.
#[derive(Debug)]
pub struct Session {
    role: SocketType,
    phase: Phase,
    input: Vec<u8>,
    consumed: usize,
    output: Vec<u8>,
    partial: Vec<Vec<u8>>,
    partial_bytes: usize,
    messages: VecDeque<Vec<Vec<u8>>>,
}

impl Session {
    /// A new connection; the greeting lies in [`Session::output`] already.
    #[must_use]
    pub fn new(role: SocketType) -> Self {
        let mut output = Vec::with_capacity(GREETING + 32);
        output.extend_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0]);
        output.extend_from_slice(MECHANISM);
        output.resize(GREETING, 0);
        Self {
            role,
            phase: Phase::Greeting,
            input: Vec::new(),
            consumed: 0,
            output,
            partial: Vec::new(),
            partial_bytes: 0,
            messages: VecDeque::new(),
        }
    }

    /// Whether both sides have shaken hands, so that messages may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Bytes of the handshake and of answers to heartbeats that wait to be sent. The caller removes what
    /// it has taken over.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The next whole message, as its frames.
    pub fn next_message(&mut self) -> Option<Vec<Vec<u8>>> {
        self.messages.pop_front()
    }

    /// Takes bytes that came from the peer.
    ///
    /// # Errors
    /// When the peer breaks the protocol: the connection must be closed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(bytes);
        while self.step()? {}
        self.input.drain(..self.consumed);
        self.consumed = 0;
        // A large message has gone: do not keep its room for ever.
        if self.input.is_empty() && self.input.capacity() > 1 << 20 {
            self.input = Vec::new();
        }
        Ok(())
    }

    fn step(&mut self) -> Result<bool, ProtocolError> {
        match self.phase {
            Phase::Greeting => self.greeting(),
            Phase::Handshake | Phase::Ready => self.frame(),
        }
    }

    fn greeting(&mut self) -> Result<bool, ProtocolError> {
        let input = self.input.get(self.consumed..).unwrap_or_default();
        // Refuse a stranger by its first bytes, not only once 64 of them have come.
        if input.first().is_some_and(|b| *b != 0xff) || input.get(9).is_some_and(|b| b & 1 == 0) {
            return Err(ProtocolError::Signature);
        }
        if let Some(version) = input.get(10).filter(|v| **v < 3) {
            return Err(ProtocolError::Version(*version));
        }
        if input.len() < GREETING {
            return Ok(false);
        }
        if input.get(12..32) != Some(MECHANISM.as_slice()) {
            return Err(ProtocolError::Mechanism);
        }
        self.consumed += GREETING;
        self.phase = Phase::Handshake;
        let mut body = b"\x05READY\x0bSocket-Type".to_vec();
        body.extend_from_slice(&4u32.to_be_bytes());
        body.extend_from_slice(self.role.name().as_bytes());
        encode_frame(FLAG_COMMAND, &body, &mut self.output);
        Ok(true)
    }

    fn frame(&mut self) -> Result<bool, ProtocolError> {
        let input = self.input.get(self.consumed..).unwrap_or_default();
        let Some((flags, head, size)) = frame_head(input)? else { return Ok(false) };
        if size > COMMAND_MAX && (flags & FLAG_COMMAND != 0 || self.phase != Phase::Ready) {
            return Err(ProtocolError::TooLarge);
        }
        let Some(body) = input.get(head..head + size) else { return Ok(false) };
        if flags & FLAG_COMMAND != 0 {
            if flags & FLAG_MORE != 0 {
                return Err(ProtocolError::Frame);
            }
            let body = body.to_vec();
            self.consumed += head + size;
            self.command(&body)?;
            return Ok(true);
        }
        if self.phase != Phase::Ready {
            return Err(ProtocolError::Frame);
        }
        self.partial_bytes += size;
        if self.partial_bytes > MESSAGE_MAX || self.partial.len() >= FRAMES_MAX {
            return Err(ProtocolError::TooLarge);
        }
        self.partial.push(body.to_vec());
        self.consumed += head + size;
        if flags & FLAG_MORE == 0 {
            self.partial_bytes = 0;
            self.messages.push_back(std::mem::take(&mut self.partial));
        }
        Ok(true)
    }

    fn command(&mut self, body: &[u8]) -> Result<(), ProtocolError> {
        let (name, data) = short_string(body).ok_or(ProtocolError::Frame)?;
        match name {
            b"READY" if self.phase == Phase::Handshake => {
                self.check_ready(data)?;
                self.phase = Phase::Ready;
            }
            b"ERROR" => {
                let reason = short_string(data).map_or(&b""[..], |(reason, _)| reason);
                return Err(ProtocolError::Refused(String::from_utf8_lossy(reason).into_owned()));
            }
            // PING is: two bytes of time to live, then a context that goes back unchanged.
            b"PING" if self.output.len() < OUTPUT_MAX => {
                let context = data.get(2..).unwrap_or_default();
                let mut pong = b"\x04PONG".to_vec();
                pong.extend_from_slice(context.get(..16).unwrap_or(context));
                encode_frame(FLAG_COMMAND, &pong, &mut self.output);
            }
            _ => {}
        }
        Ok(())
    }

    fn check_ready(&self, mut properties: &[u8]) -> Result<(), ProtocolError> {
        while !properties.is_empty() {
            let (name, rest) = short_string(properties).ok_or(ProtocolError::Ready)?;
            let (length, rest) = rest.split_first_chunk::<4>().ok_or(ProtocolError::Ready)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (value, rest) = rest.split_at_checked(length).ok_or(ProtocolError::Ready)?;
            properties = rest;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                if value == self.role.peer().name().as_bytes() {
                    return Ok(());
                }
                return Err(ProtocolError::SocketType(String::from_utf8_lossy(value).into_owned()));
            }
        }
        Err(ProtocolError::Ready)
    }
}

/// Appends a message of these frames.
pub fn encode_message(frames: &[&[u8]], out: &mut Vec<u8>) {
    let last = frames.len().saturating_sub(1);
    for (index, frame) in frames.iter().enumerate() {
        encode_frame(if index < last { FLAG_MORE } else { 0 }, frame, out);
    }
}

fn encode_frame(flags: u8, body: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(body.len()) {
        Ok(length) => out.extend_from_slice(&[flags, length]),
        Err(_) => {
            out.push(flags | FLAG_LONG);
            out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(body);
}

/// Flags, length of the head, length of the body; none when more bytes are needed.
fn frame_head(input: &[u8]) -> Result<Option<(u8, usize, usize)>, ProtocolError> {
    let Some((&flags, rest)) = input.split_first() else { return Ok(None) };
    if flags & !(FLAG_MORE | FLAG_LONG | FLAG_COMMAND) != 0 {
        return Err(ProtocolError::Frame);
    }
    let (head, size) = if flags & FLAG_LONG == 0 {
        let Some(&length) = rest.first() else { return Ok(None) };
        (2, u64::from(length))
    } else {
        let Some(length) = rest.first_chunk::<8>() else { return Ok(None) };
        (9, u64::from_be_bytes(*length))
    };
    match usize::try_from(size) {
        Ok(size) if size <= MESSAGE_MAX => Ok(Some((flags, head, size))),
        _ => Err(ProtocolError::TooLarge),
    }
}

/// A string with one byte of length before it, and what follows.
fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}
