//! `HOST:PORT`, as addresses of the reference are written (contracts: manager §7.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A host by name or number, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Without brackets; empty where the reference allows it.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no HOST:PORT such as 10.0.0.5:6001 or [::1]:6001")]
pub struct NoAddress(String);

impl Address {
    /// Whether it stands for every address of the machine, which nobody can connect to.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host.is_empty() || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let refuse = || NoAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').filter(|host| host.contains(':')).ok_or_else(refuse)?,
            None if host.contains([':', '/', '@']) => return Err(refuse()),
            None => host,
        };
        if host.contains(char::is_whitespace) {
            return Err(refuse());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "an address is \"HOST:PORT\" or { host = \"HOST\", port = PORT }")]
        enum Written {
            Text(String),
            Table { host: String, port: u16 },
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Written::Table { host, port } => Ok(Self { host, port }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_both_forms() {
        for text in ["10.0.0.5:6001", "[::1]:6001", "node-1:1", ":6001"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "6001", "a:b", "::1:6001", "[::1:6001", "a:70000", "http://a:1", "u@a:1", "a b:1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let table: Address = serde_json::from_str(r#"{"host": "a", "port": 1}"#).unwrap();
        assert_eq!(table.to_string(), "a:1");
        assert!(serde_json::from_str::<Address>("17").unwrap_err().to_string().contains("HOST:PORT"));
    }

    #[test]
    fn nobody_connects_to_every_address() {
        let unspecified = |text: &str| text.parse::<Address>().unwrap().is_unspecified();
        assert!(unspecified("0.0.0.0:1") && unspecified("[::]:1") && unspecified(":1"));
        assert!(!unspecified("127.0.0.1:1") && !unspecified("node:1"));
    }
}
