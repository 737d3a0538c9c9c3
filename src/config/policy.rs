//! `[policy]`: which modules decide, with which settings and grants.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::{Dict, Value};

use crate::policy::WorldKind;

use super::reader::Reader;

/// `[policy]`
#[derive(Debug, Clone, Default)]
pub struct PolicySection {
    /// `builtin`, also `--policy builtin`: no WebAssembly at all.
    pub builtin: bool,
    /// `deadline-ms` of one decision, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// `memory`, bytes per instance.
    pub memory_bytes: Option<u64>,
    /// `threads` that run policies.
    pub threads: Option<usize>,
    /// `[policy.slot-reporter]`, `[policy.scheduler]`, `[policy.container-config]`.
    pub worlds: BTreeMap<WorldKind, WorldSection>,
}

/// `[policy.<world>]`
#[derive(Debug, Clone, Default)]
pub struct WorldSection {
    /// `module`: a file, or for `container-config` a list of files in order. Empty: the shipped one.
    pub modules: Vec<PathBuf>,
    /// `grants`: edits that the policies may make, e.g. `add-mount:/data/**`. None: what the shipped
    /// policy needs.
    pub grants: Option<Vec<String>>,
    /// `settings` of the policy, as it declares them.
    pub settings: BTreeMap<String, Value>,
}

impl PolicySection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let mut worlds = BTreeMap::new();
        for (kind, name) in [
            (WorldKind::SlotReporter, "slot-reporter"),
            (WorldKind::Scheduler, "scheduler"),
            (WorldKind::ContainerConfig, "container-config"),
        ] {
            let key = |part: &str| format!("policy.{name}.{part}");
            let one: Option<PathBuf> =
                if kind == WorldKind::ContainerConfig { None } else { reader.optional(&key("module")) };
            let many: Vec<PathBuf> =
                if kind == WorldKind::ContainerConfig { reader.get(&key("module"), Vec::new()) } else { Vec::new() };
            let modules: Vec<PathBuf> = one.into_iter().chain(many).collect();
            for path in &modules {
                if !path.is_file() {
                    reader.mistake(&key("module"), &format!("{} is no file", path.display()));
                }
            }
            let mut settings = BTreeMap::new();
            flatten(&reader.table(&key("settings")), "", &mut settings);
            worlds.insert(kind, WorldSection { modules, grants: reader.optional(&key("grants")), settings });
        }
        let memory_bytes = reader.parsed("policy.memory", crate::amount::parse_bytes);
        let deadline_ms = reader.optional("policy.deadline-ms");
        if deadline_ms.is_some_and(|ms: u64| !(1..=10_000).contains(&ms)) {
            reader.mistake("policy.deadline-ms", "should be from 1 to 10000");
        }
        Self {
            builtin: reader.get("policy.builtin", false),
            deadline_ms,
            memory_bytes,
            threads: reader.optional("policy.threads"),
            worlds,
        }
    }
}

/// Tables are flattened: `quota.alice` (wit: `setting`).
fn flatten(dict: &Dict, prefix: &str, out: &mut BTreeMap<String, Value>) {
    for (key, value) in dict {
        match value {
            Value::Dict(_, inner) => flatten(inner, &format!("{prefix}{key}."), out),
            _ => {
                out.insert(format!("{prefix}{key}"), value.clone());
            }
        }
    }
}
