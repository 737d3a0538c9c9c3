//! Waiting for a process that need not be a child: a pidfd becomes readable when it ends
//! (`pidfd_open(2)`).
//!
//! The one audited module of this room: tokio registers file descriptors by an unsafe function.

#![expect(unsafe_code, reason = "tokio's registration of a file descriptor is unsafe; argued below")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until the process behind `pidfd` has ended. Must be awaited within a tokio runtime with I/O.
/// Safe to drop half-way.
pub(super) async fn ended(pidfd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` is an open descriptor; it is moved into the `AsyncFd`, which alone owns it
    // and closes it when it is dropped, and its number never changes.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    pidfd.readable().await.map(|_| ())
}
