//! One run as its user sees it: standard input in, output out as it comes, Ctrl-C interrupts.
//!
//! This task moves frames between the agent and the threads of [`super::pipes`]. Output is acknowledged when
//! it has been written, so a slow terminal (or a pager) slows the program down and nothing piles up here.
//! Standard input is read only as far as the program's runner has room for it, and not before the run has
//! started; what was not acknowledged is kept, so that it can be sent again.
//!
//! When the agent goes away the program runs on. The agent is waited for, and the run goes on from the bytes
//! that have come; what was lost in between is said where it is missing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::task::AbortOnDropHandle;

use super::away::{self, Patience, Wait, over};
use super::client::{Agent, lost};
use super::error::{CliError, said, say};
use super::media::Media;
use super::pipes::{Piece, READ_MAX, Reader, Target, Writer, start_reader, start_writer};
use super::signals::{Asked, Signals};
use crate::control::stream::{
    ClientCodec, ClientFrame, FrameError, OUTPUT_WINDOW, Open, Resumed, ServerFrame, Signal,
};
use crate::ids::KernelRef;
use crate::route::{AGENT_STOPPED, Resume, RunEnd, RunRequest};

/// How a run ended for its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself.
    Run(RunEnd),
    /// By a signal to us.
    Stopped {
        /// 128 + the signal.
        exit: u8,
    },
}

/// Runs `request` in `kernel` and stays until it has ended.
pub(super) async fn run(
    agent: &Agent,
    kernel: &KernelRef,
    request: RunRequest,
    media: Media,
    signals: &mut Signals,
    patience: Patience,
) -> Result<Ending, CliError> {
    let talk = Talk::new(request, media, start_reader()?, start_writer()?);
    let connect = |again| async move {
        if again && let Some(why) = agent.kernel(kernel).await?.termination {
            // It ended while nobody could tell us.
            let message = format!("the kernel went away: {}", why.message.unwrap_or(why.reason));
            return Err(CliError::new(message).with_code("kernel-gone"));
        }
        agent.open_stream(kernel).await.map(TokioIo::new)
    };
    talk.stay(connect, patience, signals).await
}

/// Beyond so many pieces that wait to be written nothing is read: what the agent says without credit, and
/// lines of ours about next to nothing, must not pile up either.
const PIECES_MAX: usize = 1024;

/// How a connection ended.
enum Turn {
    Ended(Ending),
    /// The agent went away, or cannot give us our run back yet.
    Away(CliError),
}

/// What outlives a connection.
struct Talk {
    request: RunRequest,
    stdin: Reader,
    /// The reader has been asked and has not answered.
    asked: bool,
    /// More may be read.
    stdin_open: bool,
    /// How much more may be sent.
    stdin_left: usize,
    sent: Sent,
    writer: Writer,
    /// Pictures and the like.
    media: Media,
    /// Output that came and is not written out yet.
    unwritten: u64,
    /// Pieces that are not written out yet.
    pieces: usize,
    /// Console bytes of the run that came or were said to be lost.
    received: u64,
    /// Those of them that were lost.
    lost: u64,
    /// When the run started, and the runner that began it.
    started: Option<(Instant, Option<String>)>,
    /// A connection was there.
    opened: bool,
    /// The agent is away.
    wait: Option<Wait>,
}

impl Talk {
    fn new(request: RunRequest, media: Media, stdin: Reader, writer: Writer) -> Self {
        Self {
            stdin_open: request.stdin,
            request,
            stdin,
            asked: false,
            stdin_left: berth_link::STDIN_WINDOW,
            sent: Sent::default(),
            writer,
            media,
            unwritten: 0,
            pieces: 0,
            received: 0,
            lost: 0,
            started: None,
            opened: false,
            wait: None,
        }
    }

    /// From connection to connection until the run has ended.
    async fn stay<C, F>(
        mut self,
        connect: impl Fn(bool) -> F,
        patience: Patience,
        signals: &mut Signals,
    ) -> Result<Ending, CliError>
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
        F: Future<Output = Result<C, CliError>>,
    {
        loop {
            let waits = self.wait.is_some();
            let opened = tokio::select! {
                biased;
                exit = signals.stop(), if waits => return Ok(Ending::Stopped { exit }),
                opened = connect(waits) => opened,
                error = over(self.wait) => return Err(error),
            };
            let turn = match opened {
                Ok(connection) => self.converse(connection, signals).await?,
                Err(error) if away::went_away(&error) => Turn::Away(error),
                // Nobody listens; that may change when somebody did before.
                Err(error) if waits && error.code == "no-agent" => Turn::Away(error),
                Err(error) => return Err(error),
            };
            match turn {
                Turn::Ended(Ending::Run(end)) => return self.write_out(end, signals).await,
                Turn::Ended(stopped) => return Ok(stopped),
                Turn::Away(error) => {
                    let Patience::For(patience) = patience else { return Err(error) };
                    if let Some(ending) = self.pause(patience, signals).await? {
                        return Ok(ending);
                    }
                }
            }
        }
    }

    /// Between two looks for the agent; how it ended when the user does not want to wait.
    async fn pause(&mut self, patience: Duration, signals: &mut Signals) -> Result<Option<Ending>, CliError> {
        let wait = *self.wait.get_or_insert_with(|| {
            say("the agent is away; the program runs on, waiting for it");
            Wait::new(patience)
        });
        let again = wait.again();
        tokio::pin!(again);
        loop {
            tokio::select! {
                biased;
                exit = signals.stop() => return Ok(Some(Ending::Stopped { exit })),
                // A reader of ours that went away is no reason to wait on.
                Some(written) = self.writer.done.recv() => {
                    self.written(written.map_err(|error| CliError::output(&error))?);
                }
                waited = &mut again => return waited.map(|()| None),
            }
        }
    }

    /// The first frame of a connection.
    fn open(&mut self) -> ClientFrame {
        let resume = self.opened.then(|| Resume {
            received_bytes: self.received,
            lost_bytes: self.lost,
            incarnation: self.started.as_ref().and_then(|(_, incarnation)| incarnation.clone()),
        });
        self.opened = true;
        let mut request = self.request.clone();
        if let (Some(timeout), Some((since, _))) = (&mut request.timeout, &self.started) {
            // An agent that is new does not know when it began. At least something, for none is no limit.
            *timeout = timeout.saturating_sub(since.elapsed()).max(Duration::from_millis(1));
        }
        // What is not written out yet is acknowledged in the new connection.
        let credit = OUTPUT_WINDOW.saturating_sub(self.unwritten);
        ClientFrame::Open(Open { request, credit, resume })
    }

    /// One connection.
    async fn converse<C>(&mut self, connection: C, signals: &mut Signals) -> Result<Turn, CliError>
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(connection);
        let mut frames = FramedRead::new(read, ClientCodec::default());
        // A task of its own, so that we go on reading whatever the agent does: neither side can wait for the
        // other. What queues up here is bounded by the credit for standard input.
        let (to_agent, outgoing) = mpsc::unbounded_channel();
        let mut sender = AbortOnDropHandle::new(tokio::spawn(send_all(outgoing, write)));
        let say_to_agent = |frame| drop(to_agent.send(frame));

        let (mut started, mut owed) = (false, 0);
        let again = self.opened;
        say_to_agent(self.open());

        let ending = loop {
            if started && self.stdin_open && !self.asked && self.stdin_left > 0 {
                self.asked = self.stdin.ask.send(self.stdin_left.min(READ_MAX)).is_ok();
            }
            let wait = self.wait;
            // Every branch is cancel-safe. Signals first, then what has been written: it lets the program
            // go on.
            tokio::select! {
                biased;
                signal = signals.next() => match signal {
                    Asked::Interrupt => say_to_agent(ClientFrame::Signal(Signal::Interrupt)),
                    Asked::Stop { exit } => break Ok(Turn::Ended(Ending::Stopped { exit })),
                },
                Some(written) = self.writer.done.recv() => {
                    match written {
                        Ok(bytes) => {
                            owed += bytes;
                            self.written(bytes);
                        }
                        Err(error) => break Err(CliError::output(&error)),
                    }
                    if owed >= OUTPUT_WINDOW / 8 {
                        say_to_agent(ClientFrame::Credit(std::mem::take(&mut owed)));
                    }
                }
                Some(data) = self.stdin.got.recv(), if self.asked && started => {
                    self.asked = false;
                    self.stdin_open = !data.is_empty();
                    self.stdin_left = self.stdin_left.saturating_sub(data.len());
                    self.sent.keep(&data);
                    let open = self.stdin_open;
                    say_to_agent(if open { ClientFrame::Stdin(data) } else { ClientFrame::StdinEof });
                }
                frame = frames.next(), if self.pieces < PIECES_MAX => match frame.ok_or_else(lost).and_then(|f| f.map_err(|e| broken(&e))) {
                    Ok(ServerFrame::Started { incarnation }) => {
                        started = true;
                        let since = self.started.take().map_or_else(Instant::now, |(since, _)| since);
                        self.started = Some((since, incarnation));
                    }
                    Ok(ServerFrame::Resumed(resumed)) => {
                        self.wait = None;
                        self.send_again(resumed, say_to_agent);
                    }
                    Ok(ServerFrame::Stdout(data)) => self.write(Target::Stdout, data),
                    Ok(ServerFrame::Stderr(data)) => self.write(Target::Stderr, data),
                    Ok(ServerFrame::Media(data)) => {
                        let line = self.media.take(&data);
                        self.note(&line, data.len() as u64);
                    }
                    Ok(ServerFrame::WaitingInput { .. }) => {
                        self.note("the program waits for a line of input, which this kernel's runner does not take from here", 0);
                    }
                    Ok(ServerFrame::StdinCredit(bytes)) => {
                        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                        self.stdin_left = self.stdin_left.saturating_add(bytes);
                        self.sent.forget(bytes);
                    }
                    Ok(ServerFrame::Lost(0)) => self.note("some of the output was lost here", 0),
                    Ok(ServerFrame::Lost(bytes)) => {
                        self.received = self.received.saturating_add(bytes);
                        self.lost = self.lost.saturating_add(bytes);
                        self.note(&format!("{bytes} bytes of output were lost here"), 0);
                    }
                    Ok(ServerFrame::Exit(RunEnd::Detached { reason })) if reason == AGENT_STOPPED => {
                        return Ok(Turn::Away(lost()));
                    }
                    Ok(ServerFrame::Exit(end)) => break Ok(Turn::Ended(Ending::Run(end))),
                    Ok(ServerFrame::Error(error)) => {
                        let error = CliError::from(error);
                        let later = self.wait.is_some() && again && not_yet(&error);
                        return if later || away::went_away(&error) { Ok(Turn::Away(error)) } else { Err(error) };
                    }
                    Err(error) if away::went_away(&error) => return Ok(Turn::Away(error)),
                    Err(error) => return Err(error),
                },
                error = over(wait) => return Err(error),
            }
        };

        if !matches!(ending, Ok(Turn::Ended(Ending::Run(_)))) {
            // Nobody sees any more what the program does, so it should end, and not wait for us.
            say_to_agent(ClientFrame::Signal(Signal::Interrupt));
            say_to_agent(ClientFrame::Signal(Signal::Cancel));
            drop(to_agent);
            // The agent need not take it: hanging up says the same, later.
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut sender).await;
        }
        ending
    }

    fn write(&mut self, target: Target, data: Bytes) {
        let output_bytes = data.len() as u64;
        self.received += output_bytes;
        self.put(Piece { target, data, output_bytes });
    }

    /// A line of ours at its place in the output, for output of that many bytes that is not written itself.
    fn note(&mut self, line: &str, output_bytes: u64) {
        self.put(Piece { target: Target::Note, data: said(line).into(), output_bytes });
    }

    fn put(&mut self, piece: Piece) {
        self.unwritten += piece.output_bytes;
        self.pieces += 1;
        // A writer that has ended has said why.
        let _ = self.writer.put.send(piece);
    }

    /// A piece was.
    fn written(&mut self, output_bytes: u64) {
        self.unwritten = self.unwritten.saturating_sub(output_bytes);
        self.pieces = self.pieces.saturating_sub(1);
    }

    /// Standard input that did not arrive, and its end.
    fn send_again(&mut self, resumed: Resumed, say_to_agent: impl Fn(ClientFrame)) {
        self.sent.arrived(resumed.stdin_bytes);
        let room = usize::try_from(resumed.stdin_room).unwrap_or(usize::MAX);
        self.stdin_left = room.saturating_sub(self.sent.kept);
        for data in &self.sent.parts {
            say_to_agent(ClientFrame::Stdin(data.clone()));
        }
        if self.request.stdin && !self.stdin_open {
            say_to_agent(ClientFrame::StdinEof);
        }
    }

    /// The end has been told; what came before it must still be written out.
    async fn write_out(self, end: RunEnd, signals: &mut Signals) -> Result<Ending, CliError> {
        let Writer { put, mut done } = self.writer;
        drop(put);
        loop {
            tokio::select! {
                biased;
                exit = signals.stop() => return Ok(Ending::Stopped { exit }),
                written = done.recv() => match written {
                    Some(written) => drop(written.map_err(|error| CliError::output(&error))?),
                    None => return Ok(Ending::Run(end)),
                },
            }
        }
    }
}

/// Standard input that was sent and not acknowledged: at most [`berth_link::STDIN_WINDOW`] bytes.
#[derive(Debug, Default)]
struct Sent {
    parts: VecDeque<Bytes>,
    kept: usize,
    /// Bytes from the start to the first of the parts.
    at: u64,
}

impl Sent {
    fn keep(&mut self, data: &Bytes) {
        if !data.is_empty() {
            self.kept += data.len();
            self.parts.push_back(data.clone());
        }
    }

    /// The first of them were acknowledged.
    fn forget(&mut self, bytes: usize) {
        let mut left = bytes.min(self.kept);
        self.kept -= left;
        self.at += left as u64;
        while let Some(part) = self.parts.front_mut().filter(|_| left > 0) {
            let now = left.min(part.len());
            part.advance(now);
            left -= now;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
    }

    /// So many bytes from the start are where they should be.
    fn arrived(&mut self, bytes: u64) {
        self.forget(usize::try_from(bytes.saturating_sub(self.at)).unwrap_or(usize::MAX));
    }
}

/// Refusals of an agent that has come back and has not found its kernel yet, or still holds the connection
/// that broke.
fn not_yet(error: &CliError) -> bool {
    matches!(error.code.as_str(), "run-exists" | "not-running" | "busy")
}

/// Sends until told to end or until the agent is gone; what that means is for the reading side to say.
async fn send_all<W: AsyncWrite + Unpin>(mut frames: mpsc::UnboundedReceiver<ClientFrame>, write: W) {
    let mut wire = FramedWrite::new(write, ClientCodec::default());
    while let Some(frame) = frames.recv().await {
        if wire.send(frame).await.is_err() {
            return;
        }
    }
}

fn broken(error: &FrameError) -> CliError {
    match error {
        FrameError::Io(_) | FrameError::Cut => lost(),
        _ => CliError::new(format!("the agent's stream was not understood: {error}")).with_hint(
            "agent and command are of different versions: compare `berth status` and `berth --version`",
        ),
    }
}

impl Ending {
    /// The status to exit with, and a word to the user where the status alone does not say it.
    pub(super) fn status(self) -> Result<u8, CliError> {
        match self {
            Self::Stopped { exit } => Ok(exit),
            Self::Run(RunEnd::Finished { exit_code }) => Ok(exit_status(exit_code)),
            Self::Run(RunEnd::TimedOut) => {
                say("it took longer than --timeout and was ended");
                Ok(124)
            }
            Self::Run(RunEnd::Cancelled) => {
                say("it was cancelled before it ran");
                Ok(130)
            }
            Self::Run(RunEnd::RunnerRestarted) => {
                Err(CliError::new("the kernel's runner was started anew, and the program was lost with it")
                    .with_hint("`berth logs KERNEL` may say why"))
            }
            Self::Run(RunEnd::Detached { reason }) => {
                Err(CliError::new(format!("the kernel went away: {reason}"))
                    .with_hint("`berth inspect KERNEL` and the agent's log say more"))
            }
        }
    }

    /// Whether the program may have been killed from outside.
    pub(super) fn was_killed(&self) -> bool {
        matches!(self, Self::Run(RunEnd::Detached { .. } | RunEnd::Finished { exit_code: -9 | 137 }))
    }
}

/// As shells do: killed by signal N is 128 + N.
fn exit_status(exit_code: i32) -> u8 {
    let shown = if exit_code < 0 { 128_i32.saturating_sub(exit_code) } else { exit_code };
    u8::try_from(shown & 0xff).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
