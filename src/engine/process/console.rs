//! Reading a container's console log: the older file, then the newer.

use std::fs::File;
use std::io::{self, BufReader, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::folder::Container;
use crate::engine::{EngineError, LogChunk};

const PIECE: usize = 64 * 1024;

/// Sends the last `tail` lines, or everything. Blocks; ends when the receiver is dropped.
pub(super) fn send(
    container: &Container,
    tail: Option<u64>,
    listener: &mpsc::Sender<Result<LogChunk, EngineError>>,
) {
    if let Err(error) = copy(container, tail, listener) {
        let error = EngineError::Failed { call: "logs", message: error.to_string() };
        // Nobody listens any more, or hears it.
        let _ = listener.blocking_send(Err(error));
    }
}

fn copy(
    container: &Container,
    tail: Option<u64>,
    listener: &mpsc::Sender<Result<LogChunk, EngineError>>,
) -> io::Result<()> {
    let skip = match tail {
        Some(lines) => beginning(open(container)?, lines)?,
        None => 0,
    };
    let mut log = open(container)?;
    io::copy(&mut log.by_ref().take(skip), &mut io::sink())?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = log.read(&mut piece)?;
        let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        // Both streams of a process share one file.
        if listener.blocking_send(Ok(LogChunk::Stdout(Bytes::copy_from_slice(bytes)))).is_err() {
            return Ok(());
        }
    }
}

fn open(container: &Container) -> io::Result<Box<dyn Read>> {
    let file = |path| match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file)) as Box<dyn Read>),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(io::empty()) as Box<dyn Read>),
        Err(error) => Err(error),
    };
    Ok(Box::new(file(container.older_log_file())?.chain(file(container.log_file())?)))
}

/// Where the last `lines` lines begin. Keeps as many line starts as lines are asked for.
fn beginning(log: impl Read, lines: u64) -> io::Result<u64> {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut starts = std::collections::VecDeque::new();
    let (mut at, mut at_start) = (0_u64, true);
    for byte in BufReader::with_capacity(PIECE, log).bytes() {
        if at_start {
            starts.push_back(at);
            if starts.len() > lines {
                starts.pop_front();
            }
        }
        at_start = byte? == b'\n';
        at += 1;
    }
    Ok(starts.front().copied().unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(log: &str, lines: u64, expected: &str) {
        let at = usize::try_from(beginning(log.as_bytes(), lines).unwrap()).unwrap();
        assert_eq!(&log[at..], expected, "{log:?} {lines}");
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        check("a\nb\nc\n", 2, "b\nc\n");
        check("a\nb\nc", 1, "c");
        check("a\nb\n", 9, "a\nb\n");
        check("a\nb\n", 0, "");
        check("", 3, "");
        check("\n\n", 1, "\n");
    }
}
