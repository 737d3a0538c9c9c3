//! `[control]`: the local control socket.

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
}

impl ControlSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let socket: PathBuf = reader.get("control.socket", socket::default_path());
        // sun_path holds 108 bytes with its terminating zero (unix(7)).
        if socket.as_os_str().as_bytes().len() > 107 {
            reader.mistake("control.socket", "is longer than 107 bytes, the most a socket path may have");
        }
        Self { socket, group: reader.optional("control.group") }
    }
}
