//! One run as its user sees it: standard input in, output out as it comes, Ctrl-C interrupts.
//!
//! Reading standard input and writing the output block, so each has a thread; this task moves frames
//! between them and the agent. Output is acknowledged when it has been written, so a slow terminal (or a
//! pager) slows the program down and nothing piles up here. Standard input is read only as far as the
//! program's runner has room for it, and not before the run has started.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};

use super::client::{Agent, lost};
use super::error::{CliError, say};
use super::signals::{Asked, Signals};
use crate::control::stream::{
    ClientCodec, ClientFrame, FrameError, OUTPUT_WINDOW, Open, ServerFrame, Signal,
};
use crate::ids::KernelRef;
use crate::route::{RunEnd, RunRequest};

/// At most so much standard input is read at once.
const READ_MAX: usize = 64 * 1024;

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
    signals: &mut Signals,
) -> Result<Ending, CliError> {
    let connection = TokioIo::new(agent.open_stream(kernel).await?);
    converse(connection, request, signals, start_reader()?, start_writer()?).await
}

/// The threads' ends, so that a test can hold the others.
struct Reader {
    ask: std::sync::mpsc::Sender<usize>,
    /// Empty: the end.
    got: mpsc::UnboundedReceiver<Bytes>,
}

struct Writer {
    put: std::sync::mpsc::Sender<(Target, Bytes)>,
    /// Bytes written out.
    done: mpsc::UnboundedReceiver<io::Result<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stdout,
    Stderr,
}

async fn converse<C>(
    connection: C,
    request: RunRequest,
    signals: &mut Signals,
    mut stdin: Reader,
    writer: Writer,
) -> Result<Ending, CliError>
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(connection);
    let mut frames = FramedRead::new(read, ClientCodec::default());
    // A task of its own, so that we go on reading whatever the agent does: neither side can wait for the
    // other. What queues up here is bounded by the credit for standard input.
    let (to_agent, outgoing) = mpsc::unbounded_channel();
    let mut sender = tokio::spawn(send_all(outgoing, write));
    let say_to_agent = |frame| drop(to_agent.send(frame));

    let Writer { put, mut done } = writer;
    let mut stdin_open = request.stdin;
    let (mut started, mut asked) = (false, false);
    let mut stdin_left = berth_link::STDIN_WINDOW;
    let mut owed = 0;
    say_to_agent(ClientFrame::Open(Open { request, credit: OUTPUT_WINDOW }));

    let ending = loop {
        if started && stdin_open && !asked && stdin_left > 0 {
            asked = stdin.ask.send(stdin_left.min(READ_MAX)).is_ok();
        }
        // Every branch is cancel-safe. Signals first, then what has been written: it lets the program go on.
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Asked::Interrupt => say_to_agent(ClientFrame::Signal(Signal::Interrupt)),
                Asked::Stop { exit } => break Ok(Ending::Stopped { exit }),
            },
            Some(written) = done.recv() => {
                match written {
                    Ok(bytes) => owed += bytes,
                    Err(error) => break Err(CliError::output(&error)),
                }
                if owed >= OUTPUT_WINDOW / 8 {
                    say_to_agent(ClientFrame::Credit(std::mem::take(&mut owed)));
                }
            }
            Some(data) = stdin.got.recv(), if asked => {
                asked = false;
                stdin_left = stdin_left.saturating_sub(data.len());
                stdin_open = !data.is_empty();
                say_to_agent(if stdin_open { ClientFrame::Stdin(data) } else { ClientFrame::StdinEof });
            }
            frame = frames.next() => match frame.ok_or_else(lost)?.map_err(|error| broken(&error))? {
                ServerFrame::Started => started = true,
                ServerFrame::Stdout(data) => drop(put.send((Target::Stdout, data))),
                ServerFrame::Stderr(data) => drop(put.send((Target::Stderr, data))),
                ServerFrame::Media(data) => {
                    say(&format!("a result of {} bytes cannot be shown here: {}", data.len(), media_type(&data)));
                    say_to_agent(ClientFrame::Credit(data.len() as u64));
                }
                ServerFrame::WaitingInput { .. } => {
                    say("the program waits for a line of input, which this kernel's runner does not take from here");
                }
                ServerFrame::StdinCredit(bytes) => {
                    stdin_left = stdin_left.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
                }
                ServerFrame::Lost(0) => say("some of the output was lost here"),
                ServerFrame::Lost(bytes) => say(&format!("{bytes} bytes of output were lost here")),
                ServerFrame::Exit(end) => break Ok(Ending::Run(end)),
                ServerFrame::Error(error) => return Err(error.into()),
            },
        }
    };

    let Ok(Ending::Run(end)) = ending else {
        // Nobody sees any more what the program does, so it should end, and not wait for us.
        say_to_agent(ClientFrame::Signal(Signal::Interrupt));
        say_to_agent(ClientFrame::Signal(Signal::Cancel));
        drop(to_agent);
        // The agent need not take it: hanging up says the same, later.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), &mut sender).await;
        return ending;
    };
    // The end has been told; what came before it must still be written out.
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

fn media_type(record: &[u8]) -> String {
    let record = serde_json::from_slice::<serde_json::Value>(record).unwrap_or_default();
    record["type"].as_str().unwrap_or("of an unknown type").to_owned()
}

/// Reads standard input, as much at once as it is asked for.
fn start_reader() -> Result<Reader, CliError> {
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

/// Writes output, both streams in one thread: what a program wrote first is shown first.
fn start_writer() -> Result<Writer, CliError> {
    let (put, queue) = std::sync::mpsc::channel::<(Target, Bytes)>();
    let (tell, done) = mpsc::unbounded_channel();
    spawn("output", move || {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        for (target, data) in queue {
            let fd = match target {
                Target::Stdout => stdout.as_fd(),
                Target::Stderr => stderr.as_fd(),
            };
            let written = write_all(fd, &data).map(|()| data.len() as u64);
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
mod tests {
    use tokio_util::codec::Framed;

    use super::*;
    use crate::control::stream::ServerCodec;
    use crate::ids::RunId;
    use crate::route::Task;

    type Peer = Framed<tokio::io::DuplexStream, ServerCodec>;

    struct Client {
        agent: Peer,
        /// What the reader was asked for, and the way to answer.
        asked: std::sync::mpsc::Receiver<usize>,
        give: mpsc::UnboundedSender<Bytes>,
        written: std::sync::mpsc::Receiver<(Target, Bytes)>,
        tell: mpsc::UnboundedSender<io::Result<u64>>,
        run: tokio::task::JoinHandle<Result<Ending, CliError>>,
    }

    /// A client whose threads and agent are played by the test.
    async fn client() -> Client {
        let (ours, theirs) = tokio::io::duplex(1024);
        let (ask, asked) = std::sync::mpsc::channel();
        let (give, got) = mpsc::unbounded_channel();
        let (put, written) = std::sync::mpsc::channel();
        let (tell, done) = mpsc::unbounded_channel();
        let request = RunRequest {
            run: RunId::random(),
            task: Task::Argv(vec!["cat".to_owned()]),
            stdin: true,
            timeout: None,
        };
        let run = tokio::spawn(async move {
            let mut signals = Signals::listen()?;
            converse(ours, request, &mut signals, Reader { ask, got }, Writer { put, done }).await
        });
        let mut agent = Peer::new(theirs, ServerCodec::default());
        assert!(matches!(next(&mut agent).await, ClientFrame::Open(open) if open.credit == OUTPUT_WINDOW));
        Client { agent, asked, give, written, tell, run }
    }

    async fn next(agent: &mut Peer) -> ClientFrame {
        agent.next().await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn standard_input_is_read_only_after_the_start_and_only_as_far_as_there_is_credit() {
        let mut client = client().await;
        assert!(client.asked.try_recv().is_err(), "asked before the start");
        client.agent.send(ServerFrame::Started).await.unwrap();
        let window = berth_link::STDIN_WINDOW;
        let mut taken = 0;
        while taken < window {
            // The request comes when the client has seen `started` or has sent what it had.
            let most = loop {
                match client.asked.try_recv() {
                    Ok(most) => break most,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let count = most.min(50_000);
            client.give.send(Bytes::from(vec![b'x'; count])).unwrap();
            assert!(matches!(next(&mut client.agent).await, ClientFrame::Stdin(data) if data.len() == count));
            taken += count;
        }
        assert_eq!(taken, window);
        client.agent.send(ServerFrame::StdinCredit(7)).await.unwrap();
        let most = loop {
            match client.asked.try_recv() {
                Ok(most) => break most,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(most, 7);
        client.give.send(Bytes::new()).unwrap();
        assert_eq!(next(&mut client.agent).await, ClientFrame::StdinEof);
    }

    #[tokio::test]
    async fn output_is_acknowledged_when_it_has_been_written_and_written_before_the_end() {
        let mut client = client().await;
        let piece = Bytes::from(vec![0xff; usize::try_from(OUTPUT_WINDOW / 8).unwrap()]);
        client.agent.send(ServerFrame::Stdout(piece.clone())).await.unwrap();
        client.agent.send(ServerFrame::Stderr(Bytes::from_static(b"e"))).await.unwrap();
        client.tell.send(Ok(piece.len() as u64)).unwrap();
        assert_eq!(next(&mut client.agent).await, ClientFrame::Credit(piece.len() as u64));
        client.agent.send(ServerFrame::Exit(RunEnd::Finished { exit_code: 3 })).await.unwrap();
        // The writer's queue ends when the run does, and only then.
        let written = tokio::task::spawn_blocking(move || client.written.iter().collect::<Vec<_>>());
        assert_eq!(
            written.await.unwrap(),
            [(Target::Stdout, piece), (Target::Stderr, Bytes::from_static(b"e"))]
        );
        assert!(!client.run.is_finished(), "ended before everything was written");
        client.tell.send(Ok(1)).unwrap();
        drop(client.tell);
        let ending = client.run.await.unwrap().unwrap();
        assert_eq!(ending.status(), Ok(3));
    }

    #[tokio::test]
    async fn a_reader_that_went_away_ends_the_run_quietly() {
        let mut client = client().await;
        client.tell.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        assert_eq!(next(&mut client.agent).await, ClientFrame::Signal(Signal::Interrupt));
        assert_eq!(next(&mut client.agent).await, ClientFrame::Signal(Signal::Cancel));
        assert_eq!(client.run.await.unwrap().unwrap_err().code, "broken-pipe");
    }

    #[tokio::test]
    async fn an_agent_that_goes_away_is_said() {
        let client = client().await;
        drop(client.agent);
        assert_eq!(client.run.await.unwrap().unwrap_err(), lost());
    }

    #[tokio::test]
    async fn the_agents_refusal_is_passed_on() {
        let mut client = client().await;
        let error = crate::control::api::ErrorBody::new("busy", "too many requests wait; try again");
        client.agent.send(ServerFrame::Error(error.clone())).await.unwrap();
        assert_eq!(client.run.await.unwrap().unwrap_err(), error.into());
    }

    #[test]
    fn a_status_is_the_programs_or_128_and_its_signal() {
        for (exit_code, status) in
            [(0, 0), (3, 3), (127, 127), (-9, 137), (-2, 130), (256, 0), (i32::MIN, 0xff)]
        {
            assert_eq!(exit_status(exit_code), status, "{exit_code}");
        }
    }
}
