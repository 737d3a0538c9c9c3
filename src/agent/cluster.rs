//! How the agent is reached and what it reports: the RPC port, and the rooms of a member of a cluster.

use std::net::SocketAddr;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{AgentError, NodeStatus, RpcStatus, named};
use crate::config::{self, Config};
use crate::manager::door::CallosumDoor;
use crate::manager::heartbeat::{self, Heartbeat};
use crate::manager::info::Identity;
use crate::manager::membership::{Joined, Membership};
use crate::manager::messenger::Messenger;
use crate::manager::methods::Job;
use crate::manager::{Address, keys};
use crate::{inventory, policy, route};

/// The keys of the RPC port, read before anything is touched.
pub(super) fn rpc_keys(config: &Config) -> Result<Option<keys::Keys>, AgentError> {
    let load = |auth: &config::RpcAuth| keys::load(&auth.agent_keypair, &auth.manager_public_key);
    let loaded = config.agent.rpc_auth.as_ref().map(load).transpose();
    loaded.map_err(|error| AgentError::new(error.to_string(), error.hint()))
}

/// Listens for calls where `[routing] rpc-listen` says so, as a member of a cluster where `[agent]
/// rpc-listen-addr` does; tells where that is.
pub(super) async fn open_door(
    config: &Config,
    route: &route::Handle,
    curve: Option<route::Curve>,
    workers: mpsc::Sender<Job>,
) -> Result<Option<RpcStatus>, AgentError> {
    let hint = "name another address by [routing] rpc-listen, or end who listens there";
    let address = match (&config.routing.rpc_listen, &config.cluster) {
        _ if config.private => None,
        (Some(address), _) => Some(*address),
        (None, Some(cluster)) => Some(resolved(&cluster.rpc_listen).await?),
        (None, None) => None,
    };
    let Some(address) = address else { return Ok(None) };
    if curve.is_none() && !address.ip().is_loopback() {
        warn!(
            %address,
            "whoever reaches the RPC port may run code in every kernel; set rpc-auth-agent-keypair and \
             rpc-auth-manager-public-key in [agent]"
        );
    }
    let encrypted = curve.is_some();
    let door = Box::new(CallosumDoor::new(config.agent.id.clone(), workers));
    let doorway = route::Doorway { listen: format!("tcp://{address}"), curve, door };
    let endpoint =
        route.open_door(doorway).await.map_err(|error| AgentError::new(error.to_string(), hint))?;
    info!(%endpoint, encrypted, "calls are listened for");
    Ok(Some(RpcStatus { endpoint, encrypted }))
}

/// An address to listen on, by its name.
async fn resolved(address: &Address) -> Result<SocketAddr, AgentError> {
    let host = if address.host.is_empty() { "0.0.0.0" } else { &address.host };
    let found = tokio::net::lookup_host((host, address.port)).await.map(|mut found| found.next());
    found.ok().flatten().ok_or_else(|| {
        AgentError::new(
            format!("no address of {address} is known"),
            "name one of this machine by rpc-listen-addr in [agent], such as 0.0.0.0:6001",
        )
    })
}

/// Who tells the manager what happens here; none without a cluster.
pub(super) fn messenger(
    config: &Config,
    joined: &watch::Receiver<Option<Joined>>,
) -> Result<Option<Messenger>, AgentError> {
    let start = |_| Messenger::start(config.agent.id.clone(), joined.clone());
    config
        .cluster
        .as_ref()
        .map(start)
        .transpose()
        .map_err(|error| AgentError::new(format!("no thread for the messenger: {error}"), "see `ulimit -u`"))
}

/// What a member reports, and by what.
pub(super) struct Around<'a> {
    pub(super) offers: &'a watch::Receiver<Option<inventory::Offer>>,
    pub(super) policies: &'a policy::Handle,
    pub(super) status: &'a watch::Sender<NodeStatus>,
}

/// Starts what makes the node a member of its cluster, where it is to be one.
pub(super) fn join_cluster(
    config: &Config,
    rpc: Option<&RpcStatus>,
    public_key: Option<String>,
    (joined_sender, joined): (watch::Sender<Option<Joined>>, watch::Receiver<Option<Joined>>),
    around: &Around<'_>,
    tasks: &mut JoinSet<&'static str>,
) -> Result<Option<Heartbeat>, AgentError> {
    let Some((cluster, rpc)) = config.cluster.clone().zip(rpc) else { return Ok(None) };
    let port = rpc.endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
    let rpc_port = port.unwrap_or(cluster.rpc_listen.port);
    let surroundings = heartbeat::Surroundings {
        agent: config.agent.id.clone(),
        identity: Identity {
            public_host: cluster.public_host.clone(),
            region: cluster.region.clone(),
            resource_group: cluster.resource_group.clone(),
            public_key,
        },
        interval: cluster.heartbeat,
        joined,
        offers: around.offers.clone(),
        policy: around.policies.clone(),
        status: around.status.clone(),
    };
    let membership = Membership {
        config: cluster,
        agent: config.agent.id.clone(),
        rpc_port,
        joined: joined_sender,
        status: around.status.clone(),
    };
    tasks.spawn(named("membership", membership.run()));
    heartbeat::start(surroundings)
        .map(Some)
        .map_err(|error| AgentError::new(format!("no thread for the heartbeat: {error}"), "see `ulimit -u`"))
}
