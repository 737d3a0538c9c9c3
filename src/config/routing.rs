//! `[routing]`: the way in for calls.

use std::net::SocketAddr;
use std::time::Duration;

use super::reader::Reader;

/// `[routing]`
#[derive(Debug, Clone)]
pub struct RoutingSection {
    /// `rpc-listen`: where callosum calls are listened for, `ADDRESS:PORT` (`0.0.0.0:6001`, `[::1]:6001`; port 0
    /// lets the system choose); not set: nowhere.
    pub rpc_listen: Option<SocketAddr>,
    /// `exec-timeout-sec`: how long a run that a call began may take; 0: as long as it likes.
    pub exec_timeout: Option<Duration>,
}

impl RoutingSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let listen = reader.optional::<String>("routing.rpc-listen");
        let rpc_listen = listen.and_then(|text| match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let problem = format!("{text:?} is no ADDRESS:PORT such as 127.0.0.1:6001 or [::1]:6001");
                reader.mistake("routing.rpc-listen", &problem);
                None
            }
        });
        let exec_timeout: u64 = reader.get("routing.exec-timeout-sec", 0);
        Self { rpc_listen, exec_timeout: (exec_timeout > 0).then(|| Duration::from_secs(exec_timeout)) }
    }
}
