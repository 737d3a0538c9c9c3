//! The scheduler that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest::settings::{Key, Text, text};
use berth_guest::{
    Choice, Context, Decision, Eviction, KernelRequest, Load, Node, Placement, Pressure, Refusal,
    RunningKernel, Scheduler, policy, scheduling, types,
};

mod logic;

const STRATEGY: Key<Text> =
    text(logic::STRATEGY, "`pack` fills devices that are in use, `spread` takes the emptiest.")
        .default("pack")
        .one_of(&["pack", "spread"]);

policy! {
    world: scheduler,
    summary: "Places kernels on few NUMA nodes; first come, first served",
    settings: [STRATEGY],
}

impl Scheduler for Policy {
    fn place(
        ctx: &Context,
        request: &KernelRequest,
        node: &Node,
        choice: &Choice,
    ) -> Result<Placement, Refusal> {
        logic::place(ctx, request, node, choice)
    }

    fn order(_: &Context, waiting: &[KernelRequest], _: &Node, _: &Load) -> Vec<Decision> {
        logic::order(waiting)
    }

    fn evict(_: &Context, pressure: &Pressure, running: &[RunningKernel], _: &Node) -> Option<Vec<Eviction>> {
        Some(logic::evict(pressure, running))
    }
}
