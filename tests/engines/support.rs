//! What the tests need: a stage with an engine on it, and the waiting for conditions.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use berth::engine::{
    ContainerSpec, ContainerState, EngineError, EngineEvent, LABEL_INSTANCE, LABEL_KERNEL_ID, LogChunk,
    LogOptions, SharedEngine,
};
use berth::ids::{ContainerId, InstanceId, KernelId};
use tokio::sync::mpsc;

/// Longer than anything here takes: only a hang meets it.
const PATIENCE: Duration = Duration::from_secs(120);

/// An engine, and all that was made on it.
pub struct Stage {
    pub engine: SharedEngine,
    pub instance: InstanceId,
    pub image: String,
    /// An empty folder of this host.
    pub dir: tempfile::TempDir,
    /// Removed when the stage is struck.
    pub docker_image: Option<String>,
}

impl Stage {
    pub fn new(engine: SharedEngine, image: &str) -> Self {
        Self {
            engine,
            instance: InstanceId::random(),
            image: image.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            docker_image: None,
        }
    }

    /// A container that runs `script` in a shell.
    pub fn spec(&self, script: &str) -> ContainerSpec {
        let kernel = KernelId::random();
        ContainerSpec {
            name: format!("kernel.test.{kernel}"),
            kernel,
            image: self.image.clone(),
            entrypoint: vec!["/bin/sh".into(), "-c".into()],
            command: vec![script.into()],
            env: [("GREETING".to_owned(), "hello you".to_owned())].into(),
            user: "0:0".into(),
            working_dir: "/".into(),
            hostname: "main1".into(),
            labels: self.labels(kernel, self.instance),
            mounts: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            ulimits: Vec::new(),
            cpuset: Vec::new(),
            cpu_limit: None,
            memory_limit: None,
            memory_swap: None,
            shm_size: None,
            pids_limit: None,
            network: Some("none".into()).filter(|_| self.docker_image.is_some()),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            devices: Vec::new(),
            sysctls: BTreeMap::new(),
            security_options: Vec::new(),
            read_only_root: false,
            oom_score_adj: None,
            log_max_bytes: 1 << 20,
        }
    }

    pub fn labels(&self, kernel: KernelId, instance: InstanceId) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_INSTANCE.to_owned(), instance.to_string()),
            (LABEL_KERNEL_ID.to_owned(), kernel.to_string()),
        ])
    }

    pub async fn started(&self, spec: &ContainerSpec) -> ContainerId {
        let id = self.engine.create(spec).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    /// Runs a container to its end; its exit code and everything it wrote.
    pub async fn run(&self, spec: &ContainerSpec) -> (Option<i32>, String) {
        let id = self.started(spec).await;
        let state = self.engine.wait(&id).await.unwrap();
        let (out, err) = self.log(&id, None).await;
        match state {
            ContainerState::Exited { code, .. } => (code, out + &err),
            other => panic!("{other:?}"),
        }
    }

    /// Standard output and standard error.
    pub async fn log(&self, id: &ContainerId, tail: Option<u64>) -> (String, String) {
        let mut pieces = self.engine.logs(id, LogOptions { tail, follow: false }).await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(piece) = pieces.recv().await {
            match piece.unwrap() {
                LogChunk::Stdout(bytes) => out.extend_from_slice(&bytes),
                LogChunk::Stderr(bytes) => err.extend_from_slice(&bytes),
            }
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// Waits until its log holds `text`.
    pub async fn has_said(&self, id: &ContainerId, text: &str) {
        until(|| async { self.log(id, None).await.0.contains(text).then_some(()) }).await;
    }
}

/// Runs `play`, then removes everything of its instance, also when it failed.
pub async fn on<F: Future<Output = ()> + Send + 'static>(
    stage: Stage,
    play: impl FnOnce(std::sync::Arc<Stage>) -> F,
) {
    let stage = std::sync::Arc::new(stage);
    let played = tokio::time::timeout(PATIENCE, tokio::spawn(play(stage.clone()))).await;
    for left in stage.engine.list(stage.instance).await.unwrap() {
        stage.engine.remove(&left.id).await.unwrap();
    }
    if let Some(image) = &stage.docker_image {
        command("docker", &["rmi", "-f", image]);
    }
    match played {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => panic!("it hangs"),
    }
}

/// Waits for a condition.
pub async fn until<T, F: Future<Output = Option<T>>>(mut condition: impl FnMut() -> F) -> T {
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next event that is not a request to look at everything.
pub async fn next(events: &mut mpsc::Receiver<EngineEvent>) -> EngineEvent {
    loop {
        match events.recv().await.unwrap() {
            EngineEvent::Resync => {}
            event => return event,
        }
    }
}

pub fn code<T: std::fmt::Debug>(result: Result<T, EngineError>) -> &'static str {
    result.unwrap_err().code()
}

/// Runs a program; its output when it succeeds.
pub fn command(program: &str, words: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// The static runner, when it was built.
pub fn built_runner() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    // This test lies in `<target>/<profile>/deps`.
    let runner = test.ancestors().nth(3)?.join("libexec/berth/berth-runner");
    let output = std::process::Command::new(&runner).arg("supervise").output().ok()?;
    // Without words it must refuse.
    (!output.status.success()).then_some(runner)
}
