//! Headers, the names of calls, and the envelope around bodies (contracts: manager §1.2–1.4).

use std::borrow::Cow;

use crate::DecodeError;
use crate::msgpack::{self, Reader, Sink, Token, mistyped, text};

/// First frame of every RPC message.
pub const FRAME_UPPER: &[u8] = b"UPPER";
/// First frame of a client's greeting; two frames follow that go back as they are.
pub const FRAME_PING: &[u8] = b"PING";
/// First frame of the answer to [`FRAME_PING`].
pub const FRAME_PONG: &[u8] = b"PONG";

/// Longest header that is read, in bytes. Real ones have 33 to 60; methods and ordering keys are kept while
/// their call runs, so they are not to be long.
pub const HEADER_MAX: usize = 4096;

/// Longest body after decompression, in bytes: what the RPC socket takes of uncompressed ones (design §3).
pub const BODY_MAX: usize = 64 * 1024 * 1024;

/// Snappy's densest element copies 64 bytes and takes three: a block cannot become longer than this many
/// times itself, whatever length it claims.
const SNAPPY_RATIO_MAX: usize = 22;

/// `c4 00`, which the manager's pool sends and which stands for a key that is not there.
const EMPTY_BIN: &[u8] = &[0xc4, 0x00];

/// What a message is (contracts: manager §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Nothing.
    Null,
    /// A call.
    Function,
    /// Its value.
    Result,
    /// What its handler raised.
    Failure,
    /// What went wrong before or around the handler.
    Error,
    /// The caller does not want the answer any more.
    Cancel,
    /// The call was cancelled, by the caller or by us.
    Cancelled,
}

impl MessageKind {
    /// Every kind, in the order of their numbers on the wire.
    pub const ALL: [Self; 7] =
        [Self::Null, Self::Function, Self::Result, Self::Failure, Self::Error, Self::Cancel, Self::Cancelled];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    fn from_number(number: i64) -> Result<Self, DecodeError> {
        let index = usize::try_from(number).map_err(|_| DecodeError::Kind(number))?;
        Self::ALL.get(index).copied().ok_or(DecodeError::Kind(number))
    }
}

/// Header of a message, borrowed from its frame (contracts: manager §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// What the message is.
    pub kind: MessageKind,
    /// Name of the method.
    pub method: &'a str,
    /// Ordering key as raw msgpack, since it must go back in its exact type: `c4 00` from the manager's
    /// pool, `a0` from older clients.
    pub okey: &'a [u8],
    /// The client's number of the call.
    pub seq: u32,
    /// Whether the body is a snappy block.
    pub zip: bool,
}

impl<'a> Header<'a> {
    /// Reads a header frame without allocating: keys in any order, unknown keys skipped, `okey` and `zip`
    /// may be missing.
    ///
    /// # Errors
    /// When the frame is longer than [`HEADER_MAX`] or not such a map.
    pub fn decode(frame: &'a [u8]) -> Result<Self, DecodeError> {
        if frame.len() > HEADER_MAX {
            return Err(DecodeError::Header(frame.len()));
        }
        let mut reader = Reader::new(frame);
        let (mut kind, mut method, mut okey, mut seq, mut zip) = (None, None, EMPTY_BIN, None, false);
        for _ in 0..reader.pairs("a header")? {
            match reader.token()? {
                Token::Str(b"type") => {
                    kind = Some(match reader.token()? {
                        Token::Int(number) => MessageKind::from_number(number)?,
                        other => return Err(mistyped("type of a header", "an integer", &other)),
                    });
                }
                Token::Str(b"meth") => method = Some(reader.str("meth of a header")?),
                Token::Str(b"okey") => okey = ordering_key(&mut reader)?,
                Token::Str(b"seq") => {
                    seq = Some(match reader.token()? {
                        Token::Int(number) => u32::try_from(number).map_err(|_| DecodeError::Sequence)?,
                        Token::Uint(_) => return Err(DecodeError::Sequence),
                        other => return Err(mistyped("seq of a header", "an integer", &other)),
                    });
                }
                Token::Str(b"zip") => {
                    zip = match reader.token()? {
                        Token::Bool(zip) => zip,
                        other => return Err(mistyped("zip of a header", "a boolean", &other)),
                    };
                }
                Token::Str(_) => {
                    reader.raw()?;
                }
                other => return Err(mistyped("a key of a header", "a string", &other)),
            }
        }
        reader.end()?;
        Ok(Self {
            kind: kind.ok_or(DecodeError::Missing("type of a header"))?,
            method: method.ok_or(DecodeError::Missing("meth of a header"))?,
            okey,
            seq: seq.ok_or(DecodeError::Missing("seq of a header"))?,
            zip,
        })
    }

    /// Appends the header's frame, its keys in the order in which Python's peers write them.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(40 + self.method.len() + self.okey.len());
        msgpack::put_map_head(5, out);
        msgpack::put_str("type", out);
        msgpack::put_uint(self.kind.number().into(), out);
        msgpack::put_str("meth", out);
        msgpack::put_str(self.method, out);
        msgpack::put_str("okey", out);
        out.put(self.okey);
        msgpack::put_str("seq", out);
        msgpack::put_uint(self.seq.into(), out);
        msgpack::put_str("zip", out);
        msgpack::put_bool(self.zip, out);
    }
}

/// Which call a message belongs to: the same for the request, its answer and its CANCEL. Unique for one peer
/// only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallId {
    method: Box<str>,
    okey: Box<[u8]>,
    seq: u32,
}

impl CallId {
    /// Name of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The client's number of the call.
    #[must_use]
    pub fn seq(&self) -> u32 {
        self.seq
    }

    /// The header frame of a message of this kind about the call.
    #[must_use]
    pub fn reply_header(&self, kind: MessageKind) -> Vec<u8> {
        let mut frame = Vec::new();
        Header { kind, method: &self.method, okey: &self.okey, seq: self.seq, zip: false }
            .encode_into(&mut frame);
        frame
    }
}

impl From<&Header<'_>> for CallId {
    fn from(header: &Header<'_>) -> Self {
        Self { method: header.method.into(), okey: header.okey.into(), seq: header.seq }
    }
}

/// What the body frame wraps (contracts: manager §1.4): borrowed, unless it was compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body<'a> {
    /// Empty, or a msgpack array.
    pub meta: Cow<'a, [u8]>,
    /// The application's document; none where the message has none.
    pub body: Option<Cow<'a, [u8]>>,
}

/// Reads a body frame; `zip` is the header's.
///
/// # Errors
/// When it is no such map, or no snappy block where one was announced, or would be longer than [`BODY_MAX`]
/// without compression. Such a block is refused by its head: nothing is allocated for it.
pub fn decode_body(frame: &[u8], zip: bool) -> Result<Body<'_>, DecodeError> {
    if !zip {
        let Envelope { meta, body } = Envelope::read(frame)?;
        return Ok(Body { meta: Cow::Borrowed(meta), body: body.map(Cow::Borrowed) });
    }
    let plain = decompress(frame)?;
    let Envelope { meta, body } = Envelope::read(&plain)?;
    Ok(Body { meta: Cow::Owned(meta.to_vec()), body: body.map(|body| Cow::Owned(body.to_vec())) })
}

/// Appends a body frame around `meta` and a document of `length` bytes that `write` appends; none writes nil.
pub(crate) fn encode_body(meta: &[u8], body: Option<(usize, impl FnOnce(&mut Vec<u8>))>, out: &mut Vec<u8>) {
    out.reserve(32 + meta.len() + body.as_ref().map_or(0, |(length, _)| *length));
    msgpack::put_map_head(2, out);
    msgpack::put_str("meta", out);
    msgpack::put_bin(meta, out);
    msgpack::put_str("body", out);
    match body {
        Some((length, write)) => {
            msgpack::put_bin_head(length, out);
            write(out);
        }
        None => msgpack::put_nil(out),
    }
}

struct Envelope<'a> {
    meta: &'a [u8],
    body: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    fn read(document: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(document);
        let mut envelope = Self { meta: &[], body: None };
        for _ in 0..reader.pairs("a body frame")? {
            match reader.token()? {
                Token::Str(b"meta") => envelope.meta = optional_bin(&mut reader, "meta")?.unwrap_or_default(),
                Token::Str(b"body") => envelope.body = optional_bin(&mut reader, "body")?,
                Token::Str(_) => {
                    reader.raw()?;
                }
                other => return Err(mistyped("a key of a body frame", "a string", &other)),
            }
        }
        reader.end()?;
        Ok(envelope)
    }
}

fn optional_bin<'a>(reader: &mut Reader<'a>, place: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
    match reader.token()? {
        Token::Bin(bytes) => Ok(Some(bytes)),
        Token::Nil => Ok(None),
        other => Err(mistyped(place, "a byte string or nil", &other)),
    }
}

/// A byte string or a string, with its marker.
fn ordering_key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    match reader.clone().token()? {
        Token::Bin(_) => reader.raw(),
        Token::Str(bytes) => text(bytes).and_then(|_| reader.raw()),
        other => Err(mistyped("okey of a header", "a string or a byte string", &other)),
    }
}

fn decompress(frame: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let length = snap::raw::decompress_len(frame).map_err(|_| DecodeError::Snappy)?;
    if length > BODY_MAX {
        return Err(DecodeError::Body(length));
    }
    if length > frame.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(DecodeError::Snappy);
    }
    snap::raw::Decoder::new().decompress_vec(frame).map_err(|_| DecodeError::Snappy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &[u8] = b"\x85\xa4type\x01\xa4meth\xa4ping\xa4okey\xc4\x00\xa3seq\x00\xa3zip\xc2";

    fn check(frame: &[u8], expected: Result<Header<'_>, DecodeError>) {
        assert_eq!(Header::decode(frame), expected, "{frame:x?}");
    }

    #[test]
    fn a_header_reads_and_writes_as_the_contract_has_it() {
        let header =
            Header { kind: MessageKind::Function, method: "ping", okey: b"\xc4\x00", seq: 0, zip: false };
        check(PING, Ok(header));
        let mut out = Vec::new();
        header.encode_into(&mut out);
        assert_eq!(out, PING);
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_strangers_are_skipped() {
        check(
            b"\x85\xa3seq\x07\xa3new\x92\xc0\x81\x01\x02\xa4okey\xa1k\xa4meth\xa1m\xa4type\x05",
            Ok(Header { kind: MessageKind::Cancel, method: "m", okey: b"\xa1k", seq: 7, zip: false }),
        );
        check(
            b"\x83\xa3seq\x07\xa4meth\xa1m\xa4type\x00",
            Ok(Header { kind: MessageKind::Null, method: "m", okey: EMPTY_BIN, seq: 7, zip: false }),
        );
    }

    #[test]
    fn wrong_headers_are_refused_by_what_is_wrong() {
        check(b"", Err(DecodeError::Truncated));
        check(b"\xc0", Err(DecodeError::Type { place: "a header", wanted: "a map", found: "nil" }));
        check(b"\x80", Err(DecodeError::Missing("type of a header")));
        check(b"\x81\xa4type\x07", Err(DecodeError::Kind(7)));
        check(b"\x81\xa4type\xff", Err(DecodeError::Kind(-1)));
        check(b"\x81\xa3seq\xff", Err(DecodeError::Sequence));
        check(b"\x81\xa3seq\xcf\x00\x00\x00\x01\x00\x00\x00\x00", Err(DecodeError::Sequence));
        check(b"\x81\xa4meth\xa1\xff", Err(DecodeError::Utf8));
        check(&[PING, b"\x00"].concat(), Err(DecodeError::Trailing(1)));
        check(&[0; HEADER_MAX + 1], Err(DecodeError::Header(HEADER_MAX + 1)));
        let found = "an array";
        let wanted = "a string or a byte string";
        check(b"\x81\xa4okey\x90", Err(DecodeError::Type { place: "okey of a header", wanted, found }));
    }

    #[test]
    fn an_answer_echoes_the_ordering_key_in_its_type() {
        for okey in [&b"\xc4\x00"[..], b"\xa0", b"\xc4\x01k", b"\xa1k"] {
            let asked = Header { kind: MessageKind::Function, method: "m", okey, seq: u32::MAX, zip: true };
            let answer = CallId::from(&asked).reply_header(MessageKind::Result);
            check(&answer, Ok(Header { kind: MessageKind::Result, zip: false, ..asked }));
        }
    }

    #[test]
    fn a_body_is_borrowed_unless_it_was_compressed() {
        let frame = b"\x82\xa4meta\xc4\x01\x90\xa4body\xc4\x05\xa4ping";
        let expected = Body { meta: b"\x90"[..].into(), body: Some(b"\xa4ping"[..].into()) };
        let plain = decode_body(frame, false).unwrap();
        assert_eq!(plain, expected);
        assert!(matches!(plain.body, Some(Cow::Borrowed(_))));
        let block = snap::raw::Encoder::new().compress_vec(frame).unwrap();
        assert_eq!(decode_body(&block, true).unwrap(), expected);
        assert_eq!(decode_body(b"\x82\xa4meta\xc4\x00\xa4body\xc0", false).unwrap().body, None);
    }

    #[test]
    fn a_block_that_promises_too_much_is_refused_by_its_head() {
        assert_eq!(decode_body(b"\xff\xff\xff\xff\x07", true), Err(DecodeError::Body(0x7fff_ffff)));
        assert_eq!(decode_body(b"\x80\x80\x80\x20\x00", true), Err(DecodeError::Snappy));
        assert_eq!(decode_body(b"no block", true), Err(DecodeError::Snappy));
        assert_eq!(decode_body(b"", true), Err(DecodeError::Snappy));
    }

    #[test]
    fn the_densest_block_stays_within_the_ratio() {
        let long = snap::raw::Encoder::new().compress_vec(&vec![0; 1 << 20]).unwrap();
        assert_eq!(decompress(&long).map(|plain| plain.len()), Ok(1 << 20));
    }
}
