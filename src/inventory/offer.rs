//! What the node offers: asks `slot-reporter`, here and nowhere else, when the agent starts and every 30 s.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;

use super::{Inventory, Offer, OfferedSlot, WithheldView};
use crate::config::ResourceSection;
use crate::policy::bindings::{reporting, types};
use crate::policy::worlds::{Report, ReportQuestion};
use crate::policy::{self, DecidedBy, Refusal};

/// How often the policy is asked although nothing changed: it sees the time (wit: `report`).
const INTERVAL: Duration = Duration::from_secs(30);

/// Asks once.
///
/// # Errors
/// The policy's refusal; the last answer should stay then.
pub async fn offer(
    policy: &policy::Handle,
    inventory: Arc<Inventory>,
    reserved: ResourceSection,
) -> Result<Offer, Refusal> {
    let decided = policy.ask::<Report>(question(&inventory, reserved)).await;
    decided.answer.map(|offering| from_offering(inventory, offering, decided.by))
}

/// The first offer, and the task that keeps it current.
pub async fn watch(
    policy: policy::Handle,
    inventory: Arc<Inventory>,
    reserved: ResourceSection,
) -> (channel::Receiver<Option<Offer>>, impl Future<Output = ()>) {
    let first = match offer(&policy, inventory.clone(), reserved).await {
        Ok(offer) => Some(offer),
        Err(refusal) => {
            tracing::warn!(code = refusal.code, "the node offers nothing yet: {}", refusal.message);
            None
        }
    };
    let (sender, receiver) = channel::channel(first);
    let task = async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match offer(&policy, inventory.clone(), reserved).await {
                Ok(offer) => sender.send_modify(|last| *last = Some(offer)),
                // On an error the last answer stays (wit: `report`).
                Err(refusal) => tracing::warn!(code = refusal.code, "the offer stays: {}", refusal.message),
            }
        }
    };
    (receiver, task)
}

fn question(inventory: &Inventory, reserved: ResourceSection) -> ReportQuestion {
    let amounts = [("cpu", reserved.reserved_cpu), ("mem", reserved.reserved_mem)];
    ReportQuestion {
        inventory: reporting::Inventory {
            models: inventory.models.clone(),
            devices: devices(inventory, |_| 0),
            reserved: amounts
                .into_iter()
                .filter(|(_, amount)| *amount > 0)
                .map(|(family, amount)| reporting::Reservation { family: family.to_owned(), amount })
                .collect(),
        },
    }
}

fn devices(inventory: &Inventory, in_use: impl Fn(usize) -> u64) -> Vec<types::Device> {
    inventory
        .devices
        .iter()
        .enumerate()
        .map(|(index, device)| types::Device {
            model: u32::try_from(device.model).unwrap_or(u32::MAX),
            number: device.number,
            uuid: None,
            parent: None,
            numa_node: device.numa_node,
            health: device.health,
            fault: None,
            in_use: in_use(index),
        })
        .collect()
}

/// Takes a checked answer over; what names no device or no slot has been refused by the check.
fn from_offering(inventory: Arc<Inventory>, offering: reporting::Offering, by: DecidedBy) -> Offer {
    let slots = offering
        .slots
        .into_iter()
        .filter_map(|slot| {
            Some(OfferedSlot {
                name: slot.name.parse().ok()?,
                kind: slot.kind,
                quantum: slot.quantum,
                exclusive_group: slot.exclusive_group,
                offers: slot
                    .offers
                    .iter()
                    .filter(|offer| offer.amount > 0)
                    .map(|offer| (offer.device as usize, offer.amount))
                    .collect(),
            })
        })
        .collect();
    let withheld = offering
        .withheld
        .into_iter()
        .filter_map(|withheld| {
            let device = inventory.devices.get(withheld.device as usize)?;
            let family = &inventory.models.get(device.model)?.family;
            Some(WithheldView {
                device: format!("{family} {}", device.id),
                amount: withheld.amount,
                reason: withheld.reason,
            })
        })
        .collect();
    Offer { inventory, slots, withheld, by }
}

impl Offer {
    /// The node in the words of the WIT: devices and slots in the order of this offer, so that an index into
    /// [`types::Node::devices`] is one into [`Inventory::devices`], and one into [`types::Node::slots`] one
    /// into [`Offer::slots`].
    #[must_use]
    pub fn node(&self, in_use: impl Fn(usize) -> u64) -> types::Node {
        types::Node {
            models: self.inventory.models.clone(),
            devices: devices(&self.inventory, in_use),
            slots: self
                .slots
                .iter()
                .map(|slot| types::Slot {
                    name: slot.name.to_string(),
                    kind: slot.kind,
                    quantum: slot.quantum,
                    exclusive_group: slot.exclusive_group,
                })
                .collect(),
        }
    }

    /// The core numbers offered as `cpu`.
    #[must_use]
    pub fn cores(&self) -> Vec<u32> {
        self.slots
            .iter()
            .filter(|slot| slot.name.as_str() == "cpu")
            .flat_map(|slot| &slot.offers)
            .filter_map(|(index, _)| self.inventory.devices.get(*index))
            .map(|device| device.number)
            .collect()
    }
}
