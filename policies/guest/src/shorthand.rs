//! What most policies would write for themselves: empty answers, refusals, look-ups by index.

use crate::configuring::Plan;
use crate::reporting::{Inventory, Offering, Withheld};
use crate::scheduling::{Choice, Eviction, Load, Placement, RunningKernel, Strategy};
use crate::types::{
    Context, Device, DeviceModel, Health, KernelRequest, Node, Refusal, SessionKind, Share, Slot,
};

impl Default for Placement {
    /// By the policy's own setting `strategy`, else packed.
    fn default() -> Self {
        Strategy::Usual.into()
    }
}

impl From<Strategy> for Placement {
    /// All of it by one strategy.
    fn from(rest: Strategy) -> Self {
        Self { shares: Vec::new(), rest, avoid: Vec::new(), note: None }
    }
}

impl Placement {
    /// The same with a note for the record and the user.
    #[must_use]
    pub fn noted(self, note: &str) -> Self {
        Self { note: Some(note.to_owned()), ..self }
    }
}

impl Default for Offering {
    /// What the built-in offers.
    fn default() -> Self {
        Self { slots: Vec::new(), withheld: Vec::new() }
    }
}

impl Withheld {
    /// The whole device.
    #[must_use]
    pub fn whole(device: u32, reason: impl Into<String>) -> Self {
        Self { device, amount: None, reason: reason.into() }
    }
}

impl Eviction {
    /// With the time that the agent usually gives.
    #[must_use]
    pub fn of(kernel: u32, reason: impl Into<String>) -> Self {
        Self { kernel, reason: reason.into(), grace_ms: None }
    }
}

impl Refusal {
    /// For good: asking again does not help.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retry_later: false }
    }

    /// For now.
    #[must_use]
    pub fn later(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retry_later: true }
    }
}

impl Context {
    /// A fact about the node, e.g. `scaling-group`.
    #[must_use]
    pub fn fact(&self, key: &str) -> Option<&str> {
        value(&self.facts, key)
    }
}

impl KernelRequest {
    /// One of the image labels that `policy!` asked for.
    #[must_use]
    pub fn image_label(&self, key: &str) -> Option<&str> {
        value(&self.image_labels, key)
    }

    /// E.g. `access-key`.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        value(&self.attributes, key)
    }
}

impl SessionKind {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Interactive, Self::Batch, Self::Inference, Self::System];

    /// As the WIT writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
            Self::Inference => "inference",
            Self::System => "system",
        }
    }
}

impl DeviceModel {
    /// E.g. `driver`.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        value(&self.attributes, key)
    }
}

impl Device {
    /// Whether the agent would offer it.
    #[must_use]
    pub fn works(&self) -> bool {
        matches!(self.health, Health::Healthy | Health::Degraded)
    }
}

/// A key's value among pairs.
fn value<'p>(pairs: &'p [(String, String)], key: &str) -> Option<&'p str> {
    pairs.iter().find(|pair| pair.0 == key).map(|pair| &*pair.1)
}

impl Node {
    /// A slot by its index.
    #[must_use]
    pub fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(index as usize)
    }

    /// A device by its index.
    #[must_use]
    pub fn device(&self, index: u32) -> Option<&Device> {
        self.devices.get(index as usize)
    }

    /// What a device is, by the device's index.
    #[must_use]
    pub fn model_of(&self, device: u32) -> Option<&DeviceModel> {
        self.models.get(self.device(device)?.model as usize)
    }

    /// How much of a family's devices `shares` hold: micro-units, or bytes of memory.
    #[must_use]
    pub fn held(&self, shares: &[Share], family: &str) -> u64 {
        let of_family =
            |share: &&Share| self.model_of(share.device).is_some_and(|model| model.family == family);
        shares.iter().filter(of_family).fold(0, |sum, share| sum.saturating_add(share.amount))
    }
}

impl Inventory {
    /// What a device is.
    #[must_use]
    pub fn model(&self, device: &Device) -> Option<&DeviceModel> {
        self.models.get(device.model as usize)
    }

    /// All devices with their indices and models.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = (u32, &Device, &DeviceModel)> {
        self.devices
            .iter()
            .enumerate()
            .filter_map(|(index, device)| Some((u32::try_from(index).ok()?, device, self.model(device)?)))
    }

    /// What the agent keeps of a family for the system.
    #[must_use]
    pub fn reserved(&self, family: &str) -> u64 {
        let of_family = self.reserved.iter().filter(|entry| entry.family == family);
        of_family.fold(0, |sum, entry| sum.saturating_add(entry.amount))
    }
}

/// Zero values, for tests: `KernelRequest { owner: "alice".into(), ..Default::default() }`.
macro_rules! zero {
    ($($type:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(impl Default for $type {
            fn default() -> Self {
                Self { $($field: $value),* }
            }
        })*
    };
}

zero! {
    Context {
        node_name: String::new(), now_ms: 0, utc_offset_minutes: 0, seed: 0, settings: Vec::new(),
        facts: Vec::new(),
    }
    KernelRequest {
        kernel_id: String::new(), session_id: String::new(), owner: String::new(), project: None,
        session_kind: SessionKind::Interactive, cluster_role: String::new(), cluster_rank: 0, cluster_size: 1,
        image: String::new(), image_digest: None, image_labels: Vec::new(), wants: Vec::new(),
        may_fragment: true, requested_at_ms: 0, attributes: Vec::new(),
    }
    RunningKernel {
        kernel_id: String::new(), owner: String::new(), project: None, session_kind: SessionKind::Interactive,
        shares: Vec::new(), memory_used: 0, disk_used: 0, pids_used: 0, started_at_ms: 0, idle_ms: 0,
        preemptible: false,
    }
    Node { models: Vec::new(), devices: Vec::new(), slots: Vec::new() }
    Choice { stock: Vec::new(), links: Vec::new(), tenants: Vec::new() }
    Load { starting: 0, start_limit: 0, cpu_percent: 0, memory_free: 0, tallies: Vec::new() }
    Plan {
        env: Vec::new(), mounts: Vec::new(), labels: Vec::new(), capabilities: Vec::new(), ulimits: Vec::new(),
        memory_limit: 0, shm_size: 0, network: None, hostname: String::new(),
    }
}
