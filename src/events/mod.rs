//! Lifecycle events: one ordered stream, readers with cursors (design §2). In memory for now.

use serde::{Deserialize, Serialize};

use crate::ids::{KernelId, SessionId};

/// What happened to a kernel (contracts: kernel §5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum EventKind {
    /// A create was accepted.
    KernelPreparing,
    /// Its container is being made.
    KernelCreating,
    /// It is ready.
    KernelStarted,
    /// It has ended and everything of it has been given back.
    KernelTerminated {
        /// Why (contracts: kernel §5.2).
        reason: String,
        /// Exit code, when known.
        exit_code: Option<i32>,
    },
}

/// One entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Place in the stream, from 1.
    pub seq: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Which kernel.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}
