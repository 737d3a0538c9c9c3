//! What the node has: one immutable snapshot, and what it offers of it (asks `slot-reporter`).

use serde::{Deserialize, Serialize};

use crate::ids::SlotName;
use crate::policy::DecidedBy;
use crate::policy::bindings::types;

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
    pub inventory: std::sync::Arc<Inventory>,
    /// What is offered.
    pub slots: Vec<OfferedSlot>,
    /// What is not.
    pub withheld: Vec<WithheldView>,
    /// Who decided it.
    pub by: DecidedBy,
}
