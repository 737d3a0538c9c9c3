//! Questions to the scheduler policy from the offer and the ledger, and its answer as allocations. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Request;
use super::ledger::{Allocation, Ledger, Line};
use crate::ids::{KernelId, SlotName};
use crate::inventory::Offer;
use crate::policy::bindings::scheduling::{Choice, Kinship, Load, Stock, Tally, Tenant};
use crate::policy::bindings::types;
use crate::policy::worlds::{OrderQuestion, PlaceQuestion};

/// A kernel whose container is being started.
#[derive(Debug, Clone)]
pub(super) struct Starting {
    pub kernel: KernelId,
    pub owner: String,
}

/// What is offered, as the ledger books it. Unified slots are never counted and so not in it.
pub(super) fn lines(offer: &Offer) -> Vec<Line> {
    let counted = offer.slots.iter().filter(|slot| slot.kind != types::SlotKind::Unified);
    counted
        .flat_map(|slot| {
            slot.offers.iter().filter_map(|(device, amount)| {
                Some(Line {
                    slot: slot.name.clone(),
                    device: offer.inventory.devices.get(*device)?.id.clone(),
                    offered: *amount,
                    exclusive_group: slot.exclusive_group,
                })
            })
        })
        .collect()
}

/// Which devices shall this kernel get?
pub(super) fn place(request: &Request, offer: &Offer, ledger: &Ledger) -> PlaceQuestion {
    let stock = stock(request, offer, ledger);
    let tenants = tenants(request, offer, ledger, &stock);
    PlaceQuestion {
        request: kernel_request(request, offer),
        node: node(offer, ledger),
        choice: Choice { stock, links: Vec::new(), tenants },
    }
}

/// Who of these, oldest first, shall start next?
pub(super) fn order(
    asked: &[&Request],
    waiting: &BTreeSet<KernelId>,
    starting: &[Starting],
    start_limit: usize,
    offer: &Offer,
    ledger: &Ledger,
) -> OrderQuestion {
    let memory_free = ledger
        .accounts()
        .filter(|(slot, ..)| slot.as_str() == "mem")
        .fold(0_u64, |sum, (slot, device, ..)| sum.saturating_add(ledger.free(slot, device)));
    let load = Load {
        starting: count(starting.len()),
        start_limit: count(start_limit),
        // Not measured before the statistics are in.
        cpu_percent: 0,
        memory_free,
        tallies: tallies(waiting, starting, ledger),
    };
    let waiting = asked.iter().map(|request| kernel_request(request, offer)).collect();
    OrderQuestion { waiting, node: node(offer, ledger), load }
}

/// The policy's shares as allocations; `offer` is the one that the question was made of. The policy host
/// has checked them; this is the last look before they are booked, so that a fault there cannot book
/// what nobody asked for.
pub(super) fn allocations(
    question: &PlaceQuestion,
    offer: &Offer,
    shares: &[types::Share],
) -> Result<Vec<Allocation>, String> {
    let mut sums = BTreeMap::<u32, u64>::new();
    let mut allocations = Vec::with_capacity(shares.len());
    for share in shares {
        let slot = at(&offer.slots, share.slot).ok_or("it names a slot that does not exist")?;
        let device =
            at(&offer.inventory.devices, share.device).ok_or("it names a device that does not exist")?;
        let sum = sums.entry(share.slot).or_default();
        *sum = sum.saturating_add(share.amount);
        allocations.push(Allocation {
            slot: slot.name.clone(),
            device: device.id.clone(),
            amount: share.amount,
        });
    }
    for want in &question.request.wants {
        if sums.remove(&want.slot).unwrap_or(0) != want.amount {
            return Err("its shares are not what was asked for".to_owned());
        }
    }
    match sums.is_empty() {
        true => Ok(allocations),
        false => Err("it gives a slot that was not asked for".to_owned()),
    }
}

/// A request in the words of the WIT, its slots as indices into `offer`'s.
pub(crate) fn kernel_request(request: &Request, offer: &Offer) -> types::KernelRequest {
    let slot_index = |name: &SlotName| offer.slots.iter().position(|slot| slot.name == *name);
    let wants = request.wants.iter().filter_map(|(name, amount)| {
        // One that waits to start may hold what is no longer offered; there is no index for that.
        Some(types::Want { slot: count(slot_index(name)?), amount: *amount })
    });
    types::KernelRequest {
        kernel_id: request.kernel.to_string(),
        session_id: request.session.to_string(),
        owner: request.owner.clone(),
        project: None,
        session_kind: types::SessionKind::Interactive,
        cluster_role: "main".to_owned(),
        cluster_rank: 0,
        cluster_size: 1,
        image: request.image.clone(),
        image_digest: None,
        image_labels: request.image_labels.clone(),
        wants: wants.collect(),
        may_fragment: true,
        requested_at_ms: request.requested_at_ms,
        attributes: Vec::new(),
    }
}

/// Devices and slots with the indices that they have in the offer.
fn node(offer: &Offer, ledger: &Ledger) -> types::Node {
    let models = &offer.inventory.models;
    let devices = offer.inventory.devices.iter().map(|device| {
        let family = models.get(device.model).map_or("", |model| model.family.as_str());
        types::Device {
            model: count(device.model),
            number: device.number,
            uuid: None,
            parent: None,
            numa_node: device.numa_node,
            health: device.health,
            fault: None,
            in_use: ledger.in_use(family, &device.id),
        }
    });
    let slots = offer.slots.iter().map(|slot| types::Slot {
        name: slot.name.to_string(),
        kind: slot.kind,
        quantum: slot.quantum,
        exclusive_group: slot.exclusive_group,
    });
    types::Node { models: models.clone(), devices: devices.collect(), slots: slots.collect() }
}

/// Only for wanted slots, only of devices that work, only where something is free.
fn stock(request: &Request, offer: &Offer, ledger: &Ledger) -> Vec<Stock> {
    let mut stock = Vec::new();
    for (slot_index, slot) in offer.slots.iter().enumerate() {
        if !request.wants.iter().any(|(name, _)| *name == slot.name) {
            continue;
        }
        for (device_index, offered) in &slot.offers {
            let Some(device) = offer.inventory.devices.get(*device_index) else { continue };
            let works = matches!(device.health, types::Health::Healthy | types::Health::Degraded);
            let free = ledger.free(&slot.name, &device.id);
            if works && free > 0 {
                let (device, slot) = (count(*device_index), count(slot_index));
                stock.push(Stock { device, slot, free, offered: *offered });
            }
        }
    }
    stock
}

/// Who holds a part of an accelerator in `stock`, and whatever kernels of the same session hold.
fn tenants(request: &Request, offer: &Offer, ledger: &Ledger, stock: &[Stock]) -> Vec<Tenant> {
    let mut tenants = Vec::new();
    for (kernel, (holder, allocations)) in ledger.holders().enumerate() {
        let same_session = holder.session == Some(request.session);
        let same_owner = holder.owner.as_ref() == Some(&request.owner);
        let flag = |is_so: bool, flag: Kinship| if is_so { flag } else { Kinship::empty() };
        let kinship = flag(same_session, Kinship::SAME_SESSION) | flag(same_owner, Kinship::SAME_OWNER);
        for allocation in allocations {
            let Some((slot, device)) = indices(offer, allocation) else { continue };
            let accelerator = offer.inventory.devices.get(device).is_some_and(|found| {
                let model = offer.inventory.models.get(found.model);
                model.is_some_and(|model| model.kind == types::DeviceKind::Accelerator)
            });
            let (slot, device) = (count(slot), count(device));
            if same_session || accelerator && stock.iter().any(|s| s.device == device) {
                tenants.push(Tenant {
                    device,
                    slot,
                    amount: allocation.amount,
                    kernel: count(kernel),
                    session_kind: types::SessionKind::Interactive,
                    kinship,
                });
            }
        }
    }
    tenants
}

/// Slot and device of an allocation in the offer; none where they are not offered any more.
fn indices(offer: &Offer, allocation: &Allocation) -> Option<(usize, usize)> {
    let slot_index = offer.slots.iter().position(|slot| slot.name == allocation.slot)?;
    let is_it = |device: &usize| {
        offer.inventory.devices.get(*device).is_some_and(|found| found.id == allocation.device)
    };
    let mut offered = offer.slots.get(slot_index)?.offers.iter().map(|(device, _)| *device);
    Some((slot_index, offered.find(is_it)?))
}

/// Per owner; a kernel that was restored has none that is known, and is left out.
fn tallies(waiting: &BTreeSet<KernelId>, starting: &[Starting], ledger: &Ledger) -> Vec<Tally> {
    let mut per_owner = BTreeMap::<&str, (u32, u32)>::new();
    for start in starting {
        per_owner.entry(&start.owner).or_default().0 += 1;
    }
    let in_starting = |kernel: KernelId| starting.iter().any(|start| start.kernel == kernel);
    for (holder, _) in ledger.holders() {
        if let Some(owner) = &holder.owner
            && !waiting.contains(&holder.kernel)
            && !in_starting(holder.kernel)
        {
            per_owner.entry(owner).or_default().1 += 1;
        }
    }
    let tally = |(owner, (starting, running)): (&str, _)| Tally {
        owner: owner.to_owned(),
        project: None,
        starting,
        running,
    };
    per_owner.into_iter().map(tally).collect()
}

fn at<T>(list: &[T], index: u32) -> Option<&T> {
    list.get(usize::try_from(index).ok()?)
}

/// Indices and counts of what fits in memory; a node never has 2³² of anything.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
