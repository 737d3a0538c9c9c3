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
    for (index, device) in inventory.devices.iter().enumerate().rev() {
        if owed == 0 {
            break;
        }
        let whole = rest[index] / quantum * quantum;
        if whole == 0 || !belongs(inventory, family, device) {
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
    for (index, device) in inventory.devices.iter().enumerate() {
        let amount = rest[index] / quantum * quantum;
        if amount == 0 || !belongs(inventory, family, device) {
            continue;
        }
        let Some(model) = model_of(inventory, device) else { continue };
        let name = slot_name(model);
        let offer = Offer { device: to_u32(index), amount };
        match answer.slots.iter_mut().find(|slot| slot.name == name) {
            Some(slot) => slot.offers.push(offer),
            None => {
                let kind = if quantum == 1 { SlotKind::Bytes } else { SlotKind::Count };
                let offers = vec![offer];
                answer.slots.push(SlotOffer { name, kind, quantum, exclusive_group: None, offers });
            }
        }
    }
    answer
}

/// `cpu`, `mem`, `cuda.device`, `cuda.device:1g.18gb`.
fn slot_name(model: &DeviceModel) -> String {
    match (&model.kind, &model.partition) {
        (DeviceKind::Cpu | DeviceKind::Memory, _) => model.family.clone(),
        (_, None) => [&model.family, ".device"].concat(),
        (_, Some(partition)) => [&model.family, ".device:", partition].concat(),
    }
}

fn belongs(inventory: &Inventory, family: &str, device: &Device) -> bool {
    model_of(inventory, device).is_some_and(|model| model.family == family)
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
