//! Answers, as a client of the RPC port reads them.

use callosum::{MessageKind, Outcome, decode_reply, encode_cancelled, encode_failure, encode_result};

use super::{check_held, values};
use crate::heap::measured;

/// The first byte is the length of the header frame, the rest of the bytes that frame and the body's. An answer
/// that is read is written again as one that says the same.
pub fn check(bytes: &[u8]) {
    let Some((length, frames)) = bytes.split_first() else { return };
    let Some((header, body)) = frames.split_at_checked(usize::from(*length)) else { return };
    let (read, held) = measured(|| decode_reply(header, body));
    check_held(held, frames.len());
    let Ok(reply) = read else { return };

    let mut frame = Vec::new();
    let kind = match &reply.outcome {
        Outcome::Result(value) => {
            encode_result(value, &mut frame);
            MessageKind::Result
        }
        Outcome::Failure(failure) => {
            encode_failure(failure, &mut frame);
            MessageKind::Failure
        }
        Outcome::Error(failure) => {
            encode_failure(failure, &mut frame);
            MessageKind::Error
        }
        Outcome::Cancelled => {
            encode_cancelled(&mut frame);
            MessageKind::Cancelled
        }
    };
    let again = decode_reply(&reply.id.reply_header(kind), &frame);
    let Ok(again) = again else { panic!("{again:?} of {reply:?}") };
    assert_eq!(again.id, reply.id);
    match (&again.outcome, &reply.outcome) {
        (Outcome::Result(again), Outcome::Result(value)) => {
            assert!(values::same(again, &values::plain(value)), "{again:?} of {value:?}");
        }
        (again, outcome) => assert_eq!(again, outcome),
    }
}
