//! Reads values out of the merged layers and remembers every mistake, every key that was asked for and its
//! effective value.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::Figment;
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml_edit::ImDocument;

use super::shown::{Effective, Origin, Remark, Report};
use super::{ConfigError, reference};

/// See the module documentation.
pub(super) struct Reader {
    values: Dict,
    file: Option<PathBuf>,
    text: String,
    /// Keys that the environment or a flag has set, the strongest layer of each.
    stronger: BTreeMap<String, Origin>,
    known: Vec<String>,
    effective: BTreeMap<String, serde_json::Value>,
    mistakes: Vec<Remark>,
}

impl Reader {
    pub(super) fn new(
        figment: &Figment,
        file: Option<PathBuf>,
        text: String,
        stronger: BTreeMap<String, Origin>,
    ) -> Result<Self, ConfigError> {
        let values = figment.extract::<Dict>().map_err(|error| ConfigError::Syntax {
            path: file.clone().unwrap_or_default(),
            line: None,
            problem: error.to_string().trim().replace('\n', " "),
        })?;
        let (known, effective, mistakes) = (Vec::new(), BTreeMap::new(), Vec::new());
        Ok(Self { values, file, text, stronger, known, effective, mistakes })
    }

    /// Whether a key or table is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The value of `key`, or `default` when it is absent or wrong (then the mistake is remembered).
    pub(super) fn get<T: DeserializeOwned + Serialize>(&mut self, key: &str, default: T) -> T {
        let value = self.read(key).unwrap_or(default);
        self.note(key, &value);
        value
    }

    /// The value of `key`; none when it is absent or wrong.
    pub(super) fn optional<T: DeserializeOwned + Serialize>(&mut self, key: &str) -> Option<T> {
        let value = self.read(key);
        self.note(key, &value);
        value
    }

    /// The value of `key` as it is written, parsed; `default` when it is absent or wrong, written in the same
    /// way for people.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        default: (T, &str),
    ) -> T {
        let text = match self.find(key) {
            Some(Value::Num(_, number)) => {
                number.to_i128().map(|n| n.to_string()).or_else(|| number.to_u128().map(|n| n.to_string()))
            }
            _ => None,
        };
        let text = match text {
            Some(text) => {
                self.known.push(key.to_owned());
                Some(text)
            }
            None => self.read::<String>(key),
        };
        self.note(key, &text.as_deref().unwrap_or(default.1));
        match text.as_deref().map(parse) {
            None => default.0,
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.mistake(key, &error.to_string());
                default.0
            }
        }
    }

    /// Remembers the effective value of `key`, a table by its keys.
    pub(super) fn note(&mut self, key: &str, value: &impl Serialize) {
        // What has no JSON form is shown as not set.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.note_json(key, value);
    }

    fn note_json(&mut self, key: &str, value: serde_json::Value) {
        match value {
            serde_json::Value::Object(table) if !table.is_empty() => {
                for (part, value) in table {
                    self.note_json(&format!("{key}.{part}"), value);
                }
            }
            value => {
                self.effective.insert(key.to_owned(), value);
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        self.known.push(key.to_owned());
        match self.find(key)?.deserialize() {
            Ok(value) => Some(value),
            Err(error) => {
                let problem = error.to_string();
                let problem = problem.split(" for key ").next().unwrap_or(&problem).to_owned();
                self.mistake(key, &problem);
                None
            }
        }
    }

    /// Every key below `key` counts as known: another type reads and checks the table.
    pub(super) fn whole(&mut self, key: &str) {
        self.known.push(format!("{key}.*"));
    }

    /// Remembers that the value of `key` is wrong.
    pub(super) fn mistake(&mut self, key: &str, problem: &str) {
        self.mistakes.push(Remark { place: self.place(key), text: format!("{key}: {problem}") });
    }

    /// Where `key` stands: `agent.toml:12`, or what set it instead.
    pub(super) fn place(&self, key: &str) -> String {
        self.origin(key).to_string()
    }

    /// What gave `key` its value.
    fn origin(&self, key: &str) -> Origin {
        if let Some(origin) = self.stronger.get(key) {
            return origin.clone();
        }
        match (&self.file, self.line(key)) {
            (Some(file), Some(line)) => Origin::File { file: file.clone(), line },
            // A table that is there by one of its keys.
            _ => {
                let within = format!("{key}.");
                let part = self.stronger.iter().find(|(other, _)| other.starts_with(&within));
                part.map_or(Origin::Default, |(_, origin)| origin.clone())
            }
        }
    }

    fn line(&self, key: &str) -> Option<usize> {
        let document = ImDocument::parse(self.text.as_str()).ok()?;
        let mut item = document.as_item();
        let mut span = None;
        for part in key.split('.') {
            let table = item.as_table_like()?;
            let (found, value) = [part.to_owned(), part.replace('-', "_")]
                .into_iter()
                .find_map(|p| Some((p.clone(), table.get(&p)?)))?;
            span = table.key(&found).and_then(toml_edit::Key::span).or_else(|| value.span());
            item = value;
        }
        let start = span?.start;
        Some(self.text.get(..start)?.bytes().filter(|byte| *byte == b'\n').count() + 1)
    }

    /// A value by dotted path, kebab-case or snake_case.
    fn find(&self, key: &str) -> Option<Value> {
        let mut parts = key.split('.');
        let first = parts.next()?;
        let mut value = lookup(&self.values, first)?;
        for part in parts {
            value = match value {
                Value::Dict(_, dict) => lookup(dict, part)?,
                _ => return None,
            };
        }
        Some(value.clone())
    }

    /// Everything that was found.
    pub(super) fn finish(self) -> Report {
        let mut present = Vec::new();
        leaves(&self.values, "", &mut present);
        let (mut unknown, mut without_effect) = (Vec::new(), Vec::new());
        for key in present {
            let known = self.known.iter().any(|known| match known.strip_suffix(".*") {
                Some(table) => key == table || key.starts_with(&format!("{table}.")),
                None => *known == key,
            });
            if known {
                continue;
            }
            if reference::is_known(&key) {
                without_effect.push((self.place(&key), key));
            } else {
                let nearest = nearest(
                    &key,
                    self.known.iter().map(String::as_str).chain(reference::KEYS.iter().copied()),
                );
                let hint = nearest.map_or(String::new(), |near| format!("; did you mean {near}?"));
                unknown.push(Remark { place: self.place(&key), text: format!("{key} is not known{hint}") });
            }
        }
        let effective =
            self.effective.iter().map(|(key, value)| Effective::new(key, value.clone(), self.origin(key)));
        Report { effective: effective.collect(), mistakes: self.mistakes, unknown, without_effect }
    }
}

fn lookup<'a>(dict: &'a Dict, key: &str) -> Option<&'a Value> {
    dict.get(key).or_else(|| dict.get(&key.replace('-', "_")))
}

fn leaves(dict: &Dict, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in dict {
        let path = format!("{prefix}{}", key.replace('_', "-"));
        match value {
            Value::Dict(_, inner) if !inner.is_empty() => leaves(inner, &format!("{path}."), out),
            _ => out.push(path),
        }
    }
}

/// The known key that is at most three edits away.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known.map(|k| (distance(key, k), k)).filter(|(d, _)| *d <= 3).min().map(|(_, k)| k.to_owned())
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
