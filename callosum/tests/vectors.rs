//! Frames that a manager 26.9.6 and its own agent exchanged (`vectors/rpc.json`), and the extension types as
//! that release packs them (`vectors/extensions.json`).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers are part of the tests")]

use callosum::{
    Call, CallId, Header, ImageRef, MessageKind, Outcome, Value, decode_body, decode_reply, encode_call,
    encode_result,
};

const RPC: &str = include_str!("vectors/rpc.json");
const EXTENSIONS: &str = include_str!("vectors/extensions.json");

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let digits = text.as_str().expect("hex digits").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Header and body frames of every recorded message in this direction, with the method.
fn recorded(direction: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(RPC).unwrap();
    let frames = |row: &serde_json::Value| {
        let message = row.get(direction)?;
        Some((row["method"].as_str()?.to_owned(), unhex(&message[0]), unhex(&message[1])))
    };
    let found: Vec<_> = rows.iter().filter_map(frames).collect();
    assert!(found.len() >= 20, "only {} recorded messages", found.len());
    found
}

fn reencoded(header: &Header<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    header.encode_into(&mut out);
    out
}

#[test]
fn requests_of_the_manager_are_read() {
    for (method, header_frame, body_frame) in recorded("request") {
        let header = Header::decode(&header_frame).unwrap();
        assert_eq!(
            (header.kind, header.method, header.okey),
            (MessageKind::Function, &*method, &b"\xc4\x00"[..])
        );
        assert_eq!(reencoded(&header), header_frame, "{method}");
        let body = decode_body(&body_frame, header.zip).unwrap();
        assert_eq!(&*body.meta, b"");
        let mut call = Call::decode(&body.body.unwrap()).unwrap_or_else(|error| panic!("{method}: {error}"));
        if method != "ping" {
            assert_eq!(call.take(usize::MAX, "agent_id").unwrap().as_str(), Some("i-lab-py"), "{method}");
        }
    }
}

#[test]
fn plain_requests_are_written_as_the_manager_does() {
    let mut same = 0;
    for (method, header_frame, body_frame) in recorded("request") {
        let header = Header::decode(&header_frame).unwrap();
        let document = decode_body(&body_frame, false).unwrap().body.unwrap();
        let call = Call::decode(&document).unwrap();
        // Of the metadata a call keeps the id of the request only, and extension types become plain.
        let has_user = call.request_id.is_some();
        let has_extensions = matches!(&*method, "check_and_pull" | "create_kernels" | "destroy_kernel");
        if !has_user && !has_extensions {
            assert_eq!(
                encode_call(&method, header.okey, header.seq, &call),
                [header_frame, body_frame],
                "{method}"
            );
            same += 1;
        }
    }
    assert!(same >= 5, "only {same} requests compared");
}

#[test]
fn answers_are_written_as_the_reference_does() {
    for (method, header_frame, body_frame) in recorded("reply") {
        let reply = decode_reply(&header_frame, &body_frame).unwrap();
        let Outcome::Result(value) = &reply.outcome else { panic!("{method}: {reply:?}") };
        let mut body = Vec::new();
        encode_result(value, &mut body);
        assert_eq!(
            [reply.id.reply_header(MessageKind::Result), body],
            [header_frame, body_frame],
            "{method}"
        );
    }
}

#[test]
fn the_answer_belongs_to_its_request() {
    let rows: Vec<serde_json::Value> = serde_json::from_str(RPC).unwrap();
    let mut pairs = 0;
    for row in rows.iter().filter(|row| row.get("request").is_some() && row.get("reply").is_some()) {
        let [request, reply] = ["request", "reply"].map(|direction| unhex(&row[direction][0]));
        let (request, reply) = (Header::decode(&request).unwrap(), Header::decode(&reply).unwrap());
        assert_eq!(CallId::from(&request), CallId::from(&reply), "{}", row["method"]);
        pairs += 1;
    }
    assert!(pairs >= 20, "only {pairs} pairs compared");
}

#[test]
fn a_creation_is_understood() {
    let (_, _, body) =
        recorded("request").into_iter().find(|(method, ..)| method == "create_kernels").unwrap();
    let mut call = Call::decode(&decode_body(&body, false).unwrap().body.unwrap()).unwrap();
    let kernels = call.take(1, "kernel_ids").unwrap();
    let kernel = kernels.as_array().unwrap()[0].as_str().unwrap().to_owned();
    let configs = call.take(2, "configs").unwrap();
    let config = &configs.as_array().unwrap()[0];
    let session_type = Value::Enum { class: "SessionTypes".into(), value: "interactive".into() };
    assert_eq!(config.get("session_type"), Some(&session_type));
    let pull = config.get("image").and_then(|image| image.get("auto_pull"));
    assert_eq!(pull.and_then(Value::as_str), Some("digest"));
    let shmem = config.get("resource_opts").and_then(|opts| opts.get("shmem"));
    assert_eq!(shmem.and_then(Value::as_u64), Some(67_108_864));
    let refs = call.take(4, "kernel_image_refs").unwrap();
    let [(Value::Uuid(id), Value::ImageRef(image))] = refs.as_map().unwrap() else { panic!("{refs:?}") };
    assert_eq!(id.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), kernel.replace('-', ""));
    assert_eq!((&*image.short(), image.is_local), ("lab/python:3.11-debian12", true));
}

#[test]
fn extension_types_of_the_release_are_read() {
    let documents: serde_json::Value = serde_json::from_str(EXTENSIONS).unwrap();
    let read = |name: &str| {
        Value::decode(&unhex(&documents[name])).unwrap_or_else(|error| panic!("{name}: {error:?}"))
    };
    let member = |class: &str, value: &str| Value::Enum { class: class.into(), value: value.into() };
    let slots = |slots: &[(&str, &str)]| {
        Value::Slots(slots.iter().map(|(slot, amount)| ((*slot).into(), (*amount).into())).collect())
    };
    let image = ImageRef {
        name: "python".into(),
        project: Some("stable".into()),
        tag: "3.9-ubuntu20.04".into(),
        registry: "cr.backend.ai".into(),
        architecture: "x86_64".into(),
        is_local: false,
    };
    let bare = ImageRef {
        tag: "latest".into(),
        registry: "r:5000".into(),
        architecture: "aarch64".into(),
        is_local: true,
        ..ImageRef::default()
    };
    let five = 5_u128.to_be_bytes();
    for (name, expected) in [
        ("enum session", member("SessionTypes", "interactive")),
        ("enum cluster", member("ClusterMode", "multi-node")),
        ("enum pull", member("AutoPullBehavior", "digest")),
        ("enum reason", member("KernelLifecycleEventReason", "user-requested")),
        ("enum protocol", member("ServicePortProtocols", "http")),
        ("decimal", Value::Decimal("1.5".into())),
        ("size", Value::BinarySize(1024)),
        ("big size", Value::BinarySize(1 << 40)),
        ("slot name", Value::SlotName("cuda.shares".into())),
        ("slots", slots(&[("cpu", "1"), ("mem", "1024")])),
        ("slots str", slots(&[("cpu", "1"), ("mem", "1")])),
        ("slots empty", slots(&[])),
        ("image", Value::ImageRef(Box::new(image))),
        ("image none", Value::ImageRef(Box::new(bare))),
        ("uuid", Value::Uuid(five)),
        ("path", Value::Path("/tmp/a".into())),
    ] {
        assert_eq!(read(name), expected, "{name}");
    }
    assert!(matches!(read("datetime"), Value::DateTime(_)));
    assert_eq!(documents.as_object().map(serde_json::Map::len), Some(17));
}
