//! See `check` in `callosum/tests/checks/certificate.rs`.
#![no_main]

use berth_fuzz::callosum_checks::certificate::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
