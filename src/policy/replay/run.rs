//! Many entries decided again: by whom, counted, and not for longer than there is time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::diff::{self, Change};
use super::{Bench, Came, Compare, Decider, Skip, again, grants, settings};
use crate::ids::Digest;
use crate::policy::Fault;
use crate::policy::journal::Entry;
use crate::policy::load::Policy;

/// Changes that are told one by one; more are counted.
const MOST_CHANGES: usize = 1000;

/// Who would decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Who {
    /// Name; `builtin` for the built-in.
    pub policy: String,
    /// Version.
    pub version: String,
    /// Digest of the module; none for the built-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Who was asked; none: each by the policy that had decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Who>,
    /// Decisions looked at.
    pub replayed: u64,
    /// Those that are the same, bit for bit.
    pub same: u64,
    /// Those that are not.
    pub different: u64,
    /// Calls that failed, by the kind of failure.
    #[serde(default)]
    pub failed: BTreeMap<Fault, u64>,
    /// Decisions that cannot be made again, and why.
    #[serde(default)]
    pub skipped: BTreeMap<Skip, u64>,
    /// Decisions for which there was no time.
    #[serde(default)]
    pub not_reached: u64,
    /// What would be otherwise, in the order of the journal.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Changes that are counted and not in the list.
    #[serde(default)]
    pub not_told: u64,
    /// Modules that had decided and are not here.
    #[serde(default)]
    pub gone: Vec<Who>,
}

impl Report {
    /// Whether nothing would be otherwise.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.different == 0 && self.failed.is_empty()
    }
}

/// Finds a module, with any settings; none: it is not here.
pub(in crate::policy) type Find<'a> = Box<dyn Fn(Digest) -> Option<Arc<Policy>> + Send + 'a>;

/// Who is asked.
pub(in crate::policy) enum Asked<'a> {
    /// Always the same.
    Candidate(Decider),
    /// Whoever decided then, with what they were given then.
    Makers(Find<'a>),
}

/// A run over entries.
pub(in crate::policy) struct Run<'a> {
    bench: Bench,
    asked: Asked<'a>,
    until: Option<Instant>,
    known: HashMap<Digest, Option<Arc<Policy>>>,
    report: Report,
}

impl<'a> Run<'a> {
    /// `until`: entries after that are counted and not decided.
    pub fn new(bench: Bench, asked: Asked<'a>, until: Option<Instant>) -> Self {
        let candidate = match &asked {
            Asked::Candidate(decider) => Some(who(decider)),
            Asked::Makers(_) => None,
        };
        let report = Report { candidate, ..Report::default() };
        Self { bench, asked, until, known: HashMap::new(), report }
    }

    /// Decides one again and counts what comes of it.
    pub fn take(&mut self, entry: &Entry) {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.report.not_reached += 1;
            return;
        }
        let (decider, came) = match self.decider(entry) {
            Ok(decider) => {
                let compare = if self.reproduces() { Compare::All } else { Compare::Outcome };
                let came = again(&self.bench, &decider, entry, compare);
                (Some(decider), came)
            }
            Err(skip) => (None, Came::Skipped(skip)),
        };
        let came = match came {
            // Who decides the same in its own part is not to be told from who does not: the rest is another agent's.
            Came::Different(_) if self.reproduces() && entry.agent != env!("CARGO_PKG_VERSION") => {
                Came::Skipped(Skip::OtherAgent)
            }
            other => other,
        };
        self.count(entry, decider.as_ref(), came);
    }

    fn reproduces(&self) -> bool {
        matches!(self.asked, Asked::Makers(_))
    }

    fn count(&mut self, entry: &Entry, decider: Option<&Decider>, came: Came) {
        let report = &mut self.report;
        report.replayed += 1;
        match &came {
            Came::Same => report.same += 1,
            Came::Different(_) => report.different += 1,
            Came::Failed(fault) => *report.failed.entry(fault.fault).or_default() += 1,
            Came::Skipped(why) => *report.skipped.entry(*why).or_default() += 1,
        }
        let Some(decider) = decider else { return };
        let Some(change) = diff::change_by(entry, decider, &came) else { return };
        if report.changes.len() < MOST_CHANGES {
            report.changes.push(change);
        } else {
            report.not_told += 1;
        }
    }

    fn decider(&mut self, entry: &Entry) -> Result<Decider, Skip> {
        let find = match &self.asked {
            Asked::Candidate(decider) => return Ok(decider.clone()),
            Asked::Makers(find) => find,
        };
        let settings = settings(entry).map_err(|_| Skip::Unreadable)?;
        let Some(digest) = entry.digest else { return Ok(Decider::Builtin(settings.into())) };
        let module = self.known.entry(digest).or_insert_with(|| find(digest));
        let Some(module) = module else {
            let gone =
                Who { policy: entry.policy.clone(), version: entry.version.clone(), digest: entry.digest };
            if !self.report.gone.contains(&gone) {
                self.report.gone.push(gone);
            }
            return Err(Skip::ModuleGone);
        };
        Ok(Decider::Module(Arc::new(module.given(settings, grants(entry)))))
    }

    /// Entries decided again so far.
    pub fn taken(&self) -> u64 {
        self.report.replayed
    }

    /// What came of it.
    pub fn report(self) -> Report {
        self.report
    }
}

pub(in crate::policy) fn who(decider: &Decider) -> Who {
    match decider {
        Decider::Module(policy) => Who {
            policy: policy.name.to_string(),
            version: policy.version.clone(),
            digest: Some(policy.digest),
        },
        Decider::Builtin(_) => {
            Who { policy: "builtin".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), digest: None }
        }
    }
}
