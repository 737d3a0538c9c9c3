//! `[etcd]`, and what `[agent]` and `[container]` say of a node's place in a cluster (contracts: manager §7).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Overrides;
use super::address::Address;
use super::reader::Reader;

/// What a member of a cluster is told beside everything else.
#[derive(Debug, Clone)]
pub struct ClusterSection {
    /// `[etcd] addr`, also `--etcd-addr`: where etcd is, any of them.
    pub etcd: Vec<Address>,
    /// `[etcd] namespace`, also `--namespace`.
    pub namespace: String,
    /// `[etcd] user` and `password`.
    pub user: Option<(String, Password)>,
    /// `[agent] rpc-listen-addr`: where calls of the manager are listened for.
    pub rpc_listen: Address,
    /// `[agent] advertised-rpc-addr`: where the manager reaches that; not set: worked out.
    pub rpc_advertised: Option<Address>,
    /// `[agent] public-host`, else `[container] advertised-host`, else its `bind-host`.
    pub public_host: Option<String>,
    /// `[agent] region`.
    pub region: Option<String>,
    /// `[agent] initial-resource-group-name`.
    pub resource_group: Option<String>,
    /// `[agent] skip-manager-detection`: report without waiting until a manager says that it is up.
    pub skip_manager_detection: bool,
    /// `[debug] heartbeat-interval`.
    pub heartbeat: Duration,
}

/// A password, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One address or several.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "an address is \"HOST:PORT\" or { host = \"HOST\", port = PORT }; several are a list of these"
)]
enum Addresses {
    One(Address),
    Many(Vec<Address>),
}

/// A manager takes a node for lost after 40 s.
const HEARTBEATS: std::ops::RangeInclusive<f64> = 1.0..=30.0;

impl ClusterSection {
    /// None where nothing asks for a cluster.
    pub(super) fn read(reader: &mut Reader, overrides: &Overrides) -> Option<Self> {
        if overrides.private || !reader.has("etcd") {
            return None;
        }
        Some(Self {
            etcd: addresses(reader),
            namespace: namespace(reader),
            user: user(reader),
            rpc_listen: reader
                .get("agent.rpc-listen-addr", Address { host: "0.0.0.0".to_owned(), port: 6001 }),
            rpc_advertised: advertised(reader),
            public_host: public_host(reader),
            region: reader.optional("agent.region"),
            resource_group: resource_group(reader),
            skip_manager_detection: reader.get("agent.skip-manager-detection", false),
            heartbeat: heartbeat(reader),
        })
    }
}

fn addresses(reader: &mut Reader) -> Vec<Address> {
    let default = Addresses::One(Address { host: "127.0.0.1".to_owned(), port: 2379 });
    let list = match reader.get("etcd.addr", default) {
        Addresses::One(one) => vec![one],
        Addresses::Many(list) => list,
    };
    if list.is_empty() || list.iter().any(Address::is_unspecified) {
        reader.mistake("etcd.addr", "should name at least one HOST:PORT that can be connected to");
    }
    list
}

fn namespace(reader: &mut Reader) -> String {
    let namespace: String = reader.get("etcd.namespace", "local".to_owned());
    if namespace.is_empty() || namespace.contains(['/', '%']) || namespace.contains(char::is_whitespace) {
        reader.mistake("etcd.namespace", "should be one word without slashes");
    }
    namespace
}

fn user(reader: &mut Reader) -> Option<(String, Password)> {
    match (reader.optional::<String>("etcd.user"), reader.optional::<String>("etcd.password")) {
        (Some(user), Some(password)) => Some((user, Password(password))),
        (Some(_), None) => {
            reader.mistake("etcd.user", "needs etcd.password beside it");
            None
        }
        (None, Some(_)) => {
            reader.mistake("etcd.password", "needs etcd.user beside it");
            None
        }
        (None, None) => None,
    }
}

fn advertised(reader: &mut Reader) -> Option<Address> {
    let address: Option<Address> = reader.optional("agent.advertised-rpc-addr");
    if address.as_ref().is_some_and(Address::is_unspecified) {
        reader.mistake("agent.advertised-rpc-addr", "should be an address that the manager can connect to");
    }
    address
}

fn public_host(reader: &mut Reader) -> Option<String> {
    let keys = ["agent.public-host", "container.advertised-host", "container.bind-host"];
    // Each is asked for, so that each counts as known.
    let hosts = keys.map(|key| reader.optional::<String>(key).filter(|host| !host.is_empty()));
    let concrete = |host: &String| !Address { host: host.clone(), port: 0 }.is_unspecified();
    hosts.into_iter().flatten().find(concrete)
}

fn resource_group(reader: &mut Reader) -> Option<String> {
    if reader.has("agent.scaling-group") {
        let text = "is called agent.initial-resource-group-name since Backend.AI 26.9";
        reader.mistake("agent.scaling-group", text);
    }
    reader.optional("agent.initial-resource-group-name")
}

fn heartbeat(reader: &mut Reader) -> Duration {
    let seconds: f64 = reader.get("debug.heartbeat-interval", 20.0);
    if !HEARTBEATS.contains(&seconds) {
        reader.mistake(
            "debug.heartbeat-interval",
            "should be from 1 to 30 seconds: at 40 a node counts as lost",
        );
        return Duration::from_secs(20);
    }
    Duration::from_secs_f64(seconds)
}
