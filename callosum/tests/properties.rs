//! What holds for every value and for any bytes.

#![expect(clippy::unwrap_used, reason = "within proptest's macro")]

use bytes::Bytes;
use callosum::{
    BODY_MAX, Call, Header, MessageKind, Value, decode_body, decode_reply, encode_call, encode_result,
};
use proptest::prelude::*;

/// Values that are written as they are; of the numbers those that are equal to themselves.
fn plain_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("equal to itself", |number| !number.is_nan()).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Bytes::from(bytes).into()),
    ];
    leaf.prop_recursive(5, 64, 20, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..20).prop_map(Value::Array),
            proptest::collection::vec(pair, 0..20).prop_map(Value::Map),
        ]
    })
}

fn calls() -> impl Strategy<Value = Call> {
    (
        proptest::collection::vec(plain_values(), 0..4),
        proptest::collection::vec(("[a-z_]{0,8}", plain_values()), 0..4),
        proptest::option::of("[a-z0-9-]{0,40}"),
    )
        .prop_map(|(args, kwargs, request_id)| Call { args, kwargs, request_id })
}

/// Ordering keys as raw msgpack, of both types.
fn ordering_keys() -> impl Strategy<Value = Vec<u8>> {
    let key = "[a-z]{0,40}".prop_map(Value::from);
    let bytes = proptest::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Bytes::from(bytes).into());
    prop_oneof![key, bytes].prop_map(|key| {
        let mut raw = Vec::new();
        key.encode_into(&mut raw);
        raw
    })
}

proptest! {
    #[test]
    fn values_read_back_as_themselves(value in plain_values()) {
        let mut document = Vec::new();
        value.encode_into(&mut document);
        prop_assert_eq!(document.len(), value.encoded_len());
        prop_assert_eq!(Value::decode(&document), Ok(value));
    }

    #[test]
    fn results_read_back_also_when_compressed(value in plain_values()) {
        let mut frame = Vec::new();
        encode_result(&value, &mut frame);
        let block = snap::raw::Encoder::new().compress_vec(&frame).unwrap();
        prop_assert_eq!(decode_body(&block, true), decode_body(&frame, false));
        let body = decode_body(&frame, false).unwrap().body.unwrap();
        prop_assert_eq!(Value::decode(&body), Ok(value));
    }

    #[test]
    fn headers_and_calls_read_back_as_themselves(
        call in calls(), method in "[a-z_]{0,40}", okey in ordering_keys(), seq in any::<u32>(), kind in 0_usize..7, zip in any::<bool>()
    ) {
        let [header, body] = encode_call(&method, &okey, seq, &call);
        let read = Header { kind: MessageKind::Function, method: &method, okey: &okey, seq, zip: false };
        prop_assert_eq!(Header::decode(&header), Ok(read));
        let document = decode_body(&body, false).unwrap().body.unwrap();
        prop_assert_eq!(Call::decode(&document), Ok(call));

        let any = Header { kind: MessageKind::ALL[kind], zip, ..read };
        let mut frame = Vec::new();
        any.encode_into(&mut frame);
        prop_assert_eq!(Header::decode(&frame), Ok(any));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_any(&bytes);
    }

    #[test]
    fn messages_with_a_wrong_byte_are_read_or_refused(
        call in calls(), place in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let [header, body] = encode_call("execute", b"\xa0", 1, &call);
        for mut frame in [header, body] {
            let index = place.index(frame.len());
            frame[index] = byte;
            check_any(&frame);
        }
    }

    #[test]
    fn pickles_with_a_wrong_byte_are_read_or_refused(
        which in any::<proptest::sample::Index>(), place in any::<proptest::sample::Index>(), byte in any::<u8>()
    ) {
        let vectors: std::collections::BTreeMap<String, String> =
            serde_json::from_str(include_str!("vectors/extensions.json")).unwrap();
        let hex = vectors.values().nth(which.index(vectors.len())).unwrap();
        let mut document: Vec<u8> =
            hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let index = place.index(document.len());
        document[index] = byte;
        check_any(&document);
    }
}

/// Puts bytes through every decoder. What is read must be something that can be written and read again.
fn check_any(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        let mut frame = Vec::new();
        header.encode_into(&mut frame);
        assert_eq!(Header::decode(&frame), Ok(header));
    }
    for zip in [false, true] {
        if let Ok(body) = decode_body(bytes, zip) {
            assert!(body.body.is_none_or(|body| body.len() <= BODY_MAX));
        }
    }
    if let Ok(value) = Value::decode(bytes) {
        let mut document = Vec::new();
        value.encode_into(&mut document);
        assert_eq!(document.len(), value.encoded_len());
        assert!(Value::decode(&document).is_ok());
    }
    if let Ok(call) = Call::decode(bytes) {
        let [_, body] = encode_call("m", b"\xa0", 0, &call);
        let document = decode_body(&body, false).unwrap().body.unwrap();
        assert!(Call::decode(&document).is_ok());
    }
    let _ = decode_reply(bytes, bytes);
}
