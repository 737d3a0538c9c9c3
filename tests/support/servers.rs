//! Servers of a cluster as children of a test: Redis with its sentinels, and etcd. On loopback, at ports of their
//! own, with folders of their own; gone when dropped, and with the test's process however that ends.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::support::{PATIENCE, until};

/// A server that runs.
pub struct Server {
    child: Child,
    _dir: tempfile::TempDir,
    pub port: u16,
}

impl Server {
    /// Sends it a signal, as to be stopped and to go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether these programs are there; says which is not.
pub fn are_there(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| !std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    let missing = programs.iter().find(found);
    if let Some(program) = missing {
        println!("skipped: no {program}");
    }
    missing.is_none()
}

fn start(port: u16, words: impl FnOnce(&Path) -> Vec<String>) -> Server {
    let dir = tempfile::Builder::new().prefix("berth-test-").tempdir_in("/tmp").unwrap();
    let words = words(dir.path());
    // Ends it with this thread, also when that is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(words).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    Server { child, _dir: dir, port }
}

fn text(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A Redis that answers.
pub fn redis(port: u16) -> Server {
    let number = port.to_string();
    let words =
        ["redis-server", "--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let server = start(port, |_| text(&words));
    until("Redis answers", || client(port).is_ok());
    server
}

/// A sentinel that watches the Redis of that port by the name `main`.
pub fn sentinel(redis: u16) -> Server {
    let port = free_port();
    let server = start(port, |dir| {
        let config = format!("port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {redis} 1\n");
        let file = dir.join("sentinel.conf");
        std::fs::write(&file, config).unwrap();
        text(&["redis-server", &file.display().to_string(), "--sentinel"])
    });
    until("the sentinel answers", || client(port).is_ok());
    server
}

/// A connection to the Redis of that port, in the database of events.
pub fn client(port: u16) -> redis::RedisResult<redis::Connection> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/4"))?
        .get_connection_with_timeout(std::time::Duration::from_secs(5))
        .or_else(|_| redis::Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection())
}

/// An etcd that answers.
pub fn etcd(port: u16) -> Server {
    let peer = free_port();
    let server = start(port, |dir| {
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        text(&[
            "etcd",
            "--data-dir",
            &dir.join("data").display().to_string(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
            "--unsafe-no-fsync",
        ])
    });
    Etcd::at(port);
    server
}

/// A client of an etcd.
pub struct Etcd {
    runtime: tokio::runtime::Runtime,
    client: etcd_client::Client,
}

impl Etcd {
    /// Waits until it answers.
    pub fn at(port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begun = Instant::now();
        let client = runtime.block_on(async {
            loop {
                let connected =
                    etcd_client::Client::connect([format!("http://127.0.0.1:{port}")], None).await;
                if let Ok(mut client) = connected
                    && client.get("/", None).await.is_ok()
                {
                    return client;
                }
                assert!(begun.elapsed() < PATIENCE, "no etcd answers at {port}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        Self { runtime, client }
    }

    pub fn put(&mut self, key: &str, value: &str) {
        self.runtime.block_on(self.client.put(key, value, None)).unwrap();
    }

    pub fn delete(&mut self, key: &str) {
        self.runtime.block_on(self.client.delete(key, None)).unwrap();
    }

    pub fn get(&mut self, key: &str) -> Option<String> {
        let found = self.runtime.block_on(self.client.get(key, None)).unwrap();
        found.kvs().first().map(|pair| pair.value_str().unwrap().to_owned())
    }
}
