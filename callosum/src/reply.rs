//! Body frames of answers, and how a client reads them (contracts: manager §1.3–1.5).

use crate::message::{CallId, Header, MessageKind, decode_body, encode_body};
use crate::value::Value;
use crate::{DecodeError, Failure};

/// A msgpack array without elements: the metadata of everything but calls and failures.
const EMPTY_ARRAY: &[u8] = &[0x90];

/// An answer as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The call it answers.
    pub id: CallId,
    /// How the call went.
    pub outcome: Outcome,
}

/// How a call went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// RESULT.
    Result(Value),
    /// FAILURE: the handler raised it.
    Failure(Failure),
    /// ERROR: something around the handler did.
    Error(Failure),
    /// CANCELLED.
    Cancelled,
}

/// Appends the body frame of a RESULT: the value as a document within the frame's own map.
pub fn encode_result(value: &Value, out: &mut Vec<u8>) {
    encode_body(EMPTY_ARRAY, Some((value.encoded_len(), |out: &mut Vec<u8>| value.encode_into(out))), out);
}

/// Appends the body frame of a FAILURE or an ERROR.
pub fn encode_failure(failure: &Failure, out: &mut Vec<u8>) {
    encode_body(&failure.encode_meta(), NO_BODY, out);
}

/// Appends the body frame of a CANCELLED, and of the CANCEL before it.
pub fn encode_cancelled(out: &mut Vec<u8>) {
    encode_body(EMPTY_ARRAY, NO_BODY, out);
}

/// Reads the header and body frames of an answer.
///
/// # Errors
/// When they are not what an agent sends, e.g. a call.
pub fn decode_reply(header: &[u8], body: &[u8]) -> Result<Reply, DecodeError> {
    let header = Header::decode(header)?;
    let body = decode_body(body, header.zip)?;
    let outcome = match header.kind {
        MessageKind::Result => Outcome::Result(match &body.body {
            Some(document) => Value::decode(document)?,
            None => Value::Nil,
        }),
        MessageKind::Failure => Outcome::Failure(Failure::decode_meta(&body.meta)?),
        MessageKind::Error => Outcome::Error(Failure::decode_meta(&body.meta)?),
        MessageKind::Cancelled => Outcome::Cancelled,
        other => return Err(DecodeError::Kind(other.number().into())),
    };
    Ok(Reply { id: CallId::from(&header), outcome })
}

/// Spelt out since the type of a writer that is never called cannot be inferred.
const NO_BODY: Option<(usize, fn(&mut Vec<u8>))> = None;

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: MessageKind) -> Vec<u8> {
        let asked =
            Header { kind: MessageKind::Function, method: "ping", okey: b"\xc4\x00", seq: 0, zip: false };
        CallId::from(&asked).reply_header(kind)
    }

    fn check(kind: MessageKind, body: &[u8], expected: Outcome) {
        assert_eq!(decode_reply(&header(kind), body).map(|reply| reply.outcome), Ok(expected));
    }

    #[test]
    fn answers_are_those_of_the_contract() {
        let mut body = Vec::new();
        encode_result(&"ping".into(), &mut body);
        assert_eq!(body, b"\x82\xa4meta\xc4\x01\x90\xa4body\xc4\x05\xa4ping");
        check(MessageKind::Result, &body, Outcome::Result("ping".into()));

        body.clear();
        let failure = Failure {
            name: "KernelNotFoundError".into(),
            repr: "KernelNotFoundError('x')".into(),
            trace: "Traceback...".into(),
        };
        encode_failure(&failure, &mut body);
        assert_eq!(
            body,
            b"\x82\xa4meta\xc4\x3b\x93\xb3KernelNotFoundError\xb8KernelNotFoundError('x')\xacTraceback...\xa4body\xc0"
        );
        check(MessageKind::Failure, &body, Outcome::Failure(failure.clone()));
        check(MessageKind::Error, &body, Outcome::Error(failure));

        body.clear();
        encode_cancelled(&mut body);
        assert_eq!(body, b"\x82\xa4meta\xc4\x01\x90\xa4body\xc0");
        check(MessageKind::Cancelled, &body, Outcome::Cancelled);
    }

    #[test]
    fn a_call_is_no_answer() {
        let mut body = Vec::new();
        encode_cancelled(&mut body);
        assert_eq!(decode_reply(&header(MessageKind::Function), &body), Err(DecodeError::Kind(1)));
    }
}
