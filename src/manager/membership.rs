//! The task that makes this node a member: etcd, the manager's sign of life, where Redis is, the node's status
//! (contracts: manager §4, §8.1).
//!
//! Nothing here holds up kernels or calls. Whatever fails is tried again for ever, said once, and told by
//! `berth status`.

use std::net::UdpSocket;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, ConnectOptions, GetOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Address;
use super::layout::{Layout, Values, merged, unquoted};
use super::redis::{ConfigError, Role, Target, target};
use crate::agent::NodeStatus;
use crate::config::ClusterSection;
use crate::ids::AgentId;

/// How long a question to etcd may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How often etcd is asked whether a manager is up.
const LOOK_FOR_MANAGER: Duration = Duration::from_secs(1);
/// How often status and configuration in etcd are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// What `berth status` tells of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// `[etcd] addr`, the first of them.
    pub etcd: String,
    /// `[etcd] namespace`.
    pub namespace: String,
    /// `looking-for-etcd`, `waiting-for-manager` or `joined`.
    pub state: State,
    /// What keeps it from going on, or what is wrong while it is joined.
    pub problem: Option<String>,
    /// Where the manager is told to call.
    pub address: Option<String>,
    /// Unix time in milliseconds of the last heartbeat that Redis took.
    pub heartbeat_ms: Option<u64>,
    /// Why Redis did not take the last one.
    pub heartbeat_problem: Option<String>,
    /// Slots that are offered here and that no manager knows.
    pub withheld: Vec<String>,
}

/// How far a node is with becoming a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No etcd answers.
    LookingForEtcd,
    /// No manager has said that it is up.
    WaitingForManager,
    /// The node reports.
    Joined,
}

impl ClusterStatus {
    /// At the beginning.
    #[must_use]
    pub fn new(config: &ClusterSection) -> Self {
        Self {
            etcd: config.etcd.first().map(Address::to_string).unwrap_or_default(),
            namespace: config.namespace.clone(),
            state: State::LookingForEtcd,
            problem: None,
            address: None,
            heartbeat_ms: None,
            heartbeat_problem: None,
            withheld: Vec::new(),
        }
    }
}

/// What a member knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Where events go.
    pub redis: Target,
    /// Where the manager reaches this agent.
    pub address: Address,
}

/// Why the node is no member now.
#[derive(Debug, thiserror::Error)]
enum MembershipError {
    #[error("no etcd answers at {0}")]
    NoEtcd(String),
    #[error("etcd: {0}")]
    Etcd(#[from] etcd_client::Error),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("no address of this machine leads to etcd ({0}); set advertised-rpc-addr in [agent]")]
    NoAddress(std::io::Error),
}

/// The task's surroundings.
#[derive(Debug)]
pub struct Membership {
    /// What was configured.
    pub config: ClusterSection,
    /// Who this is.
    pub agent: AgentId,
    /// The port that calls come in by.
    pub rpc_port: u16,
    /// Told when the node is a member.
    pub joined: watch::Sender<Option<Joined>>,
    /// Told how far it is.
    pub status: watch::Sender<NodeStatus>,
}

impl Membership {
    /// Keeps the node a member. Never ends.
    pub async fn run(self) {
        let layout = Layout::new(&self.config.namespace, &self.agent, self.config.resource_group.as_deref());
        let mut wait = AGAIN.0;
        loop {
            let Err(error) = self.attend(&layout, &mut wait).await;
            let problem = error.to_string();
            let is_new = self.tell(|status| status.problem.replace(problem.clone()) != Some(problem.clone()));
            if is_new {
                tracing::warn!("the cluster: {problem}; tried again until it works");
            }
            sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    }

    /// Joins, and looks after what lies in etcd until that fails.
    async fn attend(
        &self,
        layout: &Layout,
        wait: &mut Duration,
    ) -> Result<std::convert::Infallible, MembershipError> {
        let mut etcd = self.connect().await?;
        let is_member = self.joined.borrow().is_some();
        if !is_member && !self.config.skip_manager_detection {
            self.wait_for_manager(&mut etcd, layout).await?;
        }
        loop {
            let joined = Joined {
                redis: target(&self.redis_values(&mut etcd, layout).await?, Role::Stream)?,
                address: self.address()?,
            };
            self.put_status(&mut etcd, layout, &joined.address).await?;
            let address = joined.address.to_string();
            let is_new = self.joined.send_if_modified(|known| known.replace(joined.clone()) != Some(joined));
            if is_new {
                tracing::info!(namespace = self.config.namespace, %address, "a member of the cluster");
            }
            self.tell(|status| {
                (status.state, status.problem, status.address) = (State::Joined, None, Some(address));
            });
            *wait = AGAIN.0;
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn connect(&self) -> Result<Client, MembershipError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_timeout(PATIENCE)
            .with_require_leader(true);
        if let Some((user, password)) = &self.config.user {
            options = options.with_user(user, &password.0);
        }
        let endpoints: Vec<String> = self.config.etcd.iter().map(|etcd| format!("http://{etcd}")).collect();
        self.answered(Client::connect(&endpoints, Some(options))).await
    }

    /// What etcd answers, within the time that it has.
    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, MembershipError> {
        match timeout(PATIENCE, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if !is_away(&error) => Err(error.into()),
            Ok(Err(_)) | Err(_) => {
                let list: Vec<String> = self.config.etcd.iter().map(Address::to_string).collect();
                Err(MembershipError::NoEtcd(list.join(", ")))
            }
        }
    }

    /// Until an instance of a manager says `up` (contracts: manager §4.2).
    async fn wait_for_manager(&self, etcd: &mut Client, layout: &Layout) -> Result<(), MembershipError> {
        let key = layout.global("nodes/manager/");
        let mut said = false;
        loop {
            let found = self.below(etcd, &key).await?;
            if found.iter().any(|(_, value)| value == "up") {
                return Ok(());
            }
            if !std::mem::replace(&mut said, true) {
                let problem = format!(
                    "no manager of namespace {:?} has said that it is up; start one, or set skip-manager-detection \
                     in [agent]",
                    self.config.namespace
                );
                tracing::info!("waiting: {problem}");
                self.tell(|status| {
                    (status.state, status.problem) = (State::WaitingForManager, Some(problem))
                });
            }
            sleep(LOOK_FOR_MANAGER).await;
        }
    }

    /// Keys below a prefix, without it, and their values; what is no text is left out.
    async fn below(&self, etcd: &mut Client, prefix: &str) -> Result<Vec<(String, String)>, MembershipError> {
        let found = self.answered(etcd.get(prefix, Some(GetOptions::new().with_prefix()))).await?;
        let texts = found.kvs().iter().filter_map(|pair| {
            let path = pair.key_str().ok()?.strip_prefix(prefix)?;
            Some((unquoted(path), pair.value_str().ok()?.to_owned()))
        });
        Ok(texts.collect())
    }

    /// The values below `config/redis`, those of the narrowest scope where several have them.
    async fn redis_values(&self, etcd: &mut Client, layout: &Layout) -> Result<Values, MembershipError> {
        let mut scopes = Vec::new();
        for prefix in layout.scopes("config/redis/") {
            scopes.push(self.below(etcd, &prefix).await?.into_iter().collect());
        }
        Ok(merged(scopes))
    }

    /// Writes what other components look for; also again, when an etcd was set up anew.
    async fn put_status(
        &self,
        etcd: &mut Client,
        layout: &Layout,
        address: &Address,
    ) -> Result<(), MembershipError> {
        for (key, value) in [("ip", address.host.as_str()), ("", "running")] {
            let key = layout.node(key);
            let there = self.answered(etcd.get(key.as_str(), None)).await?;
            if there.kvs().first().is_none_or(|pair| pair.value() != value.as_bytes()) {
                self.answered(etcd.put(key, value, None)).await?;
            }
        }
        Ok(())
    }

    /// Where the manager is told to call: as configured, else the address of this machine on the way to etcd.
    fn address(&self) -> Result<Address, MembershipError> {
        if let Some(address) = &self.config.rpc_advertised {
            return Ok(address.clone());
        }
        if !self.config.rpc_listen.is_unspecified() {
            return Ok(Address { host: self.config.rpc_listen.host.clone(), port: self.rpc_port });
        }
        let own = self
            .config
            .etcd
            .first()
            .map_or_else(|| Err(std::io::Error::other("no etcd is configured")), own_address_towards);
        own.map(|host| Address { host, port: self.rpc_port }).map_err(MembershipError::NoAddress)
    }

    fn tell<T>(&self, change: impl FnOnce(&mut ClusterStatus) -> T) -> T
    where
        T: Default,
    {
        let mut told = T::default();
        self.status.send_modify(|status| {
            if let Some(cluster) = &mut status.cluster {
                told = change(cluster);
            }
        });
        told
    }
}

/// The local address that the system would use; nothing is sent.
fn own_address_towards(peer: &Address) -> std::io::Result<String> {
    let probe = |local: &str| {
        let socket = UdpSocket::bind((local, 0))?;
        socket.connect((peer.host.as_str(), peer.port))?;
        Ok(socket.local_addr()?.ip().to_string())
    };
    probe("0.0.0.0").or_else(|_: std::io::Error| probe("::"))
}

/// Whether nobody answers, as opposed to somebody who refuses.
fn is_away(error: &etcd_client::Error) -> bool {
    // Of gRPC: deadline exceeded, unavailable.
    const AWAY: [i32; 2] = [4, 14];
    match error {
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        etcd_client::Error::GRpcStatus(status) => AWAY.contains(&i32::from(status.code())),
        _ => false,
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
