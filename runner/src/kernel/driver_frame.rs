//! What a driver (`driver.rs`) says. It is the user's process: whatever comes here may come from user code.
//!
//! Frames are `[length: u32][kind: u8][payload]`, the length counting kind and payload, big-endian:
//!
//! | from the driver | payload |
//! |---|---|
//! | `B` | code begins, it can be interrupted |
//! | `D` | exit code: i32 |
//! | `W` | `1` when the answer must not be shown |
//! | `S` | number: u32, then JSON of `completion` |
//! | `M`, `H` | number: u32, then the payload of `media` or `html` |

use std::io::{self, Read};

use berth_link::MessageType;

/// Largest frame taken from a driver, in bytes; media are the largest.
pub const FRAME_MAX: usize = 16 * 1024 * 1024;

/// What a driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The code begins.
    Begun,
    /// It has ended, with this exit code; its output is flushed.
    Done(i32),
    /// It asks for a line.
    Waiting {
        /// Whether it should not be shown.
        is_password: bool,
    },
    /// Answer to a completion request.
    Suggestions {
        /// The request's number.
        number: u32,
        /// JSON.
        json: Vec<u8>,
    },
    /// It shows something, and waits until that is queued.
    Media {
        /// The item's number.
        number: u32,
        /// `media` or `html`.
        kind: MessageType,
        /// The payload of the message.
        payload: Vec<u8>,
    },
}

/// The next frame; none for one that this version does not know.
///
/// # Errors
/// At the end, and for a frame above [`FRAME_MAX`]: the driver is given up.
pub fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // What is only announced takes no memory.
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Some((kind, payload)) = body.split_first() else { return Ok(None) };
    let number = payload.first_chunk::<4>();
    let rest = || payload.get(4..).unwrap_or_default().to_vec();
    Ok(match (kind, number) {
        (b'B', _) => Some(Frame::Begun),
        (b'D', Some(code)) => Some(Frame::Done(i32::from_be_bytes(*code))),
        (b'W', _) => Some(Frame::Waiting { is_password: payload == b"1" }),
        (b'S', Some(number)) => {
            Some(Frame::Suggestions { number: u32::from_be_bytes(*number), json: rest() })
        }
        (b'M' | b'H', Some(number)) => Some(Frame::Media {
            number: u32::from_be_bytes(*number),
            kind: if *kind == b'M' { MessageType::Media } else { MessageType::Html },
            payload: rest(),
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_cut_short_is_none() {
        let error = read_frame(&mut &b"\x01\0\0\0M\0\0\0\x01"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn frames_are_read_and_hostile_ones_are_not() {
        let mut wire: &[u8] =
            b"\0\0\0\x01B\0\0\0\x05D\xff\xff\xff\xf7\0\0\0\x02W1\0\0\0\0\0\0\0\x01?\0\0\0\x02D\0\
            \0\0\0\x07S\0\0\0\x05{}\0\0\0\x08H\0\0\0\x01<b>\xff\xff\xff\xff";
        let mut frames = Vec::new();
        while let Ok(frame) = read_frame(&mut wire) {
            frames.push(frame);
        }
        let expected = [
            Some(Frame::Begun),
            Some(Frame::Done(-9)),
            Some(Frame::Waiting { is_password: true }),
            None,
            None,
            None,
            Some(Frame::Suggestions { number: 5, json: b"{}".to_vec() }),
            Some(Frame::Media { number: 1, kind: MessageType::Html, payload: b"<b>".to_vec() }),
        ];
        assert_eq!(frames, expected);
    }
}
