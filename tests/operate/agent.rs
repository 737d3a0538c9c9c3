//! An agent of the tests' own: the program as a child process, on the process engine or on Docker, with a
//! folder of its own, and nothing of it left afterwards.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Longer than anything here takes: only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running agent. Dropping it removes its kernels and ends it.
pub struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Agent {
    /// On processes of this host; none, and a word about it, where no runner was built.
    pub fn on_process() -> Option<Self> {
        if runner().is_none() {
            println!("skipped: no static runner (cargo xtask build)");
            return None;
        }
        Some(Self::in_folder(tempfile::tempdir().unwrap(), "process"))
    }

    /// On Docker; none, and a word about it, where no Docker answers.
    pub fn on_docker() -> Option<Self> {
        if runner().is_none() {
            println!("skipped: no static runner (cargo xtask build)");
            return None;
        }
        let answers = Command::new("docker").arg("version").output().is_ok_and(|out| out.status.success());
        if !answers {
            println!("skipped: no Docker engine");
            return None;
        }
        Some(Self::in_folder(tempfile::tempdir().unwrap(), "docker"))
    }

    fn in_folder(dir: tempfile::TempDir, engine: &str) -> Self {
        let child = start(dir.path(), engine);
        let mut agent = Self { child, dir };
        agent.wait_until_ready();
        agent
    }

    /// Ends the agent and starts another on the same state.
    pub fn restart(&mut self, engine: &str) {
        self.end();
        self.start_again(engine);
    }

    /// Starts another agent on the state of one that has ended.
    pub fn start_again(&mut self, engine: &str) {
        self.child = start(self.dir.path(), engine);
        self.wait_until_ready();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command of berth against this agent.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(words).env("BERTH_SOCKET", socket(self.dir.path())).env_remove("COLUMNS");
        command.stdin(Stdio::null());
        command
    }

    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command prints, which must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command prints as JSON.
    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[words, &["-o", "json"]].concat())).unwrap()
    }

    /// What a command complains of, which must fail with status 1.
    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn wait_until_ready(&mut self) {
        until("the agent is ready", || {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default();
                panic!("the agent ended ({status}): {log}");
            }
            self.output(&["status"]).status.success()
        });
    }

    /// Ends the agent; its kernels run on.
    pub fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let kernels = self.output(&["ps", "-a", "-o", "json"]).stdout;
        let kernels: Vec<serde_json::Value> = serde_json::from_slice(&kernels).unwrap_or_default();
        for kernel in kernels {
            self.output(&["rm", "-f", kernel["id"].as_str().unwrap_or_default()]);
        }
        self.end();
    }
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "it hangs: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("berth.sock")
}

fn start(dir: &Path, engine: &str) -> Child {
    let log = std::fs::File::create(dir.join("agent.log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["serve", "--policy", "builtin", "--engine", engine])
        .arg("--state-dir")
        .arg(dir.join("state"))
        .arg("--socket")
        .arg(socket(dir))
        .arg("--config")
        .arg(config(dir))
        .env("BERTH_RUNNER", runner().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A configuration of its own, so that none of this machine's is read.
fn config(dir: &Path) -> PathBuf {
    let path = dir.join("agent.toml");
    if !path.exists() {
        std::fs::write(&path, "[lifecycle]\nstop-grace-sec = 1\n").unwrap();
    }
    path
}

/// The static runner, when it was built.
pub fn runner() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    // This test lies in `<target>/<profile>/deps`.
    let runner = test.ancestors().nth(3)?.join("libexec/berth/berth-runner");
    runner.is_file().then_some(runner)
}
