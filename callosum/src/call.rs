//! The document of a FUNCTION message (contracts: manager §1.5).

use crate::DecodeError;
use crate::message::{Header, MessageKind, encode_body};
use crate::msgpack::{self, Length, Reader, Sink, Token, mistyped};
use crate::value::{self, Budget, Value};

/// What a caller passes to a method.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Call {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Named arguments in the order of the wire.
    pub kwargs: Vec<(String, Value)>,
    /// Of the metadata that managers send since 26.9: names the request behind the call in logs.
    pub request_id: Option<String>,
}

impl Call {
    /// Reads the document. Nil is a call without arguments; keys may come in any order or be missing, those
    /// that are not known are skipped.
    ///
    /// # Errors
    /// When it is not such a document, or a value in it is one that [`Value::decode`] refuses.
    pub fn decode(document: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(document);
        let mut budget = Budget::new(document.len());
        let mut call = Self::default();
        match reader.token()? {
            Token::Nil => {}
            Token::Map(pairs) => {
                budget.charge(pairs.saturating_mul(2))?;
                for _ in 0..pairs {
                    call.read_key(&mut reader, &mut budget)?;
                }
            }
            other => return Err(mistyped("a call", "a map or nil", &other)),
        }
        reader.end()?;
        Ok(call)
    }

    /// Takes the argument that a parameter gets: by position where there are so many, else by name. None when
    /// it was not passed; passed as nil is [`Value::Nil`]. Each argument can be taken once.
    pub fn take(&mut self, position: usize, name: &str) -> Option<Value> {
        if let Some(value) = self.args.get_mut(position) {
            return Some(std::mem::take(value));
        }
        let index = self.kwargs.iter().rposition(|(key, _)| key == name)?;
        Some(self.kwargs.remove(index).1)
    }

    fn read_key(&mut self, reader: &mut Reader<'_>, budget: &mut Budget) -> Result<(), DecodeError> {
        match reader.str("a key of a call")? {
            "args" => match value::read(reader, budget)? {
                Value::Array(args) => self.args = args,
                Value::Nil => self.args = Vec::new(),
                _ => {
                    return Err(DecodeError::Type {
                        place: "args",
                        wanted: "an array",
                        found: "another value",
                    });
                }
            },
            "kwargs" => {
                let pairs = match reader.token()? {
                    Token::Map(pairs) => pairs,
                    Token::Nil => 0,
                    other => return Err(mistyped("kwargs", "a map", &other)),
                };
                budget.charge(pairs.saturating_mul(2))?;
                self.kwargs = Vec::with_capacity(pairs);
                for _ in 0..pairs {
                    let name = reader.str("a name in kwargs")?.to_owned();
                    self.kwargs.push((name, value::read(reader, budget)?));
                }
            }
            "metadata" => self.request_id = request_id(reader)?,
            _ => {
                reader.raw()?;
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Sink) {
        msgpack::put_map_head(3, out);
        msgpack::put_str("args", out);
        msgpack::put_array_head(self.args.len(), out);
        self.args.iter().for_each(|value| value::write(value, out));
        msgpack::put_str("kwargs", out);
        msgpack::put_map_head(self.kwargs.len(), out);
        for (name, value) in &self.kwargs {
            msgpack::put_str(name, out);
            value::write(value, out);
        }
        msgpack::put_str("metadata", out);
        msgpack::put_map_head(4, out);
        msgpack::put_str("request_id", out);
        match &self.request_id {
            Some(id) => msgpack::put_str(id, out),
            None => msgpack::put_nil(out),
        }
        for key in ["user", "triggered_user", "traceparent"] {
            msgpack::put_str(key, out);
            msgpack::put_nil(out);
        }
    }
}

/// The header and body frames with which a client calls `method`. `okey` is raw msgpack; `c4 00` is what the
/// manager's pool sends.
#[must_use]
pub fn encode_call(method: &str, okey: &[u8], seq: u32, call: &Call) -> [Vec<u8>; 2] {
    let mut frames = [Vec::new(), Vec::new()];
    let [header, body] = &mut frames;
    Header { kind: MessageKind::Function, method, okey, seq, zip: false }.encode_into(header);
    let mut length = Length::default();
    call.write(&mut length);
    encode_body(&[], Some((length.0, |out: &mut Vec<u8>| call.write(out))), body);
    frames
}

/// The one key of the metadata that is of use. Anything else there is nobody's mistake.
fn request_id(reader: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    let document = reader.raw()?;
    let mut reader = Reader::new(document);
    let Token::Map(pairs) = reader.token()? else { return Ok(None) };
    let mut id = None;
    for _ in 0..pairs {
        let key = reader.raw()?;
        let value = reader.raw()?;
        if Reader::new(key).token()? == Token::Str(b"request_id")
            && let Token::Str(bytes) = Reader::new(value).token()?
        {
            id = Some(msgpack::text(bytes)?.to_owned());
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode_body;

    #[test]
    fn a_call_of_the_contract_writes_and_reads() {
        let call = Call { args: vec!["ping".into()], ..Call::default() };
        let [header, body] = encode_call("ping", b"\xc4\x00", 0, &call);
        assert_eq!(Header::decode(&header).unwrap().method, "ping");
        assert_eq!(body.len(), 92);
        let envelope = decode_body(&body, false).unwrap();
        let document = envelope.body.unwrap();
        assert_eq!(document.len(), 77);
        assert_eq!(Call::decode(&document), Ok(call));
    }

    #[test]
    fn parameters_come_by_position_or_by_name() {
        let call = Call {
            args: vec!["a".into(), Value::Nil],
            kwargs: vec![("three".into(), 3.into()), ("three".into(), 4.into()), ("none".into(), Value::Nil)],
            request_id: None,
        };
        let mut taken = call.clone();
        assert_eq!(taken.take(0, "one"), Some("a".into()));
        assert_eq!(taken.take(1, "two"), Some(Value::Nil));
        assert_eq!(taken.take(2, "three"), Some(Value::Int(4)));
        assert_eq!(taken.take(3, "none"), Some(Value::Nil));
        assert_eq!(taken.take(4, "five"), None);
        assert_eq!(call.clone().take(0, "three"), Some("a".into()));
    }

    #[test]
    fn keys_may_be_missing_and_strangers_are_skipped() {
        let check = |document: &[u8], expected: Call| {
            assert_eq!(Call::decode(document), Ok(expected), "{document:x?}");
        };
        check(b"\xc0", Call::default());
        check(b"\x80", Call::default());
        check(b"\x83\xa4args\xc0\xa6kwargs\xc0\xa8metadata\xc0", Call::default());
        let id = Some("r1".to_owned());
        check(
            b"\x83\xa8metadata\x82\xa1u\x91\xc0\xaarequest_id\xa2r1\xa3new\x81\x01\x02\xa4args\x91\x01",
            Call { args: vec![1.into()], request_id: id, ..Call::default() },
        );
        check(b"\x81\xa8metadata\x81\xaarequest_id\xc0", Call::default());
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for document in [
            &b""[..],
            b"\x90",
            b"\x81\x01\x02",
            b"\x81\xa4args\xa1a",
            b"\x81\xa6kwargs\x81\x01\x02",
            b"\x80\x80",
        ] {
            assert!(Call::decode(document).is_err(), "{document:x?}");
        }
    }
}
