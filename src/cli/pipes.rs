//! Standard input and the output streams of a command: each blocks, so each has a thread.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::error::CliError;

/// At most so much standard input is read at once.
pub(super) const READ_MAX: usize = 64 * 1024;

/// The threads' ends, so that a test can hold the others.
pub(super) struct Reader {
    /// How much at most; answered by one piece.
    pub(super) ask: std::sync::mpsc::Sender<usize>,
    /// Empty: the end.
    pub(super) got: mpsc::UnboundedReceiver<Bytes>,
}

/// See [`Reader`].
pub(super) struct Writer {
    /// What is to be written; dropped: nothing more.
    pub(super) put: std::sync::mpsc::Sender<Piece>,
    /// Bytes of output written out, as the pieces count them.
    pub(super) done: mpsc::UnboundedReceiver<io::Result<u64>>,
}

/// What is written at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) target: Target,
    pub(super) data: Bytes,
    /// The bytes of output that are acknowledged by it; what stands for output has a length of its own.
    pub(super) output_bytes: u64,
}

/// Where output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Standard error, for a line of ours: where that is closed there is nobody to tell.
    Note,
}

/// Reads standard input, as much at once as it is asked for.
pub(super) fn start_reader() -> Result<Reader, CliError> {
    let (ask, asked) = std::sync::mpsc::channel::<usize>();
    let (give, got) = mpsc::unbounded_channel();
    spawn("stdin", move || {
        let input = io::stdin();
        let mut buffer = vec![0; READ_MAX];
        for most in asked {
            let room = most.min(READ_MAX);
            // A terminal that cannot be read (any more) has ended as well.
            let count = read(input.as_fd(), &mut buffer[..room]).unwrap_or(0);
            if give.send(Bytes::copy_from_slice(&buffer[..count])).is_err() || count == 0 {
                return;
            }
        }
    })?;
    Ok(Reader { ask, got })
}

/// Writes output, both streams in one thread and our lines with them: what a program wrote first is shown first.
pub(super) fn start_writer() -> Result<Writer, CliError> {
    let (put, queue) = std::sync::mpsc::channel::<Piece>();
    let (tell, done) = mpsc::unbounded_channel();
    spawn("output", move || {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        for Piece { target, data, output_bytes } in queue {
            let written = match target {
                Target::Stdout => write_all(stdout.as_fd(), &data),
                Target::Stderr => write_all(stderr.as_fd(), &data),
                Target::Note => write_all(stderr.as_fd(), &data).or(Ok(())),
            };
            let written = written.map(|()| output_bytes);
            let failed = written.is_err();
            if tell.send(written).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(Writer { put, done })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), CliError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| CliError::new(format!("a thread could not be started: {error}")))
}

/// Past the standard library's buffers; somebody else may have made the descriptor non-blocking.
fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::IN)?,
            other => return Ok(other?),
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(fd, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>, until: PollFlags) -> io::Result<()> {
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, until)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
