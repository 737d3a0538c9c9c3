//! See `check` in `callosum/tests/checks/body.rs`.
#![no_main]

use berth_fuzz::callosum_checks::body::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
