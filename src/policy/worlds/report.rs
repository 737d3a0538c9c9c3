//! `report`: what the node offers.

use std::collections::BTreeSet;

use crate::ids::SlotName;

use super::{Decision, Refusal, WorldKind, reporting, slot_reporter, tidy, types};

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
    /// Complete: families that the policy did not name are in it as the built-in offers them; what is
    /// withheld, failed or unverified is offered by no slot; every amount is above 0 and a multiple of
    /// its slot's quantum. A slot may be left without offers.
    type Answer = reporting::Offering;

    fn twin(ctx: &types::Context, question: &ReportQuestion) -> Result<Self::Raw, Refusal> {
        Ok(slot_reporter::report(ctx, &question.inventory))
    }

    fn check(
        _: &types::Context,
        question: &ReportQuestion,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        let inventory = &question.inventory;
        let (mut available, broken) = slot_reporter::usable(inventory);
        let mut withheld = Vec::new();
        for entry in raw.withheld {
            let capacity = model(inventory, entry.device)
                .map(|model| model.capacity)
                .ok_or_else(|| format!("withholds device {}, which does not exist", entry.device))?;
            let rest = &mut available[entry.device as usize];
            match entry.amount {
                None => *rest = 0,
                Some(amount) if amount <= capacity => *rest = rest.saturating_sub(amount),
                Some(amount) => {
                    return Err(format!(
                        "withholds {amount} of device {}, which has {capacity}",
                        entry.device
                    ));
                }
            }
            withheld.push(reporting::Withheld { reason: tidy(&entry.reason), ..entry });
        }
        let whole: BTreeSet<u32> =
            withheld.iter().filter(|entry| entry.amount.is_none()).map(|entry| entry.device).collect();
        withheld.extend(broken.into_iter().filter(|entry| !whole.contains(&entry.device)));

        check_slots(inventory, &raw.slots)?;
        let mut slots = raw.slots;
        for slot in &mut slots {
            let quantum = slot.quantum;
            slot.offers.retain_mut(|offer| {
                let amount = offer.amount.min(available[offer.device as usize]);
                // The usual one, a whole device in steps of a whole device, costs no division.
                offer.amount = if amount == quantum { amount } else { amount / quantum * quantum };
                offer.amount > 0
            });
        }
        let left_out = without_slots(inventory, &slots);
        if !left_out.is_empty() {
            let built_in = slot_reporter::offer(inventory, available, |model| {
                left_out.contains(&*model.family).then_some(0)
            });
            slots.extend(built_in.slots);
            withheld.extend(built_in.withheld);
        }
        Ok((reporting::Offering { slots, withheld }, None))
    }
}

fn model(inventory: &reporting::Inventory, device: u32) -> Option<&types::DeviceModel> {
    let device = inventory.devices.get(device as usize)?;
    inventory.models.get(device.model as usize)
}

/// The families of which no slot is named.
fn without_slots<'i>(
    inventory: &'i reporting::Inventory,
    slots: &[reporting::SlotOffer],
) -> BTreeSet<&'i str> {
    let named: BTreeSet<&str> = slots.iter().map(|slot| family(&slot.name)).collect();
    let families = inventory.models.iter().map(|model| &*model.family);
    families.filter(|family| !named.contains(family)).collect()
}

fn family(slot: &str) -> &str {
    slot.split('.').next().unwrap_or(slot)
}

/// No slot.
const NOBODY: usize = usize::MAX;

/// Which slots offer a device.
#[derive(Clone)]
struct Claim {
    /// Those after it are of the same group, so it stands for all of them.
    first: usize,
    last: usize,
}

/// Name, quantum, devices and amounts of each slot; and that slots which draw on the same device, or on a device and
/// a part of it, exclude each other.
fn check_slots(inventory: &reporting::Inventory, slots: &[reporting::SlotOffer]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut claims = vec![Claim { first: NOBODY, last: NOBODY }; inventory.devices.len()];
    for (index, slot) in slots.iter().enumerate() {
        let name: SlotName = slot.name.parse().map_err(|error| format!("{error}"))?;
        if !names.insert(&*slot.name) {
            return Err(format!("offers slot {name} twice"));
        }
        if slot.quantum == 0 {
            return Err(format!("offers slot {name} in steps of nothing"));
        }
        let mut total: u64 = 0;
        // A model that this slot may be offered of: most devices are of the same one as the device before.
        let mut right: Option<&types::DeviceModel> = None;
        for offer in &slot.offers {
            let device = offer.device;
            let model = model(inventory, device)
                .ok_or_else(|| format!("offers device {device} as {name}, which does not exist"))?;
            if !right.is_some_and(|right| std::ptr::eq(right, model)) {
                check_model(slot, device, model)?;
                right = Some(model);
            }
            if offer.amount > model.capacity {
                return Err(format!(
                    "offers {} of device {device} as {name}, which has {}",
                    offer.amount, model.capacity
                ));
            }
            total = total
                .checked_add(offer.amount)
                .ok_or_else(|| format!("offers more of {name} than can be counted"))?;
            let claim = &mut claims[device as usize];
            if claim.last == index {
                return Err(format!("offers device {device} twice as {name}"));
            }
            if claim.first == NOBODY {
                claim.first = index;
            } else if clash(&slots[claim.first], slot) {
                return Err(format!(
                    "offers device {device} as {} and as {name}, which do not exclude each other",
                    slots[claim.first].name
                ));
            }
            claim.last = index;
        }
    }
    if inventory.devices.iter().all(|device| device.parent.is_none()) {
        return Ok(());
    }
    check_parts(inventory, slots, claims)
}

/// Whether devices of that model can be offered as that slot.
fn check_model(slot: &reporting::SlotOffer, device: u32, model: &types::DeviceModel) -> Result<(), String> {
    let name = &slot.name;
    if family(name) != model.family {
        return Err(format!("offers device {device} as {name}, but its family is {}", model.family));
    }
    if (slot.kind == types::SlotKind::Bytes) != (model.kind == types::DeviceKind::Memory) {
        return Err(format!("offers device {device} as {name} in the wrong unit"));
    }
    Ok(())
}

/// Whether two slots cannot draw on the same silicon.
fn clash(one: &reporting::SlotOffer, other: &reporting::SlotOffer) -> bool {
    one.exclusive_group.is_none() || one.exclusive_group != other.exclusive_group
}

/// A device and a part of it are offered by slots that exclude each other, and never by the same one.
fn check_parts(
    inventory: &reporting::Inventory,
    slots: &[reporting::SlotOffer],
    mut claims: Vec<Claim>,
) -> Result<(), String> {
    claims.iter_mut().for_each(|claim| claim.last = NOBODY);
    for (index, slot) in slots.iter().enumerate() {
        for offer in &slot.offers {
            claims[offer.device as usize].last = index;
        }
        for offer in &slot.offers {
            for parent in ancestors(inventory, offer.device as usize) {
                let claim = &claims[parent];
                let other = if claim.last == index { index } else { claim.first };
                if other != NOBODY && (other == index || clash(&slots[other], slot)) {
                    return Err(format!(
                        "offers device {parent} as {} and its part {} as {}",
                        slots[other].name, offer.device, slot.name
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What a device is a part of, upwards. Bounded, should parents form a ring.
fn ancestors(inventory: &reporting::Inventory, device: usize) -> impl Iterator<Item = usize> {
    let count = inventory.devices.len();
    let above = move |part: &usize| {
        let parent = inventory.devices[*part].parent.map(|parent| parent as usize);
        parent.filter(|parent| *parent < count && *parent != device)
    };
    std::iter::successors(above(&device), above).take(count)
}
