//! The pickles within extension types.

use callosum::{DecodeError, PICKLE_MAX, PickleError, Value};

use super::value::check_value;
use super::{check_held, values};
use crate::heap::measured;

/// Extension types that are pickles (contracts: manager §1.6).
const CODES: [u8; 6] = [3, 6, 7, 8, 9, 16];

/// The first byte picks the extension type, the rest is its pickle. What is read is of that type, and its texts
/// are bounded by the pickle's length.
pub fn check(bytes: &[u8]) {
    let Some((pick, pickle)) = bytes.split_first() else { return };
    let Some(&code) = CODES.get(usize::from(*pick) % CODES.len()) else { return };
    let length = u32::try_from(pickle.len()).unwrap_or(u32::MAX).to_be_bytes();
    let document = [&[0xc9][..], &length, &[code], pickle].concat();

    let (read, held) = measured(|| Value::decode(&document));
    check_held(held, document.len());
    match read {
        Ok(value) => {
            let fits = match &value {
                Value::Decimal(_) => code == 3,
                Value::Enum { .. } => code == 6,
                Value::ImageRef(_) => code == 7,
                Value::Slots(_) => code == 8,
                Value::SlotName(_) => code == 9,
                Value::BinarySize(_) => code == 16,
                _ => false,
            };
            assert!(fits, "extension type {code} became {value:?}");
            assert!(pickle.len() <= PICKLE_MAX);
            // Integers become texts as well, of up to 20 digits where a mention takes two bytes.
            assert!(values::text_bytes(&value) <= pickle.len() * 18);
            check_value(&value);
        }
        Err(DecodeError::Pickle { code: refused, source }) => {
            assert_eq!(i16::from(refused), i16::from(code));
            assert_eq!(matches!(source, PickleError::Length(_)), pickle.len() > PICKLE_MAX);
            // On its way to a log: no line of its own, no control characters.
            let said = source.to_string();
            assert!(said.len() < 1024 && !said.contains(char::is_control), "{said:?}");
        }
        Err(other) => panic!("{other:?} for a whole extension type"),
    }
}
