//! What a policy decides: a trait per world, whose functions get what the agent sends by reference.

use std::mem::ManuallyDrop;

use crate::configuring::{self, Edit, Plan};
use crate::reporting::{self, Inventory, Offering};
use crate::scheduling::{self, Choice, Decision, Eviction, Load, Placement, Pressure, RunningKernel};
use crate::types::{Context, KernelRequest, Node, Refusal, Share};

/// What the node offers.
pub trait SlotReporter {
    /// The slots of this node. Families of which no slot is named are offered as the built-in would, so
    /// `Offering::default()` is the built-in's offer, and one with `withheld` only takes something off it.
    ///
    /// # Errors
    /// Why nothing can be said now: the last answer stays.
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String>;
}

/// Who gets which devices, who starts next, who must go. What is not written is the built-in's.
pub trait Scheduler {
    /// Which devices a kernel gets. `Placement::default()`: as the built-in would.
    ///
    /// # Errors
    /// Why it gets none.
    fn place(_: &Context, _: &KernelRequest, _: &Node, _: &Choice) -> Result<Placement, Refusal> {
        Ok(Placement::default())
    }

    /// Who starts next, first to last. Who is left out follows in order of arrival.
    fn order(_: &Context, _: &[KernelRequest], _: &Node, _: &Load) -> Vec<Decision> {
        Vec::new()
    }

    /// Who must go, first to last; none: as the built-in would, an empty list: nobody.
    fn evict(_: &Context, _: &Pressure, _: &[RunningKernel], _: &Node) -> Option<Vec<Eviction>> {
        None
    }
}

/// How a container is configured.
pub trait ContainerConfig {
    /// The edits to `plan`; none leave it as it is.
    ///
    /// # Errors
    /// Why the kernel must not be made.
    fn adjust(
        ctx: &Context,
        request: &KernelRequest,
        node: &Node,
        shares: &[Share],
        plan: &Plan,
    ) -> Result<Vec<Edit>, Refusal>;
}

/// What was sent is left in the memory of an instance that ends with the call.
fn kept<T>(value: T) -> ManuallyDrop<T> {
    ManuallyDrop::new(value)
}

impl<P: SlotReporter> reporting::Guest for P {
    fn report(ctx: Context, inventory: Inventory) -> Result<Offering, String> {
        P::report(&kept(ctx), &kept(inventory))
    }
}

impl<P: Scheduler> scheduling::Guest for P {
    fn place(ctx: Context, request: KernelRequest, node: Node, choice: Choice) -> Result<Placement, Refusal> {
        P::place(&kept(ctx), &kept(request), &kept(node), &kept(choice))
    }

    fn order(ctx: Context, waiting: Vec<KernelRequest>, node: Node, load: Load) -> Vec<Decision> {
        P::order(&kept(ctx), &kept(waiting), &kept(node), &kept(load))
    }

    fn evict(
        ctx: Context,
        pressure: Pressure,
        running: Vec<RunningKernel>,
        node: Node,
    ) -> Option<Vec<Eviction>> {
        P::evict(&kept(ctx), &kept(pressure), &kept(running), &kept(node))
    }
}

impl<P: ContainerConfig> configuring::Guest for P {
    fn adjust(
        ctx: Context,
        request: KernelRequest,
        node: Node,
        shares: Vec<Share>,
        plan: Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        P::adjust(&kept(ctx), &kept(request), &kept(node), &kept(shares), &kept(plan))
    }
}
