//! The operator's settings against what a policy's `describe` lists: defaults filled in, types checked,
//! unknown keys refused. Pure.

use std::collections::BTreeMap;

use super::bindings::types::{Setting, SettingValue};
use super::config::Settings;
use super::guest::SettingInfo;

/// Longer lists make every call dearer (they are sent with each): match by prefix instead.
const MAX_TEXTS: usize = 256;

/// All settings of a policy, sorted by key, or every mistake.
pub(super) fn complete(known: &[SettingInfo], given: &Settings) -> Result<Vec<Setting>, Vec<String>> {
    let mut problems = Vec::new();
    let mut values: BTreeMap<String, SettingValue> = known
        .iter()
        .filter(|info| !is_table(&info.key))
        .filter_map(|info| Some((info.key.clone(), info.default_value.clone()?)))
        .collect();
    for (key, value) in &given.0 {
        let Some(info) = known.iter().find(|info| names(&info.key, key)) else {
            let mut keys: Vec<&str> = known.iter().map(|info| info.key.as_str()).collect();
            keys.sort_unstable();
            let keys = if keys.is_empty() { "it has none".to_owned() } else { keys.join(", ") };
            problems.push(format!("`{key}` is unknown (known: {keys})"));
            continue;
        };
        match fit(SettingValue::from(value), info.default_value.as_ref()) {
            Ok(value) => {
                values.insert(key.clone(), value);
            }
            Err(problem) => problems.push(format!("`{key}` {problem}")),
        }
    }
    for info in known {
        if info.default_value.is_none() && !is_table(&info.key) && !given.0.contains_key(&info.key) {
            problems.push(format!("`{}` must be given", info.key));
        }
    }
    if problems.is_empty() {
        Ok(values.into_iter().map(|(key, value)| Setting { key, value }).collect())
    } else {
        Err(problems)
    }
}

/// Settings as they are given, for the built-in, which has no `describe`: nothing is filled in or checked.
pub(super) fn as_given(settings: &Settings) -> Vec<Setting> {
    settings.0.iter().map(|(key, value)| Setting { key: key.clone(), value: value.into() }).collect()
}

fn is_table(key: &str) -> bool {
    key.ends_with(".*")
}

/// Whether `known` (`limit`, or `quota.*`) is what `key` is called.
pub(super) fn names(known: &str, key: &str) -> bool {
    match known.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') => key.len() > prefix.len() && key.starts_with(prefix),
        _ => known == key,
    }
}

fn fit(value: SettingValue, like: Option<&SettingValue>) -> Result<SettingValue, String> {
    if let SettingValue::Texts(texts) = &value
        && texts.len() > MAX_TEXTS
    {
        return Err(format!("has {} entries, more than {MAX_TEXTS}: match by prefix instead", texts.len()));
    }
    let Some(like) = like else { return Ok(value) };
    match (value, like) {
        // `2` where a decimal is expected: people do not write `2.0`.
        (SettingValue::Integer(whole), SettingValue::Decimal(_)) => whole
            .checked_mul(1_000_000)
            .map(SettingValue::Decimal)
            .ok_or_else(|| format!("is {whole}, which is too large")),
        (value, like) if std::mem::discriminant(&value) == std::mem::discriminant(like) => Ok(value),
        (value, like) => Err(format!("must be {}, not {}", kind(like), kind(&value))),
    }
}

fn kind(value: &SettingValue) -> &'static str {
    match value {
        SettingValue::Text(_) => "a text",
        SettingValue::Integer(_) => "a whole number",
        SettingValue::Decimal(_) => "a number",
        SettingValue::Flag(_) => "true or false",
        SettingValue::Texts(_) => "a list of texts",
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::SettingValue as Given;
    use super::*;

    fn known() -> Vec<SettingInfo> {
        let info = |key: &str, default_value| SettingInfo {
            key: key.to_owned(),
            default_value,
            help: String::new(),
        };
        vec![
            info("strategy", Some(SettingValue::Text("usual".into()))),
            info("fraction", Some(SettingValue::Decimal(500_000))),
            info("quota.*", None),
            info("token", None),
        ]
    }

    fn given(settings: &[(&str, Given)]) -> Settings {
        Settings(settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    #[test]
    fn defaults_are_filled_in_and_keys_come_sorted() {
        let settings = given(&[
            ("token", Given::Text("x".into())),
            ("quota.alice", Given::Integer(3)),
            ("fraction", Given::Integer(2)),
        ]);
        let complete = complete(&known(), &settings).unwrap();
        let shown: Vec<String> = complete.iter().map(|s| format!("{}={:?}", s.key, s.value)).collect();
        assert_eq!(
            shown,
            [
                "fraction=SettingValue::Decimal(2000000)",
                "quota.alice=SettingValue::Integer(3)",
                "strategy=SettingValue::Text(\"usual\")",
                "token=SettingValue::Text(\"x\")"
            ]
        );
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let settings = given(&[
            ("strategy", Given::Integer(3)),
            ("quota.", Given::Integer(3)),
            ("colour", Given::Flag(true)),
        ]);
        assert_eq!(
            complete(&known(), &settings).unwrap_err(),
            [
                "`colour` is unknown (known: fraction, quota.*, strategy, token)",
                "`quota.` is unknown (known: fraction, quota.*, strategy, token)",
                "`strategy` must be a text, not a whole number",
                "`token` must be given",
            ]
        );
    }
}
