//! Callosum RPC on the wire, as a Backend.AI manager and its agents speak it (contracts: manager §1).
//!
//! Pure: bytes in, values out. There are no sockets here, no threads and no clock, and nothing of ours is
//! depended on; who owns the ROUTER also owns the frames.
//!
//! # The wire in one page
//!
//! A message is three frames behind the ROUTER's identity frame:
//!
//! ```text
//! [identity] [type: UPPER | PING | PONG] [header] [body]
//!                                          │        └ {"meta": bin, "body": bin | nil}, perhaps snappy
//!                                          └ {"type", "meth", "okey", "seq", "zip"}
//! ```
//!
//! * A client begins with [`FRAME_PING`] and two empty frames, and expects them back behind
//!   [`FRAME_PONG`]. Calls are [`FRAME_UPPER`]. There is no empty delimiter.
//! * A [`Header`] says what a message is ([`MessageKind`]) and which call it belongs to: method, ordering
//!   key, sequence number, together a [`CallId`]. The answer repeats all three; the ordering key in its
//!   exact msgpack type, or the client never finds the call.
//! * A [`Body`] wraps two msgpack documents in byte strings. `body` of a FUNCTION is a [`Call`], of a
//!   RESULT a [`Value`]. `meta` of a FAILURE or an ERROR is a [`Failure`].
//! * A `Value` is msgpack with extension types, most of them Python pickles. They are read as data,
//!   by a reader that knows a dozen classes and refuses the others by name; nothing in them is ever run.
//!   We write plain msgpack only.
//!
//! # Answering a call
//!
//! ```
//! # fn main() -> Result<(), callosum::DecodeError> {
//! use callosum::{Call, CallId, Header, MessageKind, Value, decode_body, encode_result};
//! # let [header_frame, body_frame] = callosum::encode_call("ping", b"\xc4\x00", 7,
//! #     &Call { args: vec!["hello".into()], ..Call::default() });
//!
//! let header = Header::decode(&header_frame)?;
//! let id = CallId::from(&header);
//! let body = decode_body(&body_frame, header.zip)?;
//! let mut call = body.body.as_deref().map_or(Ok(Call::default()), Call::decode)?;
//!
//! let mut answer = Vec::new();
//! encode_result(&call.take(0, "msg").unwrap_or(Value::Nil), &mut answer);
//! let frames = [id.reply_header(MessageKind::Result), answer];
//! # assert!(callosum::decode_reply(&frames[0], &frames[1]).is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! # Hostile bytes
//!
//! Nothing here panics, and memory follows what has arrived, not what it claims: lengths and counts are
//! compared with the bytes that are there before anything is reserved. [`DEPTH_MAX`], [`VALUES_MAX`],
//! [`HEADER_MAX`], [`BODY_MAX`] and [`PICKLE_MAX`] bound the rest.

#![forbid(unsafe_code)]

mod call;
mod certificate;
mod error;
mod failure;
mod image;
mod message;
mod msgpack;
mod pickle;
mod reply;
mod value;

pub use call::{Call, encode_call};
pub use certificate::{Certificate, CertificateError};
pub use error::DecodeError;
pub use failure::{Failure, python_repr};
pub use image::ImageRef;
pub use message::{
    BODY_MAX, Body, CallId, FRAME_PING, FRAME_PONG, FRAME_UPPER, HEADER_MAX, Header, MessageKind, decode_body,
};
pub use pickle::{PICKLE_MAX, PickleError};
pub use reply::{Outcome, Reply, decode_reply, encode_cancelled, encode_failure, encode_result};
pub use value::{DEPTH_MAX, VALUES_MAX, Value};
