//! Header frames.

use callosum::{CallId, DecodeError, HEADER_MAX, Header, MessageKind};

use crate::heap::measured;

/// A header takes no memory; written again it is the same; its answer belongs to the same call.
pub fn check(bytes: &[u8]) {
    let (read, held) = measured(|| Header::decode(bytes));
    assert_eq!(held, 0, "a header is borrowed from its frame");
    let Ok(header) = read else { return };
    assert!(bytes.len() <= HEADER_MAX);

    let mut frame = Vec::new();
    header.encode_into(&mut frame);
    if frame.len() > HEADER_MAX {
        // Keys that may be missing were.
        assert_eq!(Header::decode(&frame), Err(DecodeError::Header(frame.len())));
        return;
    }
    assert_eq!(Header::decode(&frame), Ok(header));

    let id = CallId::from(&header);
    assert_eq!((id.method(), id.seq()), (header.method, header.seq));
    for kind in MessageKind::ALL {
        let answer = id.reply_header(kind);
        assert_eq!(Header::decode(&answer), Ok(Header { kind, zip: false, ..header }));
    }
}
