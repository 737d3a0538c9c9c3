//! ZMTP 3.0 with the NULL mechanism, as far as one PUSH or PULL socket with one peer needs it
//! (rfc.zeromq.org/spec/23).
//!
//! There is no I/O here: bytes that came go into a [`Session`], whole messages and the bytes to be sent
//! come out of it. The pure-Rust socket library was not used because its PUSH fails where libzmq waits,
//! and a runner must know which message was on its way when a connection broke (design §5).
//!
//! ```text
//! Greeting --(64 bytes, version >= 3, NULL)--> Handshake --(READY, matching type)--> Ready
//! ```
//!
//! The peer's PINGs are answered in every phase after the greeting, as libzmq's heartbeats expect;
//! commands that this version does not know are ignored.

mod session;

pub use session::{ProtocolError, Session, SocketType, encode_message};

#[cfg(test)]
mod tests;
