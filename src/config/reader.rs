//! Reads values out of the merged layers and remembers every mistake and every key that was asked for.

use std::path::PathBuf;

use figment::Figment;
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;
use toml_edit::ImDocument;

use super::{ConfigError, reference};

/// See the module documentation.
pub(super) struct Reader {
    values: Dict,
    file: Option<PathBuf>,
    text: String,
    known: Vec<String>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

impl Reader {
    pub(super) fn new(figment: &Figment, file: Option<PathBuf>, text: String) -> Result<Self, ConfigError> {
        let values = figment.extract::<Dict>().map_err(|error| ConfigError::Syntax {
            path: file.clone().unwrap_or_default(),
            problem: error.to_string().trim().replace('\n', " "),
        })?;
        Ok(Self { values, file, text, known: Vec::new(), mistakes: Vec::new(), warnings: Vec::new() })
    }

    /// Whether a key or table is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The value of `key`, or `default` when it is absent or wrong (then the mistake is remembered).
    pub(super) fn get<T: DeserializeOwned>(&mut self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of `key`; none when it is absent or wrong.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
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

    /// The value of `key`, parsed; a failure to parse is remembered as a mistake.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = match self.find(key)? {
            Value::Num(_, number) => {
                number.to_i128().map(|n| n.to_string()).or_else(|| number.to_u128().map(|n| n.to_string()))
            }
            _ => None,
        };
        let text = match text {
            Some(text) => {
                self.known.push(key.to_owned());
                text
            }
            None => self.optional::<String>(key)?,
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(key, &error.to_string());
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
        let line = format!("{}: {key}: {problem}", self.place(key));
        self.mistakes.push(line);
    }

    /// Where `key` stands: `agent.toml:12`, or `flags or environment`.
    pub(super) fn place(&self, key: &str) -> String {
        let Some(file) = &self.file else { return "flags or environment".to_owned() };
        match self.line(key) {
            Some(line) => format!("{}:{line}", file.display()),
            None => "flags or environment".to_owned(),
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

    /// The warnings, or every mistake.
    pub(super) fn finish(mut self) -> Result<Vec<String>, ConfigError> {
        let mut present = Vec::new();
        leaves(&self.values, "", &mut present);
        let mut without_effect = Vec::new();
        for key in present {
            let known = self.known.iter().any(|known| match known.strip_suffix(".*") {
                Some(table) => key == table || key.starts_with(&format!("{table}.")),
                None => *known == key,
            });
            if known || key.starts_with("etcd.") {
                continue;
            }
            if reference::is_known(&key) {
                without_effect.push(key);
            } else {
                let nearest = nearest(
                    &key,
                    self.known.iter().map(String::as_str).chain(reference::KEYS.iter().copied()),
                );
                let hint = nearest.map_or(String::new(), |near| format!("; did you mean {near}?"));
                self.warnings.push(format!("{}: {key} is not known{hint}", self.place(&key)));
            }
        }
        if !without_effect.is_empty() {
            self.warnings.push(format!("these keys have no effect here: {}", without_effect.join(", ")));
        }
        if self.mistakes.is_empty() { Ok(self.warnings) } else { Err(ConfigError::Mistakes(self.mistakes)) }
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
