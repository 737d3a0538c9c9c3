//! `berth policy inspect`: what a module is, before anybody pushes it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::author::{binary, count, module_and_fixtures};
use crate::amount;
use crate::cli::client::{Agent, escaped};
use crate::cli::error::CliError;
use crate::cli::output::{Output, world};
use crate::policy::Workshop;
use crate::policy::author::{self, AuthorError, Inspected};

/// Show what a module is: its world, settings, needs, size, imports and fixtures
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy inspect gpu-quota.wasm           a file; no agent is needed
  berth policy inspect ./gpu-quota              a project that was built
  berth policy inspect 3fa1c2                   a module that was pushed, by 6 digits of its digest
  berth policy inspect gpu-quota -o json        the one of that name that was pushed last

The module is checked, compiled and asked what it is, as an agent does it; what would keep an agent
from loading it is the error. `berth policy show` tells what an agent makes of it: the settings and
grants it has there, and what happened to it.")]
pub(super) struct Inspect {
    /// A module's file, or a project as ./DIR; or digest or name of a module that was pushed
    #[arg(value_name = "FILE|DIGEST|NAME")]
    module: String,
    #[command(flatten)]
    output: Output,
}

impl Inspect {
    /// What lies on this machine.
    fn file(&self) -> Option<PathBuf> {
        let path = Path::new(&self.module);
        let is_path = path.is_file()
            || self.module == "."
            || self.module.contains('/')
            || self.module.ends_with(".wasm");
        is_path.then(|| path.to_owned())
    }

    pub(super) fn run(self, socket: Option<PathBuf>) -> Result<(), CliError> {
        let bytes = match self.file() {
            Some(path) => author::read(&module_and_fixtures(&path, None)?.0)?,
            None => {
                let path = format!("/v1/policies/module?of={}", escaped(&self.module));
                let agent = Agent::at(socket)?;
                super::super::talk(async { agent.bytes(&path).await })?
            }
        };
        let inspected =
            author::inspect(self.module, bytes, &Workshop::of_user()).map_err(AuthorError::from)?;
        self.output.print(&inspected, text)
    }
}

/// The line above what was found out about a module.
pub(super) fn head(policy: &Inspected) -> String {
    format!("{} {} ({}) for {}\n", policy.name, policy.version, policy.digest.short(), world(policy.world))
}

fn text(policy: &Inspected) -> String {
    let mut lines = vec![
        ("name", format!("{} {}", policy.name, policy.version)),
        ("world", format!("{} of {}", world(policy.world), policy.interface)),
        ("about", policy.summary.clone()),
        ("digest", policy.digest.to_string()),
        ("size", format!("{} bytes", policy.bytes)),
        (
            "memory",
            format!(
                "{} when a call begins; an agent gives it {} unless told otherwise",
                binary(policy.memory_at_start),
                binary(policy.memory_limit)
            ),
        ),
        ("imports", if policy.imports.is_empty() { "nothing".to_owned() } else { policy.imports.join(", ") }),
    ];
    for setting in &policy.settings {
        let table = setting.key.ends_with(".*");
        let value = match &setting.default {
            Some(default) => format!("{} = {}", setting.key, default_of(default)),
            None if table => format!("{} (a table)", setting.key),
            None => format!("{} (must be given)", setting.key),
        };
        lines.push(("setting", format!("{value}  {}", setting.help).trim_end().to_owned()));
    }
    if !policy.needs.is_empty() {
        lines.push(("needs", format!("{} (the operator must grant them)", policy.needs.join(", "))));
    }
    if !policy.image_labels.is_empty() {
        lines.push(("labels", format!("sees the image labels {}", policy.image_labels.join(", "))));
    }
    let fixtures = match (policy.packed, policy.cases) {
        (false, _) => "none, and no manifest: `berth policy pack` writes one".to_owned(),
        (true, 0) => "none".to_owned(),
        (true, cases) => format!("{} in {}", count(cases, "case"), policy.fixtures.join(", ")),
    };
    lines.push(("fixtures", fixtures));
    lines.push(("signature", if policy.signed { "there is one" } else { "none" }.to_owned()));
    lines.into_iter().map(|(what, value)| format!("{what:<9} {value}\n")).collect()
}

/// A setting's default as one writes it in `agent.toml`.
fn default_of(default: &Value) -> String {
    match default.as_object().and_then(|cases| cases.iter().next()) {
        Some((kind, millionths)) if kind == "decimal" => {
            let millionths = millionths.as_i64().unwrap_or_default();
            let sign = if millionths < 0 { "-" } else { "" };
            format!("{sign}{}", amount::format_count(millionths.unsigned_abs()))
        }
        Some((_, value)) => value.to_string(),
        None => default.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_module_is_shown_with_all_that_it_says() {
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/container-config.wasm");
        let shown =
            author::inspect("x".to_owned(), std::fs::read(module).unwrap(), &Workshop::IN_MEMORY).unwrap();
        let same = Inspected { digest: crate::ids::Digest::of(b"module"), bytes: 6, ..shown };
        let packed = Inspected {
            packed: true,
            fixtures: vec!["a.json".to_owned(), "b.json".to_owned()],
            cases: 3,
            signed: true,
            image_labels: vec!["ai.berth.*".to_owned()],
            settings: Vec::new(),
            needs: Vec::new(),
            ..same.clone()
        };
        insta::assert_snapshot!([text(&same), text(&packed)].join("\n"));
    }

    #[test]
    fn defaults_are_spelt_as_in_the_configuration() {
        let check = |json: Value, expected: &str| assert_eq!(default_of(&json), expected);
        check(json!({"decimal": 250_000}), "0.25");
        check(json!({"decimal": -1_500_000}), "-1.5");
        check(json!({"text": "a"}), "\"a\"");
        check(json!({"texts": ["a", "b"]}), "[\"a\",\"b\"]");
        check(json!({"flag": true}), "true");
    }
}
