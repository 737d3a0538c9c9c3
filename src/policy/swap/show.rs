//! What `berth policy show` tells: what a policy says of itself, what it is given, and what happened to it.

use serde::{Deserialize, Serialize};

use super::{
    Choice, Chosen, Digest, Event, Member, ModuleRow, Policy, Slot, Swap, SwapError, WorldKind, slot_of,
};
use crate::amount;
use crate::policy::bindings::types::SettingValue;
use crate::policy::trust::Signer;
use crate::policy::{PolicyConfig, PolicyView, slot};

/// A slot with who is active in it, or a module that was pushed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The world.
    pub world: WorldKind,
    /// The member of its chain.
    pub link: usize,
    /// Name; `builtin` for the built-in.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest; none for the built-in.
    pub digest: Option<Digest>,
    /// What it says of itself.
    pub summary: String,
    /// `active`, `last-good`, or `pushed`: waiting to be activated.
    pub state: String,
    /// When and by whom it was pushed, if it was.
    pub pushed: Option<ModuleRow>,
    /// Who signed it, if somebody did.
    #[serde(default)]
    pub signer: Option<Signer>,
    /// Its settings, as it gets them.
    pub settings: Vec<SettingShown>,
    /// Edits that it needs to be granted.
    pub needs: Vec<String>,
    /// Edits that it is granted.
    pub grants: Vec<String>,
    /// Image labels that it is shown.
    pub image_labels: Vec<String>,
    /// Why it would not load here now.
    pub problem: Option<String>,
    /// Calls and failures, of the active one.
    pub calls: Option<PolicyView>,
    /// What a rollback leads to, next first.
    pub earlier: Vec<String>,
    /// What happened in the slot, oldest first.
    pub history: Vec<Event>,
}

/// A setting as a policy gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingShown {
    /// Its key; `quota.*` stands for a table.
    pub key: String,
    /// Its value; none where a table is empty.
    pub value: Option<String>,
    /// What the policy says about it.
    pub help: String,
    /// Where the value comes from: `default`, `agent.toml`, or `set` by an operator.
    #[serde(default)]
    pub origin: String,
}

impl Swap {
    /// What is active in a world (all members of its chain unless one is named), or a pushed module.
    ///
    /// # Errors
    /// When there is no such world, link or module.
    pub async fn show(&self, text: &str, link: Option<usize>) -> Result<Vec<Shown>, SwapError> {
        let world = super::super::WORLDS.into_iter().find(|world| world.to_string() == text);
        let Some(world) = world else {
            return self.show_module(text, link).await.map(|shown| vec![shown]);
        };
        if let Some(link) = link {
            slot_of(&self.inner.policy, world, link)?;
        }
        let mut shown = Vec::new();
        for slot in self.inner.policy.host.chain(world) {
            if link.is_none_or(|link| link == slot.link) {
                shown.push(self.show_slot(slot).await);
            }
        }
        Ok(shown)
    }

    async fn show_slot(&self, slot: &Slot) -> Shown {
        let line = slot.line();
        let view = slot.view();
        let base = self.about_slot(slot, view.digest).await;
        let shown = Shown {
            name: view.name.clone(),
            version: view.version.clone(),
            digest: view.digest,
            summary: view.summary.clone(),
            state: "active".to_owned(),
            calls: Some(view),
            ..base
        };
        of_member(shown, &line.active, &line.config)
    }

    async fn show_module(&self, text: &str, link: Option<usize>) -> Result<Shown, SwapError> {
        let module = self.find(text).await?;
        let slot = slot_of(&self.inner.policy, module.world, link.unwrap_or(module.link))?;
        let line = slot.line();
        let choice = Choice::Pushed(module.digest);
        if line.active.chosen.choice == choice {
            return Ok(self.show_slot(slot).await);
        }
        let base = self.about_slot(slot, Some(module.digest)).await;
        let shown = Shown {
            name: module.name.clone(),
            version: module.version.clone(),
            digest: Some(module.digest),
            summary: module.summary.clone(),
            ..base
        };
        if let Some(last_good) = line.last_good.as_ref().filter(|last| last.chosen.choice == choice) {
            let shown = Shown { state: "last-good".to_owned(), ..shown };
            return Ok(of_member(shown, last_good, &line.config));
        }
        let chosen = Chosen { choice, settings: None };
        Ok(match self.member(slot.world, slot.link, chosen).await {
            Ok(member) => of_member(shown, &member, &line.config),
            Err(error) => Shown { problem: Some(error.to_string()), ..shown },
        })
    }

    async fn about_slot(&self, slot: &Slot, digest: Option<Digest>) -> Shown {
        let books = self.inner.books.lock().await;
        let row = books.row(slot.world, slot.link);
        let name = |chosen: &Chosen| {
            let with = if chosen.settings.is_some() { " with settings of its own" } else { "" };
            match slot::digest_of(chosen.choice) {
                None => format!("as configured{with}"),
                Some(digest) => {
                    let module = books.modules.iter().find(|module| module.digest == digest);
                    let name = module.map_or("?", |module| module.name.as_str());
                    format!("{name} ({}){with}", digest.short())
                }
            }
        };
        Shown {
            world: slot.world,
            link: slot.link,
            name: String::new(),
            version: String::new(),
            digest: None,
            summary: String::new(),
            state: "pushed".to_owned(),
            pushed: books.modules.iter().find(|module| Some(module.digest) == digest).cloned(),
            signer: None,
            settings: Vec::new(),
            needs: Vec::new(),
            grants: Vec::new(),
            image_labels: Vec::new(),
            problem: None,
            calls: None,
            earlier: row.earlier.iter().rev().map(name).collect(),
            history: row.history,
        }
    }
}

fn of_member(shown: Shown, member: &Member, config: &PolicyConfig) -> Shown {
    match &member.policy {
        Some(policy) => of_policy(shown, policy, &member.chosen, config),
        None => shown,
    }
}

fn of_policy(shown: Shown, policy: &Policy, chosen: &Chosen, config: &PolicyConfig) -> Shown {
    let origin = |key: &str| match &chosen.settings {
        Some(settings) if settings.0.contains_key(key) => "set",
        None if config.settings.0.contains_key(key) => "agent.toml",
        _ => "default",
    };
    let mut settings: Vec<SettingShown> = policy
        .settings
        .iter()
        .map(|setting| {
            let table =
                |known: &str| known.strip_suffix('*').is_some_and(|prefix| setting.key.starts_with(prefix));
            let known = policy.known.iter().find(|known| known.key == setting.key || table(&known.key));
            SettingShown {
                key: setting.key.clone(),
                value: Some(spell(&setting.value)),
                help: known.map_or_else(String::new, |known| known.help.clone()),
                origin: origin(&setting.key).to_owned(),
            }
        })
        .collect();
    let empty = policy.known.iter().filter(|known| known.key.ends_with(".*"));
    settings.extend(empty.map(|known| SettingShown {
        key: known.key.clone(),
        value: None,
        help: known.help.clone(),
        origin: "default".to_owned(),
    }));
    Shown {
        settings,
        signer: policy.signer.clone(),
        needs: policy.needs.clone(),
        grants: policy.terms.grants.to_vec(),
        image_labels: policy.terms.image_labels.clone(),
        ..shown
    }
}

/// A setting as one writes it in `agent.toml`.
fn spell(value: &SettingValue) -> String {
    match value {
        SettingValue::Text(text) => format!("{text:?}"),
        SettingValue::Integer(number) => number.to_string(),
        SettingValue::Decimal(millionths) => {
            let sign = if *millionths < 0 { "-" } else { "" };
            format!("{sign}{}", amount::format_count(millionths.unsigned_abs()))
        }
        SettingValue::Flag(flag) => flag.to_string(),
        SettingValue::Texts(texts) => format!("{texts:?}"),
    }
}
