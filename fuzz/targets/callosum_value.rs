//! See `check` in `callosum/tests/checks/value.rs`.
#![no_main]

use berth_fuzz::callosum_checks::value::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
