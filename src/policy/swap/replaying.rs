//! Decisions of the agent's own journal made again: before an activation, and because somebody asks.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Choice, Chosen, Member, Report, Slot, Step, Steps, Swap, SwapError, member_of_chain, slot_of};
use crate::ids::Digest;
use crate::policy::config::Settings;
use crate::policy::error::Problem;
use crate::policy::journal::{Journal, Wanted};
use crate::policy::load::{self, Policy};
use crate::policy::replay::Decider;
use crate::policy::replay::offline::{AMPLE, shipped_of};
use crate::policy::replay::run::{self, Run};
use crate::policy::{Handle, WorldKind, settings, slot};

/// How often somebody hears how many are done.
const TELL_EVERY: u64 = 16;

/// Who is to decide again.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Whoever decided then.
    Makers,
    /// The built-in.
    Builtin,
    /// A pushed module, by digest or name.
    Pushed(String),
    /// A module that is not known here.
    Bytes(Vec<u8>),
}

/// What is to be decided again.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayOrder {
    /// By whom.
    pub asked: Asked,
    /// Which entries.
    pub wanted: Wanted,
    /// Settings of the candidate; none: those of its world's section.
    pub settings: Option<Settings>,
}

impl Swap {
    /// Decides entries of the journal again; nothing comes of it. Ends early when whoever hears the steps has gone.
    ///
    /// # Errors
    /// When there is no journal or it cannot be read, or the candidate does not load.
    pub async fn replay(&self, order: ReplayOrder, steps: &Steps) -> Result<Report, SwapError> {
        let journal = self.journal().await?;
        let mut wanted = order.wanted;
        let decider = match order.asked {
            Asked::Makers => None,
            Asked::Builtin => Some(match order.settings {
                Some(settings) => Decider::Builtin(settings::as_given(&settings).into()),
                None => {
                    let world = wanted.world.unwrap_or(WorldKind::Scheduler);
                    let line = slot_of(&self.inner.policy, world, wanted.link.unwrap_or(0))?.line();
                    let with = if wanted.world.is_some() {
                        Arc::clone(&line.configured.twin_settings)
                    } else {
                        Arc::from([])
                    };
                    Decider::Builtin(with)
                }
            }),
            Asked::Pushed(text) => {
                let module = self.find(&text).await?;
                of_world(&mut wanted, module.world)?;
                let link =
                    member_of_chain(&self.inner.policy, module.world, wanted.link.or(Some(module.link)))?;
                let chosen = Chosen { choice: Choice::Pushed(module.digest), settings: order.settings };
                Some(self.member(module.world, link, chosen).await?.decider())
            }
            Asked::Bytes(bytes) => {
                let (world, policy) = self.passing(bytes, wanted.link, order.settings).await?;
                of_world(&mut wanted, world)?;
                Some(Decider::Module(Arc::new(policy)))
            }
        };
        let (policy, shelf, steps) = (self.inner.policy.clone(), self.inner.shelf.clone(), steps.clone());
        let work = move || {
            let mut bench = policy.host.bench();
            let sandbox = bench.sandbox.clone();
            let asked = match decider {
                Some(decider) => run::Asked::Candidate(decider),
                None => {
                    bench.share = bench.share.max(AMPLE);
                    let there = policy.clone();
                    run::Asked::Makers(Box::new(move |digest| {
                        there_already(&there, digest).or_else(|| {
                            let bytes = shelf.get(digest).ok().or_else(|| shipped_of(digest))?;
                            Some(Arc::new({
                                let sandbox = sandbox.as_deref()?;
                                load::module(sandbox, &bytes).ok()?.bare(sandbox.budgets)
                            }))
                        })
                    }))
                }
            };
            scan(&journal, &wanted, Run::new(bench, asked, None), &steps)
        };
        self.on_a_thread("policy-replay", &self.inner.replaying, work).await
    }

    /// What `member` would have decided otherwise of the slot's last decisions.
    pub(super) async fn differs(
        &self,
        slot: &Slot,
        member: &Member,
        steps: &Steps,
    ) -> Result<Report, SwapError> {
        let terms = self.terms();
        let bench = self.inner.policy.host.bench();
        let wanted = Wanted {
            world: Some(slot.world),
            link: Some(slot.link),
            most: Some(usize::try_from(terms.replay_last).unwrap_or(usize::MAX)),
            ..Wanted::default()
        };
        let until = Instant::now() + Duration::from_secs(terms.replay_sec);
        let run = Run::new(bench, run::Asked::Candidate(member.decider()), Some(until));
        if terms.replay_last == 0 || self.inner.policy.host.journal.is_none() {
            return Ok(run.report());
        }
        let (journal, steps) = (self.journal().await?, steps.clone());
        let work = move || scan(&journal, &wanted, run, &steps);
        self.on_a_thread("policy-replay", &self.inner.replaying, work).await
    }

    /// The journal, when all that was decided so far is in it.
    pub(super) async fn journal(&self) -> Result<Journal, SwapError> {
        let journal = self.inner.policy.journal().cloned().ok_or(SwapError::NoJournal)?;
        journal.settled().await;
        Ok(journal)
    }

    /// A module that is not kept, as it would be configured here.
    async fn passing(
        &self,
        bytes: Vec<u8>,
        link: Option<usize>,
        settings: Option<Settings>,
    ) -> Result<(WorldKind, Policy), SwapError> {
        let policy = self.inner.policy.clone();
        self.off_thread(move || {
            let wasm = policy.host.wasm.as_ref().ok_or(Problem::BuiltinsOnly)?;
            let module = load::module(&wasm.sandbox, &bytes)?;
            let world = module.world;
            let link = member_of_chain(&policy, world, link)?;
            let mut config = slot::as_pushed(&slot_of(&policy, world, link)?.line().config);
            if let Some(settings) = settings {
                config.settings = settings;
            }
            Ok((world, module.configure(&wasm.sandbox, &config, "replay".to_owned())?))
        })
        .await
    }
}

fn of_world(wanted: &mut Wanted, found: WorldKind) -> Result<(), SwapError> {
    match wanted.world {
        Some(world) if world != found => Err(Problem::OtherWorld { found, wanted: world }.into()),
        _ => {
            wanted.world = Some(found);
            Ok(())
        }
    }
}

/// A module that some slot has compiled.
fn there_already(policy: &Handle, digest: Digest) -> Option<Arc<Policy>> {
    policy.host.slots.iter().find_map(|slot| {
        let line = slot.line();
        let members = std::iter::once(&line.active).chain(&line.last_good).chain([&line.configured]);
        let mut policies = members.filter_map(|member| member.policy.clone());
        policies.find(|policy| policy.digest == digest)
    })
}

fn scan(journal: &Journal, wanted: &Wanted, mut run: Run<'_>, steps: &Steps) -> Result<Report, SwapError> {
    journal
        .scan(wanted, |entry| {
            run.take(&entry);
            if run.taken().is_multiple_of(TELL_EVERY) {
                steps.tell(Step::Replaying(run.taken()));
            }
            if steps.is_gone() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .map_err(|error| SwapError::Journal(error.to_string()))?;
    Ok(run.report())
}
