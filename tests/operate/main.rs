//! What operators do, as they do it: the program's own commands against an agent of the tests' own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod deploy;
mod doctor;
mod drain;
#[path = "../support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
mod events;
mod files;
mod images;
mod logs;
mod private;
mod shows;
#[path = "../support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;
