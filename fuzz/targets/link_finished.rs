//! See `check` in `link/tests/checks/finished.rs`.
#![no_main]

use berth_fuzz::link_checks::finished::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
