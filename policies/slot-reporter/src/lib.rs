//! The slot reporter that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest::settings::{Integer, Key, integer};
use berth_guest::{Context, Inventory, Offering, SlotReporter, policy, reporting, types};

mod logic;

const RESERVE_CPU: Key<Integer> =
    integer(logic::RESERVE_CPU, "Whole cores that are not offered, the last ones.")
        .default(0)
        .range(0, i64::MAX);
const RESERVE_MEM: Key<Integer> =
    integer(logic::RESERVE_MEM, "Bytes of memory that are not offered.").default(0).range(0, i64::MAX);

policy! {
    world: slot-reporter,
    summary: "Offers every working core, the memory and whole accelerators",
    settings: [RESERVE_CPU, RESERVE_MEM],
}

impl SlotReporter for Policy {
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String> {
        Ok(logic::report(ctx, inventory))
    }
}
