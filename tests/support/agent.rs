//! An agent of the tests' own: the program as a child process on one of the engines, with folders of its own, and
//! nothing of it left afterwards, also when a test fails.
//!
//! Included by the tests that need one, beside `engines`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::engines::{Engine, kill_processes, remove_containers};

/// Far beyond anything that works, on a machine that is busy with other things: only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Kernels of the process engine must find this machine's Python, not a private one of this user.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module. Dropping it ends the agent and every kernel of it.
pub struct Agent {
    pub engine: Engine,
    dir: tempfile::TempDir,
    words: Vec<String>,
    child: Option<Child>,
}

impl Agent {
    /// One that has not been started, with this configuration and these words beside those that every one gets.
    pub fn new(engine: Engine, config: &str, words: &[&str]) -> Self {
        // Sockets have short paths.
        let dir = tempfile::Builder::new().prefix("berth-test-").tempdir_in("/tmp").unwrap();
        fs::write(dir.path().join("agent.toml"), config).unwrap();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { engine, dir, words, child: None }
    }

    /// One that is ready.
    pub fn started(engine: Engine, config: &str, words: &[&str]) -> Self {
        let mut agent = Self::new(engine, config, words);
        agent.start();
        agent
    }

    /// A place in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("berth.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let child = self
            .command(&["serve", "--engine", self.engine.name()])
            .args(&self.words)
            .arg("--config")
            .arg(self.path("agent.toml"))
            .arg("--state-dir")
            .arg(self.state())
            .env("PATH", SYSTEM_PATH)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn(&[]);
        self.ready();
    }

    /// Waits until it is ready.
    pub fn ready(&mut self) {
        let begun = Instant::now();
        while !self.output(&["status"]).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended while it started: {ended:?}\n{}", self.log());
            assert!(begun.elapsed() < PATIENCE, "the agent did not get ready\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends it in order; its kernels run on.
    pub fn end(&mut self) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), Signal::TERM).unwrap();
        let status = self.wait_end();
        assert!(status.success(), "{status:?}\n{}", self.log());
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let child = self.child.as_mut().unwrap();
        let ended = loop {
            match child.try_wait().unwrap() {
                None if begun.elapsed() > PATIENCE => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
                status => break status,
            }
        };
        let status = ended.unwrap_or_else(|| panic!("the agent did not end\n{}", self.log()));
        self.child = None;
        status
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A command of `berth` against it.
    pub fn command(&self, words: &[&str]) -> Command {
        command(&self.socket(), words)
    }

    /// What came of a command, which must come to an end.
    pub fn output(&self, words: &[&str]) -> Output {
        output(&self.socket(), words)
    }

    /// What a command prints, which must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {}\n{}", said(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same as JSON.
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[words, &["-o", "json"]].concat())).unwrap()
    }

    /// What a command complains of, which must fail with status 1.
    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}\n{}", said(&output), self.log());
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        match self.engine {
            Engine::Process => kill_processes(&self.state()),
            Engine::Docker => remove_containers(&self.state()),
        }
    }
}

/// A command of `berth` against the agent of that socket.
pub fn command(socket: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("--socket").arg(socket).args(words);
    // What `berth run` keeps for this user is kept for the test.
    command.env("XDG_CACHE_HOME", socket.with_file_name("cache"));
    command.env_remove("RUST_BACKTRACE").env_remove("COLUMNS").stdin(Stdio::null());
    command
}

/// What came of it, which must be within [`PATIENCE`].
pub fn output(socket: &Path, words: &[&str]) -> Output {
    let child = command(socket, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill_process(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    assert!(!watchdog.join().unwrap(), "berth {words:?} did not come to an end: {}", said(&output));
    output
}

/// An outcome for a message.
pub fn said(output: &Output) -> String {
    format!(
        "{:?}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
