//! What the node offers: every working device, less what is reserved. Pure.
//!
//! Included twice: by the guest beside it, and by the agent as its built-in (`src/policy/worlds/`).
//! The parent module has the types of the WIT as `reporting` and `types`.

use super::reporting::{Inventory, Offer, Offering, SlotOffer, Withheld};
use super::types::{Context, Device, DeviceKind, DeviceModel, Health, SettingValue, SlotKind};

/// Micro-units of one whole device.
const ONE: u64 = 1_000_000;

/// Whole cores that are not offered, besides what the agent reserves.
pub const RESERVE_CPU: &str = "reserve-cpu";
/// Bytes of memory that are not offered, besides what the agent reserves.
pub const RESERVE_MEM: &str = "reserve-mem";

/// Offers every family: cores as `cpu`, memory as `mem`, anything else as `<family>.device`.
pub fn report(ctx: &Context, inventory: &Inventory) -> Offering {
    let (available, mut withheld) = usable(inventory);
    let offering = offer(inventory, available, |model| {
        Some(match model.kind {
            DeviceKind::Cpu => integer(ctx, RESERVE_CPU).saturating_mul(ONE),
            DeviceKind::Memory => integer(ctx, RESERVE_MEM),
            DeviceKind::Accelerator | DeviceKind::Other => 0,
        })
    });
    withheld.extend(offering.withheld);
    Offering { slots: offering.slots, withheld }
}

/// How much of each device works, and what is withheld because it does not.
pub fn usable(inventory: &Inventory) -> (Vec<u64>, Vec<Withheld>) {
    let mut withheld = Vec::new();
    let mut available = Vec::with_capacity(inventory.devices.len());
    for (index, device) in inventory.devices.iter().enumerate() {
        let broken = match device.health {
            Health::Healthy | Health::Degraded => {
                available.push(model_of(inventory, device).map_or(0, |model| model.capacity));
                continue;
            }
            Health::Unverified => "not seen again since the agent was restarted",
            Health::Failed => "failed",
        };
        available.push(0);
        let reason = device.fault.clone().unwrap_or_else(|| broken.to_owned());
        withheld.push(Withheld { device: to_u32(index), amount: None, reason });
    }
    (available, withheld)
}

/// A family that is offered.
struct Family<'i> {
    name: &'i str,
    /// Of all its slots: that of its first model.
    quantum: u64,
    /// What is still to be kept back.
    owed: u64,
    part: Offering,
}

/// The slots of each family of whose first model `extra` says something, in order of the models, out of what is
/// `available` of each device. The agent's reservation and that extra come off the family's end, in whole quanta.
pub fn offer(
    inventory: &Inventory,
    mut available: Vec<u64>,
    extra: impl Fn(&DeviceModel) -> Option<u64>,
) -> Offering {
    // A device of which parts are offered is not offered itself.
    for part in &inventory.devices {
        if let Some(parent) = part.parent.and_then(|parent| available.get_mut(parent as usize)) {
            *parent = 0;
        }
    }
    let mut families: Vec<Family> = Vec::new();
    // Compared once for each model, not for each device.
    let family_of: Vec<Option<usize>> =
        inventory.models.iter().map(|model| family_at(&mut families, inventory, model, &extra)).collect();
    let family_of = |device: &Device| family_of.get(device.model as usize).copied().flatten();

    if families.iter().any(|family| family.owed > 0) {
        for (index, device) in inventory.devices.iter().enumerate().rev() {
            let Some(at) = family_of(device) else { continue };
            let kept = families[at].keep_back(index, available[index]);
            available[index] -= kept;
        }
        families.iter_mut().for_each(|family| family.part.withheld.reverse());
    }
    // The slot of each model: a name is made once, too.
    let mut slot_of: Vec<Option<usize>> = vec![None; inventory.models.len()];
    for (index, device) in inventory.devices.iter().enumerate() {
        let Some(at) = family_of(device) else { continue };
        let family = &mut families[at];
        let amount = available[index] / family.quantum * family.quantum;
        if amount == 0 {
            continue;
        }
        let model = device.model as usize;
        let slot = match slot_of[model] {
            Some(slot) => slot,
            None => family.slot_named(slot_name(&inventory.models[model])),
        };
        slot_of[model] = Some(slot);
        let offers = &mut family.part.slots[slot].offers;
        if offers.is_empty() {
            offers.reserve(inventory.devices.len() - index);
        }
        offers.push(Offer { device: to_u32(index), amount });
    }
    let mut answer = Offering { slots: Vec::new(), withheld: Vec::new() };
    for family in families {
        answer.slots.extend(family.part.slots);
        answer.withheld.extend(family.part.withheld);
    }
    answer
}

/// Where the family of `model` is; it is made at its first model, or not at all.
fn family_at<'i>(
    families: &mut Vec<Family<'i>>,
    inventory: &'i Inventory,
    model: &'i DeviceModel,
    extra: impl Fn(&DeviceModel) -> Option<u64>,
) -> Option<usize> {
    if let Some(at) = families.iter().position(|family| family.name == model.family) {
        return Some(at);
    }
    let extra = extra(model)?;
    let reserved = inventory.reserved.iter().filter(|entry| entry.family == model.family);
    families.push(Family {
        name: &model.family,
        quantum: if model.kind == DeviceKind::Memory { 1 } else { ONE },
        owed: reserved.fold(extra, |sum, entry| sum.saturating_add(entry.amount)),
        part: Offering { slots: Vec::new(), withheld: Vec::new() },
    });
    Some(families.len() - 1)
}

impl Family<'_> {
    /// How much is kept back of a device of which so much is `available`.
    fn keep_back(&mut self, device: usize, available: u64) -> u64 {
        let whole = available / self.quantum * self.quantum;
        if whole == 0 || self.owed == 0 {
            return 0;
        }
        let taken = self.owed.div_ceil(self.quantum).saturating_mul(self.quantum).min(whole);
        self.owed = self.owed.saturating_sub(taken);
        let amount = if taken == whole { None } else { Some(taken) };
        let reason = "reserved for the system".to_owned();
        self.part.withheld.push(Withheld { device: to_u32(device), amount, reason });
        taken
    }

    /// Where the slot of that name is; it is made where there is none.
    fn slot_named(&mut self, name: String) -> usize {
        let slots = &mut self.part.slots;
        if let Some(at) = slots.iter().position(|slot| slot.name == name) {
            return at;
        }
        let kind = if self.quantum == 1 { SlotKind::Bytes } else { SlotKind::Count };
        slots.push(SlotOffer {
            name,
            kind,
            quantum: self.quantum,
            exclusive_group: None,
            offers: Vec::new(),
        });
        slots.len() - 1
    }
}

/// `cpu`, `mem`, `cuda.device`, `cuda.device:1g.18gb`.
fn slot_name(model: &DeviceModel) -> String {
    match (&model.kind, &model.partition) {
        (DeviceKind::Cpu | DeviceKind::Memory, _) => model.family.clone(),
        (_, None) => [&model.family, ".device"].concat(),
        (_, Some(partition)) => [&model.family, ".device:", partition].concat(),
    }
}

fn model_of<'a>(inventory: &'a Inventory, device: &Device) -> Option<&'a DeviceModel> {
    inventory.models.get(device.model as usize)
}

/// An integer setting; 0 where it is missing, below 0 or something else.
fn integer(ctx: &Context, key: &str) -> u64 {
    ctx.settings
        .iter()
        .find_map(|setting| match &setting.value {
            SettingValue::Integer(number) if setting.key == key => u64::try_from(*number).ok(),
            _ => None,
        })
        .unwrap_or(0)
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
