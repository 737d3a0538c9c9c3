//! Degraded accelerators are not offered, so that they can be looked at.
//!
//! A policy says only what it cares about: everything else is offered as the agent's built-in would.

use berth_guest::settings::{Flag, Key, flag};
use berth_guest::{Context, DeviceKind, Health, Inventory, Offering, SlotReporter, Withheld, policy};

const DEGRADED: Key<Flag> =
    flag("withhold-degraded", "Whether degraded accelerators are withheld.").default(true);

policy! {
    world: slot-reporter,
    summary: "Withholds degraded accelerators",
    settings: [DEGRADED],
}

impl SlotReporter for Policy {
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String> {
        if !DEGRADED.get(&ctx.settings) {
            return Ok(Offering::default());
        }
        let is_accelerator = |model: u32| {
            let model = inventory.models.get(model as usize);
            model.is_some_and(|model| model.kind == DeviceKind::Accelerator)
        };
        let sick = (0..).zip(&inventory.devices).filter(|(_, device)| {
            device.health == Health::Degraded && is_accelerator(device.model)
        });
        let withheld = sick.map(|(index, device)| {
            let fault = device.fault.as_deref().unwrap_or("no fault told");
            Withheld::whole(index, format!("degraded: {fault}"))
        });
        Ok(Offering { withheld: withheld.collect(), ..Offering::default() })
    }
}

#[cfg(test)]
mod tests {
    use berth_guest::testing::{Machine, context};

    use super::*;

    #[test]
    fn a_degraded_gpu_is_withheld() {
        let machine = Machine::new().gpus(2).with("cuda", 1, |gpu| gpu.health = Health::Degraded);
        let offering = Policy::report(&context::<Policy>(&[]), &machine.inventory()).expect("it offers");
        let withheld: Vec<u32> = offering.withheld.iter().map(|entry| entry.device).collect();
        assert_eq!(withheld, [machine.index("cuda", 1)]);
        let all = context::<Policy>(&[("withhold-degraded", false.into())]);
        assert!(Policy::report(&all, &machine.inventory()).expect("it offers").withheld.is_empty());
    }
}
