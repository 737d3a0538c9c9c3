//! What a heartbeat says of the node: `AgentInfo` (contracts: manager §3.3). Pure.
//!
//! All fields are required. A slot whose name the manager does not know would make it drop the capacity of all
//! slots, so such a slot is withheld, and that is said.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::amount;
use crate::inventory::Offer;
use crate::policy::PolicyView;
use crate::policy::bindings::types::SlotKind;

/// Slot names in a manager's table `resource_slot_types` (contracts: manager §3.3, 26.9).
const KNOWN_SLOTS: [&str; 14] = [
    "cpu",
    "mem",
    "cuda.device",
    "cuda.shares",
    "rocm.device",
    "tpu.device",
    "ipu.device",
    "atom.device",
    "atom-plus.device",
    "atom-max.device",
    "gaudi2.device",
    "warboy.device",
    "rngd.device",
    "hyperaccel-lpu.device",
];

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Where users reach kernels, when it is configured; else where the manager reaches the agent.
    pub public_host: Option<String>,
    /// The region, when there is one.
    pub region: Option<String>,
    /// Resource group of a node that the manager sees for the first time.
    pub resource_group: Option<String>,
    /// The CURVE key of the RPC port, in Z85; none: it is not encrypted.
    pub public_key: Option<String>,
}

/// The value of `agent_info`, in the order of the reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentInfo {
    ip: String,
    region: Option<String>,
    scaling_group: Option<String>,
    addr: String,
    public_key: Option<String>,
    public_host: String,
    available_resource_slots: Vec<Slot>,
    slot_key_and_units: BTreeMap<String, &'static str>,
    version: &'static str,
    compute_plugins: BTreeMap<String, BTreeMap<String, String>>,
    architecture: &'static str,
    auto_terminate_abusing_kernel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Slot {
    resource_type: String,
    quantity: String,
}

/// Whether calls to make kernels are answered. While they are not, the manager is told of no capacity, so that it
/// schedules nothing here.
const MAKES_KERNELS: bool = false;

/// The node as it is now, and the slots that are withheld because no manager knows them.
#[must_use]
pub fn agent_info(
    identity: &Identity,
    address: &super::Address,
    offer: Option<&Offer>,
    policies: &[PolicyView],
) -> (AgentInfo, Vec<String>) {
    let (mut slots, mut units, mut withheld) = (Vec::new(), BTreeMap::new(), Vec::new());
    for slot in offer.iter().flat_map(|offer| &offer.slots) {
        let name = slot.name.to_string();
        if !KNOWN_SLOTS.contains(&name.as_str()) {
            withheld.push(name);
            continue;
        }
        let offers = slot.offers.iter().filter(|_| MAKES_KERNELS);
        let total = offers.fold(0_u64, |sum, (_, amount)| sum.saturating_add(*amount));
        let quantity = match slot.kind {
            SlotKind::Bytes => total.to_string(),
            SlotKind::Count | SlotKind::Unique | SlotKind::Unified => amount::format_count(total),
        };
        units.insert(name.clone(), unit(slot.kind));
        slots.push(Slot { resource_type: name, quantity });
    }
    let info = AgentInfo {
        ip: address.host.clone(),
        region: identity.region.clone(),
        scaling_group: identity.resource_group.clone(),
        addr: format!("tcp://{address}"),
        public_key: identity.public_key.clone(),
        public_host: identity.public_host.clone().unwrap_or_else(|| address.host.clone()),
        available_resource_slots: slots,
        slot_key_and_units: units,
        version: env!("CARGO_PKG_VERSION"),
        compute_plugins: plugins(offer, policies),
        architecture: architecture(),
        auto_terminate_abusing_kernel: false,
    };
    (info, withheld)
}

fn unit(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Count => "count",
        SlotKind::Bytes => "bytes",
        SlotKind::Unique => "unique",
        SlotKind::Unified => "unified",
    }
}

/// A family of devices is what the reference calls a plugin. Which policies decide on this node stands with the
/// one that every node has.
fn plugins(offer: Option<&Offer>, policies: &[PolicyView]) -> BTreeMap<String, BTreeMap<String, String>> {
    let version = || ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let mut plugins: BTreeMap<_, BTreeMap<_, _>> = offer
        .iter()
        .flat_map(|offer| &offer.inventory.models)
        .map(|model| (model.family.clone(), [version()].into()))
        .collect();
    if let Some(cpu) = plugins.get_mut("cpu") {
        cpu.insert("agent_version".to_owned(), version().1);
        cpu.insert("machine".to_owned(), architecture().to_owned());
        cpu.insert("os_type".to_owned(), "Linux".to_owned());
        for policy in policies {
            let digest = policy.digest.map_or_else(|| "builtin".to_owned(), |digest| digest.to_string());
            let place = if policy.link > 0 { format!(" {}", policy.link) } else { String::new() };
            cpu.insert(format!("policy {}{place}", policy.world), digest);
        }
    }
    plugins
}

/// As images name it: Rust's names are the manager's (`x86_64`, `aarch64`, `x86`; contracts: manager §3.3).
fn architecture() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::inventory::{self, OfferedSlot};
    use crate::policy::{DecidedBy, Rung, WorldKind};

    fn identity() -> Identity {
        Identity { public_host: None, region: None, resource_group: None, public_key: Some("k".repeat(40)) }
    }

    #[test]
    fn a_slot_that_no_manager_knows_is_left_out() {
        let slot = |name: &str, kind| OfferedSlot {
            name: name.parse().unwrap(),
            kind,
            quantum: 1,
            exclusive_group: None,
            offers: vec![(0, 1_500_000), (1, 2_000_000)],
        };
        let by = DecidedBy {
            world: WorldKind::SlotReporter,
            function: "report".to_owned(),
            policy: "builtin".to_owned(),
            version: "0".to_owned(),
            digest: None,
            rung: Rung::Builtin,
            faults: Vec::new(),
            micros: 1,
            note: None,
        };
        let offer = Offer {
            inventory: Arc::new(inventory::detect()),
            slots: vec![
                slot("cpu", SlotKind::Count),
                slot("mem", SlotKind::Bytes),
                slot("mine.device", SlotKind::Count),
            ],
            withheld: Vec::new(),
            by,
        };
        let address = "10.0.0.7:6001".parse().unwrap();
        let (info, withheld) = agent_info(&identity(), &address, Some(&offer), &[]);
        assert_eq!(withheld, ["mine.device"]);
        let json = serde_json::to_value(&info).unwrap();
        let amount = |count: &str| if MAKES_KERNELS { count.to_owned() } else { "0".to_owned() };
        assert_eq!(
            json["available_resource_slots"],
            serde_json::json!([
                {"resource_type": "cpu", "quantity": amount("3.5")},
                {"resource_type": "mem", "quantity": amount("3500000")},
            ])
        );
        assert_eq!(json["slot_key_and_units"], serde_json::json!({"cpu": "count", "mem": "bytes"}));
        assert_eq!(
            (&json["addr"], &json["public_host"]),
            (&"tcp://10.0.0.7:6001".into(), &"10.0.0.7".into())
        );
        // A node whose policy refuses is there all the same.
        let (info, _) = agent_info(&identity(), &address, None, &[]);
        assert_eq!(serde_json::to_value(&info).unwrap()["available_resource_slots"], serde_json::json!([]));
    }
}
