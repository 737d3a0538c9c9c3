//! `[agent]`: who this node is.

use crate::ids::AgentId;

use super::reader::Reader;

/// `[agent]`
#[derive(Debug, Clone)]
pub struct AgentSection {
    /// `id`; default `i-<hostname>` (contracts: manager §8.2).
    pub id: AgentId,
}

impl AgentSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = default_id();
        let shown = default.to_string();
        Self { id: reader.parsed("agent.id", str::parse::<AgentId>, (default, &shown)) }
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
