//! The language process: a Python that keeps its names over `code` operations (`driver.py`), shows values
//! (`display.py`) and completes (`complete.py`).
//!
//! It is started as `python3 -c BOOT` with a socket as standard input; the boot line reads the driver's
//! source from it, so neither a file nor a writable root is needed. The driver then moves the socket to
//! a close-on-exec descriptor. Frames in both directions: `[length: u32][kind: u8][payload]`, the length
//! counting kind and payload, big-endian.
//!
//! | to the driver | payload |
//! |---|---|
//! | `A` | `1`, and the pipe of acknowledgements as ancillary data; the first frame |
//! | `C` | `1` (and the pipe as ancillary data) or `0`, then source |
//! | `I` | a line for `input()` |
//! | `Q` | number: u32, then JSON of `complete` |
//!
//! | from the driver | payload |
//! |---|---|
//! | `B` | code begins, it can be interrupted |
//! | `D` | exit code: i32 |
//! | `W` | `1` when the answer must not be shown |
//! | `S` | number: u32, then JSON of `completion` |
//! | `M`, `H` | number: u32, then the payload of `media` or `html` |
//!
//! An item of media is queued after everything that was printed before it, and only then its number is
//! written to the pipe of acknowledgements, which the driver waits for: what it prints next comes next.

use std::io::{self, IoSlice, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use berth_link::MessageType;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Pid;

use super::environment::Environment;
use super::outbox::Outbox;
use super::pump::{Owner, Patience, Pump};
use super::tasks::Event;
use crate::children::Children;

const SOURCE: &str =
    concat!(include_str!("display.py"), include_str!("complete.py"), include_str!("driver.py"));
/// A driver that does not read for that long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest frame taken from a driver; media are the largest.
const FRAME_MAX: usize = 16 * 1024 * 1024;

/// What a driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The code begins.
    Begun,
    /// It has ended, with this exit code; its output is flushed.
    Done(i32),
    /// It asks for a line.
    Waiting {
        /// Whether it should not be shown.
        is_password: bool,
    },
    /// Answer to a completion request.
    Suggestions {
        /// The request's number.
        number: u32,
        /// JSON.
        json: Vec<u8>,
    },
    /// It shows something, and waits until that is queued.
    Media {
        /// The item's number.
        number: u32,
        /// `media` or `html`.
        kind: MessageType,
        /// The payload of the message.
        payload: Vec<u8>,
    },
}

/// What a driver speaks through, beside the events.
pub struct Outlets<'a> {
    /// Starts it.
    pub children: &'a Children,
    /// Its output.
    pub pump: &'a Pump,
    /// Its media.
    pub outbox: &'a Arc<Outbox>,
    /// Everything else it says.
    pub events: &'a Sender<Event>,
}

/// A running driver.
pub struct Driver {
    /// Tells it from its predecessors.
    pub owner: Owner,
    /// Its process.
    pub pid: Pid,
    control: UnixStream,
    reader: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts one.
    ///
    /// # Errors
    /// When the system refuses a process, a thread or descriptors.
    pub fn start(
        interpreter: &Path,
        owner: Owner,
        environment: &Environment,
        outlets: &Outlets<'_>,
    ) -> io::Result<Self> {
        let Outlets { children, pump, outbox, events } = *outlets;
        let (control, theirs) = UnixStream::pair()?;
        let (stdout, stdout_theirs) = io::pipe()?;
        let (stderr, stderr_theirs) = io::pipe()?;
        let boot = format!(
            "import os\nMEDIA_MAX={1}\ns=b''\nwhile len(s)<{0}:\n b=os.read(0,{0}-len(s))\n if not b:os._exit(1)\n s+=b\n\
             exec(compile(s,'<berth>','exec'))",
            SOURCE.len(),
            outbox.message_max()
        );
        let mut command = environment.command(interpreter);
        command.arg("-c").arg(boot);
        command.stdin(OwnedFd::from(theirs)).stdout(stdout_theirs).stderr(stderr_theirs);
        control.set_write_timeout(Some(SEND_TIMEOUT))?;

        let ended = events.clone();
        let on_end = Box::new(move |code| drop(ended.send(Event::Ended { owner, code })));
        let pid = children.start(&mut command, on_end)?;
        drop(command);
        pump.watch(owner, MessageType::Stdout, stdout.into());
        pump.watch(owner, MessageType::Stderr, stderr.into());

        let mut driver = Self { owner, pid, control, reader: None };
        let (acks_theirs, acks) = io::pipe()?;
        // One that sends without end and never looks at them holds nobody up.
        rustix::io::ioctl_fionbio(&acks, true)?;
        // A failure shows as its end.
        let _ended = driver.control.write_all(SOURCE.as_bytes());
        let _ended = driver.send(b'A', &[b"1"], Some(acks_theirs.as_fd()));
        let reading = Reading {
            owner,
            control: driver.control.try_clone()?,
            acks,
            pump: pump.clone(),
            outbox: Arc::clone(outbox),
            events: events.clone(),
        };
        let thread = thread::Builder::new().name("driver".into()).stack_size(64 * 1024);
        driver.reader = Some(thread.spawn(move || reading.run())?);
        Ok(driver)
    }

    /// Hands it code, with the reading end of its standard input if it has one.
    ///
    /// # Errors
    /// When the driver has ended or does not read.
    pub fn run(&mut self, source: &[u8], stdin: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let flag: &[u8] = if stdin.is_some() { b"1" } else { b"0" };
        self.send(b'C', &[flag, source], stdin)
    }

    /// Answers `input()`.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub fn answer(&mut self, line: &[u8]) -> io::Result<()> {
        self.send(b'I', &[line], None)
    }

    /// Asks for completions; the answer carries the number.
    ///
    /// # Errors
    /// As [`Driver::run`].
    pub fn complete(&mut self, number: u32, request: &[u8]) -> io::Result<()> {
        self.send(b'Q', &[&number.to_be_bytes(), request], None)
    }

    /// After its process has ended: everything it said is in the queue of events when this returns.
    /// (Forked children may still hold the other end of the socket.)
    pub fn finish(mut self) {
        let _closed = self.control.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }

    fn send(&mut self, kind: u8, parts: &[&[u8]], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.push(kind);
        for part in parts {
            frame.extend_from_slice(part);
        }
        let sent = match fd {
            Some(fd) => {
                let fds = [fd.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
                sendmsg(&self.control, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?
            }
            None => 0,
        };
        self.control.write_all(frame.get(sent..).unwrap_or_default())
    }
}

/// The thread that reads what a driver says.
struct Reading {
    owner: Owner,
    control: UnixStream,
    acks: PipeWriter,
    pump: Pump,
    outbox: Arc<Outbox>,
    events: Sender<Event>,
}

impl Reading {
    fn run(mut self) {
        while let Ok(frame) = read_frame(&mut self.control) {
            match frame {
                Some(Frame::Media { number, kind, payload }) => {
                    // What was printed before comes before.
                    self.pump.settle(self.owner, Patience::None);
                    self.outbox.media(kind, payload);
                    // Where it fails nobody waits for it.
                    let _unread = self.acks.write(&number.to_be_bytes());
                }
                Some(frame) => {
                    let told = self.events.send(Event::Driver { owner: self.owner, frame });
                    // The task thread lives as long as the program.
                    drop(told);
                }
                None => {}
            }
        }
    }
}

/// The next frame; none for one that this version does not know.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let Some((kind, payload)) = body.split_first() else { return Ok(None) };
    let number = payload.first_chunk::<4>();
    let rest = || payload.get(4..).unwrap_or_default().to_vec();
    Ok(match (kind, number) {
        (b'B', _) => Some(Frame::Begun),
        (b'D', Some(code)) => Some(Frame::Done(i32::from_be_bytes(*code))),
        (b'W', _) => Some(Frame::Waiting { is_password: payload == b"1" }),
        (b'S', Some(number)) => {
            Some(Frame::Suggestions { number: u32::from_be_bytes(*number), json: rest() })
        }
        (b'M' | b'H', Some(number)) => Some(Frame::Media {
            number: u32::from_be_bytes(*number),
            kind: if *kind == b'M' { MessageType::Media } else { MessageType::Html },
            payload: rest(),
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_hostile_ones_are_not() {
        let mut wire: &[u8] =
            b"\0\0\0\x01B\0\0\0\x05D\xff\xff\xff\xf7\0\0\0\x02W1\0\0\0\0\0\0\0\x01?\0\0\0\x02D\0\
            \0\0\0\x07S\0\0\0\x05{}\0\0\0\x08H\0\0\0\x01<b>\xff\xff\xff\xff";
        let mut frames = Vec::new();
        while let Ok(frame) = read_frame(&mut wire) {
            frames.push(frame);
        }
        let expected = [
            Some(Frame::Begun),
            Some(Frame::Done(-9)),
            Some(Frame::Waiting { is_password: true }),
            None,
            None,
            None,
            Some(Frame::Suggestions { number: 5, json: b"{}".to_vec() }),
            Some(Frame::Media { number: 1, kind: MessageType::Html, payload: b"<b>".to_vec() }),
        ];
        assert_eq!(frames, expected);
    }
}
