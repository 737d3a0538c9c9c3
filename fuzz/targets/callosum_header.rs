//! See `check` in `callosum/tests/checks/header.rs`.
#![no_main]

use berth_fuzz::callosum_checks::header::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
