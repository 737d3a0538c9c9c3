//! Cluster membership: what a Backend.AI manager says and is told (contracts: manager).
//!
//! ```text
//!  etcd --membership--> Joined --watch--> heartbeat (own thread) --XADD--> Redis --> manager
//!                                            ^ the offer, policies
//!  manager --callosum--> door (routing thread) --> kernels
//! ```
//!
//! * [`membership`]: the task that finds etcd, waits for a manager, reads where Redis is, keeps the node's status
//!   there; [`layout`] knows the keys;
//! * [`heartbeat`]: the thread that reports the node, whatever hangs; [`info`] makes the report, [`events`] its
//!   form, [`redis`] the way there; [`messenger`]: the thread for all other events;
//! * [`door`]: the callosum protocol, its methods and answers, on the routing thread; [`methods`]: what is answered
//!   on the workers;
//! * [`keys`]: the CURVE keys of the RPC port.

pub mod door;
pub mod events;
pub mod heartbeat;
pub mod info;
pub mod keys;
pub mod layout;
pub mod membership;
pub mod messenger;
pub mod methods;
pub mod redis;

pub use crate::config::Address;
pub use membership::ClusterStatus;
