use super::*;

/// What libzmq 4.3.4 sends as a PUSH: greeting 3.1, then READY with an empty identity.
fn libzmq_push() -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(64, 0);
    bytes.extend_from_slice(b"\x04\x27\x05READY\x0bSocket-Type\0\0\0\x04PUSH\x08Identity\0\0\0\0");
    bytes
}

fn ready_pull() -> Session {
    let mut session = Session::new(SocketType::Pull);
    session.receive(&libzmq_push()).unwrap();
    assert!(session.is_ready());
    session.output().clear();
    session
}

#[test]
fn two_sessions_shake_hands_and_pass_messages_in_any_pieces() {
    let mut push = Session::new(SocketType::Push);
    let mut pull = Session::new(SocketType::Pull);
    for _ in 0..2 {
        let to_pull = std::mem::take(push.output());
        let to_push = std::mem::take(pull.output());
        push.receive(&to_push).unwrap();
        pull.receive(&to_pull).unwrap();
    }
    assert!(push.is_ready() && pull.is_ready());

    let long = vec![7u8; 70_000];
    let mut wire = Vec::new();
    encode_message(&[b"stdout", &long], &mut wire);
    encode_message(&[b"finished", b""], &mut wire);
    for piece in wire.chunks(13) {
        pull.receive(piece).unwrap();
    }
    assert_eq!(pull.next_message(), Some(vec![b"stdout".to_vec(), long]));
    assert_eq!(pull.next_message(), Some(vec![b"finished".to_vec(), Vec::new()]));
    assert_eq!(pull.next_message(), None);
}

#[test]
fn a_frame_of_256_bytes_takes_the_long_form() {
    let mut wire = Vec::new();
    encode_message(&[&[1u8; 255][..], &[2u8; 256][..]], &mut wire);
    assert_eq!(wire[..2], [1, 255]);
    assert_eq!(wire[257..266], [2, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn heartbeats_are_answered_with_their_context_and_unknown_commands_ignored() {
    let mut session = ready_pull();
    session.receive(b"\x04\x0a\x04PING\x00\x0aabc\x04\x06\x05HELLO").unwrap();
    assert_eq!(session.output().as_slice(), b"\x04\x08\x04PONGabc");
    assert_eq!(session.next_message(), None);
}

#[test]
fn heartbeats_of_a_peer_that_takes_no_answers_are_dropped_at_a_limit() {
    let mut session = ready_pull();
    for _ in 0..100_000 {
        session.receive(b"\x04\x0a\x04PING\x00\x0aabc").unwrap();
    }
    let waiting = std::mem::take(session.output());
    assert!(waiting.len() < 65 * 1024, "{} bytes wait", waiting.len());
    assert!(waiting.ends_with(b"\x04\x08\x04PONGabc"));
    session.receive(b"\x04\x0a\x04PING\x00\x0aabc").unwrap();
    assert_eq!(session.output().as_slice(), b"\x04\x08\x04PONGabc");
}

#[test]
fn strangers_and_misfits_are_refused() {
    let check = |bytes: &[u8], expected: ProtocolError| {
        assert_eq!(Session::new(SocketType::Pull).receive(bytes), Err(expected));
    };
    check(b"GET / HTTP/1.1", ProtocolError::Signature);
    check(&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1], ProtocolError::Version(1));
    let mut curve = libzmq_push();
    curve[12..17].copy_from_slice(b"CURVE");
    check(&curve, ProtocolError::Mechanism);
    let mut router = libzmq_push();
    let at = router.windows(4).position(|w| w == b"PUSH").unwrap();
    router[at..at + 4].copy_from_slice(b"PULL");
    check(&router, ProtocolError::SocketType("PULL".into()));
    let mut early = libzmq_push()[..64].to_vec();
    early.extend_from_slice(b"\x00\x01x");
    check(&early, ProtocolError::Frame);
}

#[test]
fn hostile_frames_end_the_connection() {
    let check = |bytes: &[u8], expected: ProtocolError| {
        assert_eq!(ready_pull().receive(bytes), Err(expected));
    };
    check(b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", ProtocolError::TooLarge);
    check(b"\x06\0\0\0\0\0\x01\0\x01", ProtocolError::TooLarge);
    check(b"\x80\x00", ProtocolError::Frame);
    check(b"\x05\x01\x00", ProtocolError::Frame);
    check(b"\x04\x01\x09", ProtocolError::Frame);
    check(b"\x04\x09\x05ERROR\x02no", ProtocolError::Refused("no".into()));
}
