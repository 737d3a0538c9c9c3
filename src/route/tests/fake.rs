//! A runner on a thread of its own, with real sockets. Its `exec` knows a few words:
//! `echo TEXT`, `count RECORDS BYTES`, `cat`, `ask`, `garbage`, and `hang`, which an interrupt ends. Completions
//! give their request back as a suggestion; the request `late` is answered together with the one after it.

use std::collections::VecDeque;
use std::path::Path;
use std::thread::JoinHandle;

use berth_link::{EndedTask, Finished, MessageType, Op, Status};
use zmq::{DONTWAIT, POLLIN, SNDMORE, Socket};

/// Connected until it is dropped; then it is gone like a killed process.
pub struct FakeRunner {
    context: zmq::Context,
    thread: Option<JoinHandle<()>>,
}

impl FakeRunner {
    /// Connects to the sockets in `dir`, whenever they will be there.
    pub fn start(dir: &Path, incarnation: &str) -> Self {
        let context = zmq::Context::new();
        let socket = |kind, name| {
            let socket = context.socket(kind).unwrap();
            socket.set_linger(0).unwrap();
            socket.set_reconnect_ivl(5).unwrap();
            socket.connect(&format!("ipc://{}/{name}", dir.display())).unwrap();
            socket
        };
        let pull = socket(zmq::PULL, "in");
        let push = socket(zmq::PUSH, "out");
        Self::on(context, pull, push, incarnation)
    }

    /// Listens on these ports of 127.0.0.1, as the reference's runner does on its container's.
    pub fn listen([port_in, port_out]: [u16; 2], incarnation: &str) -> Self {
        let context = zmq::Context::new();
        let socket = |kind, port| {
            let socket = context.socket(kind).unwrap();
            socket.set_linger(0).unwrap();
            socket.bind(&format!("tcp://127.0.0.1:{port}")).unwrap();
            socket
        };
        let (pull, push) = (socket(zmq::PULL, port_in), socket(zmq::PUSH, port_out));
        Self::on(context, pull, push, incarnation)
    }

    fn on(context: zmq::Context, pull: Socket, push: Socket, incarnation: &str) -> Self {
        let mut runner = Runner {
            pull,
            push,
            incarnation: incarnation.to_owned(),
            started_at: super::super::attachment::monotonic_seconds(),
            tasks: VecDeque::new(),
            running: None,
            tasks_done: 0,
            named: None,
            run: None,
            output_bytes: 0,
            stdin_bytes: 0,
            recent: Vec::new(),
            told: Vec::new(),
            completions: Vec::new(),
        };
        // Every error is the context's end.
        let thread = std::thread::spawn(move || while runner.serve().is_ok() {});
        Self { context, thread: Some(thread) }
    }
}

impl Drop for FakeRunner {
    fn drop(&mut self) {
        self.context.destroy().unwrap();
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

struct Runner {
    pull: Socket,
    push: Socket,
    incarnation: String,
    started_at: f64,
    tasks: VecDeque<(Op, String, Option<String>)>,
    running: Option<(Op, String)>,
    tasks_done: u64,
    /// The id of the task that comes next.
    named: Option<String>,
    run: Option<String>,
    output_bytes: u64,
    stdin_bytes: u64,
    recent: Vec<EndedTask>,
    /// What it was told without being asked.
    told: Vec<String>,
    /// Replies that are held back.
    completions: Vec<String>,
}

impl Runner {
    fn serve(&mut self) -> zmq::Result<()> {
        self.pull.poll(POLLIN, -1)?;
        let kind = self.pull.recv_bytes(DONTWAIT)?;
        let payload = self.pull.recv_bytes(DONTWAIT)?;
        match Op::parse(&kind).unwrap() {
            Op::Status => {
                let question = Some(String::from_utf8(payload).unwrap());
                self.send(MessageType::Status, &Status { question, ..self.status() }.encode())?;
            }
            Op::Run => self.named = Some(String::from_utf8(payload).unwrap()),
            Op::Complete => {
                let text = String::from_utf8(payload).unwrap();
                self.completions.push(serde_json::json!({ "suggestions": [text] }).to_string());
                if text != "late" {
                    for reply in std::mem::take(&mut self.completions) {
                        self.send(MessageType::Completion, reply.as_bytes())?;
                    }
                }
            }
            Op::Event | Op::ShutdownService => {
                self.told.push(format!(
                    "{} {}",
                    String::from_utf8_lossy(&kind),
                    String::from_utf8(payload).unwrap()
                ));
            }
            Op::GetApps if payload == b"told" => {
                let told = self.told.join(" ");
                self.send(MessageType::AppsResult, told.as_bytes())?;
            }
            Op::GetApps => self.send(MessageType::AppsResult, &payload)?,
            op @ (Op::Clean | Op::Build | Op::Exec | Op::Argv | Op::Code) => {
                self.tasks.push_back((op, String::from_utf8(payload).unwrap(), self.named.take()));
            }
            Op::Interrupt if self.is_running("hang") => self.finish(130)?,
            Op::Stdin if self.is_running("cat") && !payload.is_empty() => {
                self.stdin_bytes += payload.len() as u64;
                self.send(MessageType::Stdout, &payload)?;
                self.send(MessageType::StdinCredit, payload.len().to_string().as_bytes())?;
            }
            Op::StdinEof if self.is_running("cat") => self.finish(0)?,
            Op::Input if self.is_running("ask") => {
                self.send(MessageType::Stdout, &payload)?;
                self.finish(0)?;
            }
            _ => {}
        }
        while self.running.is_none() && !self.tasks.is_empty() {
            self.begin()?;
        }
        Ok(())
    }

    fn is_running(&self, word: &str) -> bool {
        self.running.as_ref().is_some_and(|(_, task)| task == word)
    }

    fn begin(&mut self) -> zmq::Result<()> {
        let Some((op, task, run)) = self.tasks.pop_front() else { return Ok(()) };
        self.running = Some((op, task.clone()));
        (self.run, self.output_bytes, self.stdin_bytes) = (run, 0, 0);
        let words: Vec<&str> = task.split(' ').collect();
        match (op, &words[..]) {
            (Op::Clean | Op::Build, _) => {
                let kind = match op {
                    Op::Clean => MessageType::CleanFinished,
                    _ => MessageType::BuildFinished,
                };
                (self.running, self.output_bytes) = (None, 0);
                self.tasks_done += 1;
                self.send(kind, &Finished::encode(i32::from(task == "fail")))
            }
            (Op::Exec, ["hang" | "cat"]) => Ok(()),
            (Op::Exec, ["ask"]) => self.send(MessageType::WaitingInput, b""),
            (Op::Exec, ["echo", ..]) => {
                self.send(MessageType::Stdout, &task.as_bytes()["echo ".len()..])?;
                self.finish(0)
            }
            (Op::Exec, ["count", records, bytes]) => {
                let mut payload = vec![0; bytes.parse().unwrap()];
                for at in 0..records.parse::<u64>().unwrap() {
                    payload[..8].copy_from_slice(&at.to_le_bytes());
                    self.send(MessageType::Stdout, &payload)?;
                }
                self.finish(0)
            }
            (Op::Exec, ["garbage"]) => {
                self.push.send("stdout", 0)?;
                self.push.send_multipart(["stdout", "a", "b"], 0)?;
                self.push.send_multipart(["", ""], 0)?;
                self.push.send_multipart([&b"\xff\xfe"[..], b"x"], 0)?;
                self.send(MessageType::Status, b"\xc1")?;
                self.send(MessageType::StdinCredit, b"many")?;
                self.send(MessageType::Finished, b"}{")?;
                self.send(MessageType::Stdout, b"nobody's")?;
                self.running = None;
                self.tasks_done += 1;
                Ok(())
            }
            _ => {
                self.send(MessageType::Stdout, format!("{}: {task}", op.as_str()).as_bytes())?;
                self.finish(0)
            }
        }
    }

    fn finish(&mut self, exit_code: i32) -> zmq::Result<()> {
        self.running = None;
        self.tasks_done += 1;
        let (run, output_bytes) = (self.run.take(), self.output_bytes);
        self.recent.push(EndedTask { run, op: "exec".into(), exit_code, output_bytes, ended_at: None });
        self.send(MessageType::Finished, &Finished::encode(exit_code))
    }

    fn status(&self) -> Status {
        Status {
            started_at: self.started_at,
            replied_at: Some(super::super::attachment::monotonic_seconds()),
            protocol: Some(berth_link::PROTOCOL),
            runner_version: None,
            incarnation: Some(self.incarnation.clone()),
            running: self.running.as_ref().map(|(op, _)| op.as_str().into()),
            tasks_done: self.tasks_done,
            last: None,
            run: self.run.clone(),
            output_bytes: self.output_bytes,
            stdin_bytes: self.stdin_bytes,
            recent: self.recent.clone(),
            ..Status::default()
        }
    }

    fn send(&mut self, kind: MessageType, payload: &[u8]) -> zmq::Result<()> {
        if kind == MessageType::Stdout {
            self.output_bytes += payload.len() as u64;
        }
        self.push.send(kind.as_str(), SNDMORE)?;
        self.push.send(payload, 0)
    }
}
