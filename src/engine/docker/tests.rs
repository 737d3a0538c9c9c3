//! Against a peer that answers as an engine of a chosen version would.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// One event, after which the peer closes the connection.
const DIED: &str = r#"{"Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"exitCode":"3","ai.backend.kernel-id":"0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10"}}}
"#;

/// An engine of API version 1.`minor` that refuses every other version, and knows no container.
struct Peer {
    _dir: tempfile::TempDir,
    host: String,
    minor: Arc<AtomicU32>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    fn start(minor: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let minor = Arc::new(AtomicU32::new(minor));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (version, seen) = (Arc::clone(&minor), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, version.load(Ordering::SeqCst), Arc::clone(&seen)));
            }
        });
        Self { host: format!("unix://{}", path.display()), _dir: dir, minor, asked, task }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    async fn connect(&self) -> Docker {
        Docker::connect(Config { host: Some(self.host.clone()), ..Config::default() }).await.unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: UnixStream, minor: u32, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let path = path.split('?').next().unwrap();
    asked.lock().unwrap().push(path.to_owned());
    let versioned = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/'));
    let (version, path) = versioned.map_or((None, path.trim_start_matches('/')), |(v, rest)| (Some(v), rest));
    let (status, body) = match (version, path) {
        (Some(asked), _) if asked != minor.to_string() => (
            400,
            format!(
                r#"{{"message":"client version 1.{asked} is not supported, the API version is 1.{minor}"}}"#
            ),
        ),
        (_, "version") => {
            (200, format!(r#"{{"ApiVersion":"1.{minor}","Version":"{minor}.0","Arch":"amd64"}}"#))
        }
        (_, "containers/json") => (200, "[]".to_owned()),
        (_, "_ping") => (200, "OK".to_owned()),
        (_, "events") => (200, DIED.to_owned()),
        (_, "containers/slow/json") => return std::future::pending().await,
        _ => (404, r#"{"message":"No such container: x"}"#.to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // The client may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn the_version_is_agreed_on_once_and_again_when_the_engine_is_another() {
    let peer = Peer::start(41);
    let docker = peer.connect().await;
    peer.asked();
    let instance = InstanceId::random();
    assert_eq!(docker.list(instance).await.unwrap(), []);
    assert_eq!(peer.asked(), ["/v1.41/containers/json"], "nothing but the call itself");

    peer.minor.store(44, Ordering::SeqCst);
    assert_eq!(docker.list(instance).await.unwrap(), []);
    let agreed_again =
        ["/v1.41/containers/json", "/version", "/version", "/v1.44/containers/json"].map(str::to_owned);
    assert_eq!(peer.asked(), agreed_again);
    assert_eq!(docker.list(instance).await.unwrap(), []);
    assert_eq!(peer.asked(), ["/v1.44/containers/json"]);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let peer = Peer::start(41);
    let deadlines = Deadlines { look: Duration::from_millis(1), ..Deadlines::default() };
    let docker = Docker::new(Config { host: Some(peer.host.clone()), deadlines }).unwrap();
    match docker.inspect(&"slow".parse().unwrap()).await {
        Err(EngineError::Deadline { call: "inspect", deadline }) => assert_eq!(deadline, deadlines.look),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_not_there_is_no_error_where_that_was_the_aim() {
    let peer = Peer::start(41);
    let docker = peer.connect().await;
    let id: ContainerId = "x".parse().unwrap();
    assert_eq!(docker.inspect(&id).await.unwrap(), None);
    docker.remove(&id).await.unwrap();
    assert!(matches!(docker.start(&id).await, Err(EngineError::NoSuchContainer(_))));
    assert!(matches!(docker.wait(&id).await, Err(EngineError::NoSuchContainer(_))));
    let logs = docker.logs(&id, LogOptions::default()).await;
    assert!(matches!(logs, Err(EngineError::NoSuchContainer(_))), "{logs:?}");
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_with_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none.sock", dir.path().display());
    match Docker::connect(Config { host: Some(host.clone()), ..Config::default() }).await {
        Err(EngineError::Unreachable { endpoint, problem, remedies, .. }) => {
            assert_eq!((endpoint, problem.as_str()), (host, "there is no such socket"));
            assert_eq!(remedies.len(), 2);
        }
        other => panic!("{other:?}"),
    }
    let listener = UnixListener::bind(dir.path().join("none.sock")).unwrap();
    drop(listener);
    let host = format!("unix://{}/none.sock", dir.path().display());
    match Docker::connect(Config { host: Some(host), ..Config::default() }).await {
        Err(EngineError::Unreachable { problem, .. }) => assert_eq!(problem, "nothing listens there"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn events_go_on_after_a_lost_connection_with_a_look_at_everything() {
    let peer = Peer::start(41);
    let docker = peer.connect().await;
    let mut events = docker.events(InstanceId::random());
    for _ in 0..2 {
        assert_eq!(events.recv().await, Some(EngineEvent::Resync));
        assert!(matches!(events.recv().await, Some(EngineEvent::Died { exit_code: Some(3), .. })));
    }
    let asked = peer.asked();
    assert_eq!(asked.iter().filter(|path| *path == "/v1.41/events").count(), 2);
}
