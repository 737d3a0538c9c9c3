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
//! What comes from it is in [`super::driver_frame`].
//!
//! An item of media is queued after everything that was printed before it, and only then its number is
//! written to the pipe of acknowledgements, which the driver waits for: what it prints next comes next.

use std::io::{self, IoSlice, PipeWriter, Write};
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

use super::driver_frame::{Frame, read_frame};
use super::environment::Environment;
use super::outbox::Outbox;
use super::pump::{Owner, Patience, Pump};
use super::tasks::Event;
use crate::children::Children;

const SOURCE: &str =
    concat!(include_str!("display.py"), include_str!("complete.py"), include_str!("driver.py"));
/// A driver that does not read for that long is stuck.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

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
