//! Who asks by a socket on the routing thread, in no protocol's words. A [`Door`] knows the protocol and no
//! kernel; the routing thread knows kernels and no protocol (design §3).
//!
//! ```text
//!  frames --Door::read--> Asked --> kernel's attachment --> Answer --Door::reply--> frames
//!                           +--Now: frames back at once (pings, refusals)
//! ```

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::results::{Batch, RunResult};
use super::{RouteError, Task};
use crate::ids::{KernelId, RunId};

/// Names a call that wants an answer; made by the door, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(pub u64);

/// A message as it lies in a ROUTER: the peer first.
pub type Frames = Vec<Vec<u8>>;

/// Reads calls and writes answers of one protocol. No I/O, no clock; what is not for this thread it hands on without
/// waiting, and that room answers by [`Handle::answer`](super::Handle::answer).
pub trait Door: Send + fmt::Debug {
    /// What a message is. Never fails: what cannot be read is [`Asked::Nothing`].
    fn read(&mut self, message: &[zmq::Message]) -> Asked;

    /// What is needed to answer that call; none when it was answered or given up. Called once for each.
    fn close(&mut self, caller: Caller) -> Option<Envelope>;

    /// Calls that were read and not closed yet.
    fn open_calls(&self) -> usize;
}

/// The beginning of an answer, and how its last frame is written. Can be carried to another thread.
#[derive(Debug)]
pub struct Envelope {
    /// Who it goes to and what it answers.
    pub frames: Frames,
    /// Appends the kind of the answer to the header and writes the body.
    pub seal: fn(&mut Frames, Answer),
}

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Nothing that could be answered here: garbage, or a call that the door has handed to another room.
    Nothing,
    /// It is answered by these frames at once.
    Now(Frames),
    /// Something of a kernel.
    Call {
        /// Who wants the answer.
        caller: Caller,
        /// Of which kernel.
        kernel: KernelId,
        /// What.
        what: Ask,
    },
    /// The answer to that call is not wanted any more.
    Cancel(Caller),
}

/// What can be asked of a kernel on the routing thread.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A turn of a run whose client polls.
    Execute(Execute),
    /// SIGINT to what runs.
    Interrupt,
    /// Suggestions for unfinished code; JSON as the runner takes it.
    Complete(Bytes),
    /// Whether the runner answers.
    Ping,
}

/// A turn of a run whose client polls (contracts: kernel §1.7).
#[derive(Debug, Clone, PartialEq)]
pub struct Execute {
    /// The run; none: one is made.
    pub run: Option<RunId>,
    /// What is wanted.
    pub mode: Mode,
    /// The form of the result: 1, or 2 and above.
    pub api_version: u32,
    /// How long to collect output when nothing stops it; none: without limit.
    pub flush: Option<Duration>,
}

/// What a turn does before it collects output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Begins a run, or goes on collecting when it is known.
    Begin(Task),
    /// Answers what the code asked for.
    Input(String),
    /// Nothing.
    Continue,
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// Output that is still to be decoded.
    Output(Batch),
    /// Decoded output.
    Result(RunResult),
    /// The interrupt was sent.
    Interrupted,
    /// What the runner suggests, JSON as it came; or why it did not.
    Completion(Result<Bytes, RouteError>),
    /// When the runner began, in seconds by its own clock; none when it does not answer.
    Pinged(Option<f64>),
    /// What another room has made of it, written already.
    Written {
        /// The last frame.
        body: Vec<u8>,
        /// Whether it tells why nothing came of it.
        is_failure: bool,
    },
    /// Nothing came of it.
    Failed(RouteError),
    /// The caller gave it up.
    Cancelled,
}

impl Answer {
    /// Decodes output.
    #[must_use]
    pub fn built(self) -> Self {
        match self {
            Self::Output(batch) => Self::Result(batch.build()),
            other => other,
        }
    }

    /// Bytes that must be decoded.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Output(batch) => batch.bytes(),
            _ => 0,
        }
    }
}
