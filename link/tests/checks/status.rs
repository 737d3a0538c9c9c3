//! The reply to `status`.

use berth_link::Status;

use super::check_held;
use crate::heap::measured;

/// A reply is a map and nothing behind it; written again it reads as the same.
pub fn check(bytes: &[u8]) {
    let (read, held) = measured(|| Status::decode(bytes));
    check_held(held, bytes.len());
    let Ok(status) = read else { return };
    assert!(matches!(bytes, [0x80..=0x8f | 0xde | 0xdf, ..]), "{status:?} of something else than a map");
    let payload = status.encode();
    let again = Status::decode(&payload);
    // By what is written: a time that is no number is not equal to itself.
    assert!(again.as_ref().is_ok_and(|again| again.encode() == payload), "{again:?} of {status:?}");
}
