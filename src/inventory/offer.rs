//! From the inventory to what the node offers: the question to `slot-reporter`, and its answer in the
//! words of the other rooms.

use std::sync::Arc;

use super::{Inventory, Offer, OfferedSlot, WithheldView};
use crate::policy::bindings::{reporting, types};
use crate::policy::worlds::{Report, ReportQuestion};
use crate::policy::{self, Decided, DecidedBy, Decision, Refusal, Rung};

/// Asks the policy what the node offers. `reserved` comes off the end of a family (`cpu`, `mem`) unless the
/// policy offers that family itself. `in_use` says what kernels hold of a device.
///
/// When the policy refuses, `last` stays, as long as it is about the same inventory; else the built-in decides.
pub async fn offer(
    policy: &policy::Handle,
    inventory: Arc<Inventory>,
    reserved: &[(String, u64)],
    in_use: impl Fn(usize) -> u64,
    last: Option<&Offer>,
) -> Offer {
    let question = question(&inventory, reserved, in_use);
    let decided = policy.ask::<Report>(question.clone()).await;
    settle(decided, &question, inventory, last)
}

/// What is asked. Device indices are those of [`Inventory::devices`].
#[must_use]
pub fn question(
    inventory: &Inventory,
    reserved: &[(String, u64)],
    in_use: impl Fn(usize) -> u64,
) -> ReportQuestion {
    let reservation =
        |(family, amount): &(String, u64)| reporting::Reservation { family: family.clone(), amount: *amount };
    ReportQuestion {
        inventory: reporting::Inventory {
            models: inventory.models.clone(),
            devices: inventory.policy_devices(in_use),
            reserved: reserved.iter().map(reservation).collect(),
        },
    }
}

/// The offer of a checked answer about `inventory`.
#[must_use]
pub fn from_offering(inventory: Arc<Inventory>, offering: reporting::Offering, by: DecidedBy) -> Offer {
    let exists = |device: u32| usize::try_from(device).ok().filter(|index| *index < inventory.devices.len());
    let slots = offering.slots.into_iter().filter_map(|slot| {
        let offers = slot.offers.iter().filter(|offer| offer.amount > 0);
        Some(OfferedSlot {
            name: slot.name.parse().ok()?,
            kind: slot.kind,
            quantum: slot.quantum.max(1),
            exclusive_group: slot.exclusive_group,
            offers: offers.filter_map(|offer| Some((exists(offer.device)?, offer.amount))).collect(),
        })
    });
    let slots = slots.collect();
    let withheld = offering.withheld.into_iter().filter_map(|entry| {
        let index = exists(entry.device)?;
        let device = format!("{} {}", inventory.family(index), inventory.devices[index].id);
        Some(WithheldView { device, amount: entry.amount, reason: entry.reason })
    });
    let withheld = withheld.collect();
    Offer { inventory, slots, withheld, by }
}

/// An answer becomes the offer; a refusal leaves the last one.
fn settle(
    decided: Decided<reporting::Offering>,
    question: &ReportQuestion,
    inventory: Arc<Inventory>,
    last: Option<&Offer>,
) -> Offer {
    let refusal = match decided.answer {
        Ok(offering) => return from_offering(inventory, offering, decided.by),
        Err(refusal) => refusal,
    };
    tracing::warn!(policy = %decided.by.policy, code = %refusal.code, "slot-reporter refused: {refusal}");
    match last.filter(|last| last.inventory == inventory) {
        Some(last) => last.clone(),
        None => from_offering(inventory, built_in(question), by_built_in(decided.by, &refusal)),
    }
}

/// What the built-in offers with its defaults. It never refuses, and its answers pass the check.
fn built_in(question: &ReportQuestion) -> reporting::Offering {
    let ctx = types::Context {
        node_name: String::new(),
        now_ms: 0,
        utc_offset_minutes: 0,
        seed: 0,
        settings: Vec::new(),
        facts: Vec::new(),
    };
    Report::twin(&ctx, question)
        .ok()
        .and_then(|raw| Report::check(&ctx, question, raw).ok())
        .map_or_else(|| reporting::Offering { slots: Vec::new(), withheld: Vec::new() }, |(answer, _)| answer)
}

fn by_built_in(asked: DecidedBy, refusal: &Refusal) -> DecidedBy {
    DecidedBy {
        policy: "builtin".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: None,
        rung: Rung::Builtin,
        note: Some(format!("{} refused: {refusal}", asked.policy)),
        ..asked
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{by, inventory};
    use super::*;
    use crate::amount::ONE;

    fn answered(answer: Result<reporting::Offering, Refusal>) -> Decided<reporting::Offering> {
        Decided { answer, by: by() }
    }

    fn refused() -> Decided<reporting::Offering> {
        let message = "not today".to_owned();
        answered(Err(Refusal { code: "no".to_owned(), message, retry_later: false }))
    }

    #[test]
    fn an_answer_is_told_in_names_and_ids() {
        let inventory = Arc::new(inventory(4));
        let question = question(&inventory, &[("cpu".to_owned(), ONE)], |_| 0);
        let offer = settle(answered(Ok(built_in(&question))), &question, inventory, None);
        let [cpu, mem] = &offer.slots[..] else { panic!("{:?}", offer.slots) };
        assert_eq!((cpu.name.as_str(), &cpu.offers[..]), ("cpu", &[(0, ONE), (1, ONE), (2, ONE)][..]));
        assert_eq!((mem.name.as_str(), &mem.offers[..]), ("mem", &[(4, 8 << 30)][..]));
        let reason = "reserved for the system".to_owned();
        assert_eq!(offer.withheld, [WithheldView { device: "cpu 3".to_owned(), amount: None, reason }]);
    }

    #[test]
    fn a_refusal_leaves_the_last_answer() {
        let known = Arc::new(inventory(4));
        let asked = question(&known, &[], |_| 0);
        let withheld = vec![reporting::Withheld { device: 0, amount: None, reason: "hot".to_owned() }];
        let first = reporting::Offering { slots: Vec::new(), withheld };
        let first = settle(answered(Ok(first)), &asked, known.clone(), None);
        let second = settle(refused(), &asked, known, Some(&first));
        assert_eq!(second.withheld, first.withheld);
        assert_eq!(second.slots, first.slots);
    }

    #[test]
    fn a_refusal_about_another_inventory_lets_the_built_in_decide() {
        let old = Arc::new(inventory(4));
        let last = from_offering(old, reporting::Offering { slots: Vec::new(), withheld: Vec::new() }, by());
        let new = Arc::new(inventory(2));
        let asked = question(&new, &[], |_| 0);
        let offer = settle(refused(), &asked, new, Some(&last));
        assert_eq!(offer.slots[0].offers.len(), 2);
        assert_eq!(offer.by.rung, Rung::Builtin);
        assert_eq!(offer.by.note.as_deref(), Some("test refused: not today"));
    }
}
