//! Guests with one fault each, as core modules in text form made into components here: no guest
//! toolchain is needed. Layouts are the canonical ABI of `wit/policy.wit`.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub const WIT: &str = include_str!("../../../wit/policy.wit");

/// Ends `order` with an empty answer: `result` is a pointer to (list pointer, length), zeroes at 64.
pub const NOTHING: &str = "(i32.const 64)";
/// Decisions are zeroes from 1 MiB on: (request 0, start).
pub const HUGE: &str = "(i32.store (i32.const 64) (i32.const 1048576)) (i32.store (i32.const 68) (i32.const 90000)) (i32.const 64)";
/// Starts request 99.
pub const LIE: &str = "(i32.store (i32.const 128) (i32.const 99)) (i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)";
/// A list far outside its memory.
pub const WILD: &str = "(i32.store (i32.const 64) (i32.const 0x7fffff00)) (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)";
pub const LOOP: &str = "(loop $again (br $again)) unreachable";
/// Calls itself without end.
pub const DEEP: &str = "(call $order (local.get 0))";
pub const GROW: &str = "(loop $again (drop (memory.grow (i32.const 16))) (br $again)) unreachable";
pub const TRAP: &str = "(call $log (i32.const 2) (i32.const 16) (i32.const 6)) unreachable";
/// Loops when nobody waits: `waiting` is the second argument, behind the 48 bytes of `context`.
pub const LOOP_WHEN_NOBODY_WAITS: &str =
    "(if (i32.eqz (i32.load offset=52 (local.get 0))) (then (loop $again (br $again)))) (i32.const 64)";
/// Lets the first of those who wait wait on: (request 0, wait "faulty"), a record of 28 bytes.
pub const WAIT: &str = "(i32.store (i32.const 132) (i32.const 1)) (i32.store (i32.const 136) (i32.const 16)) \
    (i32.store (i32.const 140) (i32.const 6)) (i32.store (i32.const 64) (i32.const 128)) \
    (i32.store (i32.const 68) (i32.const 1)) (i32.const 64)";
/// Calls itself until the stack is full.
pub const RECURSE: &str = "(drop (call $order (local.get 0))) (i32.const 64)";
/// Traps in its second call, if an instance is ever used twice.
pub const ONCE_ONLY: &str =
    "(if (global.get $used) (then unreachable)) (global.set $used (i32.const 1)) (i32.const 64)";

/// A guest of the world `scheduler` of which `order` is `body`.
pub fn scheduler(body: &str) -> Vec<u8> {
    encode(WIT, "0.2.0", body, "(i32.const 32)")
}

/// The same that begins with `pages` of 64 KiB, and with a table of so many elements.
pub fn scheduler_of_size(pages: u32, elements: u32) -> Vec<u8> {
    let table = format!("(table {elements} funcref)");
    component(
        &module("0.2.0", NOTHING, "(i32.const 32)").replace(
            "(memory (export \"memory\") 64)",
            &format!("(memory (export \"memory\") {pages}) {table}"),
        ),
        WIT,
    )
}

/// The same in another version of the package.
pub fn scheduler_of_version(version: &str) -> Vec<u8> {
    encode(
        &WIT.replace("berth:policy@0.2.0", &format!("berth:policy@{version}")),
        version,
        NOTHING,
        "(i32.const 32)",
    )
}

/// The same of a changed interface.
pub fn scheduler_with_wit(wit: &str) -> Vec<u8> {
    encode(wit, "0.2.0", NOTHING, "(i32.const 32)")
}

/// A guest that refuses every settings with one text.
pub fn scheduler_that_refuses_settings() -> Vec<u8> {
    // result: error (1) at 32, list pointer 36 and length 40; the text at 48.
    let refuse = "(i32.store (i32.const 32) (i32.const 1)) (i32.store (i32.const 36) (i32.const 48)) \
         (i32.store (i32.const 40) (i32.const 1)) (i32.store (i32.const 48) (i32.const 16)) \
         (i32.store (i32.const 52) (i32.const 6)) (i32.const 32)";
    encode(WIT, "0.2.0", NOTHING, refuse)
}

fn encode(wit: &str, version: &str, order: &str, check_settings: &str) -> Vec<u8> {
    component(&module(version, order, check_settings), wit)
}

fn module(version: &str, order: &str, check_settings: &str) -> String {
    format!(
        r#"(module
            (import "berth:policy/host@{version}" "log" (func $log (param i32 i32 i32)))
            (memory (export "memory") 64)
            (global $top (mut i32) (i32.const 4096))
            (global $used (mut i32) (i32.const 0))
            (data (i32.const 16) "faulty")
            (data (i32.const 512) "\10\00\00\00\06\00\00\00\10\00\00\00\06\00\00\00\10\00\00\00\06\00\00\00")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and
                    (i32.add (global.get $top) (i32.sub (local.get 2) (i32.const 1)))
                    (i32.sub (i32.const 0) (local.get 2))))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func (export "berth:policy/about@{version}#describe") (result i32) (i32.const 512))
            (func (export "berth:policy/about@{version}#check-settings") (param i32 i32) (result i32)
                {check_settings})
            (func (export "berth:policy/scheduling@{version}#place") (param i32) (result i32) unreachable)
            (func $order (export "berth:policy/scheduling@{version}#order") (param i32) (result i32)
                {order})
            (func (export "berth:policy/scheduling@{version}#evict") (param i32) (result i32) unreachable))"#
    )
}

fn component(text: &str, wit: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_source("policy.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some("scheduler")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}
