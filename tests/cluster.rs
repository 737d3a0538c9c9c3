//! A node as a member of a cluster: an agent of the tests' own with a real etcd and a real Redis, and the official
//! classes that read what it reports. No manager: what one would write into etcd, the test writes.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

#[path = "support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "support/rpc.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod rpc;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use engines::Engine;
use rpc::Rpc;
use serde_json::{Value, json};
use servers::{Etcd, Server, free_port};
use support::{Agent, until};

/// Everything around an agent.
struct Cluster {
    redis: Server,
    etcd: Option<Server>,
    keys: Etcd,
    agent: Agent,
}

const NAMESPACE: &str = "berth-test";

impl Cluster {
    /// Servers that run, and an agent that does not.
    fn new() -> Option<Self> {
        Self::new_on(Engine::Process)
    }

    fn new_on(engine: Engine) -> Option<Self> {
        if !servers::are_there(&["redis-server", "etcd"]) {
            return None;
        }
        engines::runner()?;
        let (redis, etcd) = (servers::redis(free_port()), servers::etcd(free_port()));
        let mut keys = Etcd::at(etcd.port);
        keys.put(&key("config/redis/addr"), &format!("127.0.0.1:{}", redis.port));
        let config = format!(
            "[agent]\nid = \"i-test\"\nrpc-listen-addr = \"127.0.0.1:{}\"\nregion = \"here\"\n\
             initial-resource-group-name = \"default\"\n[resource]\nreserved-cpu = 0\nreserved-mem = \"256m\"\n\
             [debug]\nheartbeat-interval = 1\n",
            free_port()
        );
        let address = format!("127.0.0.1:{}", etcd.port);
        let words = ["--policy", "builtin", "--etcd-addr", &address, "--namespace", NAMESPACE];
        let agent = Agent::new(engine, &config, &words);
        Some(Self { redis, etcd: Some(etcd), keys, agent })
    }

    /// One whose agent is a member.
    fn joined() -> Option<Self> {
        let mut cluster = Self::new()?;
        cluster.keys.put(&key("nodes/manager/m1"), "up");
        cluster.agent.start();
        until("it has joined", || cluster.status()["heartbeat_ms"].is_u64());
        Some(cluster)
    }

    fn status(&self) -> Value {
        // It says more than whether it is ready, and does so with every exit code.
        let output = self.agent.output(&["status", "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout)
            .map_or(Value::Null, |status| status["cluster"].clone())
    }

    /// Entries of the stream, oldest first.
    fn entries(&self) -> Vec<BTreeMap<String, String>> {
        let mut redis = servers::client(self.redis.port).unwrap();
        let entries: Vec<(String, BTreeMap<String, String>)> =
            redis::cmd("XRANGE").arg("events").arg("-").arg("+").query(&mut redis).unwrap();
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    /// The payloads of events whose names begin so.
    fn payloads(&self, prefix: &str) -> Vec<(String, Value)> {
        let of_those = self.entries().into_iter().filter(|entry| entry["name"].starts_with(prefix));
        of_those
            .map(|entry| (entry["name"].clone(), serde_json::from_str(&entry["payload"]).unwrap()))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.entries().into_iter().map(|mut entry| entry.remove("name").unwrap()).collect()
    }
}

fn key(key: &str) -> String {
    format!("/sorna/{NAMESPACE}/{key}")
}

#[test]
fn a_node_waits_for_a_manager_joins_reports_and_leaves() {
    let Some(mut cluster) = Cluster::new() else { return };
    // A manager that went is no manager that is up.
    cluster.keys.put(&key("nodes/manager/m0"), "");
    cluster.agent.start();
    until("it waits for a manager", || cluster.status()["state"] == "waiting-for-manager");
    let told = cluster.agent.ok(&["status"]);
    assert!(told.contains("waiting for a manager") && told.contains("skip-manager-detection"), "{told}");
    assert_eq!(cluster.names(), Vec::<String>::new(), "nobody is told before");
    cluster.keys.put(&key("nodes/manager/m1"), "up");
    until("two heartbeats", || cluster.names().iter().filter(|name| *name == "agent_heartbeat").count() >= 2);
    assert_eq!(cluster.names()[..2], ["agent_heartbeat", "agent_started"]);
    assert_eq!(cluster.keys.get(&key("nodes/agents/i-test/")).as_deref(), Some("running"));
    assert_eq!(cluster.keys.get(&key("nodes/agents/i-test/ip")).as_deref(), Some("127.0.0.1"));

    let beat = cluster.entries().remove(0);
    assert_eq!(beat["source"], "i-test");
    let payload: Value = serde_json::from_str(&beat["payload"]).unwrap();
    let info = &payload["agent_info"];
    assert_eq!(info["addr"].as_str(), cluster.agent.json(&["status"])["rpc"]["endpoint"].as_str());
    assert_eq!(
        json!([info["ip"], info["public_host"], info["region"], info["scaling_group"], info["public_key"]]),
        json!(["127.0.0.1", "127.0.0.1", "here", "default", null])
    );
    assert_eq!(info["slot_key_and_units"], json!({"cpu": "count", "mem": "bytes"}));
    assert_eq!(info["compute_plugins"]["cpu"]["policy scheduler"], "builtin");
    let told = cluster.agent.ok(&["status"]);
    assert!(
        told.contains("berth-test by etcd at 127.0.0.1:") && told.contains("joined as 127.0.0.1:"),
        "{told}"
    );

    cluster.agent.end();
    assert_eq!(cluster.names().last().unwrap(), "agent_terminated");
    read_by_the_official_classes(&cluster.entries());
}

/// What the manager would make of it.
fn read_by_the_official_classes(entries: &[BTreeMap<String, String>]) {
    let Some(python) = std::env::var_os("BERTH_PEERS") else {
        println!("skipped: no official client (scripts/test.sh installs it)");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/events.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(entries).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let read: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read.len(), entries.len());
    assert!(read.iter().all(|read| read.ends_with("Event")), "{read:?}");
}

#[test]
fn servers_may_go_and_come_back() {
    let Some(mut cluster) = Cluster::joined() else { return };
    let port = cluster.redis.port;
    // The agent is told nothing: its connection breaks.
    drop(std::mem::replace(&mut cluster.redis, servers::redis(free_port())));
    until("the loss is told", || cluster.status()["heartbeat_problem"].is_string());
    // Kernels and commands do not care.
    cluster.agent.ok(&["create", "--name", "k"]);
    cluster.redis = servers::redis(port);
    until("heartbeats come again", || cluster.names().contains(&"agent_heartbeat".to_owned()));
    assert!(!cluster.names().contains(&"agent_started".to_owned()), "it was not started again");
    until("all is well", || cluster.status()["heartbeat_problem"].is_null());

    // An etcd that is set up anew knows nothing of this node.
    let port = cluster.etcd.take().unwrap().port;
    until("the loss is told", || cluster.status()["problem"].is_string());
    let before = cluster.names().len();
    until("heartbeats go on", || cluster.names().len() > before);
    cluster.etcd = Some(servers::etcd(port));
    cluster.keys = Etcd::at(port);
    until("it says what is missing", || {
        cluster.status()["problem"].as_str().is_some_and(|problem| problem.contains("config/redis/addr"))
    });
    cluster.keys.put(&key("config/redis/addr"), &format!("127.0.0.1:{}", cluster.redis.port));
    until("its status is there again", || {
        cluster.keys.get(&key("nodes/agents/i-test/")).as_deref() == Some("running")
    });
    until("all is well", || cluster.status()["problem"].is_null());
    assert!(cluster.agent.ok(&["ps"]).contains('k'));
}

#[test]
fn the_redis_that_sentinels_name_is_told() {
    let Some(mut cluster) = Cluster::new() else { return };
    let sentinel = servers::sentinel(cluster.redis.port);
    cluster.keys.put(&key("config/redis/addr"), "127.0.0.1:1");
    // One of them is away.
    let sentinels = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), sentinel.port);
    cluster.keys.put(&key("config/redis/sentinel"), &sentinels);
    cluster.keys.put(&key("config/redis/service_name"), "main");
    cluster.keys.put(&key("nodes/manager/m1"), "up");
    cluster.agent.start();
    until("it has joined", || cluster.status()["heartbeat_ms"].is_u64());
    assert!(cluster.names().contains(&"agent_heartbeat".to_owned()));
}

#[test]
fn what_is_wrong_in_etcd_is_told_and_mended_while_it_runs() {
    let Some(mut cluster) = Cluster::new() else { return };
    cluster.keys.put(&key("nodes/manager/m1"), "up");
    cluster.keys.delete(&key("config/redis/addr"));
    cluster.agent.start();
    let told = |cluster: &Cluster, words: &str| {
        until(words, || cluster.status()["problem"].as_str().is_some_and(|problem| problem.contains(words)));
    };
    told(&cluster, "is this the namespace of a manager?");
    cluster.keys.put(&key("config/redis/use_tls"), "true");
    told(&cluster, "TLS");
    cluster.keys.delete(&key("config/redis/use_tls"));
    // The narrowest scope wins.
    cluster.keys.put(&key("config/redis/addr"), "nowhere");
    told(&cluster, "HOST:PORT");
    cluster
        .keys
        .put(&key("nodes/agents/i-test/config/redis/addr"), &format!("127.0.0.1:{}", cluster.redis.port));
    until("it has joined", || cluster.status()["heartbeat_ms"].is_u64());
}

#[test]
fn an_etcd_that_is_not_there_holds_up_nobody() {
    let Some(mut cluster) = Cluster::new() else { return };
    cluster.etcd = None;
    cluster.agent.start();
    cluster.agent.ok(&["run", "--code", "print(1)"]);
    until("it is told", || {
        cluster.status()["problem"]
            .as_str()
            .is_some_and(|problem| problem.starts_with("no etcd answers at 127.0.0.1:"))
    });
    assert_eq!(cluster.status()["state"], "looking-for-etcd");
}

/// An `ImageConfig` as the manager has it, for an image of a local registry.
fn image_config(digest: &str) -> callosum::Value {
    use callosum::Value as Sent;
    let registry =
        [("name", Sent::from("local")), ("url", "http://localhost".into()), ("username", Sent::Nil)];
    Sent::map([
        ("architecture", Sent::from("x86_64")),
        ("project", "berth".into()),
        ("digest", digest.into()),
        ("registry", Sent::map(registry)),
        ("is_local", true.into()),
        ("auto_pull", Sent::Enum { class: "AutoPullBehavior".into(), value: "digest".into() }),
    ])
}

#[test]
fn the_manager_learns_how_the_images_that_it_wants_fare() {
    let Some(cluster) = Cluster::joined() else { return };
    let client = Rpc::connect(cluster.agent.json(&["status"])["rpc"]["endpoint"].as_str().unwrap(), None);
    let wanted = callosum::Value::map([("local/berth/nothing:1", image_config("sha256:1"))]);
    for times in 1..=2 {
        let tasks = client.call("check_and_pull", vec![wanted.clone()]);
        let task = tasks.get("local/berth/nothing:1").and_then(callosum::Value::as_str).unwrap();
        assert_eq!((task.len(), task.bytes().all(|digit| digit.is_ascii_hexdigit())), (32, true));
        // Asked again, told again.
        until("it is told", || cluster.payloads("image_").len() == times);
    }
    let (name, told) = cluster.payloads("image_").remove(0);
    assert_eq!((name.as_str(), &told["image"]), ("image_pull_failed", &json!("local/berth/nothing:1")));
    assert_eq!(
        told["image_ref"],
        json!({
            "name": "nothing", "project": "berth", "tag": "1", "registry": "local", "architecture": "x86_64",
            "is_local": true,
        })
    );
    assert!(told["msg"].as_str().unwrap().contains("not on this node"), "{told}");
    let refused = client.outcome("check_and_pull", vec![5.into()]);
    assert!(matches!(refused, callosum::Outcome::Failure(failure) if failure.name == "ValueError"));
    assert_eq!(client.call("check_pulling", vec!["local/berth/nothing:1".into()]), false.into());
    read_by_the_official_classes(&cluster.entries());
}

#[test]
fn an_image_that_is_here_is_told_as_finished() {
    let Some(image) = engines::docker_image().filter(|image| image.starts_with("berth/")) else { return };
    let Some(mut cluster) = Cluster::new_on(Engine::Docker) else { return };
    cluster.keys.put(&key("nodes/manager/m1"), "up");
    // Redis is away meanwhile: what is to be told waits.
    let port = cluster.redis.port;
    cluster.agent.start();
    until("it has joined", || cluster.status()["heartbeat_ms"].is_u64());
    drop(std::mem::replace(&mut cluster.redis, servers::redis(free_port())));
    let client = Rpc::connect(cluster.agent.json(&["status"])["rpc"]["endpoint"].as_str().unwrap(), None);
    let wanted = callosum::Value::map([(format!("local/{image}"), image_config("sha256:another"))]);
    client.call("check_and_pull", vec![wanted]);
    until("the loss is told", || cluster.status()["heartbeat_problem"].is_string());
    cluster.redis = servers::redis(port);
    until("it is told", || !cluster.payloads("image_").is_empty());
    let (name, told) = cluster.payloads("image_").remove(0);
    assert_eq!((name.as_str(), &told["msg"]), ("image_pull_finished", &json!("Image already exists")));
    read_by_the_official_classes(&cluster.entries());
}

#[test]
fn a_redis_that_hangs_is_told_and_waited_for() {
    use rustix::process::Signal;
    let Some(mut cluster) = Cluster::new() else { return };
    for (key_below, seconds) in [("socket_timeout", "0.5"), ("socket_connect_timeout", "0.5")] {
        cluster.keys.put(&key(&format!("config/redis/redis_helper_config/{key_below}")), seconds);
    }
    cluster.keys.put(&key("nodes/manager/m1"), "up");
    cluster.agent.start();
    until("it has joined", || cluster.status()["heartbeat_ms"].is_u64());
    // Its connections stay open, and the system takes new ones for it.
    cluster.redis.signal(Signal::STOP);
    until("the silence is told", || cluster.status()["heartbeat_problem"].is_string());
    cluster.agent.ok(&["run", "--code", "print(1)"]);
    cluster.redis.signal(Signal::CONT);
    until("all is well", || cluster.status()["heartbeat_problem"].is_null());
    cluster.redis.signal(Signal::STOP);
    until("the silence is told", || cluster.status()["heartbeat_problem"].is_string());
    // The end does not wait for it longer than its time-outs.
    cluster.agent.end();
}
