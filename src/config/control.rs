//! `[control]`: the local control socket.

use std::path::PathBuf;

use super::reader::Reader;

/// `[control]`
#[derive(Debug, Clone)]
pub struct ControlSection {
    /// `socket`, default [`default_socket`].
    pub socket: PathBuf,
    /// `group`: members may use the socket (0660). Membership amounts to root on this host.
    pub group: Option<String>,
}

impl ControlSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let socket: Option<PathBuf> = reader.optional("control.socket");
        if let Some(socket) = &socket {
            use std::os::unix::ffi::OsStrExt as _;
            // sun_path holds 108 bytes with its terminating zero (unix(7)).
            if socket.as_os_str().as_bytes().len() > 107 {
                reader.mistake("control.socket", "is longer than 107 bytes, the most a socket path may have");
            }
        }
        Self { socket: socket.unwrap_or_else(default_socket), group: reader.optional("control.group") }
    }
}

/// `/run/berth/berth.sock` as root, else under `$XDG_RUNTIME_DIR`, else `/tmp/berth-<uid>` (design §9).
#[must_use]
pub fn default_socket() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/berth/berth.sock");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir()) {
        Some(dir) => dir.join("berth/berth.sock"),
        None => PathBuf::from(format!("/tmp/berth-{}/berth.sock", uid.as_raw())),
    }
}
