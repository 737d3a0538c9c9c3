//! CURVE keys of the RPC port: certificate files as ZeroMQ's tools write them (contracts: manager §1.9).

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use callosum::{Certificate, CertificateError};

use crate::route::Curve;

/// Why the keys cannot be used; one line.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the key file {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// It is no certificate.
    #[error("{} is no ZeroMQ certificate: {error}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: CertificateError,
    },
    /// It holds the public key only.
    #[error("{} holds no secret key", path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
    },
    /// The system's libzmq was built without.
    #[error("the libzmq on this machine has no CURVE")]
    NoCurve,
}

impl KeysError {
    /// The next step.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "mend [agent] rpc-auth-agent-keypair and rpc-auth-manager-public-key",
            Self::Certificate { .. } => {
                "make it by `zmq.auth.create_certificates` of pyzmq, or copy it once more"
            }
            Self::NoSecret { .. } => {
                "name the file that ends in .key_secret in [agent] rpc-auth-agent-keypair"
            }
            Self::NoCurve => {
                "install a libzmq with libsodium (Debian: libzmq5), or leave the rpc-auth keys out"
            }
        }
    }
}

/// The keys of the RPC port.
#[derive(Debug)]
pub struct Keys {
    /// For its socket.
    pub curve: Curve,
    /// The agent's public key in Z85, which clients have to know.
    pub public: String,
}

/// Reads the agent's own pair and the public key of the manager that is let in.
///
/// # Errors
/// When a file cannot be read or holds no such key, or libzmq knows no CURVE.
pub fn load(agent_pair: &Path, manager_public: &Path) -> Result<Keys, KeysError> {
    if zmq::has("curve") != Some(true) {
        return Err(KeysError::NoCurve);
    }
    let Certificate { public, secret } = read(agent_pair)?;
    let Some(secret) = secret else {
        return Err(KeysError::NoSecret { path: agent_pair.to_owned() });
    };
    if std::fs::metadata(agent_pair).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %agent_pair.display(), "others can read the agent's secret key: chmod 600");
    }
    let manager = read(manager_public)?.public;
    let curve =
        Curve { secret: bytes(agent_pair, &secret)?, clients: vec![bytes(manager_public, &manager)?] };
    Ok(Keys { curve, public })
}

fn read(path: &Path) -> Result<Certificate, KeysError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| KeysError::Read { path: path.to_owned(), error })?;
    Certificate::parse(&text).map_err(|error| KeysError::Certificate { path: path.to_owned(), error })
}

/// The parser has seen that it is Z85 of 32 bytes.
fn bytes(path: &Path, z85: &str) -> Result<[u8; 32], KeysError> {
    let refuse = || KeysError::NoSecret { path: path.to_owned() };
    zmq::z85_decode(z85).map_err(|_| refuse())?.try_into().map_err(|_| refuse())
}
