//! An agent as a child process with folders of its own, and the commands that its users type.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use super::engines::Engine;
use super::engines::{names, remove_containers};

/// Far beyond anything that works, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Kernels of the process engine must find this machine's Python, not a private one of this user.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// See the module. Dropping it ends the agent and every kernel of it, also when a test fails.
pub struct Agent {
    pub engine: Engine,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    pub fn new(engine: Engine) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-crash-").tempdir_in("/tmp").unwrap();
        Self { engine, dir, child: None }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("berth.sock")
    }

    fn trace_file(&self) -> PathBuf {
        self.dir.path().join("trace")
    }

    /// Places that any agent process has reached so far.
    pub fn trace(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.trace_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts it; `failpoints` as in `BERTH_FAILPOINTS`. Does not wait.
    pub fn spawn(&mut self, failpoints: &str) {
        assert!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let config = self.dir.path().join("agent.toml");
        fs::write(&config, "[lifecycle]\nstall-limit-sec = 10\n").unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(["serve", "--engine", self.engine.name(), "--config"])
            .arg(config)
            .arg("--state-dir")
            .arg(self.state())
            .arg("--socket")
            .arg(self.socket())
            .env("PATH", SYSTEM_PATH)
            .env("BERTH_FAILPOINTS", failpoints)
            .env("BERTH_FAILPOINT_TRACE", self.trace_file())
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn("");
        let began = Instant::now();
        while !self.cli(&["status"]).status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended while it started: {ended:?}\n{}", self.log());
            assert!(began.elapsed() < PATIENCE, "the agent did not get ready\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if began.elapsed() > PATIENCE {
                self.child = Some(child);
                panic!("the agent did not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it in order; its kernels run on.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.wait_end();
        assert!(status.success(), "{status:?}\n{}", self.log());
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A command of `berth`, which must come to an end.
    pub fn cli(&self, words: &[&str]) -> Output {
        cli(&self.socket(), words)
    }

    /// The same, which must succeed and print JSON.
    pub fn json(&self, words: &[&str]) -> Value {
        let output = self.cli(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {said}\n{}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Process ids on this host of everything that runs in a container, with the times they began, so that
    /// an id that was used again is another one.
    pub fn pids(&self, container: &str) -> BTreeMap<u32, u64> {
        match self.engine {
            Engine::Process => marked(container),
            Engine::Docker => {
                let output = Command::new("docker")
                    .args(["inspect", "-f", "{{.State.Pid}}", container])
                    .output()
                    .unwrap();
                let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
                BTreeMap::from([(pid, began(pid).unwrap_or_default())])
            }
        }
    }

    /// Ids of the containers that the engine has of this agent.
    pub fn containers(&self, instance: &str) -> BTreeSet<String> {
        match self.engine {
            Engine::Process => names(&self.state().join("process")),
            Engine::Docker => {
                let filter = format!("label=ai.berth.instance={instance}");
                let output = Command::new("docker")
                    .args(["ps", "-aq", "--no-trunc", "--filter", &filter])
                    .output()
                    .unwrap();
                String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        match self.engine {
            Engine::Process => {
                for container in names(&self.state().join("process")) {
                    for pid in marked(&container).into_keys() {
                        if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                        }
                    }
                }
            }
            Engine::Docker => remove_containers(&self.state()),
        }
    }
}

/// A command of `berth` against the agent of that socket. It must end within [`PATIENCE`].
pub fn cli(socket: &Path, words: &[&str]) -> Output {
    let child = Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("--socket")
        .arg(socket)
        .args(words)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    assert!(!watchdog.join().unwrap(), "berth {words:?} did not come to an end: {output:?}");
    output
}

/// Whether it was ended by SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

/// Processes that carry the mark of a container of the process engine.
fn marked(container: &str) -> BTreeMap<u32, u64> {
    let mark = format!("BERTH_CONTAINER={container}");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(began) = began(pid)
        {
            found.insert(pid, began);
        }
    }
    found
}

/// When a process began, in clock ticks since boot (proc(5), stat).
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the name in field 2 may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
