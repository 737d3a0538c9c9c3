//! What the store keeps of the policies: which one an operator made active, what came before it, who did what
//! when, and what was pushed. The modules themselves are files ([`super::shelf`]). Pure.

use serde::{Deserialize, Serialize};

use super::{PolicyFault, WorldKind};
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
    /// Why, in somebody's words.
    pub reason: Option<String>,
}

/// One slot: a world, or a member of its chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotRow {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain, from 0.
    pub link: usize,
    /// What an operator wants active.
    pub active: Choice,
    /// What was active before, oldest first; the last one is the last good.
    pub earlier: Vec<Choice>,
    /// Modules that failed too often since somebody last decided about them.
    pub demoted: Vec<Demoted>,
    /// What happened, oldest first.
    pub history: Vec<Event>,
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
            active: Choice::Configured,
            earlier: Vec::new(),
            demoted: Vec::new(),
            history: Vec::new(),
        }
    }

    /// Makes `choice` active. `works`: what is running now, where it may be rolled back to.
    pub fn activate(&mut self, choice: Choice, works: Option<Choice>) {
        self.earlier.extend(works);
        self.active = choice;
        self.earlier.retain(|earlier| *earlier != choice);
        self.keep_newest();
        self.pardon(choice);
    }

    /// Makes active what was so before; none: nothing was.
    pub fn roll_back(&mut self) -> Option<Choice> {
        let choice = self.earlier.pop()?;
        self.active = choice;
        self.pardon(choice);
        Some(choice)
    }

    /// What stands on the second rung.
    #[must_use]
    pub fn last_good(&self) -> Option<Choice> {
        self.earlier.last().copied()
    }

    /// Whether a module is still to be had for this slot.
    #[must_use]
    pub fn needs(&self, digest: Digest) -> bool {
        let choice = Choice::Pushed(digest);
        self.active == choice || self.earlier.contains(&choice)
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
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _: serde_json::Value) -> Result<Self, String> {
        Err(format!("no version {version} of it was ever written"))
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

    fn pushed(name: &str) -> Choice {
        Choice::Pushed(Digest::of(name.as_bytes()))
    }

    #[test]
    fn rolling_back_goes_through_what_was_active_and_ends_at_the_configured_one() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        for name in ["a", "b", "c"] {
            row.activate(pushed(name), Some(row.active));
        }
        assert_eq!(row.last_good(), Some(pushed("b")));
        assert_eq!(row.roll_back(), Some(pushed("b")));
        assert_eq!(row.roll_back(), Some(pushed("a")));
        assert_eq!(row.roll_back(), Some(Choice::Configured));
        assert_eq!((row.roll_back(), row.active), (None, Choice::Configured));
    }

    #[test]
    fn what_does_not_work_is_never_rolled_back_to() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        row.activate(pushed("a"), Some(Choice::Configured));
        row.activate(pushed("b"), None);
        assert_eq!(row.last_good(), Some(Choice::Configured));
        // To and fro between two does not fill the list.
        for name in ["a", "b", "a", "b"] {
            row.activate(pushed(name), Some(row.active));
        }
        assert_eq!(row.earlier, [Choice::Configured, pushed("a")]);
    }

    #[test]
    fn lists_stay_short() {
        let mut row = SlotRow::untouched(WorldKind::Scheduler, 0);
        for number in 0..100 {
            let choice = pushed(&number.to_string());
            row.activate(choice, Some(row.active));
            row.note(Event {
                at_ms: number,
                uid: Some(0),
                act: Act::Activated,
                choice,
                name: "p".into(),
                version: "1".into(),
                reason: None,
            });
        }
        assert_eq!((row.earlier.len(), row.history.len()), (EARLIER, HISTORY));
        assert_eq!(row.history.last().unwrap().at_ms, 99);
    }
}
