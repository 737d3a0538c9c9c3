//! How etcd's keys are laid out for an agent (contracts: manager §4). Pure.

use std::collections::BTreeMap;

use crate::ids::AgentId;

/// Values below a prefix, by their path below it.
pub type Values = BTreeMap<String, String>;

/// The keys of one agent in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    namespace: String,
    agent: String,
    group: String,
}

impl Layout {
    /// Of an agent, whose resource group is `default` when none is configured.
    #[must_use]
    pub fn new(namespace: &str, agent: &AgentId, group: Option<&str>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            agent: agent.to_string(),
            group: group.unwrap_or("default").to_owned(),
        }
    }

    /// A key of the whole cluster.
    #[must_use]
    pub fn global(&self, key: &str) -> String {
        format!("/sorna/{}/{key}", self.namespace)
    }

    /// A key of this node. The empty one, which ends in a slash, holds its status.
    #[must_use]
    pub fn node(&self, key: &str) -> String {
        format!("/sorna/{}/nodes/agents/{}/{key}", self.namespace, quoted(&self.agent))
    }

    /// A key in each scope, the widest first.
    #[must_use]
    pub fn scopes(&self, key: &str) -> [String; 3] {
        let group = format!("/sorna/{}/sgroup/{}/{key}", self.namespace, quoted(&self.group));
        [self.global(key), group, self.node(key)]
    }
}

/// What holds when the same prefix has values in several scopes, the widest first: a narrower scope hides what has
/// the same first component, with everything below it.
#[must_use]
pub fn merged(scopes: impl IntoIterator<Item = Values>) -> Values {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    scopes.into_iter().fold(Values::new(), |mut wide, narrow| {
        let hidden: Vec<String> = narrow.keys().map(|path| first(path)).collect();
        wide.retain(|path, _| !hidden.contains(&first(path)));
        wide.extend(narrow);
        wide
    })
}

/// A path component as a key has it: everything but letters, digits and `_.-~` percent-quoted.
#[must_use]
pub fn quoted(component: &str) -> String {
    let mut text = String::new();
    for byte in component.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The other way round, for a whole path. A `%` that begins no such triple stands for itself.
#[must_use]
pub fn unquoted(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%').and_then(|digits| str::from_utf8(digits).ok());
        // `from_str_radix` takes a sign.
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(quoted) => {
                bytes.push(quoted);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn keys_lie_where_the_reference_has_them() {
        let layout = Layout::new("local", &"i-node/1".parse().unwrap(), None);
        assert_eq!(layout.node(""), "/sorna/local/nodes/agents/i-node%2F1/");
        assert_eq!(
            layout.scopes("config/redis"),
            [
                "/sorna/local/config/redis",
                "/sorna/local/sgroup/default/config/redis",
                "/sorna/local/nodes/agents/i-node%2F1/config/redis",
            ]
        );
    }

    #[test]
    fn a_narrower_scope_hides_at_the_first_component_only() {
        let wide = values(&[("addr", "a:1"), ("override_configs/live/addr", "b:1"), ("password", "x")]);
        let narrow = values(&[("addr", "c:1"), ("override_configs/stream/addr", "d:1")]);
        assert_eq!(
            merged([wide, Values::new(), narrow]),
            values(&[("addr", "c:1"), ("override_configs/stream/addr", "d:1"), ("password", "x")])
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_reads_back(text in ".*") {
            proptest::prop_assert_eq!(unquoted(&quoted(&text)), text);
        }

        #[test]
        fn anything_can_be_unquoted(text in "[%0-9a-fA-F+é]*") {
            let _ = unquoted(&text);
        }
    }
}
