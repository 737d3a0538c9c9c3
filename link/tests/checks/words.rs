//! Type frames, and the credit that is a number in words.

use berth_link::{MessageType, Op, decode_credit};

/// A word that is read is exactly that word; a credit has nothing but digits and says the same without zeros
/// before it.
pub fn check(bytes: &[u8]) {
    assert!(Op::parse(bytes).is_none_or(|op| op.as_bytes() == bytes));
    assert!(MessageType::parse(bytes).is_none_or(|kind| kind.as_bytes() == bytes));
    if let Some(credit) = decode_credit(bytes) {
        assert!(bytes.iter().all(u8::is_ascii_digit), "{credit} of {bytes:x?}");
        let digits = bytes.iter().position(|digit| *digit != b'0').and_then(|first| bytes.get(first..));
        assert_eq!(digits.unwrap_or(b"0"), credit.to_string().as_bytes());
    }
}
