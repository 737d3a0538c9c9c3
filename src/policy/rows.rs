//! What the store keeps of the policies: which one an operator made active, what came before it, who did what
//! when, and what was pushed. The modules themselves are files ([`super::shelf`]). Pure.

use serde::{Deserialize, Serialize};

use super::{PolicyFault, Settings, WorldKind};
use crate::ids::Digest;
use crate::store::Record;

/// Earlier choices that can be rolled back to.
const EARLIER: usize = 8;
/// Events kept per slot.
const HISTORY: usize = 64;

/// What is active in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// What `[policy]` of `agent.toml` says.
    Configured,
    /// A module that was pushed.
    Pushed(Digest),
}

/// A choice with the settings that it is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Which.
    pub choice: Choice,
    /// Settings that an operator gave it; none: those of its world's section in `agent.toml`.
    #[serde(default)]
    pub settings: Option<Settings>,
}

impl Chosen {
    /// What `agent.toml` says, settings too.
    pub const CONFIGURED: Self = Self { choice: Choice::Configured, settings: None };
}

/// What was done to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Made active.
    Activated,
    /// Made active because it was so before.
    RolledBack,
    /// Not asked any more: it failed too often.
    Demoted,
    /// Given other settings.
    Set,
    /// Taken from `agent.toml` when that was read again.
    Reloaded,
    /// Asked beside the active one, its answers compared.
    Shadowed,
    /// Not asked beside the active one any more.
    ShadowEnded,
}

/// One line of a slot's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Who did it; none: the agent.
    pub uid: Option<u32>,
    /// What was done.
    pub act: Act,
    /// With which.
    pub choice: Choice,
    /// Its name then.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of its module; none for the built-in.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Why, in somebody's words.
    pub reason: Option<String>,
}

/// A policy that is asked beside the active one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRow {
    /// Which, and with which settings.
    pub chosen: Chosen,
    /// Unix time in milliseconds.
    pub since_ms: u64,
    /// Who wanted it.
    pub uid: Option<u32>,
}

/// One slot: a world, or a member of its chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotRow {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain, from 0.
    pub link: usize,
    /// What an operator wants active.
    pub active: Chosen,
    /// What was active before, oldest first; the last one is the last good.
    pub earlier: Vec<Chosen>,
    /// Modules that failed too often since somebody last decided about them.
    pub demoted: Vec<Demoted>,
    /// What happened, oldest first.
    pub history: Vec<Event>,
    /// Who is asked beside it.
    #[serde(default)]
    pub shadow: Option<ShadowRow>,
}

/// A module that is not asked any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demoted {
    /// Which.
    pub digest: Digest,
    /// The last failure.
    pub fault: PolicyFault,
}

impl SlotRow {
    /// A slot that nobody has touched.
    #[must_use]
    pub fn untouched(world: WorldKind, link: usize) -> Self {
        Self {
            world,
            link,
            active: Chosen::CONFIGURED,
            earlier: Vec::new(),
            demoted: Vec::new(),
            history: Vec::new(),
            shadow: None,
        }
    }

    /// Makes `chosen` active. `works`: what is running now, where it may be rolled back to.
    pub fn activate(&mut self, chosen: Chosen, works: Option<Chosen>) {
        self.earlier.extend(works);
        self.earlier.retain(|earlier| *earlier != chosen);
        self.keep_newest();
        self.pardon(chosen.choice);
        self.active = chosen;
    }

    /// Makes active what was so before; none: nothing was.
    pub fn roll_back(&mut self) -> Option<Chosen> {
        let chosen = self.earlier.pop()?;
        self.pardon(chosen.choice);
        self.active = chosen.clone();
        Some(chosen)
    }

    /// What stands on the second rung.
    #[must_use]
    pub fn last_good(&self) -> Option<Chosen> {
        self.earlier.last().cloned()
    }

    /// Whether a module is still to be had for this slot.
    #[must_use]
    pub fn needs(&self, digest: Digest) -> bool {
        let choice = Choice::Pushed(digest);
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.chosen);
        std::iter::once(&self.active).chain(&self.earlier).chain(shadow).any(|chosen| chosen.choice == choice)
    }

    /// Adds to the history.
    pub fn note(&mut self, event: Event) {
        self.history.push(event);
        let too_many = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..too_many);
    }

    fn keep_newest(&mut self) {
        // The same twice in a row is once.
        self.earlier.dedup();
        let too_many = self.earlier.len().saturating_sub(EARLIER);
        self.earlier.drain(..too_many);
    }

    fn pardon(&mut self, choice: Choice) {
        match choice {
            Choice::Pushed(digest) => self.demoted.retain(|demoted| demoted.digest != digest),
            // Whatever the configured one's digest is: those that were pushed are pardoned when they are chosen.
            Choice::Configured => self.demoted.clear(),
        }
    }
}

impl Record for SlotRow {
    const TABLE: &'static str = "policy-slots";
    const VERSION: u32 = 2;

    fn upgrade(version: u32, mut value: serde_json::Value) -> Result<Self, String> {
        if version != 1 {
            return Err(format!("no version {version} of it was ever written"));
        }
        // Version 1 knew no settings but those of agent.toml.
        let chosen = |choice: serde_json::Value| serde_json::json!({ "choice": choice });
        let active = chosen(value["active"].take());
        value["active"] = active;
        if let Some(earlier) = value["earlier"].as_array_mut() {
            for choice in earlier {
                *choice = chosen(choice.take());
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn key(&self) -> String {
        format!("{}/{}", self.world, self.link)
    }
}

/// A module that was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRow {
    /// Digest of its file.
    pub digest: Digest,
    /// Its world.
    pub world: WorldKind,
    /// The member of the chain that it was pushed for.
    pub link: usize,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it says of itself.
    pub summary: String,
    /// Size of its file.
    pub bytes: u64,
    /// Unix time in milliseconds.
    pub pushed_at_ms: u64,
    /// Who pushed it.
    pub uid: u32,
}

impl Record for ModuleRow {
    const TABLE: &'static str = "policy-modules";
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _: serde_json::Value) -> Result<Self, String> {
        Err(format!("no version {version} of it was ever written"))
    }

    fn key(&self) -> String {
        self.digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(name: &str) -> Chosen {
        Chosen { choice: Choice::Pushed(Digest::of(name.as_bytes())), settings: None }
    }

    #[test]
    fn rolling_back_goes_through_what_was_active_and_ends_at_the_configured_one() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        for name in ["a", "b", "c"] {
            row.activate(pushed(name), Some(row.active.clone()));
        }
        assert_eq!(row.last_good(), Some(pushed("b")));
        assert_eq!(row.roll_back(), Some(pushed("b")));
        assert_eq!(row.roll_back(), Some(pushed("a")));
        assert_eq!(row.roll_back(), Some(Chosen::CONFIGURED));
        assert_eq!((row.roll_back(), row.active), (None, Chosen::CONFIGURED));
    }

    #[test]
    fn what_does_not_work_is_never_rolled_back_to() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        row.activate(pushed("a"), Some(Chosen::CONFIGURED));
        row.activate(pushed("b"), None);
        assert_eq!(row.last_good(), Some(Chosen::CONFIGURED));
        // To and fro between two does not fill the list.
        for name in ["a", "b", "a", "b"] {
            row.activate(pushed(name), Some(row.active.clone()));
        }
        assert_eq!(row.earlier, [Chosen::CONFIGURED, pushed("a")]);
    }

    #[test]
    fn lists_stay_short() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        for number in 0..100 {
            let chosen = pushed(&number.to_string());
            row.activate(chosen.clone(), Some(row.active.clone()));
            row.note(Event {
                at_ms: number,
                uid: Some(0),
                act: Act::Activated,
                choice: chosen.choice,
                name: "p".into(),
                version: "1".into(),
                digest: None,
                reason: None,
            });
        }
        assert_eq!((row.earlier.len(), row.history.len()), (EARLIER, HISTORY));
        assert_eq!(row.history.last().unwrap().at_ms, 99);
    }

    #[test]
    fn a_row_of_the_first_version_is_read_and_had_the_settings_of_the_configuration() {
        let digest = Digest::of(b"a");
        let old = serde_json::json!({
            "world": "scheduler", "link": 0, "active": {"pushed": digest.to_string()}, "earlier": ["configured"],
            "demoted": [], "history": [{
                "at_ms": 1, "uid": 0, "act": "activated", "choice": "configured", "name": "p", "version": "1",
                "reason": null
            }],
        });
        let row = SlotRow::upgrade(1, old).unwrap();
        assert_eq!((row.active, row.earlier), (pushed("a"), vec![Chosen::CONFIGURED]));
        assert!(SlotRow::upgrade(3, serde_json::Value::Null).is_err());
    }

    #[test]
    fn other_settings_are_another_choice_to_roll_back_to() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        let value = super::super::SettingValue::Integer(3);
        let settings = Settings([("limit".to_owned(), value)].into());
        let set = Chosen { settings: Some(settings), ..pushed("a") };
        row.activate(pushed("a"), Some(row.active.clone()));
        row.activate(set.clone(), Some(row.active.clone()));
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(serde_json::from_value::<SlotRow>(json).unwrap(), row);
        assert_eq!((row.active.clone(), row.roll_back()), (set, Some(pushed("a"))));
    }
}
