//! Clients that poll, by a door whose protocol is words: `[id, kernel, verb, arguments...]` and back
//! `[id, answer]`.

use std::sync::atomic::{AtomicU64, Ordering};

use zmq::{DEALER, Message, Socket};

use super::*;
use crate::route::door::{Answer, Ask, Asked, Caller, Door, Envelope, Execute, Frames, Mode};

#[derive(Debug, Default)]
struct Words {
    next: u64,
    open: Vec<(Caller, Vec<u8>, Vec<u8>)>,
}

impl Door for Words {
    fn read(&mut self, message: &[Message]) -> Asked {
        let words: Vec<&str> = message[1..].iter().map(|word| word.as_str().unwrap()).collect();
        if let ["cancel", id] = words[..] {
            let call = self.open.iter().find(|(_, _, open)| open == id.as_bytes());
            return call.map_or(Asked::Nothing, |(caller, ..)| Asked::Cancel(*caller));
        }
        let [id, kernel, verb, arguments @ ..] = &words[..] else { return Asked::Nothing };
        let turn = |run: &str, mode, flush: &str| {
            let run = Some(run).filter(|run| !run.is_empty()).map(|run| run.parse().unwrap());
            let flush = flush.parse().ok().map(Duration::from_millis);
            Ask::Execute(Execute { run, mode, api_version: 2, flush })
        };
        let what = match (*verb, arguments) {
            ("exec", [run, flush, task]) => turn(run, Mode::Begin(Task::Exec((*task).into())), flush),
            ("batch", [run, flush, build, exec]) => {
                let task = Task::Batch { clean: String::new(), build: (*build).into(), exec: (*exec).into() };
                turn(run, Mode::Begin(task), flush)
            }
            ("input", [run, flush, text]) => turn(run, Mode::Input((*text).into()), flush),
            ("more", [run, flush]) => turn(run, Mode::Continue, flush),
            ("complete", [text]) => Ask::Complete(Bytes::copy_from_slice(text.as_bytes())),
            ("interrupt", []) => Ask::Interrupt,
            ("ping", []) => Ask::Ping,
            other => panic!("{other:?}"),
        };
        self.next += 1;
        let caller = Caller(self.next);
        self.open.push((caller, message[0].to_vec(), id.as_bytes().to_vec()));
        Asked::Call { caller, kernel: kernel.parse().unwrap(), what }
    }

    fn close(&mut self, caller: Caller) -> Option<Envelope> {
        let at = self.open.iter().position(|(of, ..)| *of == caller)?;
        let (_, peer, id) = self.open.remove(at);
        Some(Envelope { frames: vec![peer, id], seal })
    }

    fn open_calls(&self) -> usize {
        self.open.len()
    }
}

fn seal(frames: &mut Frames, answer: Answer) {
    let text = match answer {
        Answer::Result(result) => {
            let mut text = result.status.as_str().to_owned();
            if let Some(code) = result.exit_code {
                text += &format!(" {code}");
            }
            for item in result.console {
                let (name, data) = match item {
                    ConsoleItem::Stdout(data) => ("out", data),
                    ConsoleItem::Stderr(data) => ("err", data),
                    other => ("other", format!("{other:?}")),
                };
                text += &format!(" {name}:{data}");
            }
            text
        }
        Answer::Completion(reply) => format!("{reply:?}"),
        Answer::Failed(error) => format!("failed: {error}"),
        Answer::Pinged(started) => format!("pinged: {}", started.is_some()),
        other => format!("{other:?}"),
    };
    frames.push(text.into_bytes());
}

/// A client with one connection.
struct Client {
    socket: Socket,
    _context: zmq::Context,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Client {
    fn connect(endpoint: &str) -> Self {
        let context = zmq::Context::new();
        let socket = context.socket(DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(60_000).unwrap();
        socket.connect(endpoint).unwrap();
        Self { socket, _context: context }
    }

    fn send(&self, kernel: &Kernel, words: &[&str]) -> String {
        let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let kernel = kernel.id.to_string();
        let frames = [&id[..], &kernel].into_iter().chain(words.iter().copied());
        self.socket.send_multipart(frames, 0).unwrap();
        id
    }

    fn cancel(&self, id: &str) {
        self.socket.send_multipart(["cancel", id], 0).unwrap();
    }

    /// The next answer, whose it is first.
    fn answer(&self) -> (String, String) {
        let frames = self.socket.recv_multipart(0).expect("an answer within a minute");
        let mut words = frames.into_iter().map(|frame| String::from_utf8(frame).unwrap());
        (words.next().unwrap(), words.next().unwrap())
    }

    fn ask(&self, kernel: &Kernel, words: &[&str]) -> String {
        let id = self.send(kernel, words);
        let (of, answer) = self.answer();
        assert_eq!(of, id);
        answer
    }
}

async fn with_door(config: Config) -> (Node, Client) {
    let node = Node::start(config);
    let doorway = Doorway { listen: "tcp://127.0.0.1:0".into(), curve: None, door: Box::<Words>::default() };
    let client = Client::connect(&node.handle.open_door(doorway).await.unwrap());
    (node, client)
}

#[tokio::test]
async fn a_run_is_begun_and_polled_to_its_end() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    assert_eq!(client.ask(&kernel, &["exec", "", "", "echo hello"]), "finished 0 out:hello");
    assert_eq!(client.ask(&kernel, &["exec", "r", "", "ask"]), "waiting-input");
    assert_eq!(client.ask(&kernel, &["input", "r", "", "yes"]), "finished 0 out:yes");
    // What was told is forgotten but for its end; the id may be used again.
    assert_eq!(client.ask(&kernel, &["more", "r", ""]), "finished 0");
    assert_eq!(client.ask(&kernel, &["exec", "r", "", "echo again"]), "finished 0 out:again");
    let unknown = client.ask(&kernel, &["more", "nobody", ""]);
    assert!(unknown.starts_with("failed: run nobody is not known"), "{unknown}");
}

#[tokio::test]
async fn patience_ends_a_call_and_not_the_run() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    assert_eq!(client.ask(&kernel, &["exec", "r", "0", "hang"]), "continued");
    assert_eq!(client.ask(&kernel, &["more", "r", "1"]), "continued");
    let waits = client.send(&kernel, &["more", "r", ""]);
    // A second call of the same client takes the first one's place.
    let waits_instead = client.send(&kernel, &["more", "r", ""]);
    assert_eq!(client.answer(), (waits, "continued".into()));
    let interrupts = client.send(&kernel, &["interrupt"]);
    assert_eq!(client.answer(), (interrupts, "Interrupted".into()));
    assert_eq!(client.answer(), (waits_instead, "finished 130".into()));
}

#[tokio::test]
async fn a_batch_goes_on_over_its_steps_however_fast_they_are() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    for (build, code) in [("", 0), ("fail", 1)] {
        for at in 0..200 {
            let run = format!("{code}-{at}");
            assert_eq!(client.ask(&kernel, &["batch", &run, "", build, "echo x"]), "clean-finished 0");
            assert_eq!(client.ask(&kernel, &["more", &run, ""]), format!("build-finished {code}"));
            assert_eq!(client.ask(&kernel, &["more", &run, ""]), "finished 0 out:x");
        }
    }
}

#[tokio::test]
async fn runs_wait_for_their_turn_and_a_cancelled_call_takes_only_its_own_run_along() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    assert_eq!(client.ask(&kernel, &["exec", "first", "0", "hang"]), "continued");
    let first = client.send(&kernel, &["more", "first", ""]);
    let second = client.send(&kernel, &["exec", "second", "0", "echo second"]);
    let third = client.send(&kernel, &["exec", "third", "0", "echo third"]);
    client.cancel(&second);
    assert_eq!(client.answer(), (second, "Cancelled".into()));
    // That run goes on without the call.
    client.cancel(&first);
    assert_eq!(client.answer(), (first, "Cancelled".into()));
    assert_eq!(client.ask(&kernel, &["more", "first", "0"]), "continued");
    node.handle.interrupt(kernel.id).await.unwrap();
    // The third had no patience, but its turn had not come.
    let (of, answer) = client.answer();
    assert_eq!(of, third);
    if answer == "continued" {
        assert_eq!(client.ask(&kernel, &["more", "third", ""]), "finished 0 out:third");
    } else {
        assert_eq!(answer, "finished 0 out:third");
    }
    assert_eq!(client.ask(&kernel, &["more", "first", ""]), "finished 130");
    assert!(
        client
            .ask(&kernel, &["more", "second", ""])
            .starts_with("finished -1 err:[the run was lost: cancelled")
    );
}

#[tokio::test]
async fn when_the_kernel_goes_every_call_gets_a_definite_end() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let runner = FakeRunner::start(&kernel.dir, "one");
    assert_eq!(client.ask(&kernel, &["exec", "first", "0", "hang"]), "continued");
    let calls = [
        client.send(&kernel, &["more", "first", ""]),
        client.send(&kernel, &["exec", "second", "", "echo"]),
        client.send(&kernel, &["exec", "third", "", "echo"]),
        client.send(&kernel, &["complete", "late"]),
    ];
    // They have all arrived when this one is answered.
    assert!(client.ask(&kernel, &["ping"]).starts_with("pinged"));
    drop(runner);
    node.handle.detach(kernel.id, "self-terminated").await.unwrap();
    let mut answers: Vec<_> = calls.iter().map(|_| client.answer()).collect();
    answers.sort_by_key(|(of, _)| calls.iter().position(|call| call == of));
    let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
    assert_eq!(answers[0], "finished -1 err:[the run was lost: self-terminated]\n");
    assert_eq!(answers[1], "failed: run second was not carried out: self-terminated");
    assert_eq!(answers[2], "failed: run third was not carried out: self-terminated");
    assert!(answers[3].starts_with("Err(NotAttached("), "{}", answers[3]);
    assert!(client.ask(&kernel, &["more", "first", ""]).starts_with("failed: kernel "));
}

#[tokio::test]
async fn large_output_comes_whole_and_in_order_and_is_decoded_elsewhere() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    // 40 MB, which is more than a window holds.
    let mut answer = client.ask(&kernel, &["exec", "r", "", "count 10000 4000"]);
    let (mut bytes, mut results) = (0, 1);
    loop {
        bytes += answer.matches('\0').count();
        if answer.starts_with("finished 0") {
            break;
        }
        assert!(answer.starts_with("continued"));
        answer = client.ask(&kernel, &["more", "r", ""]);
        results += 1;
    }
    // The numbers at the records' beginnings are not all zeros.
    assert!((39_900_000..40_000_000).contains(&bytes), "{bytes}");
    assert!(results > 4, "{results}");
    let counters = node.handle.counters();
    assert_eq!(counters.node_bytes, 0);
    assert!(counters.peak_run_bytes < (8 << 20) + (1 << 20), "{counters:?}");
}

#[tokio::test]
async fn a_run_that_nobody_polls_goes_on_without_its_oldest_output() {
    let config = Config { unpolled: Duration::from_millis(50), ..Config::default() };
    let (node, client) = with_door(config).await;
    let (kernel, mut reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    assert!(client.ask(&kernel, &["exec", "r", "0", "count 10000 4000"]).starts_with("continued"));
    let ended = report(&mut reports, |report| matches!(report, Report::RunEnded { .. })).await;
    assert!(matches!(ended, Report::RunEnded { end: RunEnd::Finished { exit_code: 0 }, .. }));
    // Its end is told, with what is left of its output or without.
    let mut answer = client.ask(&kernel, &["more", "r", ""]);
    while answer.starts_with("continued") {
        answer = client.ask(&kernel, &["more", "r", ""]);
    }
    assert!(answer.starts_with("finished 0"), "{}", &answer[..20]);
}

#[tokio::test]
async fn a_late_completion_never_reaches_the_next_caller() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let late = client.send(&kernel, &["complete", "late"]);
    client.cancel(&late);
    assert_eq!(client.answer(), (late, "Cancelled".into()));
    let answer = client.ask(&kernel, &["complete", "mine"]);
    assert!(answer.contains("mine") && !answer.contains("late"), "{answer}");
}

#[tokio::test]
async fn a_run_of_an_earlier_agent_is_polled_on() {
    let (node, client) = with_door(Config::default()).await;
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    assert_eq!(client.ask(&kernel, &["batch", "r", "", "", "ask"]), "clean-finished 0");
    assert_eq!(client.ask(&kernel, &["more", "r", ""]), "build-finished 0");
    drop(client);
    node.thread.stop();
    let (node, client) = with_door(Config::default()).await;
    let _reports = attach(&node.handle, &kernel).await.unwrap();
    assert_eq!(client.ask(&kernel, &["input", "r", "", "yes"]), "finished 0 out:yes");
}

#[tokio::test]
async fn another_room_asks_what_has_one_reply() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let runner = FakeRunner::start(&kernel.dir, "one");
    let reply = node.handle.inquire(kernel.id, Inquiry::Apps("jupyter".into())).await;
    assert_eq!(reply, Ok("jupyter".into()));
    node.handle.notify(kernel.id, Notice::OutOfMemory).await.unwrap();
    node.handle.notify(kernel.id, Notice::ShutdownService("a\"b".into())).await.unwrap();
    let told = node.handle.inquire(kernel.id, Inquiry::Apps("told".into())).await;
    assert_eq!(told, Ok(r#"event {"type": "oom", "data": {}} shutdown-service "a\"b""#.into()));
    let model = Inquiry::StartModelService { payload: "{}".into(), patience: Duration::from_millis(20) };
    let silent = node.handle.inquire(kernel.id, model).await;
    assert!(matches!(silent, Err(RouteError::Silent { .. })), "{silent:?}");
    let (handle, id) = (node.handle.clone(), kernel.id);
    let asked = tokio::spawn(async move { handle.inquire(id, Inquiry::StartService("{}".into())).await });
    // The question is on its way when this one behind it is answered.
    node.handle.inquire(kernel.id, Inquiry::Apps(String::new())).await.unwrap();
    drop(runner);
    let _runner = FakeRunner::start(&kernel.dir, "two");
    assert_eq!(soon(asked).await.unwrap(), Err(RouteError::Restarted(kernel.id)));
}
