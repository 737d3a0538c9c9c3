//! `[control]`: the local control socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::control::socket;

use super::reader::Reader;

/// `[control]`
#[derive(Debug, Clone)]
pub struct ControlSection {
    /// `socket`, default [`socket::default_path`].
    pub socket: PathBuf,
    /// `group`: members may use the socket (0660). Membership amounts to root on this host.
    pub group: Option<String>,
    /// `metrics-listen`: an address of this host alone at which `GET /metrics` is answered over TCP, and nothing
    /// else is. Without it only the socket answers it.
    pub metrics_listen: Option<SocketAddr>,
}

impl ControlSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let socket: PathBuf = reader.get("control.socket", socket::default_path());
        // sun_path holds 108 bytes with its terminating zero (unix(7)).
        if socket.as_os_str().as_bytes().len() > 107 {
            reader.mistake("control.socket", "is longer than 107 bytes, the most a socket path may have");
        }
        let metrics_listen: Option<SocketAddr> = reader.optional("control.metrics-listen");
        if metrics_listen.is_some_and(|address| !address.ip().is_loopback()) {
            let problem = "must be an address of this host alone, such as \"127.0.0.1:9464\"";
            reader.mistake("control.metrics-listen", problem);
        }
        Self { socket, group: reader.optional("control.group"), metrics_listen }
    }
}
