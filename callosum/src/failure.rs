//! What a call raised, in the words of Python that users and searches of logs know (contracts: manager §1.8).

use std::fmt::Write as _;

use crate::DecodeError;
use crate::msgpack::{self, Reader, Token, mistyped};

/// An exception, as FAILURE and ERROR carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the exception's class, without a module.
    pub name: String,
    /// What Python's `repr()` gives of it.
    pub repr: String,
    /// Where it came from, as text; may have many lines.
    pub trace: String,
}

impl Failure {
    /// An exception of this class with one text for an argument. Its trace is the line with which Python's
    /// ends.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            repr: format!("{name}({})", python_repr(text)),
            trace: format!("{name}: {text}"),
        }
    }

    /// The array that goes into `meta`.
    pub(crate) fn encode_meta(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.name.len() + self.repr.len() + self.trace.len());
        msgpack::put_array_head(3, &mut out);
        for text in [&self.name, &self.repr, &self.trace] {
            msgpack::put_str(text, &mut out);
        }
        out
    }

    /// Reads that array.
    pub(crate) fn decode_meta(meta: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(meta);
        match reader.token()? {
            Token::Array(3) => {}
            other => return Err(mistyped("meta of a failure", "an array of three strings", &other)),
        }
        let mut next = || reader.str("a part of a failure").map(str::to_owned);
        let failure = Self { name: next()?, repr: next()?, trace: next()? };
        reader.end()?;
        Ok(failure)
    }
}

/// What Python's `repr()` gives of a text: in single quotes, or in double ones where that saves escaping;
/// what cannot be printed as `\n`, `\xNN`, `\uNNNN` or `\UNNNNNNNN`.
#[must_use]
pub fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut repr = String::with_capacity(text.len() + 2);
    repr.push(quote);
    for c in text.chars() {
        match c {
            '\n' => repr.push_str("\\n"),
            '\r' => repr.push_str("\\r"),
            '\t' => repr.push_str("\\t"),
            '\\' => repr.push_str("\\\\"),
            c if c == quote => repr.extend(['\\', c]),
            c if is_printable(c) => repr.push(c),
            c => {
                let number = u32::from(c);
                // Writing into a string has no failure.
                let _ = match number {
                    0..=0xff => write!(repr, "\\x{number:02x}"),
                    0x100..=0xffff => write!(repr, "\\u{number:04x}"),
                    _ => write!(repr, "\\U{number:08x}"),
                };
            }
        }
    }
    repr.push(quote);
    repr
}

/// Python's `str.isprintable()`. The standard library has the same rule in the table behind `escape_debug`,
/// which escapes what starts a text a little more eagerly: hence the letter before it.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut pair = String::from("a");
    pair.push(c);
    pair.escape_debug().nth(1) == Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_look_as_pythons_repr_has_them() {
        // Left: the text. Right: what `repr()` of CPython 3.13 printed.
        for (text, expected) in [
            ("", "''"),
            ("plain", "'plain'"),
            ("it's", r#""it's""#),
            ("say \"hi\"", r#"'say "hi"'"#),
            ("it's \"both\"", r#"'it\'s "both"'"#),
            ("a\\b", r"'a\\b'"),
            ("a\nb\rc\td", r"'a\nb\rc\td'"),
            ("\0\x07\x1b\x7f", r"'\x00\x07\x1b\x7f'"),
            ("\u{80}\u{a0}\u{ad}", r"'\x80\xa0\xad'"),
            ("é한글日本", "'é한글日本'"),
            ("e\u{301}", "'e\u{301}'"),
            ("\u{301}", "'\u{301}'"),
            ("\u{200b}\u{2028}\u{3000}", r"'\u200b\u2028\u3000'"),
            ("\u{feff}\u{e000}\u{ffff}", r"'\ufeff\ue000\uffff'"),
            ("\u{1f600}", "'\u{1f600}'"),
            ("\u{e0001}\u{10ffff}", r"'\U000e0001\U0010ffff'"),
        ] {
            assert_eq!(python_repr(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_failure_looks_like_an_exception() {
        let failure = Failure::new("RuntimeError", "The container for kernel k1 is not found!");
        assert_eq!(failure.repr, "RuntimeError('The container for kernel k1 is not found!')");
        assert_eq!(failure.trace, "RuntimeError: The container for kernel k1 is not found!");
        assert_eq!(Failure::decode_meta(&failure.encode_meta()), Ok(failure));
    }

    #[test]
    fn other_arrays_are_no_failures() {
        for meta in [&b""[..], b"\x90", b"\x93\xa1a\xa1b\x01", b"\x93\xa1a\xa1b", b"\x93\xa1a\xa1b\xa1c\xc0"]
        {
            assert!(Failure::decode_meta(meta).is_err(), "{meta:x?}");
        }
    }
}
