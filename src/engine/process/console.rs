//! Reading a container's console log, and following it: the older file, then the newer, then whatever the
//! supervisor renames the newer to.
//!
//! The supervisor appends to `console.log`; when that is full it renames it to `console.log.1`, over the
//! older one, and begins anew. A follower keeps the file it reads open, so nothing of that is lost to it;
//! only where a second renaming overtakes it a part may be missing, and it says so.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::folder::Container;
use super::{blocking, failed};
use crate::engine::{ContainerState, EngineError, LogChunk, LogOptions};

const PIECE: usize = 64 * 1024;
/// How often a follower looks whether there is more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one look at a file may take.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Said where a part may be missing.
const OVERTAKEN: &[u8] = b"berth: the log was renewed twice before it could be read; a part may be missing\n";

type Listener = mpsc::Sender<Result<LogChunk, EngineError>>;

/// Sends what the options ask for; ends with the log, with the container, or when the receiver is dropped.
pub(super) async fn send(container: Container, options: LogOptions, listener: Listener) {
    if let Err(error) = copy(container, options, &listener).await {
        // Nobody listens any more, or hears it.
        let _ = listener.send(Err(error)).await;
    }
}

async fn copy(container: Container, options: LogOptions, listener: &Listener) -> Result<(), EngineError> {
    let log = container.clone();
    let mut cursor = blocking("logs", LOOK_WITHIN, move || {
        Cursor::open(log.older_log_file(), log.log_file(), options.tail).map_err(failed("logs"))
    })
    .await?;
    loop {
        // Looked at before the log: what was written until it ended is read below.
        let ended = !options.follow || has_ended(&container).await?;
        loop {
            // A step each, so that a slow listener keeps no thread.
            let (back, piece) = blocking("logs", LOOK_WITHIN, move || {
                let piece = cursor.next().map_err(failed("logs"))?;
                Ok((cursor, piece))
            })
            .await?;
            cursor = back;
            let Some(piece) = piece else { break };
            if listener.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = listener.closed() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Whether nothing can be written any more. The supervisor writes down the end after the log's.
async fn has_ended(container: &Container) -> Result<bool, EngineError> {
    let container = container.clone();
    let view = blocking("logs", LOOK_WITHIN, move || container.view().map_err(failed("logs"))).await?;
    Ok(view.is_none_or(|view| matches!(view.state, ContainerState::Exited { .. })))
}

/// A place in the log.
#[derive(Debug)]
struct Cursor {
    older: PathBuf,
    newer: PathBuf,
    /// What is read before [`Self::at`].
    before: Option<File>,
    /// The file that is read.
    at: Option<File>,
}

impl Cursor {
    /// At the beginning of the log, or of its last `tail` lines.
    fn open(older: PathBuf, newer: PathBuf, tail: Option<u64>) -> io::Result<Self> {
        let (before, at) = loop {
            let at = open(&newer)?;
            let before = open(&older)?;
            // Renamed between the two looks: it would be read twice.
            let twice = match (&before, &at) {
                (Some(before), Some(at)) => same(before, at)?,
                _ => false,
            };
            if !twice {
                break (before, at);
            }
        };
        let mut cursor = Self { older, newer, before, at };
        if let Some(lines) = tail {
            cursor.skip_to_the_last(lines)?;
        }
        Ok(cursor)
    }

    fn skip_to_the_last(&mut self, lines: u64) -> io::Result<()> {
        let length =
            |file: &Option<File>| file.as_ref().map_or(Ok(0), |file| file.metadata().map(|of| of.len()));
        let (first, second) = (length(&self.before)?, length(&self.at)?);
        let part = |file: &Option<File>, length: u64| -> io::Result<Box<dyn Read>> {
            Ok(match file {
                Some(file) => Box::new(file.try_clone()?.take(length)),
                None => Box::new(io::empty()),
            })
        };
        let start = beginning(part(&self.before, first)?.chain(part(&self.at, second)?), lines)?;
        // The clones above share the place in the file with these.
        if let Some(file) = &mut self.before {
            file.seek(SeekFrom::Start(start.min(first)))?;
        }
        if let Some(file) = &mut self.at {
            file.seek(SeekFrom::Start(start.saturating_sub(first)))?;
        }
        Ok(())
    }

    /// The next piece; none when there is no more for now. Both streams of a process share one file.
    fn next(&mut self) -> io::Result<Option<LogChunk>> {
        if let Some(before) = &mut self.before {
            match piece(before)? {
                Some(bytes) => return Ok(Some(LogChunk::Stdout(bytes))),
                None => self.before = None,
            }
        }
        loop {
            let Some(at) = &mut self.at else {
                self.at = open(&self.newer)?;
                match self.at {
                    Some(_) => continue,
                    None => return Ok(None),
                }
            };
            if let Some(bytes) = piece(at)? {
                return Ok(Some(LogChunk::Stdout(bytes)));
            }
            let Some(newer) = open(&self.newer)? else { return Ok(None) };
            if same(at, &newer)? {
                return Ok(None);
            }
            // Renamed: nothing is appended to it any more, so what is left now is its end.
            if let Some(bytes) = piece(at)? {
                return Ok(Some(LogChunk::Stdout(bytes)));
            }
            let overtaken = match open(&self.older)? {
                // The second is a renewal between these two looks: what it renamed is read next.
                Some(older) if !same(at, &older)? && !same(&older, &newer)? => Some(older),
                _ => None,
            };
            self.at = Some(newer);
            if overtaken.is_some() {
                self.before = overtaken;
                return Ok(Some(LogChunk::Stderr(Bytes::from_static(OVERTAKEN))));
            }
        }
    }
}

fn piece(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut piece = vec![0; PIECE];
    let count = file.read(&mut piece)?;
    piece.truncate(count);
    Ok((count > 0).then(|| piece.into()))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
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

    /// A log as the supervisor writes it.
    struct Log(tempfile::TempDir);

    impl Log {
        fn write(&self, text: &str) {
            use std::io::Write as _;
            let mut options = File::options();
            let mut file = options.create(true).append(true).open(self.0.path().join("new")).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn renew(&self) {
            std::fs::rename(self.0.path().join("new"), self.0.path().join("old")).unwrap();
        }

        fn cursor(&self, tail: Option<u64>) -> Cursor {
            Cursor::open(self.0.path().join("old"), self.0.path().join("new"), tail).unwrap()
        }
    }

    /// Everything there is for now.
    fn drain(cursor: &mut Cursor) -> String {
        let mut text = Vec::new();
        while let Some(LogChunk::Stdout(piece) | LogChunk::Stderr(piece)) = cursor.next().unwrap() {
            text.extend_from_slice(&piece);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_follower_goes_over_a_renewal_without_a_loss() {
        let log = Log(tempfile::tempdir().unwrap());
        let mut cursor = log.cursor(None);
        assert_eq!(drain(&mut cursor), "", "nothing is there yet");
        log.write("one\n");
        assert_eq!(drain(&mut cursor), "one\n");
        log.write("two\n");
        log.renew();
        assert_eq!(drain(&mut cursor), "two\n", "the new file is not made yet");
        log.write("three\n");
        assert_eq!(drain(&mut cursor), "three\n");
        assert_eq!(drain(&mut log.cursor(None)), "one\ntwo\nthree\n");
        assert_eq!(drain(&mut log.cursor(Some(2))), "two\nthree\n");
        assert_eq!(drain(&mut log.cursor(Some(1))), "three\n");
    }

    #[test]
    fn a_follower_that_is_overtaken_says_so() {
        let log = Log(tempfile::tempdir().unwrap());
        log.write("one\n");
        let mut cursor = log.cursor(None);
        assert_eq!(drain(&mut cursor), "one\n");
        for text in ["two\n", "three\n"] {
            log.renew();
            log.write(text);
        }
        let marker = std::str::from_utf8(OVERTAKEN).unwrap();
        assert_eq!(drain(&mut cursor), format!("{marker}two\nthree\n"));
    }
}
