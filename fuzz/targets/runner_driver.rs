//! See `check` in `runner/tests/checks/driver.rs`.
#![no_main]

use berth_fuzz::runner_checks::driver::check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check(bytes));
