//! `[policy]` of `agent.toml`: where each world's policy comes from, its settings and grants, and the
//! budgets of a call (design §6, §9). Serde-friendly; nothing here opens a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::bindings::types;
use super::trust::Trust;
use super::worlds::grants;
use super::{WORLDS, WorldKind};

/// How many millionths make one, in a decimal setting.
const MILLION: f64 = 1_000_000.0;

/// What one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Wall clock of the whole decision.
    pub deadline: Duration,
    /// All linear memories of the policy together, in bytes.
    pub memory_bytes: usize,
    /// The question, in bytes.
    pub bytes_in: usize,
    /// Answer and log lines, in bytes.
    pub bytes_out: usize,
}

impl Budgets {
    /// With what one policy's own section says.
    #[must_use]
    pub fn with(self, policy: &PolicyConfig) -> Self {
        Self {
            deadline: policy.deadline_ms.map_or(self.deadline, Duration::from_millis),
            memory_bytes: policy.memory_bytes.unwrap_or(self.memory_bytes),
            bytes_in: policy.bytes_in.unwrap_or(self.bytes_in),
            bytes_out: policy.bytes_out.unwrap_or(self.bytes_out),
        }
    }
}

/// What the policy host is started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Config {
    /// Told to every policy. Not from the file: the agent sets it.
    #[serde(skip)]
    pub node_name: String,
    /// Told to every policy, e.g. (`architecture`, `x86_64`). Not from the file: the agent sets them.
    #[serde(skip)]
    pub facts: Vec<(String, String)>,
    /// Policy threads; by default two, or one where there is one core only.
    pub threads: usize,
    /// Wall clock of one decision in milliseconds: half for the active policy, a quarter for the last
    /// good one, the rest for the built-in. This and the three below hold for every world whose own section
    /// does not say otherwise.
    pub deadline_ms: u64,
    /// Memory of one call in bytes, all linear memories of the policy together.
    pub memory_bytes: usize,
    /// Bytes of a question that a policy may be given.
    pub bytes_in: usize,
    /// Bytes that a policy may answer.
    pub bytes_out: usize,
    /// Seconds that compiling a module may take.
    pub compile_sec: u64,
    /// Bytes of memory that it may take.
    pub compile_memory_bytes: u64,
    /// Bytes that the journal of decisions takes on disk.
    pub journal_bytes: u64,
    /// Decisions of the journal that a policy decides again before it is activated; 0: none.
    pub replay_last: u64,
    /// Seconds that this may take.
    pub replay_sec: u64,
    /// Decisions for which a policy that was activated is on probation; 0: it is not.
    pub probation_decisions: u64,
    /// Seconds for which it is at most.
    pub probation_sec: u64,
    /// So many failures on probation, and what was active before is active again.
    pub probation_failures: u64,
    /// Whether SIGHUP takes what decides otherwise, too.
    pub accept_diff_on_reload: bool,
    /// `[policy.trust]`: whose policies are taken.
    pub trust: Trust,
    /// `[policy.slot-reporter]`.
    pub slot_reporter: PolicyConfig,
    /// `[policy.scheduler]`.
    pub scheduler: PolicyConfig,
    /// `[policy.container-config]`, or `[[policy.container-config]]` for a chain, asked in this order.
    #[serde(deserialize_with = "one_or_many")]
    pub container_config: Vec<PolicyConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            facts: Vec::new(),
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
            deadline_ms: 20,
            memory_bytes: 32 << 20,
            bytes_in: 4 << 20,
            bytes_out: 1 << 20,
            compile_sec: 120,
            compile_memory_bytes: 2 << 30,
            journal_bytes: 64 << 20,
            replay_last: 256,
            replay_sec: 10,
            probation_decisions: 100,
            probation_sec: 60,
            probation_failures: 3,
            accept_diff_on_reload: false,
            trust: Trust::default(),
            slot_reporter: PolicyConfig::default(),
            scheduler: PolicyConfig::default(),
            container_config: vec![PolicyConfig::default()],
        }
    }
}

impl Config {
    /// The built-in for every world: no WebAssembly, no policy threads (`--policy=builtin`).
    #[must_use]
    pub fn builtin() -> Self {
        let mut config = Self::default();
        config.use_builtin();
        config
    }

    /// Makes every world use the built-in, and keeps the rest.
    pub fn use_builtin(&mut self) {
        for world in WORLDS {
            for policy in self.chain_mut(world) {
                policy.source = Source::Builtin;
            }
        }
    }

    /// The configured policies of a world, in order; never more than one outside `container-config`.
    #[must_use]
    pub fn chain(&self, world: WorldKind) -> &[PolicyConfig] {
        match world {
            WorldKind::SlotReporter => std::slice::from_ref(&self.slot_reporter),
            WorldKind::Scheduler => std::slice::from_ref(&self.scheduler),
            WorldKind::ContainerConfig => &self.container_config,
        }
    }

    fn chain_mut(&mut self, world: WorldKind) -> &mut [PolicyConfig] {
        match world {
            WorldKind::SlotReporter => std::slice::from_mut(&mut self.slot_reporter),
            WorldKind::Scheduler => std::slice::from_mut(&mut self.scheduler),
            WorldKind::ContainerConfig => &mut self.container_config,
        }
    }

    /// The budgets of `[policy]`.
    #[must_use]
    pub fn budgets(&self) -> Budgets {
        Budgets {
            deadline: Duration::from_millis(self.deadline_ms),
            memory_bytes: self.memory_bytes,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// The most memory that any policy may have, in bytes.
    #[must_use]
    pub fn most_memory(&self) -> usize {
        let policies = WORLDS.into_iter().flat_map(|world| self.chain(world));
        policies.filter_map(|policy| policy.memory_bytes).fold(self.memory_bytes, usize::max)
    }

    /// Every value out of range, a sentence each that names its key.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut within = |key: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!("policy.{key} is {value}; it must be from {least} to {most}"));
            }
        };
        within("threads", self.threads as u64, 1, 64);
        let mut budgets = |of: &str, deadline: Option<u64>, sizes: [Option<usize>; 3]| {
            let [memory, bytes_in, bytes_out] = sizes.map(|size| size.map(|size| size as u64));
            for (key, value, least, most) in [
                ("deadline-ms", deadline, 4, 60_000),
                ("memory-bytes", memory, 1 << 20, 1 << 30),
                ("bytes-in", bytes_in, 64 << 10, 256 << 20),
                ("bytes-out", bytes_out, 4 << 10, 64 << 20),
            ] {
                if let Some(value) = value {
                    within(&format!("{of}{key}"), value, least, most);
                }
            }
        };
        let own = [self.memory_bytes, self.bytes_in, self.bytes_out].map(Some);
        budgets("", Some(self.deadline_ms), own);
        for world in WORLDS {
            for policy in self.chain(world) {
                let own = [policy.memory_bytes, policy.bytes_in, policy.bytes_out];
                budgets(&format!("{world}."), policy.deadline_ms, own);
            }
        }
        within("compile-sec", self.compile_sec, 1, 3_600);
        within("compile-memory-bytes", self.compile_memory_bytes, 4 << 20, 1 << 40);
        within("journal-bytes", self.journal_bytes, 1 << 20, 1 << 40);
        within("replay-last", self.replay_last, 0, 100_000);
        within("replay-sec", self.replay_sec, 1, 600);
        within("probation-decisions", self.probation_decisions, 0, 1_000_000);
        within("probation-sec", self.probation_sec, 1, 86_400);
        within("probation-failures", self.probation_failures, 1, 1_000);
        within("container-config (policies in the chain)", self.container_config.len() as u64, 1, 16);
        problems.extend(self.trust.problems());
        for world in WORLDS {
            for policy in self.chain(world) {
                let unknown = grants::unknown(&policy.grants);
                if world != WorldKind::ContainerConfig && !policy.grants.is_empty() {
                    problems
                        .push(format!("policy.{world}.grants: only policies of container-config make edits"));
                } else if !unknown.is_empty() {
                    problems.push(format!(
                        "policy.{world}.grants: {} is no edit; there are {}",
                        unknown.join(", "),
                        grants::ALL_EDITS.join(", ")
                    ));
                }
            }
        }
        problems
    }
}

/// One policy of one world.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PolicyConfig {
    /// Where its module comes from.
    pub source: Source,
    /// The operator's settings for it; tables are flattened (`quota.alice`).
    pub settings: Settings,
    /// The edits that it may make (`container-config` only), e.g. `set-env`, `add-mount:/data/**`.
    /// Empty for the shipped policy and the built-in: what they need.
    pub grants: Vec<String>,
    /// Wall clock of one decision of this world in milliseconds, where it is not that of `[policy]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Memory of one call in bytes, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    /// Bytes of a question, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<usize>,
    /// Bytes of an answer, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<usize>,
}

/// Where a policy's module comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// The guest that comes with berth.
    #[default]
    Shipped,
    /// The native twin: no WebAssembly.
    Builtin,
    /// A component on this host.
    File(PathBuf),
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "shipped" => Ok(Self::Shipped),
            "builtin" => Ok(Self::Builtin),
            path if path.contains('/') || path.ends_with(".wasm") => Ok(Self::File(path.into())),
            other => {
                Err(format!("{other:?} is no policy: write `shipped`, `builtin` or the path of a .wasm file"))
            }
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shipped => f.write_str("shipped"),
            Self::Builtin => f.write_str("builtin"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Settings by flattened key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Settings(pub BTreeMap<String, SettingValue>);

/// A setting's value, in the types of the WIT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingValue {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A decimal number in millionths.
    Decimal(i64),
    /// Yes or no.
    Flag(bool),
    /// A list of texts.
    Texts(Vec<String>),
}

impl From<&SettingValue> for types::SettingValue {
    fn from(value: &SettingValue) -> Self {
        match value {
            SettingValue::Text(text) => Self::Text(text.clone()),
            SettingValue::Integer(number) => Self::Integer(*number),
            SettingValue::Decimal(millionths) => Self::Decimal(*millionths),
            SettingValue::Flag(flag) => Self::Flag(*flag),
            SettingValue::Texts(texts) => Self::Texts(texts.clone()),
        }
    }
}

impl Serialize for SettingValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Integer(number) => serializer.serialize_i64(*number),
            #[expect(clippy::cast_precision_loss, reason = "read from an f64 of the same precision")]
            Self::Decimal(millionths) => serializer.serialize_f64(*millionths as f64 / MILLION),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Texts(texts) => texts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = BTreeMap::<String, Tree>::deserialize(deserializer)?;
        let mut flat = BTreeMap::new();
        flatten("", tree, &mut flat);
        Ok(Self(flat))
    }
}

/// A setting as TOML nests it.
enum Tree {
    Value(SettingValue),
    Table(BTreeMap<String, Tree>),
}

fn flatten(prefix: &str, tree: BTreeMap<String, Tree>, into: &mut BTreeMap<String, SettingValue>) {
    for (key, branch) in tree {
        match branch {
            Tree::Value(value) => {
                into.insert(format!("{prefix}{key}"), value);
            }
            Tree::Table(table) => flatten(&format!("{prefix}{key}."), table, into),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false, a list of texts, or a table of these")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Value(SettingValue::Text(text.to_owned())))
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Tree, E> {
        Ok(Tree::Value(SettingValue::Flag(flag)))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Value(SettingValue::Integer(number)))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Tree, E> {
        i64::try_from(number)
            .map(|number| Tree::Value(SettingValue::Integer(number)))
            .map_err(|_| E::custom(format!("{number} is too large for a setting")))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Tree, E> {
        let millionths = (number * MILLION).round();
        // 2^53: beyond it an f64 no longer holds every whole number.
        if !number.is_finite() || millionths.abs() > 9_007_199_254_740_992.0 {
            return Err(E::custom(format!("{number} is too large for a setting")));
        }
        if (millionths / MILLION - number).abs() > f64::EPSILON * number.abs().max(1.0) {
            return Err(E::custom(format!("{number} has more than six decimals")));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53, checked above")]
        let millionths = millionths as i64;
        Ok(Tree::Value(SettingValue::Decimal(millionths)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Tree, A::Error> {
        let texts = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
        Ok(Tree::Value(SettingValue::Texts(texts)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Tree, A::Error> {
        BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Tree::Table)
    }
}

/// `[policy.container-config]` as one table or as a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PolicyConfig>, D::Error> {
    struct OneOrMany;
    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<PolicyConfig>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table, or a list of tables for a chain of policies")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            PolicyConfig::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            let chain = Vec::<PolicyConfig>::deserialize(SeqAccessDeserializer::new(seq))?;
            if chain.is_empty() {
                return Err(A::Error::custom(
                    "the chain is empty: write `source = \"builtin\"` to run without a policy",
                ));
            }
            Ok(chain)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

#[cfg(test)]
mod tests {
    use super::*;
    use figment::Figment;
    use figment::providers::{Format as _, Toml};

    fn read(toml: &str) -> Result<Config, String> {
        Figment::from(Toml::string(toml)).extract().map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_table_is_the_default_with_the_shipped_policies() {
        let config = read("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.scheduler.source, Source::Shipped);
        assert_eq!((config.deadline_ms, config.memory_bytes), (20, 32 << 20));
        assert!(config.problems().is_empty());
    }

    #[test]
    fn settings_keep_their_types_and_tables_are_flattened() {
        let config = read(
            r#"
            [scheduler]
            source = "/etc/berth/nvlink.wasm"
            [scheduler.settings]
            strategy = "pack"
            limit = 3
            fraction = 0.25
            numa = true
            users = ["ann", "bob"]
            quota = { alice = 2, team = { x = 1 } }
            "#,
        )
        .unwrap();
        assert_eq!(config.scheduler.source, Source::File("/etc/berth/nvlink.wasm".into()));
        let settings = &config.scheduler.settings.0;
        assert_eq!(settings["strategy"], SettingValue::Text("pack".into()));
        assert_eq!(settings["limit"], SettingValue::Integer(3));
        assert_eq!(settings["fraction"], SettingValue::Decimal(250_000));
        assert_eq!(settings["numa"], SettingValue::Flag(true));
        assert_eq!(settings["users"], SettingValue::Texts(vec!["ann".into(), "bob".into()]));
        assert_eq!(settings["quota.alice"], SettingValue::Integer(2));
        assert_eq!(settings["quota.team.x"], SettingValue::Integer(1));
        let again = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<Config>(again).unwrap(), config);
    }

    #[test]
    fn the_container_chain_may_be_one_table_or_several() {
        let one = read("[container-config]\nsource = \"builtin\"").unwrap();
        assert_eq!(one.container_config.len(), 1);
        let two = read(
            "[[container-config]]\nsource = \"shipped\"\n[[container-config]]\nsource = \"/p.wasm\"\ngrants = [\"set-env\"]",
        )
        .unwrap();
        assert_eq!(two.container_config[1].grants, ["set-env"]);
    }

    #[test]
    fn mistakes_are_told_in_words() {
        assert!(read("[scheduler]\nsource = \"shiped\"").unwrap_err().contains("write `shipped`"));
        assert!(read("[scheduler.settings]\nx = 0.1234567").unwrap_err().contains("six decimals"));
        let config = Config { deadline_ms: 0, threads: 0, ..Config::default() };
        assert_eq!(
            config.problems(),
            [
                "policy.threads is 0; it must be from 1 to 64",
                "policy.deadline-ms is 0; it must be from 4 to 60000"
            ]
        );
    }
}
