//! `berth-stream/1`: the bytes of one run between a client and the agent, on an upgraded connection.
//!
//! Pure: words and their encoding, no I/O. A frame is `kind: u8`, `length: u32` big-endian, then that many
//! bytes. Program output is never decoded, so a binary file passes unharmed.
//!
//! ```text
//! client                                   agent
//!   open {run request, credit}  ------->
//!                               <-------   started {incarnation of the runner}
//!   stdin .. stdin-eof          ------->
//!                               <-------   stdout | stderr | media | lost | stdin-credit
//!   credit (bytes written out)  ------->
//!   signal interrupt | cancel   ------->
//!                               <-------   exit {how it ended}, or error {code, message, hint}
//! ```
//!
//! A client whose connection broke, or whose agent went away, opens another with the same request and
//! `resume`: what it has received and the incarnation it was told. The agent answers `resumed {stdin bytes
//! that arrived, room for more}` first, then goes on as above, `lost` before what comes when something is
//! missing. The client sends its standard input again from that offset, and its end. Credit starts anew.
//!
//! * Output: the agent sends at most as many bytes as the client gave credit for ([`OUTPUT_WINDOW`] at the
//!   beginning, then what the client has written out). A media record is never cut: it goes as soon as any
//!   credit is left, and what it overdraws is paid back first. See [`Credit`].
//! * Input: the client has at most [`berth_link::STDIN_WINDOW`] bytes on their way; `stdin-credit` gives back.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Decoder, Encoder};

use super::api::ErrorBody;
use crate::route::{Resume, RunEnd, RunRequest};

/// The name in the `Upgrade` header.
pub const PROTOCOL: &str = "berth-stream/1";

/// Bytes of output that a client takes without having written any of them out.
pub const OUTPUT_WINDOW: u64 = 1024 * 1024;

/// Largest payload of a frame: the largest message of a kernel (design §3) and room for its wrapping.
pub const PAYLOAD_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;

/// Bytes before a payload.
const HEADER: usize = 5;

/// The first frame of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// What is to be run.
    pub request: RunRequest,
    /// Output bytes that may be sent at once.
    pub credit: u64,
    /// The client comes back to a run that it has opened before.
    #[serde(default)]
    pub resume: Option<Resume>,
}

/// What a client may do to its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT; a run that waits for its turn is cancelled.
    Interrupt,
    /// Leave the run at once.
    Cancel,
}

/// From the client to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Begins the run; the first frame and only the first.
    Open(Open),
    /// Standard input.
    Stdin(Bytes),
    /// End of standard input.
    StdinEof,
    /// Interrupt or cancel.
    Signal(Signal),
    /// That many bytes of output have been written out.
    Credit(u64),
    /// Answers [`ServerFrame::WaitingInput`].
    Input(String),
}

/// From the agent to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame {
    /// The run's turn has come.
    Started {
        /// The runner that began it, as it names itself.
        incarnation: Option<String>,
    },
    /// The client has its run back; the first frame after an `open` with [`Open::resume`].
    Resumed(Resumed),
    /// Raw bytes.
    Stdout(Bytes),
    /// Raw bytes.
    Stderr(Bytes),
    /// A media record, JSON `{"type", "data"}`.
    Media(Bytes),
    /// The code asks for a line of input.
    WaitingInput {
        /// Whether it should not be echoed.
        is_password: bool,
    },
    /// That many bytes of standard input have been consumed.
    StdinCredit(u64),
    /// That many bytes of output were lost here (0: unknown how many).
    Lost(u64),
    /// The end.
    Exit(RunEnd),
    /// The agent refused or failed. Also an end.
    Error(ErrorBody),
}

/// Where standard input goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Bytes of it that have arrived, from its start; `u64::MAX` when the run has ended.
    pub stdin_bytes: u64,
    /// Bytes of it that may be sent now.
    pub stdin_room: u64,
}

/// Why bytes are no frame of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Reading or writing failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// Longer than [`PAYLOAD_MAX`].
    #[error("a frame of {0} bytes is too long (at most {PAYLOAD_MAX})")]
    TooLong(usize),
    /// A kind this version does not know.
    #[error("frame kind {0} is not known to {PROTOCOL}")]
    UnknownKind(u8),
    /// The payload is not what the kind says.
    #[error("the payload of a {0} frame is malformed")]
    Malformed(&'static str),
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Cut,
}

/// One side's words.
pub trait Frame: Sized {
    /// The frame's kind and payload.
    fn into_parts(self) -> (u8, Bytes);

    /// Reads a frame.
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`] and [`FrameError::Malformed`].
    fn from_parts(kind: u8, payload: Bytes) -> Result<Self, FrameError>;
}

// Kinds: the client's below 16, the agent's from 16. A number is never used for something else later.
const OPEN: u8 = 1;
const STDIN: u8 = 2;
const STDIN_EOF: u8 = 3;
const SIGNAL: u8 = 4;
const CREDIT: u8 = 5;
const INPUT: u8 = 6;
const STARTED: u8 = 16;
const STDOUT: u8 = 17;
const STDERR: u8 = 18;
const MEDIA: u8 = 19;
const WAITING_INPUT: u8 = 20;
const STDIN_CREDIT: u8 = 21;
const LOST: u8 = 22;
const EXIT: u8 = 23;
const ERROR: u8 = 24;
const RESUMED: u8 = 25;

impl Frame for ClientFrame {
    fn into_parts(self) -> (u8, Bytes) {
        match self {
            Self::Open(open) => (OPEN, json(&open)),
            Self::Stdin(data) => (STDIN, data),
            Self::StdinEof => (STDIN_EOF, Bytes::new()),
            Self::Signal(Signal::Interrupt) => (SIGNAL, Bytes::from_static(b"interrupt")),
            Self::Signal(Signal::Cancel) => (SIGNAL, Bytes::from_static(b"cancel")),
            Self::Credit(bytes) => (CREDIT, number(bytes)),
            Self::Input(text) => (INPUT, text.into()),
        }
    }

    fn from_parts(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        Ok(match kind {
            OPEN => Self::Open(read_json(&payload, "open")?),
            STDIN => Self::Stdin(payload),
            STDIN_EOF => Self::StdinEof,
            SIGNAL => Self::Signal(match &payload[..] {
                b"interrupt" => Signal::Interrupt,
                b"cancel" => Signal::Cancel,
                _ => return Err(FrameError::Malformed("signal")),
            }),
            CREDIT => Self::Credit(read_number(&payload, "credit")?),
            INPUT => {
                Self::Input(String::from_utf8(payload.into()).map_err(|_| FrameError::Malformed("input"))?)
            }
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

impl Frame for ServerFrame {
    fn into_parts(self) -> (u8, Bytes) {
        match self {
            Self::Started { incarnation } => (STARTED, incarnation.unwrap_or_default().into()),
            Self::Resumed(resumed) => (RESUMED, json(&resumed)),
            Self::Stdout(data) => (STDOUT, data),
            Self::Stderr(data) => (STDERR, data),
            Self::Media(data) => (MEDIA, data),
            Self::WaitingInput { is_password } => {
                (WAITING_INPUT, Bytes::copy_from_slice(&[u8::from(is_password)]))
            }
            Self::StdinCredit(bytes) => (STDIN_CREDIT, number(bytes)),
            Self::Lost(bytes) => (LOST, number(bytes)),
            Self::Exit(end) => (EXIT, json(&end)),
            Self::Error(error) => (ERROR, json(&error)),
        }
    }

    fn from_parts(kind: u8, payload: Bytes) -> Result<Self, FrameError> {
        Ok(match kind {
            STARTED => {
                let incarnation =
                    String::from_utf8(payload.into()).map_err(|_| FrameError::Malformed("started"))?;
                Self::Started { incarnation: Some(incarnation).filter(|word| !word.is_empty()) }
            }
            RESUMED => Self::Resumed(read_json(&payload, "resumed")?),
            STDOUT => Self::Stdout(payload),
            STDERR => Self::Stderr(payload),
            MEDIA => Self::Media(payload),
            WAITING_INPUT => Self::WaitingInput {
                is_password: match &payload[..] {
                    [0] => false,
                    [1] => true,
                    _ => return Err(FrameError::Malformed("waiting-input")),
                },
            },
            STDIN_CREDIT => Self::StdinCredit(read_number(&payload, "stdin-credit")?),
            LOST => Self::Lost(read_number(&payload, "lost")?),
            EXIT => Self::Exit(read_json(&payload, "exit")?),
            ERROR => Self::Error(read_json(&payload, "error")?),
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Structs of plain fields into memory: no failure.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn read_json<T: serde::de::DeserializeOwned>(payload: &[u8], what: &'static str) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|_| FrameError::Malformed(what))
}

fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn read_number(payload: &[u8], what: &'static str) -> Result<u64, FrameError> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| FrameError::Malformed(what))
}

/// Reads `In` and writes `Out`.
#[derive(Debug)]
pub struct Codec<In, Out>(PhantomData<fn(Out) -> In>);

/// The agent's side.
pub type ServerCodec = Codec<ClientFrame, ServerFrame>;
/// The client's side.
pub type ClientCodec = Codec<ServerFrame, ClientFrame>;

impl<In, Out> Default for Codec<In, Out> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<In: Frame, Out> Decoder for Codec<In, Out> {
    type Item = In;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<In>, FrameError> {
        let Some((header, rest)) = source.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_be_bytes(length) as usize;
        if length > PAYLOAD_MAX {
            return Err(FrameError::TooLong(length));
        }
        if rest.len() < length {
            // In steps: what a peer only announces costs no memory.
            source.reserve((length - rest.len()).min(256 * 1024));
            return Ok(None);
        }
        source.advance(HEADER);
        In::from_parts(kind, source.split_to(length).freeze()).map(Some)
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<In>, FrameError> {
        match self.decode(source)? {
            Some(frame) => Ok(Some(frame)),
            None if source.is_empty() => Ok(None),
            None => Err(FrameError::Cut),
        }
    }
}

impl<In, Out: Frame> Encoder<Out> for Codec<In, Out> {
    type Error = FrameError;

    fn encode(&mut self, frame: Out, target: &mut BytesMut) -> Result<(), FrameError> {
        let (kind, payload) = frame.into_parts();
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= PAYLOAD_MAX)
            .ok_or(FrameError::TooLong(payload.len()))?;
        target.reserve(HEADER + payload.len());
        target.put_u8(kind);
        target.put_u32(length);
        target.extend_from_slice(&payload);
        Ok(())
    }
}

/// How many bytes may still be sent. Below zero after a record that could not be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit(i64);

impl Credit {
    /// So many at the beginning.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(clamp(bytes))
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// Some were sent.
    pub fn spend(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(clamp(bytes as u64));
    }

    /// Some came back.
    pub fn give(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(clamp(bytes));
    }
}

fn clamp(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::route::Task;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn client_frame() -> impl Strategy<Value = ClientFrame> {
        let task = prop_oneof![
            any::<String>().prop_map(Task::Exec),
            any::<String>().prop_map(Task::Code),
            proptest::collection::vec(any::<String>(), 0..4).prop_map(Task::Argv),
        ];
        prop_oneof![
            (task, any::<bool>(), any::<Option<u32>>(), any::<u64>(), any::<Option<u64>>()).prop_map(
                |(task, stdin, ms, credit, received)| {
                    let timeout = ms.map(|ms| Duration::from_millis(ms.into()));
                    let request = RunRequest { run: crate::ids::RunId::random(), task, stdin, timeout };
                    let resume =
                        received.map(|received_bytes| Resume { received_bytes, ..Resume::default() });
                    ClientFrame::Open(Open { request, credit, resume })
                }
            ),
            bytes().prop_map(ClientFrame::Stdin),
            Just(ClientFrame::StdinEof),
            Just(ClientFrame::Signal(Signal::Interrupt)),
            Just(ClientFrame::Signal(Signal::Cancel)),
            any::<u64>().prop_map(ClientFrame::Credit),
            any::<String>().prop_map(ClientFrame::Input),
        ]
    }

    fn server_frame() -> impl Strategy<Value = ServerFrame> {
        let end = prop_oneof![
            any::<i32>().prop_map(|exit_code| RunEnd::Finished { exit_code }),
            Just(RunEnd::TimedOut),
            Just(RunEnd::Cancelled),
            Just(RunEnd::RunnerRestarted),
            any::<String>().prop_map(|reason| RunEnd::Detached { reason }),
        ];
        prop_oneof![
            proptest::option::of("[a-z0-9]{1,9}")
                .prop_map(|incarnation| ServerFrame::Started { incarnation }),
            (any::<u64>(), any::<u64>()).prop_map(|(stdin_bytes, stdin_room)| {
                ServerFrame::Resumed(Resumed { stdin_bytes, stdin_room })
            }),
            bytes().prop_map(ServerFrame::Stdout),
            bytes().prop_map(ServerFrame::Stderr),
            bytes().prop_map(ServerFrame::Media),
            any::<bool>().prop_map(|is_password| ServerFrame::WaitingInput { is_password }),
            any::<u64>().prop_map(ServerFrame::StdinCredit),
            any::<u64>().prop_map(ServerFrame::Lost),
            end.prop_map(ServerFrame::Exit),
            (any::<String>(), any::<String>(), any::<Option<String>>())
                .prop_map(|(code, message, hint)| { ServerFrame::Error(ErrorBody { code, message, hint }) }),
        ]
    }

    /// Encodes, then decodes in pieces of `step` bytes, as a connection would bring them.
    fn there_and_back<T: Frame + Clone>(frames: &[T], step: usize) -> Vec<T> {
        let mut wire = BytesMut::new();
        let mut codec = Codec::<T, T>::default();
        for frame in frames {
            codec.encode(frame.clone(), &mut wire).unwrap();
        }
        let (mut arrived, mut buffer) = (Vec::new(), BytesMut::new());
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                arrived.push(frame);
            }
        }
        assert!(codec.decode_eof(&mut buffer).unwrap().is_none());
        arrived
    }

    proptest! {
        #[test]
        fn what_a_client_sends_arrives_whole(
            frames in proptest::collection::vec(client_frame(), 0..8), step in 1usize..64,
        ) {
            prop_assert_eq!(there_and_back(&frames, step), frames);
        }

        #[test]
        fn what_the_agent_sends_arrives_whole(
            frames in proptest::collection::vec(server_frame(), 0..8), step in 1usize..64,
        ) {
            prop_assert_eq!(there_and_back(&frames, step), frames);
        }

        #[test]
        fn any_bytes_are_frames_or_errors(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut server = ServerCodec::default();
            let mut buffer = BytesMut::from(&data[..]);
            while let Ok(Some(_)) = server.decode_eof(&mut buffer) {}
            let mut client = ClientCodec::default();
            let mut buffer = BytesMut::from(&data[..]);
            while let Ok(Some(_)) = client.decode_eof(&mut buffer) {}
        }

        #[test]
        fn credit_is_never_more_than_was_given(
            start in 0u64..1000, steps in proptest::collection::vec((0u64..500, 0usize..500), 0..20),
        ) {
            let mut credit = Credit::new(start);
            let (mut given, mut sent) = (start, 0u64);
            for (give, want) in steps {
                let take = want.min(credit.left());
                credit.spend(take);
                sent += take as u64;
                prop_assert!(sent <= given);
                credit.give(give);
                given += give;
            }
            prop_assert_eq!(credit.left() as u64, given - sent);
        }
    }

    #[test]
    fn an_announced_length_costs_no_memory_and_has_a_limit() {
        let mut codec = ServerCodec::default();
        let mut buffer = BytesMut::from(&[STDIN, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(codec.decode(&mut buffer), Err(FrameError::TooLong(_))));
        let mut buffer = BytesMut::from(&[STDIN, 0x01, 0, 0, 0][..]);
        assert!(codec.decode(&mut buffer).unwrap().is_none());
        assert!(buffer.capacity() < 1024 * 1024, "{}", buffer.capacity());
    }

    #[test]
    fn an_end_within_a_frame_is_an_error() {
        let mut codec = ServerCodec::default();
        let mut buffer = BytesMut::from(&[STDIN, 0, 0, 0, 9, b'x'][..]);
        assert!(matches!(codec.decode_eof(&mut buffer), Err(FrameError::Cut)));
    }

    #[test]
    fn the_wire_form_is_kind_length_bytes() {
        let mut wire = BytesMut::new();
        ClientCodec::default().encode(ClientFrame::Stdin(Bytes::from_static(b"ab")), &mut wire).unwrap();
        assert_eq!(&wire[..], b"\x02\x00\x00\x00\x02ab");
    }
}
