//! An agent with the process engine, spoken to by `berth`'s own commands over its socket.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// An agent of its own. Killed when it is dropped, so that a failed test leaves nothing.
pub struct Agent {
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl Agent {
    pub fn new() -> Self {
        // A deadline that a loaded machine meets, too.
        Self::with_deadline(20_000)
    }

    pub fn with_deadline(deadline_ms: u64) -> Self {
        Self::with(&format!("[policy]\ndeadline-ms = {deadline_ms}\nprobation-decisions = 0\n"))
    }

    /// With this at the end of `agent.toml`.
    pub fn with(policy: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-policies-").tempdir().unwrap();
        let mut agent = Self { dir, process: None };
        agent.configure(policy);
        agent.start();
        agent
    }

    /// Writes `agent.toml` again, with this at its end.
    pub fn configure(&self, policy: &str) {
        let runner = runner().unwrap_or_else(|| PathBuf::from("/bin/true"));
        let runner = runner.display().to_string();
        let config = format!("[agent]\nid = \"i-node7\"\n[kernel-runner]\npath = {runner:?}\n{policy}");
        std::fs::write(self.path("agent.toml"), config).unwrap();
    }

    /// SIGHUP: `[policy]` is read again.
    pub fn hang_up(&self) {
        let pid = self.process.as_ref().unwrap().id();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Runs a command until what it says is as wanted.
    pub fn until(&self, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let said = self.json(words);
            if wanted(&said) {
                return said;
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{words:?}: {said}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// The first policy of a world, as `berth policy list` has it.
    pub fn active(&self, world: &str) -> Value {
        let policies = self.json(&["policy", "list"]);
        policies.as_array().unwrap().iter().find(|policy| policy["world"] == world).unwrap().clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(&mut self) {
        let mut process = Command::new(BERTH)
            .args(["serve", "--engine", "process", "--config"])
            .arg(self.path("agent.toml"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("berth.sock"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        self.process = Some(process);
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the agent ended before it was ready");
        }
        // Read to the end, or the agent would wait for room in the pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(BERTH)
            .arg("--socket")
            .arg(self.path("berth.sock"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn says(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[words, &["-o", "json"]].concat())).unwrap()
    }

    pub fn refuses(&self, words: &[&str], expected: &[&str]) {
        let output = self.run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.lines().count() == 2 && said.contains("\nhint: "), "{words:?}: {said}");
        for words in expected {
            assert!(said.contains(words), "{said}");
        }
    }

    pub fn scheduler(&self) -> (String, String) {
        let policies = self.json(&["policy", "list"]);
        let found =
            policies.as_array().unwrap().iter().find(|policy| policy["world"] == "scheduler").unwrap();
        (found["name"].as_str().unwrap().to_owned(), found["source"].as_str().unwrap().to_owned())
    }

    /// The cores that a kernel of one core would get.
    pub fn would_get(&self) -> Value {
        self.json(&["create", "--dry-run", "--cpus", "1"])["cpuset"].clone()
    }

    /// The number of the last core offered, which is also the first where there is only one.
    pub fn cores(&self) -> Vec<u64> {
        let slots = self.json(&["slots"]);
        let cpu = slots["slots"].as_array().unwrap().iter().find(|slot| slot["slot"] == "cpu").unwrap();
        let devices = cpu["devices"].as_array().unwrap().iter();
        let mut cores: Vec<u64> =
            devices.map(|device| device[0].as_str().unwrap().parse().unwrap()).collect();
        cores.sort_unstable();
        cores
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The static runner of this build.
pub fn runner() -> Option<PathBuf> {
    let path = Path::new(BERTH).parent()?.join("../libexec/berth/berth-runner");
    path.is_file().then_some(path)
}

pub fn last_core() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/examples/last-core.wasm").to_owned()
}
