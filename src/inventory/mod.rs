//! What the node has: one immutable snapshot, and what it offers of it (asks `slot-reporter`).
//!
//! [`spawn`] runs one task that owns both: every 30 s, and when told to, it looks at the machine again
//! ([`detect`]), asks the policy ([`offer`]) and publishes the [`Offer`] in a `watch`. Devices and slots
//! go by their index: a device's is its place in [`Inventory::devices`], a slot's its place in
//! [`Offer::slots`]; both are meant so in every question built by [`Offer::node`].

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::ids::SlotName;
use crate::policy::bindings::types;
use crate::policy::{self, DecidedBy};

mod cgroup;
mod detect;
mod offer;

pub use detect::{DetectError, detect, detect_at};
pub use offer::{from_offering, offer, question};

/// One device of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Index into [`Inventory::models`].
    pub model: usize,
    /// Core number; 0 for memory.
    pub number: u32,
    /// Stable id: core number as text, `root` for memory (contracts: manager §6.1).
    pub id: String,
    /// NUMA node, when known.
    pub numa_node: Option<u32>,
    /// Health.
    pub health: types::Health,
}

/// Everything found on this node, sorted by kind and number.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// Kinds of devices.
    pub models: Vec<types::DeviceModel>,
    /// Devices.
    pub devices: Vec<Device>,
    /// About the node: `architecture`, `kernel`, `cgroup`.
    pub facts: Vec<(String, String)>,
}

/// What the node offers under one slot.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferedSlot {
    /// Its name.
    pub name: SlotName,
    /// Its kind.
    pub kind: types::SlotKind,
    /// Shares are multiples of it.
    pub quantum: u64,
    /// Slots of one group exclude each other.
    pub exclusive_group: Option<u32>,
    /// (index into [`Inventory::devices`], amount), every amount above 0.
    pub offers: Vec<(usize, u64)>,
}

/// What is not offered, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithheldView {
    /// Family and device id, e.g. `cpu 3`.
    pub device: String,
    /// Amount; none: all of it.
    pub amount: Option<u64>,
    /// Why.
    pub reason: String,
}

/// What the node offers now: inventory and the checked answer of `slot-reporter`.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What there is.
    pub inventory: Arc<Inventory>,
    /// What is offered.
    pub slots: Vec<OfferedSlot>,
    /// What is not.
    pub withheld: Vec<WithheldView>,
    /// Who decided it.
    pub by: DecidedBy,
}

impl Inventory {
    /// The family of a device, e.g. `cpu`; empty where there is no such device.
    #[must_use]
    pub fn family(&self, device: usize) -> &str {
        let model = self.devices.get(device).and_then(|device| self.models.get(device.model));
        model.map_or("", |model| &model.family)
    }

    /// The devices as policies see them, in the same order.
    fn policy_devices(&self, in_use: impl Fn(usize) -> u64) -> Vec<types::Device> {
        let device = |(index, device): (usize, &Device)| types::Device {
            model: to_u32(device.model),
            number: device.number,
            uuid: None,
            parent: None,
            numa_node: device.numa_node,
            health: device.health,
            fault: None,
            in_use: in_use(index),
        };
        self.devices.iter().enumerate().map(device).collect()
    }
}

impl Offer {
    /// The node as `place`, `order` and `evict` see it: all devices, all offered slots. A `device-index` is an
    /// index into [`Inventory::devices`], a `slot-index` one into [`Offer::slots`]. `in_use` says what
    /// kernels hold of a device.
    #[must_use]
    pub fn node(&self, in_use: impl Fn(usize) -> u64) -> types::Node {
        types::Node {
            models: self.inventory.models.clone(),
            devices: self.inventory.policy_devices(in_use),
            slots: self.policy_slots(),
        }
    }

    /// The node as `adjust` sees it: only these devices. A `device-index` is an index into `devices`;
    /// slots are as in [`Offer::node`]. Devices that do not exist are left out.
    #[must_use]
    pub fn node_of(&self, devices: &[usize], in_use: impl Fn(usize) -> u64) -> types::Node {
        let mut all = self.node(in_use);
        all.devices = devices.iter().filter_map(|index| all.devices.get(*index).cloned()).collect();
        all
    }

    /// The index of the slot of that name.
    #[must_use]
    pub fn slot_index(&self, name: &SlotName) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == *name)
    }

    /// The index of the device that `id` names under `slot`, e.g. core `3` under `cpu`.
    #[must_use]
    pub fn device_index(&self, slot: &SlotName, id: &str) -> Option<usize> {
        let devices = &self.inventory.devices;
        (0..devices.len())
            .find(|&index| devices[index].id == id && self.inventory.family(index) == slot.family())
    }

    fn policy_slots(&self) -> Vec<types::Slot> {
        let slot = |slot: &OfferedSlot| types::Slot {
            name: slot.name.to_string(),
            kind: slot.kind,
            quantum: slot.quantum,
            exclusive_group: slot.exclusive_group,
        };
        self.slots.iter().map(slot).collect()
    }
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// How the inventory is kept current.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is not offered, by family (`cpu` in micro-units, `mem` in bytes).
    pub reserved: Vec<(String, u64)>,
    /// How often to look again.
    pub interval: Duration,
    /// Makes it look again at once.
    pub recheck: Arc<Notify>,
}

impl Default for Config {
    /// Nothing reserved, every 30 s.
    fn default() -> Self {
        Self { reserved: Vec::new(), interval: Duration::from_secs(30), recheck: Arc::default() }
    }
}

/// Keeps the offer current in a task of its own, which ends when nobody watches any more.
///
/// The value is none until the first answer. A machine that cannot be looked at leaves the last inventory; the
/// end of the task shows as an error of [`watch::Receiver::changed`].
#[must_use]
pub fn spawn(policy: policy::Handle, config: Config) -> watch::Receiver<Option<Offer>> {
    let (offers, receiver) = watch::channel(None);
    tokio::spawn(keep_current(policy, config, offers));
    receiver
}

async fn keep_current(policy: policy::Handle, config: Config, offers: watch::Sender<Option<Offer>>) {
    let mut inventory: Option<Arc<Inventory>> = None;
    loop {
        match tokio::task::spawn_blocking(detect).await {
            // The same snapshot stays the same value.
            Ok(Ok(found)) if inventory.as_deref() == Some(&found) => {}
            Ok(Ok(found)) => inventory = Some(Arc::new(found)),
            Ok(Err(error)) => tracing::error!("cannot look at this machine's devices: {error}"),
            Err(error) => tracing::error!("looking at this machine's devices failed: {error}"),
        }
        if let Some(inventory) = &inventory {
            let last = offers.borrow().clone();
            let next = offer(&policy, inventory.clone(), &config.reserved, |_| 0, last.as_ref()).await;
            offers.send_replace(Some(next));
        }
        // All three are cancel-safe: a notification that comes meanwhile is kept.
        tokio::select! {
            biased;
            () = offers.closed() => return,
            () = config.recheck.notified() => {}
            () = tokio::time::sleep(config.interval) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::ONE;
    use crate::policy::{Rung, WorldKind};

    /// Cores, then 8 GiB of memory.
    pub(super) fn inventory(cores: u32) -> Inventory {
        let model = |kind, family: &str, capacity| types::DeviceModel {
            kind,
            family: family.to_owned(),
            name: family.to_owned(),
            memory_bytes: 0,
            processing_units: 1,
            capacity,
            partition: None,
            attributes: Vec::new(),
        };
        let device = |model, number: u32, id: String| Device {
            model,
            number,
            id,
            numa_node: None,
            health: types::Health::Healthy,
        };
        let mut devices: Vec<Device> = (0..cores).map(|core| device(0, core, core.to_string())).collect();
        devices.push(device(1, 0, "root".to_owned()));
        Inventory {
            models: vec![
                model(types::DeviceKind::Cpu, "cpu", ONE),
                model(types::DeviceKind::Memory, "mem", 8 << 30),
            ],
            devices,
            facts: Vec::new(),
        }
    }

    pub(super) fn by() -> DecidedBy {
        DecidedBy {
            world: WorldKind::SlotReporter,
            function: "report".to_owned(),
            policy: "test".to_owned(),
            version: "1".to_owned(),
            digest: None,
            rung: Rung::Active,
            faults: Vec::new(),
            micros: 1,
            note: None,
        }
    }

    #[test]
    fn nodes_keep_the_indices_of_inventory_and_offer() {
        let slot = OfferedSlot {
            name: "cpu".parse().unwrap(),
            kind: types::SlotKind::Count,
            quantum: ONE,
            exclusive_group: None,
            offers: vec![(1, ONE)],
        };
        let offer =
            Offer { inventory: Arc::new(inventory(3)), slots: vec![slot], withheld: Vec::new(), by: by() };
        let node = offer.node(|index| index as u64);
        assert_eq!(node.devices.iter().map(|device| device.in_use).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(node.slots[0].name, "cpu");
        let part = offer.node_of(&[2, 3, 9], |index| index as u64);
        assert_eq!(part.devices.iter().map(|device| device.in_use).collect::<Vec<_>>(), [2, 3]);
        let (cpu, mem) = ("cpu".parse().unwrap(), "mem".parse().unwrap());
        assert_eq!(offer.device_index(&cpu, "2"), Some(2));
        assert_eq!(offer.device_index(&mem, "root"), Some(3));
        assert_eq!(offer.device_index(&cpu, "root"), None);
        assert_eq!((offer.slot_index(&cpu), offer.slot_index(&mem)), (Some(0), None));
    }
}
