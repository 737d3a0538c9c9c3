//! See `check` in `callosum/tests/checks/pickle.rs`.
#![no_main]

use berth_fuzz::callosum_checks::pickle::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
