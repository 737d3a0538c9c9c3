//! What the fuzz targets check. The checks lie with the tests of their packages, which replay `corpus/` through
//! them on a stable compiler; here they are only gathered.

pub mod heap;

#[path = "../../callosum/tests/checks/mod.rs"]
pub mod callosum_checks;

#[path = "../../link/tests/checks/mod.rs"]
pub mod link_checks;

#[path = "../../runner/tests/checks/mod.rs"]
pub mod runner_checks;

// The runner is a program, not a library.
#[path = "../../runner/src/kernel/driver_frame.rs"]
pub mod driver_frame;

#[path = "../../runner/src/zmtp/session.rs"]
pub mod session;

// The agent as a whole takes minutes to build; this room depends on no other.
#[path = "../../src/tree/mod.rs"]
pub mod tree;

#[path = "../../src/tree/tests/archives.rs"]
pub mod archive_checks;
