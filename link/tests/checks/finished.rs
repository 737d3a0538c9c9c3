//! Payloads of the `*-finished` messages.

use berth_link::Finished;

use super::check_held;
use crate::heap::measured;

/// A payload is an object; its exit code written again reads as the same.
pub fn check(bytes: &[u8]) {
    let (read, held) = measured(|| Finished::decode(bytes));
    check_held(held, bytes.len());
    let Ok(finished) = read else { return };
    assert_eq!(bytes.trim_ascii().first(), Some(&b'{'));
    if let Some(exit_code) = finished.exit_code {
        let again = Finished::decode(&Finished::encode(exit_code)).ok();
        assert_eq!(again, Some(finished));
    }
}
