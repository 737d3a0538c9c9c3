//! See `check` in `callosum/tests/checks/call.rs`.
#![no_main]

use berth_fuzz::callosum_checks::call::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
