//! The transaction: from what is wanted to one pointer, or to the reason why not and nothing changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    Act, Choice, Chosen, Line, Member, Order, Report, Slot, Swap, SwapError, Swapped, Target, WorldKind,
    event, journal, member_of_chain, slot_of, swapped, told,
};
use crate::policy::config::{SettingValue, Settings};
use crate::policy::probation::Probation;
use crate::policy::shadow::ShadowView;

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Activation {
    /// Which policy.
    pub target: Target,
    /// Which member of the chain; none: the one it was pushed for.
    pub link: Option<usize>,
    /// Its settings, in place of those of `agent.toml`. None: those of `agent.toml`, or where it is active already
    /// those that it has.
    pub settings: Option<Settings>,
    /// Activate it although it would decide otherwise.
    pub accept_diff: bool,
    /// Only let it watch.
    pub shadow: bool,
    /// Who wants it.
    pub order: Order,
}

/// Other settings for who is active.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsChange {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain; none: the only one.
    pub link: Option<usize>,
    /// New values by key.
    pub set: BTreeMap<String, SettingValue>,
    /// Keys that are not given any more.
    pub unset: Vec<String>,
    /// Begin with those of `agent.toml`, not with those that it has.
    pub from_configured: bool,
    /// As in [`Activation`].
    pub accept_diff: bool,
    /// Who wants it.
    pub order: Order,
}

/// Where an activation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It is compiled, instantiated, asked what it is, and given its settings.
    Loading,
    /// So many decisions of the journal have been made again.
    Replaying(u64),
    /// It is written down.
    Saving,
}

/// What came of an activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It decides.
    Active(Box<Swapped>),
    /// It watches.
    Shadow(Box<ShadowView>),
}

/// Hears where an activation is. A listener that has gone stops what has not been decided yet.
#[derive(Debug, Clone, Default)]
pub struct Steps(Option<mpsc::Sender<Step>>);

impl Steps {
    /// Steps go there; those that it does not take at once are left out.
    #[must_use]
    pub fn to(listener: mpsc::Sender<Step>) -> Self {
        Self(Some(listener))
    }

    pub(super) fn tell(&self, step: Step) {
        if let Some(listener) = &self.0 {
            // Full: the next step says more. Gone: seen where it matters.
            let _ = listener.try_send(step);
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.as_ref().is_some_and(mpsc::Sender::is_closed)
    }
}

impl Swap {
    /// Makes a policy active from the next decision on, or lets it watch. What was active becomes the last good
    /// one, unless it was demoted.
    ///
    /// # Errors
    /// When there is no such policy, it does not load, it would decide otherwise and that is not accepted, or it
    /// cannot be written down: nothing has changed then.
    pub async fn activate(&self, wanted: Activation, steps: &Steps) -> Result<Outcome, SwapError> {
        let (world, link, choice) = self.resolve(&wanted.target, wanted.link).await?;
        let slot = slot_of(&self.inner.policy, world, link)?;
        let active = slot.line().active.chosen.clone();
        let settings = match wanted.settings {
            None if active.choice == choice && !wanted.shadow && choice != Choice::Configured => {
                active.settings
            }
            given => given,
        };
        if settings.is_some() && choice == Choice::Configured && slot.line().configured.policy.is_none() {
            return Err(SwapError::BuiltinSettings(world));
        }
        let chosen = Chosen { choice, settings };
        if wanted.shadow {
            return self
                .shadow(slot, chosen, wanted.order, steps)
                .await
                .map(|view| Outcome::Shadow(Box::new(view)));
        }
        let wish = Wish { chosen, accept_diff: wanted.accept_diff, act: Act::Activated, order: wanted.order };
        self.transact(slot, wish, steps).await.map(|swapped| Outcome::Active(Box::new(swapped)))
    }

    /// Gives who is active other settings, from the next decision on.
    ///
    /// # Errors
    /// As [`Swap::activate`]; all mistakes of the settings at once.
    pub async fn set(&self, change: SettingsChange, steps: &Steps) -> Result<Swapped, SwapError> {
        let link = member_of_chain(&self.inner.policy, change.world, change.link)?;
        let slot = slot_of(&self.inner.policy, change.world, link)?;
        let line = slot.line();
        if line.active.policy.is_none() {
            return Err(SwapError::BuiltinSettings(change.world));
        }
        let own = line.active.chosen.settings.as_ref().filter(|_| !change.from_configured);
        let mut settings = own.unwrap_or(&line.config.settings).clone();
        let unknown: Vec<String> =
            change.unset.iter().filter(|key| settings.0.remove(*key).is_none()).cloned().collect();
        if !unknown.is_empty() {
            return Err(SwapError::NotSet(unknown));
        }
        settings.0.extend(change.set.clone());
        let back = change.from_configured && change.set.is_empty() && change.unset.is_empty();
        let chosen = Chosen { choice: line.active.chosen.choice, settings: (!back).then_some(settings) };
        let wish = Wish { chosen, accept_diff: change.accept_diff, act: Act::Set, order: change.order };
        self.transact(slot, wish, steps).await
    }

    /// Loads, checks, replays, and makes it active.
    async fn transact(&self, slot: &Slot, wish: Wish, steps: &Steps) -> Result<Swapped, SwapError> {
        steps.tell(Step::Loading);
        // Before the books are taken: it may take seconds.
        let member = self.member(slot.world, slot.link, wish.chosen.clone()).await?;
        let before = slot.line();
        let diff = match before.active.decides_as(&member) {
            // Whatever it decides, it does so already.
            true => None,
            false => Some(self.differs(slot, &member, steps).await?),
        };
        if let Some(report) = diff.as_ref().filter(|report| !report.is_empty())
            && !wish.accept_diff
        {
            return Err(SwapError::Differ(Box::new(report.clone())));
        }
        steps.tell(Step::Saving);
        if steps.is_gone() {
            return Err(SwapError::Gone);
        }
        self.make_active(slot, (&before, member), wish, diff).await
    }

    /// The row on disk, then the pointer. `before`: what the decision was based on.
    pub(super) async fn make_active(
        &self,
        slot: &Slot,
        (before, member): (&Arc<Line>, Member),
        wish: Wish,
        diff: Option<Report>,
    ) -> Result<Swapped, SwapError> {
        let mut books = self.inner.books.lock().await;
        let (line, mut row) = (slot.line(), books.row(slot.world, slot.link));
        if !Arc::ptr_eq(before, &line) {
            return Err(SwapError::Overtaken(slot.world));
        }
        let demoted = line.active.policy.as_ref().is_some_and(|policy| policy.record.demoted().is_some());
        let same = line.active.chosen == member.chosen && line.active.decides_as(&member);
        if same && row.active == member.chosen && !demoted {
            return Ok(swapped(slot, false, diff));
        }
        // What agent.toml said before it was read again is no choice that can be kept on disk, only a second rung.
        let works = (line.active.chosen != member.chosen && !demoted).then(|| line.active.chosen.clone());
        row.activate(member.chosen.clone(), works);
        row.note(event(wish.act, &member, wish.order));
        let watched = row.shadow.take_if(|_| wish.act == Act::Activated);
        self.inner.store.put(&row).await?;
        let last_good = match demoted || same {
            false => Some(line.active.clone()),
            true => line.last_good.clone().filter(|last| last.chosen != member.chosen),
        };
        if let Some(policy) = &member.policy {
            policy.record.pardon();
        }
        let probation = member.policy.as_ref().filter(|_| last_good.is_some()).and_then(|policy| {
            let now = (Instant::now(), journal::now_ms());
            Probation::begin(self.terms().probation, policy.digest, policy.record.counts(), now)
        });
        slot.swap(Line { active: member, last_good, ..(*line).clone() });
        slot.on_probation(probation);
        slot.decided();
        if watched.is_some()
            && let Some(shadow) = slot.shadow_by(None)
        {
            shadow.stop();
        }
        books.keep(row);
        Ok(told(swapped(slot, true, diff)))
    }
}

/// What a transaction is to do.
#[derive(Debug)]
pub(super) struct Wish {
    pub chosen: Chosen,
    pub accept_diff: bool,
    pub act: Act,
    pub order: Order,
}
