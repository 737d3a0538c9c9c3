//! An example of a scheduler in a few lines: cores are given from the last free one down. It says nothing
//! about other slots, about who starts next and about who must go: that the built-in decides.

use berth_guest as _;

use bindings::berth::policy::types::{Context, KernelRequest, Node, Refusal, Setting, Share};
use bindings::exports::berth::policy::about::{self, PolicyInfo};
use bindings::exports::berth::policy::scheduling::{
    self, Choice, Decision, Eviction, Load, Placement, Pressure, RunningKernel, Strategy,
};

mod bindings {
    #![allow(missing_docs, unsafe_code, reason = "generated from wit/policy.wit")]
    wit_bindgen::generate!({ path: "../../../wit", world: "scheduler" });
    use super::LastCore;
    export!(LastCore with_types_in self);
}

struct LastCore;

impl about::Guest for LastCore {
    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "last-core".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Gives cores from the last free one down; the rest as the built-in does".to_owned(),
            settings: Vec::new(),
            image_labels: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn check_settings(_: Vec<Setting>) -> Result<(), Vec<String>> {
        Ok(())
    }
}

impl scheduling::Guest for LastCore {
    fn place(_: Context, request: KernelRequest, node: Node, choice: Choice) -> Result<Placement, Refusal> {
        let shares = request
            .wants
            .iter()
            .filter(|want| node.slots.get(want.slot as usize).is_some_and(|slot| slot.name == "cpu"));
        let shares = shares.flat_map(|want| last_cores(want.slot, want.amount, &node, &choice)).collect();
        let note = Some("the last free cores".to_owned());
        Ok(Placement { shares, rest: Strategy::Usual, avoid: Vec::new(), note })
    }

    fn order(_: Context, _: Vec<KernelRequest>, _: Node, _: Load) -> Vec<Decision> {
        Vec::new()
    }

    fn evict(_: Context, _: Pressure, _: Vec<RunningKernel>, _: Node) -> Vec<Eviction> {
        Vec::new()
    }
}

/// Exactly `amount`, from the device of the highest number down; nothing where that cannot be had.
fn last_cores(slot: u32, amount: u64, node: &Node, choice: &Choice) -> Vec<Share> {
    let number = |device: u32| node.devices.get(device as usize).map(|device| device.number);
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
