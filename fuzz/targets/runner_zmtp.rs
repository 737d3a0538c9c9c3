//! See `check` in `runner/tests/checks/zmtp.rs`.
#![no_main]

use berth_fuzz::runner_checks::zmtp::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
