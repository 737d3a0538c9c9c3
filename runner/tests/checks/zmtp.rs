//! A connection from its first byte on.

use crate::heap::measured;
use crate::session::{MESSAGE_MAX, ProtocolError, Session, SocketType, encode_message};

/// What a byte that came may become at most: an empty frame of two bytes is a vector in a vector.
const PER_BYTE: usize = 256;
/// The session's own buffers, and errors.
const SLACK: usize = 8 * 1024;

/// What a peer has brought about.
#[derive(Debug, PartialEq)]
struct Seen {
    end: Result<(), ProtocolError>,
    is_ready: bool,
    messages: Vec<Vec<Vec<u8>>>,
    output: Vec<u8>,
}

fn seen<'a>(role: SocketType, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut session = Session::new(role);
    let mut end = Ok(());
    let mut messages = Vec::new();
    for piece in pieces {
        end = session.receive(piece);
        messages.extend(std::iter::from_fn(|| session.next_message()));
        if end.is_err() {
            break;
        }
    }
    Seen { end, is_ready: session.is_ready(), messages, output: std::mem::take(session.output()) }
}

/// The first byte says which side we are and how large the pieces are, the rest comes from the peer. Pieces make
/// no difference; messages are within the limits and pass to another session as they are.
pub fn check(bytes: &[u8]) {
    let Some((how, wire)) = bytes.split_first() else { return };
    let role = if how & 1 == 0 { SocketType::Pull } else { SocketType::Push };
    let (whole, held) = measured(|| seen(role, std::iter::once(wire)));
    let most = wire.len().saturating_mul(PER_BYTE).saturating_add(SLACK);
    assert!(held <= most, "{held} bytes held for {} that came; at most {most}", wire.len());
    assert_eq!(seen(role, wire.chunks(usize::from(how >> 1).max(1))), whole);

    assert!(whole.is_ready || whole.messages.is_empty());
    let mut again = ready_pull();
    let mut out = Vec::new();
    for message in &whole.messages {
        assert!(!message.is_empty() && message.iter().map(Vec::len).sum::<usize>() <= MESSAGE_MAX);
        encode_message(&message.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out);
    }
    assert_eq!(again.receive(&out), Ok(()));
    let passed: Vec<_> = std::iter::from_fn(|| again.next_message()).collect();
    assert_eq!(passed, whole.messages);
}

/// A session that has shaken hands with one of ours.
fn ready_pull() -> Session {
    let mut pull = Session::new(SocketType::Pull);
    let mut push = Session::new(SocketType::Push);
    for _ in 0..2 {
        let to_pull = std::mem::take(push.output());
        let to_push = std::mem::take(pull.output());
        assert_eq!((pull.receive(&to_pull), push.receive(&to_push)), (Ok(()), Ok(())));
    }
    assert!(pull.is_ready());
    pull
}
