//! The same life of a container on every engine (design §11).
//!
//! Docker tests run where a Docker Engine answers; the process engine is tried with and without
//! bubblewrap and control groups. What is made here carries an instance label of its own and is removed
//! again, also when a test fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docker;
mod life;
mod process;
mod support;
