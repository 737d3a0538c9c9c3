//! Who is on the other end of a connection, by `SO_PEERCRED`.

use std::fs;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use tokio::net::unix::UCred;

/// The process that connected, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups, as far as `/proc` shows them.
    pub groups: Vec<u32>,
}

impl Caller {
    fn of(credentials: UCred) -> Self {
        let status = credentials.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: status.map(|text| groups_in(&text)).unwrap_or_default(),
        }
    }

    /// Whether it is in that group.
    #[must_use]
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether it may use the socket: the agent's own user, root, or a member of the socket's group.
    #[must_use]
    pub fn may_enter(&self, agent_uid: u32, group: Option<u32>) -> bool {
        self.uid == agent_uid || self.uid == 0 || group.is_some_and(|gid| self.is_in(gid))
    }
}

fn groups_in(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// The caller of a connection; none when the system did not tell.
#[derive(Debug, Clone)]
pub(super) struct Peer(pub(super) Option<Caller>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(Caller::of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_agents_user_root_and_the_group_get_in() {
        let caller = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
        assert!(caller(1000, 1000, &[]).may_enter(1000, None));
        assert!(caller(0, 0, &[]).may_enter(1000, None));
        assert!(!caller(1001, 1000, &[]).may_enter(1000, None));
        assert!(!caller(1001, 1000, &[27]).may_enter(1000, Some(28)));
        assert!(caller(1001, 28, &[]).may_enter(1000, Some(28)));
        assert!(caller(1001, 1001, &[27, 28]).may_enter(1000, Some(28)));
    }

    #[test]
    fn further_groups_are_read_from_proc() {
        assert_eq!(groups_in("Name:\tsh\nGid:\t1\t1\nGroups:\t4 24 1000 \nx: 1\n"), [4, 24, 1000]);
        assert_eq!(groups_in("Name: sh\n"), [0u32; 0]);
    }
}
