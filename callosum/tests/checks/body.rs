//! Body frames, as they are and compressed.

use std::borrow::Cow;

use callosum::{BODY_MAX, decode_body};

use super::check_held;
use crate::heap::measured;

/// A body that is not compressed is borrowed; one that is says the same; neither takes more than came.
pub fn check(bytes: &[u8]) {
    let (packed, held) = measured(|| decode_body(bytes, true));
    check_held(held, bytes.len());
    if let Ok(body) = packed {
        assert!(body.meta.len() + body.body.map_or(0, |body| body.len()) <= BODY_MAX);
    }

    let (plain, held) = measured(|| decode_body(bytes, false));
    if let Ok(body) = &plain {
        assert_eq!(held, 0);
        assert!(matches!(body.meta, Cow::Borrowed(_)) && !matches!(body.body, Some(Cow::Owned(_))));
        assert!(body.meta.len() + body.body.as_ref().map_or(0, |body| body.len()) < bytes.len());
    }
    let Ok(block) = snap::raw::Encoder::new().compress_vec(bytes) else { panic!("snappy packs anything") };
    assert_eq!(decode_body(&block, true), plain);
}
