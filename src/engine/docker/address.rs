//! Where the Docker Engine listens: the default socket, or what `DOCKER_HOST` says.

use std::fmt;

use crate::engine::EngineError;

/// The socket used when `DOCKER_HOST` says nothing.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// An address that this agent can speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// Path of a unix socket.
    Unix(String),
    /// `host:port`, plain.
    Tcp(String),
}

impl Address {
    /// Reads the value of `DOCKER_HOST`.
    pub(super) fn parse(host: Option<&str>) -> Result<Self, EngineError> {
        let Some(host) = host.map(str::trim).filter(|host| !host.is_empty()) else {
            return Ok(Self::Unix(DEFAULT_SOCKET.to_owned()));
        };
        let refuse = |problem: &str| EngineError::Unreachable {
            engine: "Docker",
            endpoint: host.to_owned(),
            problem: problem.to_owned(),
            remedies: vec![
                "set DOCKER_HOST to unix:///PATH or tcp://HOST:PORT, or unset it".to_owned(),
                super::error::WITHOUT_DOCKER.to_owned(),
            ],
        };
        if let Some(path) = host.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.to_owned())),
                false => Err(refuse("the path of a unix socket in DOCKER_HOST must be absolute")),
            };
        }
        if let Some(address) = host.strip_prefix("tcp://") {
            let address = address.trim_end_matches('/');
            let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            return match (port, address.contains('/')) {
                (Some(Ok(_)), false) => Ok(Self::Tcp(address.to_owned())),
                _ => Err(refuse("DOCKER_HOST is not tcp://HOST:PORT")),
            };
        }
        Err(refuse(match host.split_once("://") {
            Some(("ssh", _)) => "ssh is not spoken: containers must run on this very node",
            Some(("https", _)) => "TLS is not spoken",
            _ => "DOCKER_HOST names neither a unix socket nor plain tcp",
        }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: Option<&str>, expected: Result<&str, &str>) {
        let read = Address::parse(host).map(|address| address.to_string());
        match (read, expected) {
            (Ok(read), expected) => assert_eq!(Ok(read.as_str()), expected, "{host:?}"),
            (Err(EngineError::Unreachable { problem, remedies, .. }), Err(expected)) => {
                assert_eq!(problem, expected, "{host:?}");
                assert_eq!(remedies.len(), 2);
            }
            (Err(other), _) => panic!("{host:?}: {other}"),
        }
    }

    #[test]
    fn docker_host_is_read_or_refused_with_a_reason() {
        check(None, Ok("unix:///var/run/docker.sock"));
        check(Some("  "), Ok("unix:///var/run/docker.sock"));
        check(Some("unix:///tmp/d.sock"), Ok("unix:///tmp/d.sock"));
        check(Some("tcp://127.0.0.1:2375"), Ok("tcp://127.0.0.1:2375"));
        check(Some("tcp://[::1]:2375/"), Ok("tcp://[::1]:2375"));
        check(Some("unix://d.sock"), Err("the path of a unix socket in DOCKER_HOST must be absolute"));
        check(Some("tcp://host"), Err("DOCKER_HOST is not tcp://HOST:PORT"));
        check(Some("tcp://host:1/x"), Err("DOCKER_HOST is not tcp://HOST:PORT"));
        check(Some("ssh://host"), Err("ssh is not spoken: containers must run on this very node"));
        check(Some("https://host:1"), Err("TLS is not spoken"));
        check(Some("banana"), Err("DOCKER_HOST names neither a unix socket nor plain tcp"));
    }
}
