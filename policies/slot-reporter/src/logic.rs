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
    let (available, withheld) = usable(inventory);
    let mut answer = Offering { slots: Vec::new(), withheld };
    for (index, model) in inventory.models.iter().enumerate() {
        if inventory.models[..index].iter().any(|earlier| earlier.family == model.family) {
            continue;
        }
        let key = match model.kind {
            DeviceKind::Cpu => RESERVE_CPU,
            DeviceKind::Memory => RESERVE_MEM,
            DeviceKind::Accelerator | DeviceKind::Other => "",
        };
        let extra = integer(ctx, key).saturating_mul(if model.kind == DeviceKind::Cpu { ONE } else { 1 });
        let part = offer_family(inventory, &model.family, extra, &available);
        answer.slots.extend(part.slots);
        answer.withheld.extend(part.withheld);
    }
    answer
}

/// How much of each device works, and what is withheld because it does not.
pub fn usable(inventory: &Inventory) -> (Vec<u64>, Vec<Withheld>) {
    let mut withheld = Vec::new();
    let mut available = Vec::with_capacity(inventory.devices.len());
    for (index, device) in inventory.devices.iter().enumerate() {
        let capacity = model_of(inventory, device).map_or(0, |model| model.capacity);
        let broken = match device.health {
            Health::Healthy | Health::Degraded => None,
            Health::Unverified => Some("not seen again since the agent was restarted"),
            Health::Failed => Some("failed"),
        };
        available.push(if broken.is_some() { 0 } else { capacity });
        if let Some(reason) = broken {
            let reason = device.fault.clone().unwrap_or_else(|| reason.to_owned());
            withheld.push(Withheld { device: to_u32(index), amount: None, reason });
        }
    }
    (available, withheld)
}

/// The slots of one family out of what is `available` of each device. The agent's reservation and
/// `extra` come off its end, in whole quanta.
pub fn offer_family(inventory: &Inventory, family: &str, extra: u64, available: &[u64]) -> Offering {
    let mut answer = Offering { slots: Vec::new(), withheld: Vec::new() };
    let mut rest: Vec<u64> = available.to_vec();
    // A device of which parts are offered is not offered itself.
    for part in &inventory.devices {
        if let Some(parent) = part.parent.and_then(|parent| rest.get_mut(parent as usize)) {
            *parent = 0;
        }
    }
    let quantum = match inventory.models.iter().find(|model| model.family == family) {
        Some(model) if model.kind == DeviceKind::Memory => 1,
        _ => ONE,
    };
    let reserved = inventory.reserved.iter().filter(|entry| entry.family == family);
    let mut owed = reserved.fold(extra, |sum, entry| sum.saturating_add(entry.amount));
    // Compared once for each model, not for each device.
    let belongs: Vec<bool> = inventory.models.iter().map(|model| model.family == family).collect();
    let belongs = |device: &Device| belongs.get(device.model as usize).is_some_and(|belongs| *belongs);
    for (index, device) in inventory.devices.iter().enumerate().rev() {
        if owed == 0 {
            break;
        }
        let whole = rest[index] / quantum * quantum;
        if whole == 0 || !belongs(device) {
            continue;
        }
        let taken = owed.div_ceil(quantum).saturating_mul(quantum).min(whole);
        owed = owed.saturating_sub(taken);
        let amount = if taken == whole { None } else { Some(taken) };
        rest[index] -= taken;
        let reason = "reserved for the system".to_owned();
        answer.withheld.push(Withheld { device: to_u32(index), amount, reason });
    }
    answer.withheld.reverse();
    // The slot of each model: a name is made once, too.
    let mut slots: Vec<Option<usize>> = vec![None; inventory.models.len()];
    for (index, device) in inventory.devices.iter().enumerate() {
        let amount = rest[index] / quantum * quantum;
        if amount == 0 || !belongs(device) {
            continue;
        }
        let (at, Some(model)) = (device.model as usize, model_of(inventory, device)) else { continue };
        let slot = slots[at].unwrap_or_else(|| slot_named(&mut answer.slots, slot_name(model), quantum));
        slots[at] = Some(slot);
        let offers = &mut answer.slots[slot].offers;
        if offers.is_empty() {
            offers.reserve(inventory.devices.len() - index);
        }
        offers.push(Offer { device: to_u32(index), amount });
    }
    answer
}

/// Where the slot of that name is; it is made where there is none.
fn slot_named(slots: &mut Vec<SlotOffer>, name: String, quantum: u64) -> usize {
    if let Some(at) = slots.iter().position(|slot| slot.name == name) {
        return at;
    }
    let kind = if quantum == 1 { SlotKind::Bytes } else { SlotKind::Count };
    slots.push(SlotOffer { name, kind, quantum, exclusive_group: None, offers: Vec::new() });
    slots.len() - 1
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
