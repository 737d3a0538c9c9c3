//! Documents: msgpack with extension types.

use callosum::{DEPTH_MAX, VALUES_MAX, Value};

use super::{check_held, values};
use crate::heap::measured;

/// A value keeps to the limits, and written as plain msgpack it reads back.
pub fn check(bytes: &[u8]) {
    let (read, held) = measured(|| Value::decode(bytes));
    check_held(held, bytes.len());
    if let Ok(value) = read {
        check_value(&value);
    }
}

/// What holds for every value that was read.
pub(super) fn check_value(value: &Value) {
    assert!(values::depth(value) <= DEPTH_MAX, "nested {} deep", values::depth(value));
    assert!(values::inner(value) <= VALUES_MAX, "{} values", values::inner(value));

    let mut document = Vec::new();
    value.encode_into(&mut document);
    assert_eq!(document.len(), value.encoded_len());
    let again = Value::decode(&document);
    let expected = values::plain(value);
    assert!(again.as_ref().is_ok_and(|again| values::same(again, &expected)), "{again:?} of {value:?}");

    // Looking at it never fails either.
    let _ = (value.as_str(), value.as_i64(), value.as_u64(), value.as_f64(), value.as_bool(), value.get("k"));
}
