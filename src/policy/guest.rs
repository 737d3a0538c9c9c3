//! A component as one of the three worlds, and each decision as a typed call into it.

use std::borrow::Cow;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::InstancePre;

use super::bindings::{
    configuring, container_config, reporting, scheduler, scheduling, slot_reporter, types,
};
use super::journal::Told;
use super::sandbox::{State, clean};
use super::weigh::Weigh;
use super::worlds::adjust::{check_granted, twin_granted};
use super::worlds::{Adjust, Evict, Order, Place, Report};
use super::{Refusal, WorldKind};

/// Longest text of a refusal, in bytes.
const REFUSAL_BYTES: usize = 1 << 10;

/// A compiled component whose imports are resolved.
#[derive(Clone)]
pub(super) enum Pre {
    SlotReporter(slot_reporter::SlotReporterPre<State>),
    Scheduler(scheduler::SchedulerPre<State>),
    ContainerConfig(container_config::ContainerConfigPre<State>),
}

impl Pre {
    pub fn new(world: WorldKind, pre: InstancePre<State>) -> wasmtime::Result<Self> {
        Ok(match world {
            WorldKind::SlotReporter => Self::SlotReporter(slot_reporter::SlotReporterPre::new(pre)?),
            WorldKind::Scheduler => Self::Scheduler(scheduler::SchedulerPre::new(pre)?),
            WorldKind::ContainerConfig => {
                Self::ContainerConfig(container_config::ContainerConfigPre::new(pre)?)
            }
        })
    }

    /// A fresh instance. wasmtime compares types only here.
    pub fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Guest> {
        Ok(match self {
            Self::SlotReporter(pre) => Guest::SlotReporter(pre.instantiate(store)?),
            Self::Scheduler(pre) => Guest::Scheduler(pre.instantiate(store)?),
            Self::ContainerConfig(pre) => Guest::ContainerConfig(pre.instantiate(store)?),
        })
    }
}

/// An instance. One call only: shipped guests never free what they allocate.
pub enum Guest {
    /// Of the world `slot-reporter`.
    SlotReporter(slot_reporter::SlotReporter),
    /// Of the world `scheduler`.
    Scheduler(scheduler::Scheduler),
    /// Of the world `container-config`.
    ContainerConfig(container_config::ContainerConfig),
}

/// What `describe` says; the same record of each world.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub settings: Vec<SettingInfo>,
    pub needs: Vec<String>,
    pub image_labels: Vec<String>,
}

/// A setting that a policy knows.
#[derive(Debug, Clone)]
pub(super) struct SettingInfo {
    pub key: String,
    pub default_value: Option<types::SettingValue>,
    pub help: String,
}

impl Guest {
    pub(super) fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<About> {
        macro_rules! about {
            ($guest:expr) => {{
                let info = $guest.berth_policy_about().call_describe(store)?;
                About {
                    name: info.name,
                    version: info.version,
                    summary: info.summary,
                    settings: info
                        .settings
                        .into_iter()
                        .map(|s| SettingInfo { key: s.key, default_value: s.default_value, help: s.help })
                        .collect(),
                    needs: info.needs,
                    image_labels: info.image_labels,
                }
            }};
        }
        Ok(match self {
            Self::SlotReporter(guest) => about!(guest),
            Self::Scheduler(guest) => about!(guest),
            Self::ContainerConfig(guest) => about!(guest),
        })
    }

    pub(super) fn check_settings(
        &self,
        store: &mut Store<State>,
        settings: &[types::Setting],
    ) -> wasmtime::Result<Result<(), Vec<String>>> {
        match self {
            Self::SlotReporter(guest) => guest.berth_policy_about().call_check_settings(store, settings),
            Self::Scheduler(guest) => guest.berth_policy_about().call_check_settings(store, settings),
            Self::ContainerConfig(guest) => guest.berth_policy_about().call_check_settings(store, settings),
        }
    }
}

/// A decision that can be asked of a guest. Implemented for the decisions of `worlds`, nowhere else.
pub trait Asked: Told {
    /// Bytes that the question puts into a guest that stands under `terms`.
    fn weigh(question: &Self::Question, terms: &Terms) -> usize;

    /// The call itself; the guest sees of the question what `terms` show it.
    ///
    /// # Errors
    /// When the guest traps, is interrupted, or answers what cannot be read.
    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> wasmtime::Result<Result<Self::Raw, Refusal>>;

    /// [`Decision::twin`](super::Decision::twin) for one who stands under `terms`.
    ///
    /// # Errors
    /// A refusal, as a guest would give it.
    fn twin_under(
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> Result<Self::Raw, Refusal> {
        let _ = terms;
        Self::twin(ctx, question)
    }

    /// [`Decision::check`](super::Decision::check) of an answer by one who stands under `terms`.
    ///
    /// # Errors
    /// What is wrong with the answer.
    fn check_under(
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        let _ = terms;
        Self::check(ctx, question, raw)
    }

    /// The question as one who stands under `terms` sees it, as a whole.
    fn tailored<'q>(question: &'q Self::Question, terms: &Terms) -> Cow<'q, Self::Question> {
        let _ = terms;
        Cow::Borrowed(question)
    }
}

/// What a policy may do and see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Edits that it may make (`container-config`).
    pub grants: Arc<[String]>,
    /// Image labels that it is shown: whole keys, or prefixes that end in `*`.
    pub image_labels: Vec<String>,
}

impl Terms {
    fn hides_some(&self, request: &types::KernelRequest) -> bool {
        request.image_labels.iter().any(|(key, _)| !self.shows(key))
    }

    fn shows(&self, label: &str) -> bool {
        self.image_labels.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => label.starts_with(prefix),
            None => label == pattern,
        })
    }

    /// The request without the labels that are hidden; copied only where there are such.
    fn shown<'q>(&self, request: &'q types::KernelRequest) -> Cow<'q, types::KernelRequest> {
        if !self.hides_some(request) {
            return Cow::Borrowed(request);
        }
        let shown = request.image_labels.iter().filter(|(key, _)| self.shows(key)).cloned().collect();
        Cow::Owned(types::KernelRequest {
            image_labels: shown,
            kernel_id: request.kernel_id.clone(),
            session_id: request.session_id.clone(),
            owner: request.owner.clone(),
            project: request.project.clone(),
            session_kind: request.session_kind,
            cluster_role: request.cluster_role.clone(),
            cluster_rank: request.cluster_rank,
            cluster_size: request.cluster_size,
            image: request.image.clone(),
            image_digest: request.image_digest.clone(),
            wants: request.wants.clone(),
            may_fragment: request.may_fragment,
            requested_at_ms: request.requested_at_ms,
            attributes: request.attributes.clone(),
        })
    }

    /// Bytes behind a request as it is shown.
    fn weigh(&self, request: &types::KernelRequest) -> usize {
        let hidden = request.image_labels.iter().filter(|(key, _)| !self.shows(key));
        let hidden: usize = hidden.map(|label| size_of::<(String, String)>() + label.behind()).sum();
        request.behind() - hidden
    }

    fn hide(&self, request: &mut types::KernelRequest) {
        request.image_labels.retain(|(key, _)| self.shows(key));
    }
}

impl Asked for Report {
    fn weigh(question: &Self::Question, _: &Terms) -> usize {
        question.inventory.behind()
    }

    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        _: &Terms,
    ) -> wasmtime::Result<Result<reporting::Offering, Refusal>> {
        let Guest::SlotReporter(guest) = guest else { return Err(another_world()) };
        let answer = guest.berth_policy_reporting().call_report(store, ctx, &question.inventory)?;
        Ok(answer.map_err(|message| Refusal {
            code: "no-report".to_owned(),
            message: clean(&message, REFUSAL_BYTES),
            retry_later: true,
        }))
    }
}

impl Asked for Place {
    fn weigh(question: &Self::Question, terms: &Terms) -> usize {
        terms.weigh(&question.request) + question.node.behind() + question.choice.behind()
    }

    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> wasmtime::Result<Result<scheduling::Placement, Refusal>> {
        let Guest::Scheduler(guest) = guest else { return Err(another_world()) };
        let answer = guest.berth_policy_scheduling().call_place(
            store,
            ctx,
            &terms.shown(&question.request),
            &question.node,
            &question.choice,
        )?;
        Ok(answer.map_err(refusal))
    }

    fn tailored<'q>(question: &'q Self::Question, terms: &Terms) -> Cow<'q, Self::Question> {
        if !terms.hides_some(&question.request) {
            return Cow::Borrowed(question);
        }
        let mut own = question.clone();
        terms.hide(&mut own.request);
        Cow::Owned(own)
    }
}

impl Asked for Order {
    fn weigh(question: &Self::Question, terms: &Terms) -> usize {
        let waiting: usize = question.waiting.iter().map(|request| terms.weigh(request)).sum();
        size_of_val(&*question.waiting) + waiting + question.node.behind() + question.load.behind()
    }

    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> wasmtime::Result<Result<Vec<scheduling::Decision>, Refusal>> {
        let Guest::Scheduler(guest) = guest else { return Err(another_world()) };
        let (node, load) = (&question.node, &question.load);
        let own: Vec<types::KernelRequest>;
        let waiting = if question.waiting.iter().any(|request| terms.hides_some(request)) {
            own = question.waiting.iter().map(|request| terms.shown(request).into_owned()).collect();
            &own
        } else {
            &question.waiting
        };
        guest.berth_policy_scheduling().call_order(store, ctx, waiting, node, load).map(Ok)
    }

    fn tailored<'q>(question: &'q Self::Question, terms: &Terms) -> Cow<'q, Self::Question> {
        if !question.waiting.iter().any(|request| terms.hides_some(request)) {
            return Cow::Borrowed(question);
        }
        let mut own = question.clone();
        own.waiting.iter_mut().for_each(|request| terms.hide(request));
        Cow::Owned(own)
    }
}

impl Asked for Evict {
    fn weigh(question: &Self::Question, _: &Terms) -> usize {
        question.pressure.behind() + question.running.behind() + question.node.behind()
    }

    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        _: &Terms,
    ) -> wasmtime::Result<Result<Option<Vec<scheduling::Eviction>>, Refusal>> {
        let Guest::Scheduler(guest) = guest else { return Err(another_world()) };
        let (pressure, running, node) = (&question.pressure, &question.running, &question.node);
        guest.berth_policy_scheduling().call_evict(store, ctx, pressure, running, node).map(Ok)
    }
}

impl Asked for Adjust {
    fn weigh(question: &Self::Question, terms: &Terms) -> usize {
        terms.weigh(&question.request)
            + question.node.behind()
            + question.shares.behind()
            + question.plan.behind()
    }

    fn call(
        guest: &Guest,
        store: &mut Store<State>,
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> wasmtime::Result<Result<Vec<configuring::Edit>, Refusal>> {
        let Guest::ContainerConfig(guest) = guest else { return Err(another_world()) };
        let answer = guest.berth_policy_configuring().call_adjust(
            store,
            ctx,
            &terms.shown(&question.request),
            &question.node,
            &question.shares,
            &question.plan,
        )?;
        Ok(answer.map_err(refusal))
    }

    fn twin_under(
        ctx: &types::Context,
        question: &Self::Question,
        terms: &Terms,
    ) -> Result<Self::Raw, Refusal> {
        Ok(twin_granted(ctx, question, &terms.grants))
    }

    fn check_under(
        _: &types::Context,
        question: &Self::Question,
        terms: &Terms,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        check_granted(question, &terms.grants, &raw)?;
        Ok((raw, None))
    }

    fn tailored<'q>(question: &'q Self::Question, terms: &Terms) -> Cow<'q, Self::Question> {
        let mut own = question.clone();
        own.grants = terms.grants.to_vec();
        terms.hide(&mut own.request);
        Cow::Owned(own)
    }
}

/// A refusal as it may be shown: a code that is one, a message of one line.
fn refusal(refusal: types::Refusal) -> Refusal {
    let is_code = |code: &str| {
        (1..=64).contains(&code.len())
            && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let code = if is_code(&refusal.code) { refusal.code } else { "refused-by-policy".to_owned() };
    Refusal { code, message: clean(&refusal.message, REFUSAL_BYTES), retry_later: refusal.retry_later }
}

fn another_world() -> wasmtime::Error {
    wasmtime::Error::msg("a policy of another world was asked")
}
