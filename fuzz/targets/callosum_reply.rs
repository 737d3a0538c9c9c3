//! See `check` in `callosum/tests/checks/reply.rs`.
#![no_main]

use berth_fuzz::callosum_checks::reply::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
