//! What operators do, as they do it: the program's own commands against an agent of the tests' own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod doctor;
mod drain;
mod events;
mod images;
mod logs;
