//! Redis as the cluster has it (contracts: manager §4.2, §5): which server a role has, and the way to it.
//!
//! The reading of etcd's values is pure. A [`Link`] blocks and belongs to a thread; every step of it has a deadline.

use std::fmt;
use std::time::Duration;

use redis::{Connection, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError};

use super::Address;
use super::layout::Values;

/// What is kept in Redis, each kind on a server and in a database of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The stream of events.
    Stream,
}

impl Role {
    /// Its name in etcd.
    fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
        }
    }

    /// The number of its database.
    fn database(self) -> i64 {
        match self {
            Self::Stream => 4,
        }
    }
}

/// Where a Redis is.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The server, or those that know which server it is at present.
    pub place: Place,
    /// The password, if it asks for one.
    pub password: Option<String>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

/// See [`Target::place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This one.
    Server(Address),
    /// Whom these sentinels name.
    Sentinels {
        /// Any of them.
        sentinels: Vec<Address>,
        /// The name of the service.
        service: String,
    },
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Target")
            .field("place", &self.place)
            .field("password", &password)
            .finish_non_exhaustive()
    }
}

/// Why etcd's `config/redis` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither an address nor sentinels.
    #[error(
        "etcd has neither config/redis/addr nor config/redis/sentinel: is this the namespace of a manager?"
    )]
    Missing,
    /// A value cannot be read.
    #[error("etcd's config/redis/{key} is {value:?}, and should be {wanted}")]
    Value {
        /// Below `config/redis`.
        key: String,
        /// What it holds.
        value: String,
        /// What would do.
        wanted: &'static str,
    },
    /// Encryption is asked for.
    #[error("etcd's config/redis asks for TLS, which is not built yet")]
    Tls,
}

/// Where the Redis of a role is, by the values below `config/redis`: those of `override_configs/<role>` where it
/// has an address of its own, else the common ones.
///
/// # Errors
/// See [`ConfigError`].
pub fn target(values: &Values, role: Role) -> Result<Target, ConfigError> {
    let own = format!("override_configs/{}/", role.name());
    let has_own = ["addr", "sentinel"].iter().any(|key| values.contains_key(&format!("{own}{key}")));
    let base = if has_own { own.as_str() } else { "" };
    let get =
        |key: &str| values.get(&format!("{base}{key}")).map(String::as_str).filter(|value| !value.is_empty());
    let refuse = |key: &str, value: &str, wanted| {
        Err(ConfigError::Value { key: format!("{base}{key}"), value: value.to_owned(), wanted })
    };
    match get("use_tls") {
        Some(value) if is_true(value) => return Err(ConfigError::Tls),
        _ => {}
    }
    let place = match (get("sentinel"), get("addr")) {
        (Some(list), _) => {
            let read: Result<Vec<Address>, _> = list.split(',').map(|one| one.trim().parse()).collect();
            let Ok(sentinels) = read else { return refuse("sentinel", list, "HOST:PORT,HOST:PORT") };
            let Some(service) = get("service_name") else {
                return refuse("service_name", "", "the name of a service");
            };
            Place::Sentinels { sentinels, service: service.to_owned() }
        }
        (None, Some(address)) => match address.parse() {
            Ok(address) => Place::Server(address),
            Err(_) => return refuse("addr", address, "HOST:PORT"),
        },
        (None, None) => return Err(ConfigError::Missing),
    };
    let helper = |key: &str, default: f64| {
        let key = format!("redis_helper_config/{key}");
        match get(&key).map(|value| (value, value.parse::<f64>().ok().filter(|seconds| *seconds > 0.0))) {
            None => Ok(Duration::from_secs_f64(default)),
            // Nobody waits longer for a beat that is due every 20 s.
            Some((_, Some(seconds))) => Ok(Duration::from_secs_f64(seconds.clamp(0.1, 10.0))),
            Some((value, None)) => Err(ConfigError::Value {
                key: format!("{base}{key}"),
                value: value.to_owned(),
                wanted: "a number of seconds above 0",
            }),
        }
    };
    Ok(Target {
        place,
        password: get("password").map(str::to_owned),
        connect_timeout: helper("socket_connect_timeout", 2.0)?,
        timeout: helper("socket_timeout", 5.0)?,
    })
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on", "t", "y"].contains(&value.to_ascii_lowercase().as_str())
}

/// The way to one Redis, for one role.
pub struct Link {
    target: Target,
    connection: Connection,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Why Redis could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It does not answer, or refuses.
    #[error("Redis at {address}: {source}")]
    Redis {
        /// Which.
        address: String,
        /// What it said.
        source: RedisError,
    },
    /// No sentinel knows the service.
    #[error("no sentinel of {sentinels} names a master of {service:?}")]
    NoMaster {
        /// Who was asked.
        sentinels: String,
        /// For what.
        service: String,
    },
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers within the target's time-outs.
    pub fn open(target: &Target, role: Role) -> Result<Self, LinkError> {
        let connection = match &target.place {
            Place::Server(address) => connect(target, address, target.password.as_deref(), role.database())?,
            Place::Sentinels { sentinels, service } => {
                let master = sentinels.iter().find_map(|sentinel| master(target, sentinel, service));
                let Some(master) = master else {
                    let sentinels = sentinels.iter().map(Address::to_string).collect::<Vec<_>>().join(", ");
                    return Err(LinkError::NoMaster { sentinels, service: service.clone() });
                };
                connect(target, &master, target.password.as_deref(), role.database())?
            }
        };
        Ok(Self { target: target.clone(), connection })
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Appends an entry to the stream of events, which every writer keeps at about 128 (contracts: manager §3.1).
    ///
    /// # Errors
    /// When Redis did not take it in time; the link is of no use then.
    pub fn append(&mut self, fields: &[(&'static str, String)]) -> Result<(), LinkError> {
        let mut command = redis::cmd("XADD");
        command.arg("events").arg("MAXLEN").arg("~").arg(128).arg("*");
        for (field, value) in fields {
            command.arg(field).arg(value);
        }
        command.exec(&mut self.connection).map_err(|source| {
            let address = match &self.target.place {
                Place::Server(address) => address.to_string(),
                Place::Sentinels { service, .. } => format!("the master of {service:?}"),
            };
            LinkError::Redis { address, source }
        })
    }
}

fn connect(
    target: &Target,
    address: &Address,
    password: Option<&str>,
    database: i64,
) -> Result<Connection, LinkError> {
    let failed = |source| LinkError::Redis { address: address.to_string(), source };
    let mut settings =
        RedisConnectionInfo::default().set_db(database).set_lib_name("berth", env!("CARGO_PKG_VERSION"));
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    let info =
        ConnectionAddr::Tcp(address.host.clone(), address.port).into_connection_info().map_err(failed)?;
    let client = redis::Client::open(info.set_redis_settings(settings)).map_err(failed)?;
    let connection = client.get_connection_with_timeout(target.connect_timeout).map_err(failed)?;
    connection.set_read_timeout(Some(target.timeout)).map_err(failed)?;
    connection.set_write_timeout(Some(target.timeout)).map_err(failed)?;
    Ok(connection)
}

/// Whom a sentinel names; none when it does not answer or knows of none.
fn master(target: &Target, sentinel: &Address, service: &str) -> Option<Address> {
    let mut connection = connect(target, sentinel, None, 0)
        .inspect_err(|error| tracing::debug!("a sentinel does not answer: {error}"))
        .ok()?;
    let named: Option<(String, u16)> = redis::cmd("SENTINEL")
        .arg("get-master-addr-by-name")
        .arg(service)
        .query(&mut connection)
        .inspect_err(|error| tracing::debug!(%sentinel, "a sentinel refuses: {error}"))
        .ok()?;
    named.map(|(host, port)| Address { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_role_goes_to_its_own_server_where_it_has_one() {
        let common =
            [("addr", "10.0.0.1:6379"), ("password", "x"), ("redis_helper_config/socket_timeout", "3.5")];
        let found = target(&values(&common), Role::Stream).unwrap();
        assert_eq!(found.place, Place::Server("10.0.0.1:6379".parse().unwrap()));
        assert_eq!(found.password.as_deref(), Some("x"));
        assert_eq!(
            (found.timeout, found.connect_timeout),
            (Duration::from_millis(3500), Duration::from_secs(2))
        );
        let own = [common.as_slice(), &[("override_configs/stream/addr", "10.0.0.2:6379")]].concat();
        let found = target(&values(&own), Role::Stream).unwrap();
        assert_eq!(found.place, Place::Server("10.0.0.2:6379".parse().unwrap()));
        assert_eq!(found.password, None);
    }

    #[test]
    fn sentinels_win_over_an_address() {
        let mixed = [("addr", "x:1"), ("sentinel", "a:26379, b:26379"), ("service_name", "mymaster")];
        let Place::Sentinels { sentinels, service } = target(&values(&mixed), Role::Stream).unwrap().place
        else {
            panic!("sentinels win");
        };
        assert_eq!((sentinels.len(), service.as_str()), (2, "mymaster"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let told = |pairs: &[(&str, &str)]| target(&values(pairs), Role::Stream).unwrap_err().to_string();
        assert!(told(&[]).contains("neither config/redis/addr"), "{}", told(&[]));
        assert_eq!(
            told(&[("addr", "nowhere")]),
            "etcd's config/redis/addr is \"nowhere\", and should be HOST:PORT"
        );
        assert!(told(&[("addr", "a:1"), ("use_tls", "true")]).contains("TLS"));
        assert!(told(&[("sentinel", "a:1")]).contains("service_name"));
        let slow = [("addr", "a:1"), ("redis_helper_config/socket_timeout", "soon")];
        assert!(told(&slow).contains("redis_helper_config/socket_timeout"));
    }

    #[test]
    fn nobody_reads_a_password_in_a_log() {
        let found = target(&values(&[("addr", "a:1"), ("password", "hush")]), Role::Stream).unwrap();
        assert!(!format!("{found:?}").contains("hush"));
    }
}
