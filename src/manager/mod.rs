//! The manager's side of the node: the door that its calls come in by (contracts: manager §1).
//!
//! What the manager expects on the wire is here and in the crate `callosum`, nowhere else. The routing thread owns
//! the sockets and lends them to the [`door`], which turns frames into calls and answers into frames and does
//! nothing else.

pub mod door;
pub mod keys;
