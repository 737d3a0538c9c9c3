//! See `check` in `link/tests/checks/words.rs`.
#![no_main]

use berth_fuzz::link_checks::words::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
