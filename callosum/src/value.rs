//! Values: msgpack with the extension types of Backend.AI (contracts: manager §1.6).
//!
//! Extension types are read and never written: the manager would unpickle what we send. What came as one is
//! written as the plain value that stands for it.

use bytes::Bytes;

use crate::image::ImageRef;
use crate::msgpack::{self, Length, Reader, Sink, Token, text};
use crate::{DecodeError, pickle};

/// Deepest nesting that is read. The manager's deepest argument has eight levels.
pub const DEPTH_MAX: usize = 64;

/// Most values in one document, keys of maps among them. The manager's longest argument lists every kernel of
/// a node, three values each.
pub const VALUES_MAX: usize = 256 * 1024;

const UUID: i8 = 1;
const DATETIME: i8 = 2;
const POSIX_PATH: i8 = 4;
const PURE_POSIX_PATH: i8 = 5;
const AUTO_DIRECTORY_PATH: i8 = 17;

/// A value of a call or an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Python's `None`.
    #[default]
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer above `i64::MAX`; smaller ones are [`Value::Int`].
    Uint(u64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bin(Bytes),
    /// A list or a tuple.
    Array(Vec<Value>),
    /// A map in the order of the wire; keys may be of any type. Of two equal keys the later one counts.
    Map(Vec<(Value, Value)>),
    /// Extension type 1; written as text with hyphens.
    Uuid([u8; 16]),
    /// Extension type 6; written as its value.
    Enum {
        /// Name of the class, without its module.
        class: String,
        /// The member's value.
        value: String,
    },
    /// Extension type 3, as Python writes it; written as text.
    Decimal(String),
    /// Extension types 4, 5 and 17; written as text.
    Path(String),
    /// Extension type 7; written as [`ImageRef::canonical`].
    ImageRef(Box<ImageRef>),
    /// Extension type 8: slots and their amounts, decimal; written as a map.
    Slots(Vec<(String, String)>),
    /// Extension type 9; written as text.
    SlotName(String),
    /// Extension type 16, in bytes; written as an integer.
    BinarySize(u64),
    /// Extension type 2: temporenc, not looked into; written as bytes.
    DateTime(Bytes),
}

impl Value {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is not exactly one value, is nested deeper than [`DEPTH_MAX`], has more than [`VALUES_MAX`]
    /// values, or an extension type that is not known or holds a pickle of a class that is not.
    pub fn decode(document: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(document);
        let mut budget = Budget::new(document.len());
        let value = read(&mut reader, &mut budget)?;
        reader.end()?;
        Ok(value)
    }

    /// Appends the value as plain msgpack.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        write(self, out);
    }

    /// How many bytes [`encode_into`](Self::encode_into) appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut length = Length::default();
        write(self, &mut length);
        length.0
    }

    /// A map.
    pub fn map<K: Into<Value>, V: Into<Value>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Value::Map(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// Whether it is [`Value::Nil`].
    #[must_use]
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::Nil)
    }

    /// The text of whatever is text: a string, an enum's value, a decimal, a path, a slot's name.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text)
            | Value::Enum { value: text, .. }
            | Value::Decimal(text)
            | Value::Path(text)
            | Value::SlotName(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, if it fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::BinarySize(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// An integer, unless it is negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Int(number) => u64::try_from(*number).ok(),
            Value::Uint(number) | Value::BinarySize(number) => Some(*number),
            _ => None,
        }
    }

    /// A float, or an integer as one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            Value::Int(number) => Some(*number as f64),
            Value::Uint(number) | Value::BinarySize(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// A boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The pairs of a map.
    #[must_use]
    pub fn as_map(&self) -> Option<&[(Value, Value)]> {
        match self {
            Value::Map(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// What a map has under this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let pairs = self.as_map()?;
        pairs.iter().rev().find(|(name, _)| name.as_str() == Some(key)).map(|(_, value)| value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Str(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Str(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Int(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Value::Int(number.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Value::Uint(number), Value::Int)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Float(number)
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Value::Bin(bytes)
    }
}

impl From<Vec<Value>> for Value {
    fn from(values: Vec<Value>) -> Self {
        Value::Array(values)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Nil, Into::into)
    }
}

/// What one document may still take. Counts are charged when their head is read, so that lists which each
/// claim all the bytes that are left do not add up.
pub(crate) struct Budget {
    values: usize,
    /// Refused where this runs out: the document has no bytes for so many values, or it has too many.
    exhausted: DecodeError,
    depth: usize,
}

impl Budget {
    /// For a document of so many bytes, where each value takes at least one.
    pub(crate) fn new(bytes: usize) -> Self {
        let exhausted = if bytes <= VALUES_MAX { DecodeError::Truncated } else { DecodeError::Values };
        Self { values: bytes.min(VALUES_MAX), exhausted, depth: DEPTH_MAX }
    }

    /// Charges what the head of an array or a map promises.
    pub(crate) fn charge(&mut self, values: usize) -> Result<(), DecodeError> {
        self.values = self.values.checked_sub(values).ok_or_else(|| self.exhausted.clone())?;
        Ok(())
    }

    fn descend(&mut self) -> Result<(), DecodeError> {
        self.depth = self.depth.checked_sub(1).ok_or(DecodeError::Depth)?;
        Ok(())
    }

    fn ascend(&mut self) {
        self.depth += 1;
    }
}

/// Reads one value of a document. Recursion ends at [`DEPTH_MAX`].
pub(crate) fn read(reader: &mut Reader<'_>, budget: &mut Budget) -> Result<Value, DecodeError> {
    Ok(match reader.token()? {
        Token::Nil => Value::Nil,
        Token::Bool(value) => Value::Bool(value),
        Token::Int(number) => Value::Int(number),
        Token::Uint(number) => Value::Uint(number),
        Token::Float(number) => Value::Float(number),
        Token::Str(bytes) => Value::Str(text(bytes)?.to_owned()),
        Token::Bin(bytes) => Value::Bin(Bytes::copy_from_slice(bytes)),
        Token::Array(count) => {
            budget.charge(count)?;
            budget.descend()?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read(reader, budget)?);
            }
            budget.ascend();
            Value::Array(values)
        }
        Token::Map(count) => {
            budget.charge(count.saturating_mul(2))?;
            budget.descend()?;
            let mut pairs = Vec::with_capacity(count);
            for _ in 0..count {
                pairs.push((read(reader, budget)?, read(reader, budget)?));
            }
            budget.ascend();
            Value::Map(pairs)
        }
        Token::Ext(code, payload) => {
            let value = extension(code, payload)?;
            if let Value::Slots(slots) = &value {
                // They are a map to everyone who meets them, whatever form they came in.
                budget.charge(slots.len().saturating_mul(2))?;
                budget.descend()?;
                budget.ascend();
            }
            value
        }
    })
}

/// Writes a value, as deep as it is: those that were read end at [`DEPTH_MAX`].
pub(crate) fn write(value: &Value, out: &mut impl Sink) {
    match value {
        Value::Nil => msgpack::put_nil(out),
        Value::Bool(value) => msgpack::put_bool(*value, out),
        Value::Int(number) => msgpack::put_int(*number, out),
        Value::Uint(number) | Value::BinarySize(number) => msgpack::put_uint(*number, out),
        Value::Float(number) => msgpack::put_float(*number, out),
        Value::Str(text)
        | Value::Enum { value: text, .. }
        | Value::Decimal(text)
        | Value::Path(text)
        | Value::SlotName(text) => msgpack::put_str(text, out),
        Value::Bin(bytes) | Value::DateTime(bytes) => msgpack::put_bin(bytes, out),
        Value::Array(values) => {
            msgpack::put_array_head(values.len(), out);
            values.iter().for_each(|value| write(value, out));
        }
        Value::Map(pairs) => {
            msgpack::put_map_head(pairs.len(), out);
            for (key, value) in pairs {
                write(key, out);
                write(value, out);
            }
        }
        Value::Uuid(bytes) => msgpack::put_str(&hyphenated(bytes), out),
        Value::ImageRef(image) => msgpack::put_str(&image.canonical(), out),
        Value::Slots(slots) => {
            msgpack::put_map_head(slots.len(), out);
            for (slot, amount) in slots {
                msgpack::put_str(slot, out);
                msgpack::put_str(amount, out);
            }
        }
    }
}

fn extension(code: i8, payload: &[u8]) -> Result<Value, DecodeError> {
    match code {
        UUID => payload.try_into().map(Value::Uuid).map_err(|_| DecodeError::ExtensionLength(code)),
        DATETIME => Ok(Value::DateTime(Bytes::copy_from_slice(payload))),
        POSIX_PATH | PURE_POSIX_PATH | AUTO_DIRECTORY_PATH => Ok(Value::Path(text(payload)?.to_owned())),
        _ => match pickle::Kind::of_extension(code) {
            Some(kind) => pickle::read(payload, kind).map_err(|source| DecodeError::Pickle { code, source }),
            None => Err(DecodeError::Extension(code)),
        },
    }
}

/// A UUID as Python's `str()` writes it.
fn hyphenated(bytes: &[u8; 16]) -> String {
    let number = u128::from_be_bytes(*bytes);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        number >> 96,
        number >> 80 & 0xffff,
        number >> 64 & 0xffff,
        number >> 48 & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &[u8], expected: Result<Value, DecodeError>) {
        assert_eq!(Value::decode(frame), expected, "{frame:x?}");
    }

    #[test]
    fn plain_values_read_back_as_themselves() {
        let value = Value::map([
            ("nil", Value::Nil),
            ("numbers", vec![Value::from(-1), u64::MAX.into(), 1.5.into(), true.into()].into()),
            ("bytes", Bytes::from_static(b"\0\xff").into()),
            ("none", Option::<i64>::None.into()),
        ]);
        let mut out = Vec::new();
        value.encode_into(&mut out);
        assert_eq!(out.len(), value.encoded_len());
        check(&out, Ok(value));
    }

    #[test]
    fn a_later_key_wins() {
        let value = Value::map([("a", 1), ("b", 2), ("a", 3)]);
        assert_eq!(value.get("a"), Some(&Value::Int(3)));
        assert_eq!(value.get("c"), None);
        assert_eq!(Value::Nil.get("a"), None);
    }

    #[test]
    fn extension_types_without_a_pickle_read() {
        check(b"\xd8\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05", {
            let mut uuid = [0; 16];
            uuid[15] = 5;
            Ok(Value::Uuid(uuid))
        });
        for code in [4, 5, 17] {
            check(&[0xd6, code, b'/', b't', b'm', b'p'], Ok(Value::Path("/tmp".into())));
        }
        check(b"\xd5\x02ab", Ok(Value::DateTime(Bytes::from_static(b"ab"))));
        check(b"\xd4\x01a", Err(DecodeError::ExtensionLength(1)));
        check(b"\xd4\x7fa", Err(DecodeError::Extension(127)));
        check(b"\xd4\x04\xff", Err(DecodeError::Utf8));
    }

    #[test]
    fn what_came_as_an_extension_is_written_plain() {
        for (value, expected) in [
            (
                Value::Uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes()),
                Value::from("01234567-89ab-cdef-0123-456789abcdef"),
            ),
            (Value::Enum { class: "SessionTypes".into(), value: "batch".into() }, "batch".into()),
            (Value::Decimal("1.5".into()), "1.5".into()),
            (Value::Path("/tmp".into()), "/tmp".into()),
            (Value::SlotName("cpu".into()), "cpu".into()),
            (Value::BinarySize(1024), 1024.into()),
            (Value::DateTime(Bytes::from_static(b"ab")), Bytes::from_static(b"ab").into()),
            (Value::Slots(vec![("cpu".into(), "1".into())]), Value::map([("cpu", "1")])),
        ] {
            let mut out = Vec::new();
            value.encode_into(&mut out);
            assert_eq!(out.len(), value.encoded_len());
            check(&out, Ok(expected));
        }
    }

    #[test]
    fn nesting_ends_at_a_limit() {
        let mut frame = vec![0x91; DEPTH_MAX];
        frame.push(0xc0);
        assert!(Value::decode(&frame).is_ok());
        frame.insert(0, 0x91);
        check(&frame, Err(DecodeError::Depth));
        check(&vec![0x91; 10_000_000], Err(DecodeError::Depth));
        check(&vec![0x81; 10_000_000], Err(DecodeError::Depth));
    }

    /// Extension type 8 with so many slots, none of which has a name or an amount.
    fn slots(count: usize) -> Vec<u8> {
        let class = b"\x8c\x17ai.backend.common.types\x8c\x0cResourceSlot\x93)\x81";
        // State: None and {"data": {..}}. The first name is kept in the memo and mentioned from there on.
        let state =
            [b"N}\x8c\x04data}(\x8c\0\x94h\0", &b"h\0h\0".repeat(count - 1)[..], b"us\x86b."].concat();
        let pickle = [b"\x80\x05", &class[..], &state].concat();
        let length = u32::try_from(pickle.len()).unwrap().to_be_bytes();
        [&b"\xc9"[..], &length, b"\x08", &pickle].concat()
    }

    #[test]
    fn slots_count_as_the_map_that_they_are() {
        let nested = |depth| [vec![0x91; depth], slots(1)].concat();
        assert!(Value::decode(&nested(DEPTH_MAX - 1)).is_ok());
        check(&nested(DEPTH_MAX), Err(DecodeError::Depth));
        // 4000 pairs take a pickle of nearly the longest.
        let many = |count: u8| [&[0xdc, 0, count], &slots(4000).repeat(count.into())[..]].concat();
        assert!(Value::decode(&many(32)).is_ok());
        check(&many(33), Err(DecodeError::Values));
    }

    #[test]
    fn counts_are_charged_before_they_are_believed() {
        // Each of these arrays claims nearly all the bytes that are left.
        let frame: Vec<u8> =
            (0..60_u16).rev().flat_map(|left| [0xdc, 0, left.to_be_bytes()[1] * 3]).collect();
        check(&frame, Err(DecodeError::Truncated));
        let mut long = vec![0xdd];
        long.extend(u32::try_from(VALUES_MAX + 1).unwrap().to_be_bytes());
        long.resize(VALUES_MAX + 6, 0xc0);
        check(&long, Err(DecodeError::Values));
        check(b"\xdd\x7f\xff\xff\xff", Err(DecodeError::Truncated));
        check(b"\xc6\x7f\xff\xff\xff", Err(DecodeError::Truncated));
        check(b"", Err(DecodeError::Truncated));
        check(b"\xc0\xc0", Err(DecodeError::Trailing(1)));
        check(b"\xa1\xff", Err(DecodeError::Utf8));
    }
}
