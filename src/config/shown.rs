//! A configuration as people look at it: what holds and where it comes from, and what is wrong with it. Pure.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Parts of keys whose values nobody is shown.
const SECRET: [&str; 5] = ["password", "secret", "token", "keypair", "private-key"];

/// What gave a key its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing did.
    Default,
    /// The file.
    File {
        /// Which.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// A flag of the command.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One key with the value that holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effective {
    /// Dotted, e.g. `lifecycle.start-limit`.
    pub key: String,
    /// Null: not set; `***` for a secret.
    pub value: serde_json::Value,
    /// What set it.
    pub origin: Origin,
}

impl Effective {
    pub(super) fn new(key: &str, value: serde_json::Value, origin: Origin) -> Self {
        Self { key: key.to_owned(), value: masked(key, value), origin }
    }
}

/// The value of a key with every secret in it replaced, also below it.
fn masked(key: &str, value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    let is_secret = SECRET.iter().any(|word| key.to_ascii_lowercase().replace('_', "-").contains(word));
    match value {
        Value::Null => Value::Null,
        _ if is_secret => "***".into(),
        Value::Array(list) => list.into_iter().map(|part| masked("", part)).collect(),
        Value::Object(table) => {
            let part = |(key, value): (String, Value)| {
                let value = masked(&key, value);
                (key, value)
            };
            table.into_iter().map(part).collect()
        }
        other => other,
    }
}

/// Something to be said about a place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// `agent.toml:12`, an environment variable or a flag.
    pub place: String,
    /// What.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Everything that was found in a configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Every key, sorted.
    pub effective: Vec<Effective>,
    /// What keeps the agent from starting.
    pub mistakes: Vec<Remark>,
    /// Keys that nobody knows.
    pub unknown: Vec<Remark>,
    /// Places and keys of the reference that berth does not use.
    pub without_effect: Vec<(String, String)>,
}

impl Report {
    /// What is odd but no mistake, a remark for each.
    #[must_use]
    pub fn warnings(&self) -> Vec<Remark> {
        let unused = self
            .without_effect
            .iter()
            .map(|(place, key)| Remark { place: place.clone(), text: format!("{key} has no effect here") });
        self.unknown.iter().cloned().chain(unused).collect()
    }

    /// The same in few lines, for a log.
    #[must_use]
    pub fn warnings_in_short(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.unknown.iter().map(ToString::to_string).collect();
        if !self.without_effect.is_empty() {
            let keys: Vec<&str> = self.without_effect.iter().map(|(_, key)| key.as_str()).collect();
            lines.push(format!("these keys have no effect here: {}", keys.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let shown = |key: &str, value: serde_json::Value| Effective::new(key, value, Origin::Default).value;
        assert_eq!(shown("redis.password", "hunter2".into()), "***");
        assert_eq!(shown("policy.scheduler.settings.API_TOKEN", "x".into()), "***");
        assert_eq!(shown("agent.rpc-auth-agent-keypair", serde_json::Value::Null), serde_json::Value::Null);
        assert_eq!(shown("lifecycle.start-limit", 4.into()), 4);
        let chain = serde_json::json!([{"settings": {"api-token": "x", "mode": "y"}}]);
        let expected = serde_json::json!([{"settings": {"api-token": "***", "mode": "y"}}]);
        assert_eq!(shown("policy.container-config", chain), expected);
    }
}
