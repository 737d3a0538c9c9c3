//! See `check` in `src/tree/tests/archives.rs`.
#![no_main]

use berth_fuzz::archive_checks::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
