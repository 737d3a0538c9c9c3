//! What a driver says, until it breaks off.

use std::io::ErrorKind;

use berth_link::MessageType;

use crate::driver_frame::{FRAME_MAX, Frame, read_frame};
use crate::heap::measured;

/// A frame that is read is there twice for a moment, in a buffer that grew by doubling.
const PER_BYTE: usize = 4;
/// What reading to an end tries first.
const SLACK: usize = 1024;

/// No frame takes more memory than came; written again it is the same.
pub fn check(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let before = rest;
        let (read, held) = measured(|| read_frame(&mut rest));
        let came = before.len() - rest.len();
        assert!(held <= came * PER_BYTE + SLACK, "{held} bytes held for {came} that came");
        match read {
            Ok(Some(frame)) => {
                let written = written(&frame);
                assert_eq!(read_frame(&mut &*written).ok(), Some(Some(frame)));
            }
            Ok(None) => {}
            Err(error) => {
                let cut_short = rest.is_empty() && error.kind() == ErrorKind::UnexpectedEof;
                let length = before.first_chunk().map_or(0, |length| u32::from_be_bytes(*length) as usize);
                assert!(cut_short || length > FRAME_MAX, "{error}");
                return;
            }
        }
    }
}

/// The frame as a driver writes it.
fn written(frame: &Frame) -> Vec<u8> {
    let payload = match frame {
        Frame::Begun => b"B".to_vec(),
        Frame::Done(code) => [&b"D"[..], &code.to_be_bytes()].concat(),
        Frame::Waiting { is_password } => if *is_password { &b"W1"[..] } else { b"W" }.to_vec(),
        Frame::Suggestions { number, json } => [&b"S"[..], &number.to_be_bytes(), json].concat(),
        Frame::Media { number, kind, payload } => {
            let kind = if *kind == MessageType::Media { b"M" } else { b"H" };
            [&kind[..], &number.to_be_bytes(), payload].concat()
        }
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[..], &payload].concat()
}
