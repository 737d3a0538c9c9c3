//! `[agent]`: who this node is.

use std::path::PathBuf;

use crate::ids::AgentId;

use super::reader::Reader;

/// `[agent]`
#[derive(Debug, Clone)]
pub struct AgentSection {
    /// `id`; default `i-<hostname>` (contracts: manager §8.2).
    pub id: AgentId,
    /// `rpc-auth-agent-keypair` and `rpc-auth-manager-public-key`, both or neither: ZeroMQ certificate files that
    /// make the RPC port CURVE (contracts: manager §1.9).
    pub rpc_auth: Option<RpcAuth>,
}

/// The key files of the RPC port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcAuth {
    /// The agent's own pair.
    pub agent_keypair: PathBuf,
    /// The public key of the manager, which is let in.
    pub manager_public_key: PathBuf,
}

impl AgentSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = default_id();
        let shown = default.to_string();
        let id = reader.parsed("agent.id", str::parse::<AgentId>, (default, &shown));
        Self { id, rpc_auth: Self::rpc_auth(reader) }
    }

    fn rpc_auth(reader: &mut Reader) -> Option<RpcAuth> {
        const PAIR: &str = "agent.rpc-auth-agent-keypair";
        const MANAGER: &str = "agent.rpc-auth-manager-public-key";
        match (reader.optional(PAIR), reader.optional(MANAGER)) {
            (Some(agent_keypair), Some(manager_public_key)) => {
                return Some(RpcAuth { agent_keypair, manager_public_key });
            }
            (None, None) => {}
            // The reference leaves its port open then; nobody who named a key wants that.
            (Some::<PathBuf>(_), None) => {
                reader.mistake(PAIR, "needs agent.rpc-auth-manager-public-key beside it")
            }
            (None, Some::<PathBuf>(_)) => {
                reader.mistake(MANAGER, "needs agent.rpc-auth-agent-keypair beside it")
            }
        }
        None
    }
}

fn default_id() -> AgentId {
    let uname = rustix::system::uname();
    let host: String =
        uname.nodename().to_string_lossy().chars().filter(char::is_ascii_graphic).take(60).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    #[expect(clippy::expect_used, reason = "at most 62 printable ASCII characters, never empty")]
    format!("i-{host}").parse().expect("a well-formed agent id")
}
