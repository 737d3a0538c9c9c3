//! `report`: what the node offers.

use std::collections::HashSet;

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
            let capacity = capacity(inventory, entry.device)
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
        let mut whole = vec![false; inventory.devices.len()];
        for entry in withheld.iter().filter(|entry| entry.amount.is_none()) {
            whole[entry.device as usize] = true;
        }
        withheld.extend(broken.into_iter().filter(|entry| !whole[entry.device as usize]));

        check_slots(inventory, &raw.slots)?;
        check_silicon(inventory, &raw.slots)?;
        let mut slots = raw.slots;
        for slot in &mut slots {
            for offer in &mut slot.offers {
                let amount = offer.amount.min(available[offer.device as usize]);
                offer.amount = amount / slot.quantum * slot.quantum;
            }
            slot.offers.retain(|offer| offer.amount > 0);
        }
        for model in without_slots(inventory, &slots) {
            let built_in = slot_reporter::offer_family(inventory, &model.family, 0, &available);
            slots.extend(built_in.slots);
            withheld.extend(built_in.withheld);
        }
        Ok((reporting::Offering { slots, withheld }, None))
    }
}

fn capacity(inventory: &reporting::Inventory, device: u32) -> Option<u64> {
    model(inventory, device).map(|model| model.capacity)
}

fn model(inventory: &reporting::Inventory, device: u32) -> Option<&types::DeviceModel> {
    let device = inventory.devices.get(device as usize)?;
    inventory.models.get(device.model as usize)
}

/// The first model of each family of which no slot is named.
fn without_slots<'i>(
    inventory: &'i reporting::Inventory,
    slots: &[reporting::SlotOffer],
) -> Vec<&'i types::DeviceModel> {
    let named: HashSet<&str> = slots.iter().map(|slot| family(&slot.name)).collect();
    let mut seen: HashSet<&str> = HashSet::new();
    let models = inventory.models.iter();
    models.filter(|model| !named.contains(&*model.family) && seen.insert(&model.family)).collect()
}

fn family(slot: &str) -> &str {
    slot.split('.').next().unwrap_or(slot)
}

/// Each slot by itself: name, quantum, devices, amounts.
fn check_slots(inventory: &reporting::Inventory, slots: &[reporting::SlotOffer]) -> Result<(), String> {
    let mut names = HashSet::new();
    // Which slot took a device last.
    let mut taken_by = vec![usize::MAX; inventory.devices.len()];
    for (index, slot) in slots.iter().enumerate() {
        let name: SlotName = slot.name.parse().map_err(|error| format!("{error}"))?;
        if !names.insert(&slot.name) {
            return Err(format!("offers slot {name} twice"));
        }
        if slot.quantum == 0 {
            return Err(format!("offers slot {name} in steps of nothing"));
        }
        let mut total: u64 = 0;
        for offer in &slot.offers {
            let device = offer.device;
            let model = model(inventory, device)
                .ok_or_else(|| format!("offers device {device} as {name}, which does not exist"))?;
            if std::mem::replace(&mut taken_by[device as usize], index) == index {
                return Err(format!("offers device {device} twice as {name}"));
            }
            if family(&slot.name) != model.family {
                return Err(format!("offers device {device} as {name}, but its family is {}", model.family));
            }
            if (slot.kind == types::SlotKind::Bytes) != (model.kind == types::DeviceKind::Memory) {
                return Err(format!("offers device {device} as {name} in the wrong unit"));
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
        }
    }
    Ok(())
}

/// Slots that draw on the same device, or on a device and a part of it, must exclude each other.
fn check_silicon(inventory: &reporting::Inventory, slots: &[reporting::SlotOffer]) -> Result<(), String> {
    const NOBODY: usize = usize::MAX;
    let clash = |one: usize, other: usize| {
        slots[one].exclusive_group.is_none() || slots[one].exclusive_group != slots[other].exclusive_group
    };
    // Who offers a device first. Those after it are of the same group, so it stands for all of them.
    let mut first = vec![NOBODY; inventory.devices.len()];
    for (index, slot) in slots.iter().enumerate() {
        for offer in &slot.offers {
            let known = &mut first[offer.device as usize];
            if *known == NOBODY {
                *known = index;
            } else if clash(*known, index) {
                return Err(format!(
                    "offers device {} as {} and as {}, which do not exclude each other",
                    offer.device, slots[*known].name, slot.name
                ));
            }
        }
    }
    if inventory.devices.iter().all(|device| device.parent.is_none()) {
        return Ok(());
    }
    // Which slot offered a device last.
    let mut last = vec![NOBODY; inventory.devices.len()];
    for (index, slot) in slots.iter().enumerate() {
        for offer in &slot.offers {
            last[offer.device as usize] = index;
        }
        for offer in &slot.offers {
            for parent in ancestors(inventory, offer.device as usize) {
                let other = if last[parent] == index { index } else { first[parent] };
                if other != NOBODY && (other == index || clash(other, index)) {
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
