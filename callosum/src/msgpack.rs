//! msgpack, as little of it as the wire needs: tokens over borrowed bytes, and writing in the shortest form,
//! which is also what Python's packer writes.
//!
//! Every length and count is compared with the bytes that are left before it is believed, so nobody can make
//! us reserve memory by a number alone.

use crate::DecodeError;

/// What one value, or the head of a composed one, says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    /// Every integer that fits.
    Int(i64),
    /// Integers above `i64::MAX`.
    Uint(u64),
    Float(f64),
    /// Not looked at yet: [`text`] does.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    /// So many values follow.
    Array(usize),
    /// So many pairs follow.
    Map(usize),
    Ext(i8, &'a [u8]),
}

impl Token<'_> {
    /// Its type with an article, for messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Token::Nil => "nil",
            Token::Bool(_) => "a boolean",
            Token::Int(_) | Token::Uint(_) => "an integer",
            Token::Float(_) => "a float",
            Token::Str(_) => "a string",
            Token::Bin(_) => "a byte string",
            Token::Array(_) => "an array",
            Token::Map(_) => "a map",
            Token::Ext(..) => "an extension type",
        }
    }
}

/// Reads tokens off the front of a document.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(document: &'a [u8]) -> Self {
        Self { rest: document }
    }

    /// Reads the next token.
    pub(crate) fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        let marker = self.byte()?;
        Ok(match marker {
            0x00..=0x7f => Token::Int(i64::from(marker)),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f))?,
            0x90..=0x9f => self.array(usize::from(marker & 0x0f))?,
            0xa0..=0xbf => Token::Str(self.bytes(usize::from(marker & 0x1f))?),
            0xc0 => Token::Nil,
            0xc1 => return Err(DecodeError::Reserved),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => Token::Bin(self.sized::<1>()?),
            0xc5 => Token::Bin(self.sized::<2>()?),
            0xc6 => Token::Bin(self.sized::<4>()?),
            0xc7 => self.ext_sized::<1>()?,
            0xc8 => self.ext_sized::<2>()?,
            0xc9 => self.ext_sized::<4>()?,
            0xca => Token::Float(f64::from(f32::from_be_bytes(self.fixed()?))),
            0xcb => Token::Float(f64::from_be_bytes(self.fixed()?)),
            0xcc => Token::Int(i64::from(u8::from_be_bytes(self.fixed()?))),
            0xcd => Token::Int(i64::from(u16::from_be_bytes(self.fixed()?))),
            0xce => Token::Int(i64::from(u32::from_be_bytes(self.fixed()?))),
            0xcf => {
                let number = u64::from_be_bytes(self.fixed()?);
                i64::try_from(number).map_or(Token::Uint(number), Token::Int)
            }
            0xd0 => Token::Int(i64::from(i8::from_be_bytes(self.fixed()?))),
            0xd1 => Token::Int(i64::from(i16::from_be_bytes(self.fixed()?))),
            0xd2 => Token::Int(i64::from(i32::from_be_bytes(self.fixed()?))),
            0xd3 => Token::Int(i64::from_be_bytes(self.fixed()?)),
            0xd4 => self.ext(1)?,
            0xd5 => self.ext(2)?,
            0xd6 => self.ext(4)?,
            0xd7 => self.ext(8)?,
            0xd8 => self.ext(16)?,
            0xd9 => Token::Str(self.sized::<1>()?),
            0xda => Token::Str(self.sized::<2>()?),
            0xdb => Token::Str(self.sized::<4>()?),
            0xdc => {
                let count = self.length::<2>()?;
                self.array(count)?
            }
            0xdd => {
                let count = self.length::<4>()?;
                self.array(count)?
            }
            0xde => {
                let count = self.length::<2>()?;
                self.map(count)?
            }
            0xdf => {
                let count = self.length::<4>()?;
                self.map(count)?
            }
            0xe0..=0xff => Token::Int(i64::from(i8::from_be_bytes([marker]))),
        })
    }

    /// Reads one whole value and gives its bytes. Depth costs nothing here.
    pub(crate) fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        let began = self.rest;
        let mut values = 1_usize;
        while values > 0 {
            // Counts were compared with the bytes left, so the sum stays below their number.
            values = values - 1
                + match self.token()? {
                    Token::Array(count) => count,
                    Token::Map(pairs) => pairs.saturating_mul(2),
                    _ => 0,
                };
        }
        began.get(..began.len() - self.rest.len()).ok_or(DecodeError::Truncated)
    }

    /// Reads a string.
    pub(crate) fn str(&mut self, place: &'static str) -> Result<&'a str, DecodeError> {
        match self.token()? {
            Token::Str(bytes) => text(bytes),
            other => Err(mistyped(place, "a string", &other)),
        }
    }

    /// Reads the head of a map.
    pub(crate) fn pairs(&mut self, place: &'static str) -> Result<usize, DecodeError> {
        match self.token()? {
            Token::Map(pairs) => Ok(pairs),
            other => Err(mistyped(place, "a map", &other)),
        }
    }

    /// Fails when bytes are left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A big-endian length of `N` bytes.
    fn length<const N: usize>(&mut self) -> Result<usize, DecodeError> {
        Ok(self.fixed::<N>()?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    fn sized<const N: usize>(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length::<N>()?;
        self.bytes(length)
    }

    fn ext(&mut self, length: usize) -> Result<Token<'a>, DecodeError> {
        let code = i8::from_be_bytes(self.fixed()?);
        Ok(Token::Ext(code, self.bytes(length)?))
    }

    fn ext_sized<const N: usize>(&mut self) -> Result<Token<'a>, DecodeError> {
        let length = self.length::<N>()?;
        self.ext(length)
    }

    // A value takes a byte at least.
    fn array(&self, count: usize) -> Result<Token<'a>, DecodeError> {
        if count <= self.rest.len() { Ok(Token::Array(count)) } else { Err(DecodeError::Truncated) }
    }

    fn map(&self, pairs: usize) -> Result<Token<'a>, DecodeError> {
        if pairs <= self.rest.len() / 2 { Ok(Token::Map(pairs)) } else { Err(DecodeError::Truncated) }
    }
}

/// The text of a string.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)
}

/// What stands in a place that takes something else.
pub(crate) fn mistyped(place: &'static str, wanted: &'static str, found: &Token<'_>) -> DecodeError {
    DecodeError::Type { place, wanted, found: found.name() }
}

/// Where msgpack is written to: a buffer, or a [`Length`] that only counts.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts what would be written, so that a length can stand before it.
#[derive(Debug, Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

pub(crate) fn put_nil(out: &mut impl Sink) {
    out.put(&[0xc0]);
}

pub(crate) fn put_bool(value: bool, out: &mut impl Sink) {
    out.put(&[0xc2 + u8::from(value)]);
}

pub(crate) fn put_float(value: f64, out: &mut impl Sink) {
    out.put(&[0xcb]);
    out.put(&value.to_be_bytes());
}

pub(crate) fn put_uint(value: u64, out: &mut impl Sink) {
    if let Ok(small) = u8::try_from(value) {
        if small < 0x80 {
            out.put(&[small]);
        } else {
            out.put(&[0xcc, small]);
        }
    } else if let Ok(number) = u16::try_from(value) {
        put_number(0xcd, &number.to_be_bytes(), out);
    } else if let Ok(number) = u32::try_from(value) {
        put_number(0xce, &number.to_be_bytes(), out);
    } else {
        put_number(0xcf, &value.to_be_bytes(), out);
    }
}

pub(crate) fn put_int(value: i64, out: &mut impl Sink) {
    if let Ok(number) = u64::try_from(value) {
        put_uint(number, out);
    } else if let Ok(small) = i8::try_from(value) {
        if small >= -32 {
            out.put(&small.to_be_bytes());
        } else {
            put_number(0xd0, &small.to_be_bytes(), out);
        }
    } else if let Ok(number) = i16::try_from(value) {
        put_number(0xd1, &number.to_be_bytes(), out);
    } else if let Ok(number) = i32::try_from(value) {
        put_number(0xd2, &number.to_be_bytes(), out);
    } else {
        put_number(0xd3, &value.to_be_bytes(), out);
    }
}

pub(crate) fn put_str(value: &str, out: &mut impl Sink) {
    match u8::try_from(value.len()) {
        Ok(length) if length < 32 => out.put(&[0xa0 | length]),
        _ => put_length([0xd9, 0xda, 0xdb], value.len(), out),
    }
    out.put(value.as_bytes());
}

pub(crate) fn put_bin(value: &[u8], out: &mut impl Sink) {
    put_bin_head(value.len(), out);
    out.put(value);
}

/// What stands before a byte string of so many bytes.
pub(crate) fn put_bin_head(length: usize, out: &mut impl Sink) {
    put_length([0xc4, 0xc5, 0xc6], length, out);
}

pub(crate) fn put_array_head(count: usize, out: &mut impl Sink) {
    put_count(0x90, [0xdc, 0xdd], count, out);
}

pub(crate) fn put_map_head(pairs: usize, out: &mut impl Sink) {
    put_count(0x80, [0xde, 0xdf], pairs, out);
}

fn put_number(marker: u8, bytes: &[u8], out: &mut impl Sink) {
    out.put(&[marker]);
    out.put(bytes);
}

/// The shortest of three markers with 1, 2 or 4 bytes of length. Nothing that we hold is longer than those
/// can say: a frame of ZeroMQ that a peer takes ends far below.
fn put_length(markers: [u8; 3], length: usize, out: &mut impl Sink) {
    let [one, two, four] = markers;
    if let Ok(length) = u8::try_from(length) {
        out.put(&[one, length]);
    } else if let Ok(length) = u16::try_from(length) {
        put_number(two, &length.to_be_bytes(), out);
    } else {
        put_number(four, &u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes(), out);
    }
}

fn put_count(fixed: u8, markers: [u8; 2], count: usize, out: &mut impl Sink) {
    let [two, four] = markers;
    match u16::try_from(count) {
        // Below 16: four bits of the marker.
        Ok(count) if count < 16 => out.put(&[fixed | count.to_be_bytes()[1]]),
        Ok(count) => put_number(two, &count.to_be_bytes(), out),
        Err(_) => put_number(four, &u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn integers_take_the_fewest_bytes_and_read_back() {
        for (number, bytes) in [
            (0_i64, 1_usize),
            (127, 1),
            (128, 2),
            (255, 2),
            (256, 3),
            (65_535, 3),
            (65_536, 5),
            (u32::MAX.into(), 5),
            (i64::from(u32::MAX) + 1, 9),
            (i64::MAX, 9),
            (-1, 1),
            (-32, 1),
            (-33, 2),
            (-128, 2),
            (-129, 3),
            (-32_768, 3),
            (-32_769, 5),
            (i32::MIN.into(), 5),
            (i64::from(i32::MIN) - 1, 9),
            (i64::MIN, 9),
        ] {
            let frame = written(|out| put_int(number, out));
            assert_eq!(frame.len(), bytes, "{number}");
            assert_eq!(Reader::new(&frame).token(), Ok(Token::Int(number)));
        }
        let frame = written(|out| put_uint(u64::MAX, out));
        assert_eq!(Reader::new(&frame).token(), Ok(Token::Uint(u64::MAX)));
    }

    #[test]
    fn lengths_read_back_on_both_sides_of_every_form() {
        for length in [0, 31, 32, 255, 256, 65_535, 65_536] {
            let bytes = vec![b'a'; length];
            let string = String::from_utf8(bytes.clone()).unwrap();
            let frame = written(|out| put_str(&string, out));
            assert_eq!(Reader::new(&frame).token(), Ok(Token::Str(&bytes)));
            let frame = written(|out| put_bin(&bytes, out));
            assert_eq!(Reader::new(&frame).token(), Ok(Token::Bin(&bytes)));
        }
        for count in [0, 15, 16, 65_535, 65_536] {
            let mut frame = written(|out| put_array_head(count, out));
            frame.resize(frame.len() + count, 0xc0);
            assert_eq!(Reader::new(&frame).token(), Ok(Token::Array(count)));
            let mut frame = written(|out| put_map_head(count, out));
            frame.resize(frame.len() + 2 * count, 0xc0);
            assert_eq!(Reader::new(&frame).token(), Ok(Token::Map(count)));
            assert_eq!(Reader::new(&frame).raw().map(<[u8]>::len), Ok(frame.len()));
        }
    }

    #[test]
    fn what_is_counted_is_what_is_written() {
        let mut length = Length::default();
        put_str("berth", &mut length);
        put_int(-40_000, &mut length);
        put_map_head(20, &mut length);
        assert_eq!(length.0, 6 + 5 + 3);
    }

    #[test]
    fn a_count_without_the_bytes_for_it_is_refused() {
        for frame in [
            &b"\xdd\xff\xff\xff\xff\xc0"[..],
            b"\xdf\x00\x00\x00\x01\xc0",
            b"\xc6\x80\x00\x00\x00",
            b"\x92\xc0",
        ] {
            assert_eq!(Reader::new(frame).token(), Err(DecodeError::Truncated));
        }
        assert_eq!(Reader::new(b"\xc1").token(), Err(DecodeError::Reserved));
    }

    #[test]
    fn a_whole_value_is_skipped_whatever_its_depth() {
        let mut frame = vec![0x91; 1_000_000];
        frame.extend(b"\xc0\x07");
        let mut reader = Reader::new(&frame);
        assert_eq!(reader.raw().map(<[u8]>::len), Ok(1_000_001));
        assert_eq!(reader.end(), Err(DecodeError::Trailing(1)));
    }
}
