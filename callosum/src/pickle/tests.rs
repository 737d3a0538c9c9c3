//! Pickles that were made by hand, nearly all of them to do harm. What the manager's classes really look
//! like is in `tests/vectors.rs`.

use super::*;

const TYPES: &str = "ai.backend.common.types";

/// Writes opcodes. Framed as Python frames: `PROTO 5`, no `FRAME`, `STOP` at the end.
#[derive(Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        self.op(b"X").op(&length).op(text.as_bytes())
    }

    fn class(self, module: &str, name: &str) -> Self {
        self.text(module).text(name).op(b"\x93")
    }

    fn done(self) -> Vec<u8> {
        [&b"\x80\x05"[..], &self.0, b"."].concat()
    }
}

fn check(kind: Kind, pickle: Pickle, expected: Result<Value, PickleError>) {
    let pickle = pickle.done();
    assert_eq!(read(&pickle, kind), expected, "{:x?}", pickle.get(..200).unwrap_or(&pickle));
}

fn enumeration(value: &str) -> Value {
    Value::Enum { class: "SessionTypes".into(), value: value.into() }
}

#[test]
fn classes_that_are_not_known_are_refused_by_name() {
    let call = |module, name| Pickle::default().class(module, name).text("id").op(b"\x85R");
    let refused = |name: &str| Err(PickleError::Class(name.to_owned()));
    check(Kind::Enum, call("os", "system"), refused("os.system"));
    check(Kind::Enum, call("builtins", "eval"), refused("builtins.eval"));
    check(
        Kind::Enum,
        call("ai.backend.common.types", "SessionTypes.x"),
        refused(&format!("{TYPES}.SessionTypes.x")),
    );
    check(
        Kind::Enum,
        call("ai.backend.common.docker", "SessionTypes"),
        refused("ai.backend.common.docker.SessionTypes"),
    );
    check(Kind::Enum, call("a\n\u{1b}[31m", "b"), refused("a\\n\\u{1b}[31m.b"));
    let PickleError::Class(name) = read(&call(&"a".repeat(5000), "b").done(), Kind::Enum).unwrap_err() else {
        panic!("a class");
    };
    assert_eq!(name, "a".repeat(120));
}

#[test]
fn opcodes_that_run_something_else_are_refused() {
    // GLOBAL, INST, OBJ, EXT1, PERSID, BINPERSID, NEWOBJ_EX, NEXT_BUFFER, POP, DUP, BINPUT, LONG4, BINUNICODE8.
    for opcode in *b"cio\x82PQ\x92\x970\x32q\x8b\x8d" {
        check(Kind::Enum, Pickle::default().op(&[opcode]), Err(PickleError::Opcode(opcode)));
    }
}

#[test]
fn an_object_of_another_class_is_not_taken_for_the_wanted_one() {
    let session = || Pickle::default().class(TYPES, "SessionTypes").text("batch").op(b"\x85R");
    check(Kind::Enum, session(), Ok(enumeration("batch")));
    check(Kind::Decimal, session(), Err(PickleError::Shape("Decimal")));
    check(Kind::ImageRef, session(), Err(PickleError::Shape("ImageRef")));
    check(Kind::Enum, Pickle::default().class(TYPES, "SessionTypes"), Err(PickleError::Shape("enum")));
    check(Kind::Enum, Pickle::default().text("batch"), Err(PickleError::Shape("enum")));
    check(
        Kind::Enum,
        Pickle::default().class(TYPES, "SessionTypes").op(b")R"),
        Err(PickleError::Shape("enum")),
    );
    let whole = || Pickle::default().class(TYPES, "SessionTypes").op(b"K\x03\x85R");
    check(Kind::Enum, whole(), Ok(enumeration("3")));
    let size = |number: &[u8]| Pickle::default().class(TYPES, "BinarySize").op(number).op(b"\x85\x81");
    check(Kind::BinarySize, size(b"\x8a\x06\0\0\0\0\0\x01"), Ok(Value::BinarySize(1 << 40)));
    check(Kind::BinarySize, size(b"\x8a\x00"), Ok(Value::BinarySize(0)));
    check(Kind::BinarySize, size(b"J\xff\xff\xff\xff"), Err(PickleError::Shape("BinarySize")));
    check(Kind::BinarySize, size(b"\x8a\x01\xff"), Err(PickleError::Shape("BinarySize")));
    check(Kind::BinarySize, size(b"\x8a\x09\0\0\0\0\0\0\0\0\x01"), Err(PickleError::Integer));
}

#[test]
fn opcodes_that_do_not_belong_together_are_refused() {
    for code in [
        &b"R"[..],
        b"NR",
        b"NN\x81",
        b"\x85",
        b"N\x86",
        b"(\x85",
        b"N(\x85",
        b"N(R",
        b"t",
        b"s",
        b"NNs",
        b"}Ns",
        b"}(Nu",
        b"Nu",
        b"N(u",
        b"NNa",
        b"N(e",
        b"Nb",
        b"NNb",
        b"h\x00",
        b"j\xff\xff\xff\xff",
        b"\x94",
        b"NN\x93",
        b"NN",
        b"(N",
        b"",
    ] {
        check(Kind::Enum, Pickle::default().op(code), Err(PickleError::Stack));
    }
    let mut trailing = Pickle::default().op(b"N").done();
    trailing.push(b'N');
    assert_eq!(read(&trailing, Kind::Enum), Err(PickleError::Stack));
}

#[test]
fn lengths_beyond_the_end_are_refused() {
    for code in [
        &b"X\xff\xff\xff\x7f"[..],
        b"\x8c\xffa",
        b"C\xffa",
        b"\x8a\xffa",
        b"J\0",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        check(Kind::Enum, Pickle::default().op(code), Err(PickleError::Truncated));
    }
    assert_eq!(read(b"\x80\x05N", Kind::Enum), Err(PickleError::Truncated));
    assert_eq!(read(b"", Kind::Enum), Err(PickleError::Truncated));
    assert_eq!(read(b"\x80\x06N.", Kind::Enum), Err(PickleError::Protocol(6)));
    assert_eq!(read(b"\x80\x05\x8c\x01\xff.", Kind::Enum), Err(PickleError::Utf8));
    assert_eq!(read(&vec![b'N'; PICKLE_MAX + 1], Kind::Enum), Err(PickleError::Length(PICKLE_MAX + 1)));
}

#[test]
fn bombs_stay_as_small_as_they_are() {
    // Each tuple holds the one before twice: 2^200 leaves for whoever copies.
    let doubling =
        (0..200).fold(Pickle::default().op(b"N\x94"), |pickle, last| pickle.op(&[b'h', last, 0x86, 0x94]));
    check(Kind::Enum, doubling, Err(PickleError::Shape("enum")));
    let deep = Pickle::default().op(b")").op(&b"\x85".repeat(PICKLE_MAX - 10));
    check(Kind::Enum, deep, Err(PickleError::Shape("enum")));
    // A dict in itself.
    check(Kind::Enum, Pickle::default().op(b"}\x94h\x00h\x00s"), Err(PickleError::Shape("enum")));
    // One long text named for a thousand slots.
    let slots = Pickle::default()
        .op(b"N}")
        .text("long")
        .text(&"a".repeat(4000))
        .op(b"\x94s")
        .text("data")
        .op(b"}(")
        .op(&b"h\x00h\x00".repeat(1000))
        .op(b"us\x86");
    let slots = Pickle::default().class(TYPES, "ResourceSlot").op(b")\x81").op(&slots.0).op(b"b");
    check(Kind::ResourceSlot, slots, Err(PickleError::Repetition));
}

#[test]
fn slots_take_amounts_as_decimals_texts_or_integers() {
    let state = |amount: Pickle| {
        Pickle::default()
            .class(TYPES, "ResourceSlot")
            .op(b")\x81")
            .op(b"N}")
            .text("data")
            .op(b"}")
            .text("cpu")
            .op(&amount.0)
            .op(b"ss\x86b")
    };
    let slots = |amount: &str| Ok(Value::Slots(vec![("cpu".into(), amount.into())]));
    let decimal = || Pickle::default().class("decimal", "Decimal").text("1.5").op(b"\x85R");
    check(Kind::ResourceSlot, state(decimal()), slots("1.5"));
    check(Kind::ResourceSlot, state(Pickle::default().text("2")), slots("2"));
    check(Kind::ResourceSlot, state(Pickle::default().op(b"K\x03")), slots("3"));
    check(
        Kind::ResourceSlot,
        state(Pickle::default().op(b"G\0\0\0\0\0\0\0\0")),
        Err(PickleError::Shape("ResourceSlot")),
    );
    check(
        Kind::ResourceSlot,
        state(Pickle::default().op(b"](K\x01e")),
        Err(PickleError::Shape("ResourceSlot")),
    );
    let other = Pickle::default().class(TYPES, "SessionTypes").text("batch").op(b"\x85R");
    check(Kind::ResourceSlot, state(other), Err(PickleError::Shape("ResourceSlot")));
}
