//! Amounts: whole numbers everywhere, decimal strings only at the borders (design §7).
//!
//! A `count` slot is in micro-units (one core is 1 000 000), a `bytes` slot in bytes.

/// Micro-units of one whole device.
pub const ONE: u64 = 1_000_000;
