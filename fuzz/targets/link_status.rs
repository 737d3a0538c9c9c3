//! See `check` in `link/tests/checks/status.rs`.
#![no_main]

use berth_fuzz::link_checks::status::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
