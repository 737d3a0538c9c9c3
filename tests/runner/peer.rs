//! The agent's side: sockets that bind, a runner in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use berth_link::{CHUNK_MAX, Finished, MESSAGE_MAX, Status, decode_credit};
use rustix::process::{Pid, Signal, kill_process};

/// Far beyond anything that works, on a machine that is busy with other things.
const PATIENCE_MS: i32 = 60_000;
/// Largest message from a runner that listens, as the agent has it (`src/route/sockets.rs`).
const DIALLED_MESSAGE_MAX: i64 = 16 << 20;

/// The static runner; built when it is not there.
pub fn runner() -> &'static Path {
    static RUNNER: OnceLock<PathBuf> = OnceLock::new();
    RUNNER.get_or_init(|| {
        let own = std::env::current_exe().unwrap();
        // This test lies in `<target>/<profile>/deps`.
        let runner = own.ancestors().nth(3).unwrap().join("libexec/berth/berth-runner");
        if !runner.exists() {
            let status = Command::new(env!("CARGO"))
                .args(["xtask", "build", "--runner-only"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(status.success());
        }
        runner
    })
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS.unsigned_abs().into());
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The agent's two sockets. The context is the last to go.
pub struct Agent {
    pub push: zmq::Socket,
    pub pull: zmq::Socket,
    _context: zmq::Context,
}

impl Agent {
    pub fn bind(link: &Path) -> Self {
        let agent = Self::sockets();
        // As the agent has it: it hangs up on a runner that sends more.
        agent.pull.set_maxmsgsize(i64::try_from(MESSAGE_MAX).unwrap()).unwrap();
        agent.push.bind(&format!("ipc://{}/in", link.display())).unwrap();
        agent.pull.bind(&format!("ipc://{}/out", link.display())).unwrap();
        agent
    }

    /// For a runner that listens.
    pub fn sockets() -> Self {
        let context = zmq::Context::new();
        let (push, pull) = (context.socket(zmq::PUSH).unwrap(), context.socket(zmq::PULL).unwrap());
        for socket in [&push, &pull] {
            socket.set_linger(0).unwrap();
            socket.set_sndtimeo(PATIENCE_MS).unwrap();
            socket.set_rcvtimeo(PATIENCE_MS).unwrap();
        }
        pull.set_maxmsgsize(DIALLED_MESSAGE_MAX).unwrap();
        // Few, so that a slow reader is soon felt by the runner.
        pull.set_rcvhwm(4).unwrap();
        Self { push, pull, _context: context }
    }

    pub fn send(&self, op: &str, payload: impl AsRef<[u8]>) {
        self.push.send_multipart([op.as_bytes(), payload.as_ref()], 0).unwrap();
    }

    pub fn argv(&self, words: &[&str]) {
        self.send("argv", serde_json::to_vec(words).unwrap());
    }

    pub fn receive(&self) -> (String, Vec<u8>) {
        let mut frames = self.pull.recv_multipart(0).expect("the runner says nothing").into_iter();
        let (Some(kind), Some(payload), None) = (frames.next(), frames.next(), frames.next()) else {
            panic!("every message has two frames");
        };
        (String::from_utf8(kind).unwrap(), payload)
    }

    pub fn status(&self) -> Status {
        self.send("status", "");
        loop {
            let (kind, payload) = self.receive();
            if kind == "status" {
                return Status::decode(&payload).unwrap();
            }
        }
    }

    /// Everything until the run ends.
    pub fn run(&self) -> Run {
        let mut run = Run::default();
        loop {
            let (kind, payload) = self.receive();
            run.take(&kind, payload);
            if kind == "finished" {
                return run;
            }
        }
    }

    pub fn code(&self, source: &str) -> Run {
        self.send("code", source);
        self.run()
    }

    /// Reads until standard output ends with this text.
    pub fn until(&self, run: &mut Run, end: &str) {
        while !run.stdout.ends_with(end.as_bytes()) {
            let (kind, payload) = self.receive();
            run.take(&kind, payload);
        }
    }
}

#[derive(Debug, Default)]
pub struct Run {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub credit: u64,
    pub others: Vec<(String, String)>,
    pub exit_code: Option<i32>,
}

impl Run {
    pub fn take(&mut self, kind: &str, payload: Vec<u8>) {
        match kind {
            "stdout" | "stderr" => {
                assert!(!payload.is_empty() && payload.len() <= CHUNK_MAX);
                let stream = if kind == "stdout" { &mut self.stdout } else { &mut self.stderr };
                stream.extend_from_slice(&payload);
            }
            "stdin-credit" => self.credit += decode_credit(&payload).unwrap(),
            "finished" => self.exit_code = Finished::decode(&payload).unwrap().exit_code,
            other => self.others.push((other.into(), String::from_utf8_lossy(&payload).into_owned())),
        }
    }

    #[track_caller]
    pub fn check(&self, stdout: &str, stderr: &str, exit_code: i32) {
        assert_eq!(
            (self.out().as_str(), self.err().as_str(), self.exit_code),
            (stdout, stderr, Some(exit_code))
        );
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A runner in a folder of its own; ended with all it started when dropped.
pub struct Kernel {
    pub child: Child,
    pub directory: tempfile::TempDir,
}

impl Kernel {
    pub fn start() -> (Self, Agent) {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["work", "config", "link"] {
            fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let kernel = Self::start_in(directory);
        let agent = kernel.agent();
        (kernel, agent)
    }

    /// With what was prepared in the folder; without `link` in it the runner listens on TCP.
    pub fn start_in(directory: tempfile::TempDir) -> Self {
        // As a shell starts a program in the background: with SIGINT ignored.
        let child = Command::new("/bin/sh")
            .args(["-c", "trap '' INT; exec \"$0\" \"$@\""])
            .arg(runner())
            .args(["kernel", "--host"])
            .args(["link", "work", "config"].iter().flat_map(|folder| {
                [format!("--{folder}"), directory.path().join(folder).display().to_string()]
            }))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    pub fn agent(&self) -> Agent {
        Agent::bind(&self.directory.path().join("link"))
    }

    pub fn work(&self, name: &str) -> PathBuf {
        self.directory.path().join("work").join(name)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Killing it at once would leave what it started.
            let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _gone = self.child.wait();
        }
    }
}

/// A runner that listens by TCP, as without a link directory, and the way to connect to it.
pub fn listening() -> (Kernel, impl Fn() -> Agent) {
    let (kernel, [replin, replout]) = listening_at();
    let connect = move || {
        let agent = Agent::sockets();
        agent.push.connect(&format!("tcp://127.0.0.1:{replin}")).unwrap();
        agent.pull.connect(&format!("tcp://127.0.0.1:{replout}")).unwrap();
        agent
    };
    (kernel, connect)
}

/// The same, with its ports: in and out.
pub fn listening_at() -> (Kernel, [u16; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = [free(), free()];
    for folder in ["work", "config"] {
        fs::create_dir(directory.path().join(folder)).unwrap();
    }
    let text = format!("{{\"replin\": {}, \"replout\": {}}}", ports[0], ports[1]);
    fs::write(directory.path().join("config/intrinsic-ports.json"), text).unwrap();
    (Kernel::start_in(directory), ports)
}

/// Kills a process that a task told the id of.
pub fn kill(pid: &str) {
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

pub fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
