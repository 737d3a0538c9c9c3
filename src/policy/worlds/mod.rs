//! The three worlds: questions and answers in the types of `wit/policy.wit`, the checks of each answer,
//! and the twins (design §6). Pure: no I/O, no clock.

use super::bindings::{configuring, reporting, scheduling, types};
use super::{Decision, Refusal, WorldKind};

/// `report`: what the node offers.
#[derive(Debug)]
pub struct Report;

/// The inventory to report about, and how much may be offered of it.
#[derive(Debug, Clone)]
pub struct ReportQuestion {
    /// As the policy sees it.
    pub inventory: reporting::Inventory,
}

impl Decision for Report {
    const WORLD: WorldKind = WorldKind::SlotReporter;
    const FUNCTION: &'static str = "report";
    type Question = ReportQuestion;
    type Raw = reporting::Offering;
    /// Complete: families that the policy did not name are in it as the built-in offers them.
    type Answer = reporting::Offering;
    fn twin(ctx: &types::Context, question: &ReportQuestion) -> Result<Self::Raw, Refusal> { let _ = (ctx, question); unimplemented!() }
    fn check(ctx: &types::Context, question: &ReportQuestion, raw: Self::Raw) -> Result<(Self::Answer, Option<String>), String> { let _ = (ctx, question, raw); unimplemented!() }
}

/// `place`: which devices a kernel gets.
#[derive(Debug)]
pub struct Place;

/// A request and what is to be had.
#[derive(Debug, Clone)]
pub struct PlaceQuestion {
    /// The kernel as it was asked for.
    pub request: types::KernelRequest,
    /// All devices and slots.
    pub node: types::Node,
    /// What is free.
    pub choice: scheduling::Choice,
}

impl Decision for Place {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "place";
    type Question = PlaceQuestion;
    type Raw = scheduling::Placement;
    /// Exactly the wanted amount for every wanted slot (`rest` has been placed by the built-in).
    type Answer = Vec<types::Share>;
    fn twin(ctx: &types::Context, question: &PlaceQuestion) -> Result<Self::Raw, Refusal> { let _ = (ctx, question); unimplemented!() }
    fn check(ctx: &types::Context, question: &PlaceQuestion, raw: Self::Raw) -> Result<(Self::Answer, Option<String>), String> { let _ = (ctx, question, raw); unimplemented!() }
}

/// `order`: who starts next.
#[derive(Debug)]
pub struct Order;

/// Who waits and how loaded the node is.
#[derive(Debug, Clone)]
pub struct OrderQuestion {
    /// At most the 64 oldest, oldest first.
    pub waiting: Vec<types::KernelRequest>,
    /// All devices and slots.
    pub node: types::Node,
    /// How loaded the node is.
    pub load: scheduling::Load,
}

impl Decision for Order {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "order";
    type Question = OrderQuestion;
    type Raw = Vec<scheduling::Decision>;
    /// A verdict for each waiting request, once, in the order to start them.
    type Answer = Vec<scheduling::Decision>;
    fn twin(ctx: &types::Context, question: &OrderQuestion) -> Result<Self::Raw, Refusal> { let _ = (ctx, question); unimplemented!() }
    fn check(ctx: &types::Context, question: &OrderQuestion, raw: Self::Raw) -> Result<(Self::Answer, Option<String>), String> { let _ = (ctx, question, raw); unimplemented!() }
}

/// `adjust`: how a container is configured.
#[derive(Debug)]
pub struct Adjust;

/// A container as the agent would make it.
#[derive(Debug, Clone)]
pub struct AdjustQuestion {
    /// The kernel as it was asked for.
    pub request: types::KernelRequest,
    /// The kernel's devices only.
    pub node: types::Node,
    /// What it got, indices into `node`.
    pub shares: Vec<types::Share>,
    /// The container so far.
    pub plan: configuring::Plan,
    /// Edits the operator grants, e.g. `set-env`, `add-mount:/data/**` (`[policy.container-config] grants`).
    pub grants: Vec<String>,
}

impl Decision for Adjust {
    const WORLD: WorldKind = WorldKind::ContainerConfig;
    const FUNCTION: &'static str = "adjust";
    type Question = AdjustQuestion;
    type Raw = Vec<configuring::Edit>;
    /// Checked edits: granted kinds, sane values, no target twice.
    type Answer = Vec<configuring::Edit>;
    fn twin(ctx: &types::Context, question: &AdjustQuestion) -> Result<Self::Raw, Refusal> { let _ = (ctx, question); unimplemented!() }
    fn check(ctx: &types::Context, question: &AdjustQuestion, raw: Self::Raw) -> Result<(Self::Answer, Option<String>), String> { let _ = (ctx, question, raw); unimplemented!() }
}
