//! An example of a scheduler in a few lines: cores are given from the last free one down. It says nothing
//! about other slots, about who starts next and about who must go: that the built-in decides.

use berth_guest::{Choice, Context, KernelRequest, Node, Placement, Refusal, Scheduler, Share, policy};

policy! {
    world: scheduler,
    summary: "Gives cores from the last free one down; the rest as the built-in does",
}

impl Scheduler for Policy {
    fn place(
        _: &Context,
        request: &KernelRequest,
        node: &Node,
        choice: &Choice,
    ) -> Result<Placement, Refusal> {
        let is_cores = |slot: u32| node.slot(slot).is_some_and(|slot| slot.name == "cpu");
        let wants = request.wants.iter().filter(|want| is_cores(want.slot));
        let shares = wants.flat_map(|want| last_cores(want.slot, want.amount, node, choice)).collect();
        Ok(Placement { shares, ..Placement::default() }.noted("the last free cores"))
    }
}

/// Exactly `amount`, from the device of the highest number down; nothing where that cannot be had.
fn last_cores(slot: u32, amount: u64, node: &Node, choice: &Choice) -> Vec<Share> {
    let number = |device: u32| node.device(device).map(|device| device.number);
    let mut stock: Vec<_> = choice.stock.iter().filter(|stock| stock.slot == slot).collect();
    stock.sort_unstable_by_key(|stock| std::cmp::Reverse(number(stock.device)));
    let mut missing = amount;
    let mut shares = Vec::new();
    for stock in stock {
        let amount = stock.free.min(missing);
        if amount > 0 {
            shares.push(Share { device: stock.device, slot, amount });
            missing -= amount;
        }
    }
    if missing == 0 { shares } else { Vec::new() }
}
