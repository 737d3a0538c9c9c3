//! A client whose threads and agent are played by the test.

use std::io;

use tokio_util::codec::Framed;

use super::*;
use crate::control::stream::ServerCodec;
use crate::ids::RunId;
use crate::route::Task;

type Peer = Framed<tokio::io::DuplexStream, ServerCodec>;

struct Client {
    agent: Peer,
    /// Where the client's next connection comes from.
    connections: mpsc::UnboundedSender<Result<tokio::io::DuplexStream, CliError>>,
    /// What the reader was asked for, and the way to answer.
    asked: std::sync::mpsc::Receiver<usize>,
    give: mpsc::UnboundedSender<Bytes>,
    written: std::sync::mpsc::Receiver<Piece>,
    tell: mpsc::UnboundedSender<io::Result<u64>>,
    run: tokio::task::JoinHandle<Result<Ending, CliError>>,
}

async fn client(patience: Patience) -> Client {
    let (ours, theirs) = tokio::io::duplex(1024);
    let (ask, asked) = std::sync::mpsc::channel();
    let (give, got) = mpsc::unbounded_channel();
    let (put, written) = std::sync::mpsc::channel();
    let (tell, done) = mpsc::unbounded_channel();
    let (connections, next_connection) = mpsc::unbounded_channel();
    connections.send(Ok(ours)).unwrap();
    let next_connection = std::sync::Arc::new(tokio::sync::Mutex::new(next_connection));
    let request = RunRequest {
        run: RunId::random(),
        task: Task::Argv(vec!["cat".to_owned()]),
        stdin: true,
        timeout: None,
    };
    let run = tokio::spawn(async move {
        let mut signals = Signals::listen()?;
        let talk = Talk::new(
            request,
            Media::new(None, &RunId::random()).unwrap(),
            Reader { ask, got },
            Writer { put, done },
        );
        let connect = |_| {
            let next_connection = next_connection.clone();
            async move {
                match next_connection.lock().await.recv().await {
                    Some(connection) => connection,
                    None => std::future::pending().await,
                }
            }
        };
        talk.stay(connect, patience, &mut signals).await
    });
    let mut agent = Peer::new(theirs, ServerCodec::default());
    let open = open(&mut agent).await;
    assert_eq!((open.credit, open.resume), (OUTPUT_WINDOW, None));
    Client { agent, connections, asked, give, written, tell, run }
}

impl Client {
    /// The agent goes away, is not there for a while, and is back.
    async fn agent_returns(&mut self) -> Open {
        let (ours, theirs) = tokio::io::duplex(1024);
        self.agent = Peer::new(theirs, ServerCodec::default());
        self.connections.send(Err(CliError::new("nobody").with_code("no-agent"))).unwrap();
        self.connections.send(Ok(ours)).unwrap();
        open(&mut self.agent).await
    }

    async fn asked(&self) -> usize {
        loop {
            match self.asked.try_recv() {
                Ok(most) => return most,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn send(&mut self, frame: ServerFrame) {
        self.agent.send(frame).await.unwrap();
    }
}

async fn open(agent: &mut Peer) -> Open {
    let ClientFrame::Open(open) = next(agent).await else { panic!("`open` comes first") };
    open
}

fn output(target: Target, data: impl Into<Bytes>) -> Piece {
    let data = data.into();
    Piece { target, output_bytes: data.len() as u64, data }
}

fn note(line: &str, output_bytes: u64) -> Piece {
    Piece { target: Target::Note, data: format!("berth: {line}\n").into(), output_bytes }
}

const STARTED: ServerFrame = ServerFrame::Started { incarnation: None };

async fn next(agent: &mut Peer) -> ClientFrame {
    agent.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn standard_input_is_read_only_after_the_start_and_only_as_far_as_there_is_credit() {
    let mut client = client(Patience::None).await;
    assert!(client.asked.try_recv().is_err(), "asked before the start");
    client.agent.send(STARTED).await.unwrap();
    let window = berth_link::STDIN_WINDOW;
    let mut taken = 0;
    while taken < window {
        // The request comes when the client has seen `started` or has sent what it had.
        let most = client.asked().await;
        let count = most.min(50_000);
        client.give.send(Bytes::from(vec![b'x'; count])).unwrap();
        assert!(matches!(next(&mut client.agent).await, ClientFrame::Stdin(data) if data.len() == count));
        taken += count;
    }
    assert_eq!(taken, window);
    client.agent.send(ServerFrame::StdinCredit(7)).await.unwrap();
    let most = client.asked().await;
    assert_eq!(most, 7);
    client.give.send(Bytes::new()).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::StdinEof);
}

#[tokio::test]
async fn output_is_acknowledged_when_it_has_been_written_and_written_before_the_end() {
    let mut client = client(Patience::None).await;
    let piece = Bytes::from(vec![0xff; usize::try_from(OUTPUT_WINDOW / 8).unwrap()]);
    client.agent.send(ServerFrame::Stdout(piece.clone())).await.unwrap();
    client.agent.send(ServerFrame::Stderr(Bytes::from_static(b"e"))).await.unwrap();
    client.tell.send(Ok(piece.len() as u64)).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Credit(piece.len() as u64));
    client.agent.send(ServerFrame::Exit(RunEnd::Finished { exit_code: 3 })).await.unwrap();
    // The writer's queue ends when the run does, and only then.
    let written = tokio::task::spawn_blocking(move || client.written.iter().collect::<Vec<_>>());
    assert_eq!(written.await.unwrap(), [output(Target::Stdout, piece), output(Target::Stderr, "e")]);
    assert!(!client.run.is_finished(), "ended before everything was written");
    client.tell.send(Ok(1)).unwrap();
    drop(client.tell);
    let ending = client.run.await.unwrap().unwrap();
    assert_eq!(ending.status(), Ok(3));
}

#[tokio::test]
async fn media_are_said_in_the_order_of_the_output_and_acknowledged_with_it() {
    let mut client = client(Patience::None).await;
    let html = vec![b'x'; usize::try_from(OUTPUT_WINDOW / 8).unwrap()];
    client.send(ServerFrame::Stdout(Bytes::from_static(b"a"))).await;
    client.send(ServerFrame::Media(html.clone().into())).await;
    client.send(ServerFrame::WaitingInput { is_password: false }).await;
    client.send(ServerFrame::Stdout(Bytes::from_static(b"b"))).await;
    let written: Vec<Piece> = tokio::task::spawn_blocking({
        let written = client.written;
        move || written.iter().take(4).collect()
    })
    .await
    .unwrap();
    let size = html.len() as u64;
    let waits = "the program waits for a line of input, which this kernel's runner does not take from here";
    let expected = [
        output(Target::Stdout, "a"),
        note("[text/html, 132 kB; --save-media DIR keeps it]", size),
        note(waits, 0),
        output(Target::Stdout, "b"),
    ];
    assert_eq!(written, expected);
    client.tell.send(Ok(1)).unwrap();
    client.tell.send(Ok(size)).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Credit(1 + size));
}

#[tokio::test]
async fn a_reader_that_went_away_ends_the_run_quietly() {
    let mut client = client(Patience::None).await;
    client.tell.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Signal(Signal::Interrupt));
    assert_eq!(next(&mut client.agent).await, ClientFrame::Signal(Signal::Cancel));
    assert_eq!(client.run.await.unwrap().unwrap_err().code, "broken-pipe");
}

#[tokio::test]
async fn an_agent_that_goes_away_is_said() {
    let client = client(Patience::None).await;
    drop(client.agent);
    assert_eq!(client.run.await.unwrap().unwrap_err(), lost());
}

#[tokio::test]
async fn the_agents_refusal_is_passed_on() {
    let mut client = client(Patience::None).await;
    let error = crate::control::api::ErrorBody::new("busy", "too many requests wait; try again");
    client.agent.send(ServerFrame::Error(error.clone())).await.unwrap();
    assert_eq!(client.run.await.unwrap().unwrap_err(), error.into());
}

#[test]
fn a_status_is_the_programs_or_128_and_its_signal() {
    for (exit_code, status) in [(0, 0), (3, 3), (127, 127), (-9, 137), (-2, 130), (256, 0), (i32::MIN, 0xff)]
    {
        assert_eq!(exit_status(exit_code), status, "{exit_code}");
    }
}

#[tokio::test]
async fn a_run_goes_on_from_the_bytes_that_came_when_its_agent_is_back() {
    let mut client = client(away::LEASE).await;
    client.send(ServerFrame::Started { incarnation: Some("one".into()) }).await;
    client.send(ServerFrame::Stdout(Bytes::from_static(b"abc"))).await;
    client.send(ServerFrame::Lost(4)).await;
    client.asked().await;
    client.give.send(Bytes::from_static(b"12345")).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Stdin(Bytes::from_static(b"12345")));
    client.asked().await;
    client.give.send(Bytes::from_static(b"67")).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Stdin(Bytes::from_static(b"67")));
    client.send(ServerFrame::StdinCredit(2)).await;

    let open = client.agent_returns().await;
    let resume = Resume { received_bytes: 7, lost_bytes: 4, incarnation: Some("one".into()) };
    assert_eq!((open.resume, open.credit), (Some(resume), OUTPUT_WINDOW - 3));
    client.send(ServerFrame::Resumed(Resumed { stdin_bytes: 4, stdin_room: 100 })).await;
    assert_eq!(next(&mut client.agent).await, ClientFrame::Stdin(Bytes::from_static(b"5")));
    assert_eq!(next(&mut client.agent).await, ClientFrame::Stdin(Bytes::from_static(b"67")));
    client.send(ServerFrame::Started { incarnation: Some("one".into()) }).await;
    client.send(ServerFrame::StdinCredit(3)).await;
    // It had been asked for more before, and is asked for no more than there is room for afterwards.
    client.asked().await;
    client.give.send(Bytes::from_static(b"8")).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::Stdin(Bytes::from_static(b"8")));
    assert!(client.asked().await <= 99);
    client.give.send(Bytes::new()).unwrap();
    assert_eq!(next(&mut client.agent).await, ClientFrame::StdinEof);

    // An end that was told may not have arrived.
    let open = client.agent_returns().await;
    assert_eq!(open.resume.unwrap().received_bytes, 7);
    client.send(ServerFrame::Resumed(Resumed { stdin_bytes: 8, stdin_room: 100 })).await;
    assert_eq!(next(&mut client.agent).await, ClientFrame::StdinEof);
    client.send(ServerFrame::Stdout(Bytes::from_static(b"d"))).await;
    client.send(ServerFrame::Exit(RunEnd::Finished { exit_code: 3 })).await;
    let written = tokio::task::spawn_blocking(move || client.written.iter().collect::<Vec<_>>());
    let lost = note("4 bytes of output were lost here", 0);
    assert_eq!(written.await.unwrap(), [output(Target::Stdout, "abc"), lost, output(Target::Stdout, "d")]);
    drop(client.tell);
    assert_eq!(client.run.await.unwrap().unwrap().status(), Ok(3));
}

#[tokio::test]
async fn an_agent_that_has_not_found_its_kernel_yet_is_asked_again() {
    let mut client = client(away::LEASE).await;
    client.send(ServerFrame::Exit(RunEnd::Detached { reason: AGENT_STOPPED.into() })).await;
    for code in ["not-running", "run-exists", "stopping"] {
        client.agent_returns().await;
        client.send(ServerFrame::Error(crate::control::api::ErrorBody::new(code, "later"))).await;
    }
    client.agent_returns().await;
    let refused = crate::control::api::ErrorBody::new("run-forgotten", "it cannot be told");
    client.send(ServerFrame::Error(refused.clone())).await;
    assert_eq!(client.run.await.unwrap().unwrap_err(), refused.into());
}

#[tokio::test]
async fn an_agent_that_stays_away_is_given_up() {
    let client = client(Patience::For(Duration::ZERO)).await;
    drop(client.agent);
    let error = client.run.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("agent-lost", "the agent has been away for 0 s")
    );
}
