//! The copy of the console for the engine's log, and the runner's own log lines.
//!
//! A thread of its own writes them from a bounded ring: an engine that hangs stops this thread and
//! nobody else (measured: a container whose program writes to its stdout stands still within a second
//! when dockerd hangs). What finds no room is dropped with a marker that counts it.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_link::MessageType;

/// Bytes that may wait for the log.
const RING_MAX: usize = 256 * 1024;

/// The ring.
#[derive(Debug, Default)]
pub struct Console {
    ring: Mutex<Ring>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    parts: VecDeque<(MessageType, Vec<u8>)>,
    bytes: usize,
    dropped: usize,
    writing: bool,
}

impl Console {
    /// Copies output of a task. Never waits.
    pub fn copy(&self, kind: MessageType, bytes: &[u8]) {
        let mut ring = self.ring();
        if ring.bytes + bytes.len() > RING_MAX {
            ring.dropped += bytes.len();
            return;
        }
        if ring.dropped > 0 {
            let marker = format!("\nberth-runner: {} bytes of output are not in this log\n", ring.dropped);
            ring.dropped = 0;
            ring.bytes += marker.len();
            ring.parts.push_back((MessageType::Stderr, marker.into_bytes()));
        }
        ring.bytes += bytes.len();
        match ring.parts.back_mut() {
            Some((last, part)) if *last == kind => part.extend_from_slice(bytes),
            _ => ring.parts.push_back((kind, bytes.to_vec())),
        }
        drop(ring);
        self.filled.notify_one();
    }

    /// Logs a line of the runner's own.
    pub fn note(&self, text: impl std::fmt::Display) {
        self.copy(MessageType::Stderr, format!("berth-runner: {text}\n").as_bytes());
    }

    /// Writes for ever; the body of the thread.
    pub fn write(&self) {
        loop {
            let (kind, part) = self.next();
            let written = match kind {
                MessageType::Stdout => write_all(std::io::stdout().lock(), &part),
                _ => write_all(std::io::stderr().lock(), &part),
            };
            // A log that is closed is no reason to stop: there is nobody to tell.
            drop(written);
            self.ring().writing = false;
            self.emptied.notify_all();
        }
    }

    /// Waits until everything is written, but no longer than `limit`.
    pub fn wait_written(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut ring = self.ring();
        while ring.writing || !ring.parts.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            ring = self.emptied.wait_timeout(ring, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn next(&self) -> (MessageType, Vec<u8>) {
        let mut ring = self.ring();
        loop {
            if let Some((kind, part)) = ring.parts.pop_front() {
                ring.bytes -= part.len();
                ring.writing = true;
                return (kind, part);
            }
            ring = self.filled.wait(ring).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_in_a_marker() {
        let console = Console::default();
        console.copy(MessageType::Stdout, &vec![b'x'; RING_MAX]);
        console.copy(MessageType::Stdout, b"lost");
        assert_eq!(console.next().1.len(), RING_MAX);
        console.copy(MessageType::Stdout, b"after");
        let (kind, marker) = console.next();
        assert_eq!(kind, MessageType::Stderr);
        assert_eq!(marker, b"\nberth-runner: 4 bytes of output are not in this log\n");
        assert_eq!(console.next(), (MessageType::Stdout, b"after".to_vec()));
    }
}
