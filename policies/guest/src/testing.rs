//! For `cargo test` of a policy: a node, requests and settings as the agent would send them, on this machine and
//! without WebAssembly. What an agent makes of the answer is for fixtures: `berth policy test`.

use crate::ONE;
use crate::about::About;
use crate::bindings::about::exports::berth::policy::about::Guest;
use crate::reporting::{Inventory, Reservation};
use crate::scheduling::{Choice, Stock};
use crate::types::{
    Context, Device, DeviceKind, DeviceModel, Health, KernelRequest, Node, Setting, SettingValue, Slot,
    SlotKind, Want,
};

/// A policy's context with the given settings and the defaults of the others.
///
/// # Panics
/// When the agent would refuse the settings.
#[must_use]
pub fn context<P: About>(given: &[(&str, SettingValue)]) -> Context {
    let settings = settings::<P>(given).unwrap_or_else(|problems| panic!("{}", problems.join("; ")));
    Context { settings, ..Context::default() }
}

/// The settings that a policy would be sent, sorted by key.
///
/// # Errors
/// Everything that is wrong with them: what the agent refuses, then what the policy does.
pub fn settings<P: About>(given: &[(&str, SettingValue)]) -> Result<Vec<Setting>, Vec<String>> {
    let mut problems = Vec::new();
    let mut settings: Vec<Setting> = Vec::new();
    for (key, value) in given {
        match P::SETTINGS.iter().find(|spec| spec.names(key)).map(|spec| spec.default_value()) {
            None => problems.push(format!("{key}: is unknown")),
            Some(default) => settings.push(Setting { key: (*key).to_owned(), value: like(value, default) }),
        }
    }
    for spec in P::SETTINGS {
        let is_given = settings.iter().any(|setting| spec.names(&setting.key));
        match spec.default_value() {
            Some(value) if !is_given => settings.push(Setting { key: spec.key(), value }),
            None if !is_given && !spec.key().ends_with('*') => {
                problems.push(format!("{}: must be given", spec.key()));
            }
            _ => {}
        }
    }
    settings.sort_by(|one, other| one.key.cmp(&other.key));
    if problems.is_empty() {
        P::check_settings(settings.clone())?;
        return Ok(settings);
    }
    Err(problems)
}

/// Where a number with decimals is expected the agent takes a whole one.
fn like(value: &SettingValue, default: Option<SettingValue>) -> SettingValue {
    match (value, default) {
        (SettingValue::Integer(whole), Some(SettingValue::Decimal(_))) => {
            SettingValue::Decimal(whole * 1_000_000)
        }
        _ => value.clone(),
    }
}

impl From<i64> for SettingValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for SettingValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<&str> for SettingValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&[&str]> for SettingValue {
    fn from(texts: &[&str]) -> Self {
        Self::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
    }
}

/// A node in the making: cores as `cpu`, memory as `mem`, GPUs as `cuda.device`.
#[derive(Debug, Clone)]
pub struct Machine {
    inventory: Inventory,
    slots: Vec<Slot>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// With nothing in it.
    #[must_use]
    pub fn new() -> Self {
        let inventory = Inventory { models: Vec::new(), devices: Vec::new(), reserved: Vec::new() };
        Self { inventory, slots: Vec::new() }
    }

    /// So many cores.
    #[must_use]
    pub fn cores(self, count: u32) -> Self {
        self.devices(model(DeviceKind::Cpu, "cpu", "Xeon", ONE), count).slot("cpu", SlotKind::Count, ONE)
    }

    /// Memory, in bytes.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.devices(model(DeviceKind::Memory, "mem", "DRAM", bytes), 1).slot("mem", SlotKind::Bytes, 1)
    }

    /// So many GPUs, whole.
    #[must_use]
    pub fn gpus(self, count: u32) -> Self {
        let gpu =
            DeviceModel { memory_bytes: 80 << 30, ..model(DeviceKind::Accelerator, "cuda", "H100", ONE) };
        self.devices(gpu, count).slot("cuda.device", SlotKind::Count, ONE)
    }

    /// So many devices of any other model, with the operating system's numbers from 0.
    #[must_use]
    pub fn devices(mut self, model: DeviceModel, count: u32) -> Self {
        let index = u32::try_from(self.inventory.models.len()).unwrap_or(u32::MAX);
        let accelerator = model.kind == DeviceKind::Accelerator;
        self.inventory.devices.extend((0..count).map(|number| Device {
            model: index,
            number,
            uuid: accelerator.then(|| format!("GPU-{number}")),
            parent: None,
            numa_node: None,
            health: Health::Healthy,
            fault: None,
            in_use: 0,
        }));
        self.inventory.models.push(model);
        self
    }

    /// A slot of the node; `place`, `order`, `evict` and `adjust` see it.
    #[must_use]
    pub fn slot(mut self, name: &str, kind: SlotKind, quantum: u64) -> Self {
        self.slots.push(Slot { name: name.to_owned(), kind, quantum, exclusive_group: None });
        self
    }

    /// The devices of each model on so many NUMA nodes, the first ones on the first.
    #[must_use]
    pub fn numa(mut self, nodes: u32) -> Self {
        for model in 0..self.inventory.models.len() {
            let mut devices: Vec<&mut Device> =
                self.inventory.devices.iter_mut().filter(|device| device.model as usize == model).collect();
            let each = devices.len().div_ceil(nodes.max(1) as usize).max(1);
            for (index, device) in devices.iter_mut().enumerate() {
                device.numa_node = u32::try_from(index / each).ok();
            }
        }
        self
    }

    /// What the agent keeps for the system.
    #[must_use]
    pub fn reserved(mut self, family: &str, amount: u64) -> Self {
        self.inventory.reserved.push(Reservation { family: family.to_owned(), amount });
        self
    }

    /// Changes one device, by family and number: its health, what is in use of it.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn with(mut self, family: &str, number: u32, change: impl FnOnce(&mut Device)) -> Self {
        let index = self.index(family, number) as usize;
        change(&mut self.inventory.devices[index]);
        self
    }

    /// A device's index, by family and number.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn index(&self, family: &str, number: u32) -> u32 {
        let mut all = self.inventory.all();
        all.find(|(_, device, model)| model.family == family && device.number == number)
            .unwrap_or_else(|| panic!("there is no {family} {number}"))
            .0
    }

    /// For `report`.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.inventory.clone()
    }

    /// For the other functions.
    #[must_use]
    pub fn node(&self) -> Node {
        let Inventory { models, devices, .. } = self.inventory();
        Node { models, devices, slots: self.slots.clone() }
    }

    /// A request for amounts of slots.
    ///
    /// # Panics
    /// When the machine has no such slot.
    #[must_use]
    pub fn request(&self, wants: &[(&str, u64)]) -> KernelRequest {
        let want = |&(name, amount): &(&str, u64)| {
            let slot = self.slots.iter().position(|slot| slot.name == name);
            let slot = slot.unwrap_or_else(|| panic!("there is no slot {name}"));
            Want { slot: u32::try_from(slot).unwrap_or(u32::MAX), amount }
        };
        KernelRequest {
            kernel_id: "k1".to_owned(),
            session_id: "s1".to_owned(),
            owner: "alice".to_owned(),
            image: "cr.example.org/python:3.12".to_owned(),
            wants: wants.iter().map(want).collect(),
            ..KernelRequest::default()
        }
    }

    /// What is free for a request: all that no kernel holds of devices that work.
    #[must_use]
    pub fn choice(&self, request: &KernelRequest) -> Choice {
        let mut choice = Choice::default();
        for want in &request.wants {
            let Some(slot) = self.slots.get(want.slot as usize) else { continue };
            let family = slot.name.split('.').next().unwrap_or_default();
            for (device, known, model) in self.inventory.all() {
                let free = model.capacity.saturating_sub(known.in_use);
                if model.family == family && known.works() && free > 0 {
                    choice.stock.push(Stock { device, slot: want.slot, free, offered: model.capacity });
                }
            }
        }
        choice
    }
}

/// A model of which only the essentials are known.
#[must_use]
pub fn model(kind: DeviceKind, family: &str, name: &str, capacity: u64) -> DeviceModel {
    DeviceModel {
        kind,
        family: family.to_owned(),
        name: name.to_owned(),
        memory_bytes: 0,
        processing_units: 0,
        capacity,
        partition: None,
        attributes: Vec::new(),
    }
}

/// Unix time in milliseconds of a minute in UTC.
#[must_use]
pub fn utc(year: i64, month: i64, day: i64, hour: i64, minute: i64) -> u64 {
    // Days since the epoch of a proleptic Gregorian date, counted in years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_are_counted_from_the_epoch() {
        assert_eq!(utc(1970, 1, 1, 0, 0), 0);
        assert_eq!(utc(2000, 3, 1, 0, 0), 951_868_800_000);
        assert_eq!(utc(2026, 1, 5, 0, 10), 1_767_571_800_000);
    }
}
