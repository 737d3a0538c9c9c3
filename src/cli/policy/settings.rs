//! `berth policy set`, and settings as files and as words on the command line.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};

use super::steps;
use super::swap::{outcome_text, world_named};
use crate::cli::Context;
use crate::cli::client::json;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::control::policy_api::SetBody;
use crate::policy::{Settings, WorldKind};

/// Give the policy that decides other settings, from the next decision on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy set scheduler strategy=spread
  berth policy set scheduler quota.alice=2 'names=[\"a\", \"b\"]' --unset quota.bob
  berth policy set scheduler --configured           those of agent.toml again

The rest of its settings stays as it is. All mistakes are told at once and then nothing changes. Where
the last decisions would have been others, they are shown and nothing changes without --accept-diff.
`berth policy rollback WORLD` goes back to the settings before; `berth policy show WORLD` tells which
are set, and where each comes from. They are kept over restarts and win over agent.toml.")]
pub(super) struct Set {
    /// Begin with the settings of agent.toml, and not with those that it has
    #[arg(long)]
    configured: bool,
    /// Take a setting away: its default holds (may be given more than once)
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Although the last decisions would have been others
    #[arg(long)]
    accept_diff: bool,
    /// Which member of the container-config chain, from 0 [default: the only one]
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// slot-reporter, scheduler or container-config
    #[arg(value_name = "WORLD", value_parser = world_named)]
    world: WorldKind,
    /// New values, as in agent.toml; a word needs no quotes
    #[arg(value_name = "KEY=VALUE")]
    values: Vec<String>,
    #[command(flatten)]
    output: Output,
}

impl Set {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        if self.values.is_empty() && self.unset.is_empty() && !self.configured {
            return Err(
                CliError::usage("nothing to set").with_hint("give KEY=VALUE, --unset KEY, or --configured")
            );
        }
        let mut set = Settings::default();
        for word in &self.values {
            set.0.extend(value(word)?.0);
        }
        let body = SetBody {
            world: self.world,
            link: self.link,
            set,
            unset: self.unset,
            from_configured: self.configured,
            accept_diff: self.accept_diff,
            reason: self.reason,
        };
        let outcome = steps::outcome(context, "/v1/policies/settings", json(&body)?, self.output).await?;
        self.output.print(&outcome, outcome_text)
    }
}

/// The settings of a TOML file: a table as `[policy.scheduler.settings]` has it.
pub(super) fn from_file(path: &Path) -> Result<Settings, CliError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::new(format!("{shown} cannot be read: {error}"))
            .with_hint("name a TOML file with KEY = VALUE lines")
    })?;
    read(&text).map_err(|problem| {
        CliError::new(format!("{shown} holds no settings: {problem}")).with_code("bad-settings").with_hint(
            "write KEY = VALUE a line: texts, numbers, true or false, lists of texts, tables of these",
        )
    })
}

fn read(toml: &str) -> Result<Settings, String> {
    // figment says what is no setting, but not well what is no TOML.
    let problem = |error: toml_edit::TomlError| error.message().trim().replace('\n', ", ");
    toml_edit::ImDocument::parse(toml).map_err(problem)?;
    let settings: Settings =
        Figment::from(Toml::string(toml)).extract().map_err(|error: figment::Error| error.to_string())?;
    // As which figment hands on what TOML has and settings have not.
    match settings.0.keys().find(|key| key.contains("$__toml_private")) {
        Some(key) => Err(format!("{} is a date; write it as a text", key.split('.').next().unwrap_or(key))),
        None => Ok(settings),
    }
}

/// The same of a file that may have been named.
pub(super) fn of(path: Option<&PathBuf>) -> Result<Option<Settings>, CliError> {
    path.map(|path| from_file(path)).transpose()
}

/// `KEY=VALUE`: the value as TOML has it, or a text as it stands.
fn value(word: &str) -> Result<Settings, CliError> {
    let (key, text) = word.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| {
        CliError::usage(format!("{word:?} gives no setting a value")).with_hint("write it as KEY=VALUE")
    })?;
    let toml = format!("value = {text}");
    let settings = match read(&toml) {
        Ok(settings) => settings,
        // What is no TOML is a word; what is, but no setting, says why.
        Err(_) if toml_edit::ImDocument::parse(&toml).is_err() => {
            let text = crate::policy::SettingValue::Text(text.to_owned());
            Settings([("value".to_owned(), text)].into())
        }
        Err(problem) => return Err(CliError::usage(format!("{key}: {problem}"))),
    };
    let named = |found: String| found.replacen("value", key.trim(), 1);
    Ok(Settings(settings.0.into_iter().map(|(found, value)| (named(found), value)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SettingValue;

    fn check(word: &str, expected: &[(&str, SettingValue)]) {
        let found = value(word).unwrap().0;
        let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        assert_eq!(found, expected, "{word}");
    }

    #[test]
    fn values_are_those_of_toml_and_words_are_texts() {
        check("strategy=spread", &[("strategy", SettingValue::Text("spread".into()))]);
        check("strategy=\"3\"", &[("strategy", SettingValue::Text("3".into()))]);
        check("quota.alice=2", &[("quota.alice", SettingValue::Integer(2))]);
        check("fraction = 0.25", &[("fraction", SettingValue::Decimal(250_000))]);
        check("numa=true", &[("numa", SettingValue::Flag(true))]);
        check("names=[\"a\", \"b\"]", &[("names", SettingValue::Texts(vec!["a".into(), "b".into()]))]);
        check("quota={ann=1}", &[("quota.ann", SettingValue::Integer(1))]);
        check("url=http://x/y=z", &[("url", SettingValue::Text("http://x/y=z".into()))]);
        assert_eq!(value("strategy").unwrap_err().code, "usage");
        assert!(value("x=0.1234567").unwrap_err().message.contains("six decimals"));
    }

    #[test]
    fn a_file_is_a_table_of_settings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.toml");
        std::fs::write(&file, "limit = 3\n[quota]\nann = 1\n").unwrap();
        assert_eq!(from_file(&file).unwrap().0.keys().collect::<Vec<_>>(), ["limit", "quota.ann"]);
        std::fs::write(&file, "limit = 1979-05-27\n").unwrap();
        assert_eq!(from_file(&file).unwrap_err().code, "bad-settings");
        assert!(from_file(&dir.path().join("none")).unwrap_err().message.contains("cannot be read"));
    }
}
