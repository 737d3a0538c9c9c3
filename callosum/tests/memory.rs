//! Memory follows what has arrived, not what it claims.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

#[path = "../../fuzz/src/heap.rs"]
mod heap;

use callosum::{BODY_MAX, Call, DEPTH_MAX, Header, PICKLE_MAX, VALUES_MAX, Value, decode_body};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// What a byte of a document may become at most: the value of a nil, or half of a pair.
const PER_BYTE: usize = 64;
/// What a byte of a pickle may become while it is read: a node and its place on the stack and in the memo, in
/// vectors that grow by copying.
const PER_PICKLE_BYTE: usize = 256;
/// Errors, and what is held for a moment.
const SLACK: usize = 8 * 1024;

/// The most that was held at once while `read` ran, in bytes, beyond what was held before.
fn peak<T>(read: impl FnOnce() -> T) -> usize {
    heap::measured(read).1
}

/// The most that any decoder holds for these bytes.
fn decoders(bytes: &[u8]) -> usize {
    [
        peak(|| Header::decode(bytes)),
        peak(|| decode_body(bytes, false).map(|_| ())),
        peak(|| decode_body(bytes, true).map(|body| body.meta.len())),
        peak(|| Call::decode(bytes)),
        peak(|| Value::decode(bytes)),
    ]
    .into_iter()
    .max()
    .unwrap_or(0)
}

fn check(what: &str, bytes: &[u8], most: usize) {
    let held = decoders(bytes);
    assert!(held <= most, "{what}: {held} bytes held for {} that came; at most {most}", bytes.len());
}

/// Extension type 8 around these opcodes.
fn pickle(opcodes: &[u8]) -> Vec<u8> {
    let code = [&b"\x80\x05"[..], opcodes, b"."].concat();
    let length = u32::try_from(code.len()).unwrap().to_be_bytes();
    [&b"\xc9"[..], &length, b"\x08", &code].concat()
}

#[test]
fn what_is_held_follows_what_came() {
    let ping = b"\x85\xa4type\x01\xa4meth\xa4ping\xa4okey\xc4\x00\xa3seq\x00\xa3zip\xc2";
    assert_eq!(peak(|| Header::decode(ping).unwrap()), 0, "a header is borrowed from its frame");
    check("2 GiB of text", b"\xdb\x7f\xff\xff\xff", SLACK);
    check("4 G elements", b"\xdd\xff\xff\xff\xff", SLACK);
    check("2 G pairs of arguments", b"\x81\xa6kwargs\xdf\x7f\xff\xff\xff", SLACK);
    check("64 MiB by snappy", b"\x80\x80\x80\x20\x00", SLACK);
    // An element that is held takes some dozen bytes.
    check("10 million arrays in each other", &vec![0x91; 10_000_000], DEPTH_MAX * 2 * PER_BYTE + SLACK);
    check("10 million nils", &[&b"\xdd\x00\x98\x96\x80"[..], &[0xc0; 10_000_000]].concat(), SLACK);
    // Each of these claims all the bytes that are left, 64 KiB.
    let claims = [b"\xdc\xff\x00".repeat(DEPTH_MAX), vec![0xc0; 65_280]].concat();
    check("claims that overlap", &claims, claims.len() * PER_BYTE);
    let full = [&b"\xdd\x00\x03\xff\xff"[..], &[0xc0; VALUES_MAX - 1]].concat();
    check("as many values as may be", &full, full.len() * PER_BYTE);
    assert!(
        peak(|| Value::decode(&full).unwrap()) >= (VALUES_MAX - 1) * size_of::<Value>(),
        "nothing is counted"
    );

    let frame = [&b"\x81\xa4body\xc6\x03\xff\xff\x00"[..], &vec![0; BODY_MAX - 256]].concat();
    let block = snap::raw::Encoder::new().compress_vec(&frame).unwrap();
    drop(frame);
    check("a block as dense as can be", &block, block.len() * PER_BYTE);

    for opcodes in [&b"N"[..], b")", b"N\x94", b"\x85", b"}", b"("] {
        let code = pickle(&[b"N", &*opcodes.repeat((PICKLE_MAX - 4) / opcodes.len())].concat());
        check("a pickle of one opcode", &code, code.len() * PER_PICKLE_BYTE);
    }
    check("a pickle that is too long", &pickle(&vec![b'N'; 1 << 20]), SLACK);

    let documents = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..400),
        // Mostly heads of arrays, maps, texts and extension types.
        proptest::collection::vec(prop_oneof![0x80..=0xdf_u8, any::<u8>()], 0..400),
    ];
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let outcome = runner.run(&documents, |bytes| {
        check("random bytes", &bytes, bytes.len() * PER_PICKLE_BYTE + SLACK);
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}
