//! How long each engine call may take (design §2, invariant 5).
//!
//! A deadline ends the wait, not what was begun: after [`EngineError::Deadline`] the caller has to
//! look again.

use std::future::Future;
use std::time::Duration;

use super::EngineError;

/// The longest wait for each kind of engine call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// `create`, with the look at the image before it.
    pub create: Duration,
    /// `start`.
    pub start: Duration,
    /// `stop`, on top of the grace period.
    pub stop_beyond_grace: Duration,
    /// `remove`.
    pub remove: Duration,
    /// `list`, `inspect`, and each piece of a log.
    pub look: Duration,
    /// `image`, `images`.
    pub image: Duration,
    /// Silence in the middle of a pull or an import.
    pub transfer: Duration,
    /// `info` and agreeing on an API version.
    pub info: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            create: Duration::from_secs(30),
            start: Duration::from_secs(30),
            stop_beyond_grace: Duration::from_secs(15),
            remove: Duration::from_secs(60),
            look: Duration::from_secs(10),
            image: Duration::from_secs(10),
            transfer: Duration::from_secs(300),
            info: Duration::from_secs(10),
        }
    }
}

/// Waits for `work`, but no longer than `deadline`.
pub(super) async fn within<T>(
    call: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(EngineError::Deadline { call, deadline }))
}
