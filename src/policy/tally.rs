//! What became of the decisions of one slot since the agent started, for whoever watches from outside.
//!
//! Every number only grows, also when a module is replaced or an answer is overruled, as counters must (a
//! [`Record`](super::record) begins anew with each activation, and takes back what was overruled). Modules are
//! counted by digest, the last [`MODULES`] of a slot.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::load::Policy;
use super::record::End;
use super::slot::BUILTIN;
use super::{Fault, Rung, WorldKind};
use crate::ids::Digest;

/// Modules of one slot that are counted; the one that was asked longest ago makes room.
const MODULES: usize = 16;

/// Upper bounds of [`Times::buckets`], in microseconds.
pub const BOUNDS_MICROS: [u32; 12] =
    [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000];

/// One slot: a world, or one member of its chain.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotTally {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain, from 0.
    pub link: usize,
    /// Who is active.
    pub active: Active,
    /// Decisions by the rung that answered. One whose answer could not be carried out counts for its rung, and again
    /// for the built-in that answered in its place.
    pub answers: [(Rung, u64); 3],
    /// Those that were asked, the one that was asked last at the end.
    pub modules: Vec<ModuleTally>,
}

/// Who is active in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Name, `builtin` where no module is active.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest; none for the built-in.
    pub digest: Option<Digest>,
    /// Whether it is not asked any more, since it failed too often.
    pub demoted: bool,
}

/// How one module did in a slot, or the built-in where it is active.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModuleTally {
    /// Its name.
    pub policy: String,
    /// Its digest; none for the built-in.
    pub digest: Option<Digest>,
    /// How many calls ended in which way: `answered`, `refused`, the code of a [`Fault`], or `demoted` where it was
    /// passed over. An answer that could not be carried out is `answered` and `invalid-answer`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How long calls took.
    pub times: Times,
    /// How often it was demoted.
    pub demotions: u64,
}

/// Times of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// How many took no longer than the bound of [`BOUNDS_MICROS`] and longer than the one before.
    pub buckets: [u64; BOUNDS_MICROS.len()],
    /// All of them, also those longer than the last bound.
    pub count: u64,
    /// Microseconds of all together.
    pub sum_micros: u64,
}

impl Times {
    fn add(&mut self, micros: u32) {
        let bucket = BOUNDS_MICROS.iter().zip(&mut self.buckets).find(|(bound, _)| micros <= **bound);
        if let Some((_, count)) = bucket {
            *count += 1;
        }
        self.count += 1;
        self.sum_micros = self.sum_micros.saturating_add(u64::from(micros));
    }
}

/// Who is counted: a module, or the built-in where it is active.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    name: &'a str,
    digest: Option<Digest>,
}

impl<'a> From<&'a Policy> for Who<'a> {
    fn from(policy: &'a Policy) -> Self {
        Self { name: &policy.name, digest: Some(policy.digest) }
    }
}

impl Who<'_> {
    pub const BUILTIN: Self = Self { name: BUILTIN, digest: None };
}

/// The counts of one slot.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    active: u64,
    last_good: u64,
    builtin: u64,
    modules: Vec<ModuleTally>,
}

impl Inner {
    /// The count of one; it is the last of the list then.
    fn of(&mut self, who: Who<'_>) -> &mut ModuleTally {
        let known = self.modules.iter().position(|tally| tally.digest == who.digest);
        let tally = known.map(|at| self.modules.remove(at)).unwrap_or_else(|| ModuleTally {
            policy: who.name.to_owned(),
            digest: who.digest,
            ..ModuleTally::default()
        });
        if self.modules.len() == MODULES {
            self.modules.remove(0);
        }
        self.modules.push_mut(tally)
    }
}

impl Tallies {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One was asked, and it ended like that.
    pub fn asked(&self, who: Who<'_>, end: End, micros: Option<u32>) {
        self.count(who, end.code(), micros);
    }

    /// It was not asked, since it is demoted.
    pub fn passed_over(&self, who: Who<'_>) {
        self.count(who, "demoted", None);
    }

    /// Its answer was taken and could not be carried out: the built-in answered in its place.
    pub fn overruled(&self, who: Who<'_>) {
        self.count(who, Fault::InvalidAnswer.code(), None);
        self.answered(Rung::Builtin);
    }

    fn count(&self, who: Who<'_>, code: &'static str, micros: Option<u32>) {
        let mut inner = self.lock();
        let tally = inner.of(who);
        *tally.outcomes.entry(code).or_default() += 1;
        if let Some(micros) = micros {
            tally.times.add(micros);
        }
    }

    pub fn demoted(&self, who: Who<'_>) {
        self.lock().of(who).demotions += 1;
    }

    /// A decision was made, on that rung.
    pub fn answered(&self, rung: Rung) {
        let mut inner = self.lock();
        match rung {
            Rung::Active => inner.active += 1,
            Rung::LastGood => inner.last_good += 1,
            Rung::Builtin => inner.builtin += 1,
        }
    }

    /// By rung, and by module.
    pub fn now(&self) -> ([(Rung, u64); 3], Vec<ModuleTally>) {
        let inner = self.lock();
        let answers =
            [(Rung::Active, inner.active), (Rung::LastGood, inner.last_good), (Rung::Builtin, inner.builtin)];
        (answers, inner.modules.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(number: u32) -> (String, Digest) {
        let name = format!("p{number}");
        let digest = Digest::of(name.as_bytes());
        (name, digest)
    }

    #[test]
    fn counts_go_on_when_a_module_is_replaced_and_comes_back() {
        let tallies = Tallies::default();
        let ((one, first), (two, second)) = (who(1), who(2));
        let one = Who { name: &one, digest: Some(first) };
        let two = Who { name: &two, digest: Some(second) };
        tallies.asked(one, End::Answered, Some(7));
        tallies.asked(two, End::Failed(Fault::Trap), Some(1_000_000));
        tallies.demoted(two);
        tallies.passed_over(two);
        tallies.asked(one, End::Answered, Some(25));
        tallies.overruled(one);
        let (answers, modules) = tallies.now();
        assert_eq!(answers, [(Rung::Active, 0), (Rung::LastGood, 0), (Rung::Builtin, 1)]);
        let told: Vec<_> = modules.iter().map(|tally| (&*tally.policy, tally.outcomes.clone())).collect();
        assert_eq!(
            told,
            [
                ("p2", BTreeMap::from([("demoted", 1), ("trap", 1)])),
                ("p1", BTreeMap::from([("answered", 2), ("invalid-answer", 1)])),
            ]
        );
        assert_eq!((modules[0].demotions, modules[1].demotions), (1, 0));
        let mut buckets = [0; BOUNDS_MICROS.len()];
        (buckets[0], buckets[1]) = (1, 1);
        assert_eq!(modules[1].times, Times { buckets, count: 2, sum_micros: 32 });
        assert_eq!(modules[0].times, Times { count: 1, sum_micros: 1_000_000, ..Times::default() });
    }

    #[test]
    fn the_modules_asked_longest_ago_make_room() {
        let tallies = Tallies::default();
        for number in 0..40 {
            let (name, digest) = who(number);
            tallies.asked(Who { name: &name, digest: Some(digest) }, End::Refused, None);
            tallies.asked(Who::BUILTIN, End::Answered, None);
        }
        let names: Vec<String> = tallies.now().1.into_iter().map(|tally| tally.policy).collect();
        assert_eq!(names.len(), MODULES);
        assert_eq!(names[MODULES - 1], "builtin");
        assert_eq!(names[0], "p25");
    }
}
