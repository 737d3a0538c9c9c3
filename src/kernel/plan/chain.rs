//! Asks the `container-config` policies, each with the plan as the one before it left it.

use crate::inventory::Offer;
use crate::policy::bindings::{configuring, types};
use crate::policy::worlds::{Adjust, AdjustQuestion};
use crate::policy::{self, Decided, DecidedBy, Purpose, Refusal};

use super::edits::{self, Member, Settled};
use super::{MountKind, Plan, sources};
use crate::admission::{self, Allocation};

/// A value longer than this is hidden from policies (wit: `variable`).
const LONGEST_VALUE: usize = 4096;

/// What one member of the chain said.
#[derive(Debug)]
pub struct Said {
    /// Who decided.
    pub by: DecidedBy,
    /// The edits, as they were applied.
    pub edits: Vec<configuring::Edit>,
}

/// Runs the chain over `plan`.
///
/// # Errors
/// The refusal of a policy, or of the host where two of them contradict each other ([`policy::CHAIN_CONFLICT`]):
/// whichever were followed, the kernel would not be as one of the operator's own policies wants it.
pub async fn run(
    policy: &policy::Handle,
    purpose: Purpose,
    plan: &mut Plan,
    request: &admission::Request,
    offer: &Offer,
    allocations: &[Allocation],
) -> Result<Vec<Said>, (Refusal, DecidedBy)> {
    let (node, shares) = own_devices(offer, allocations);
    let request = admission::kernel_request(request, offer);
    let mut settled = Settled::default();
    let mut said = Vec::new();
    for link in 0..policy.chain_len() {
        let question = |plan: &Plan, settled: &Settled| AdjustQuestion {
            request: request.clone(),
            node: node.clone(),
            shares: shares.clone(),
            plan: as_question(plan),
            // The host fills in what the operator grants this member.
            grants: Vec::new(),
            placed_by_chain: settled.targets(),
        };
        let asked = question(plan, &settled);
        let decided = policy.ask_for::<Adjust>(purpose, link, asked).await;
        let decided = match sources::resolve(decided).await {
            Ok(decided) => decided,
            // As with any answer that cannot be carried out, the built-in decides instead.
            Err((by, problem)) => {
                policy.overrule::<Adjust>(purpose, link, question(plan, &settled), by, problem)
            }
        };
        let Decided { answer, by, .. } = decided;
        let edits = match answer {
            Err(refusal) => return Err((refusal, by)),
            Ok(edits) => edits,
        };
        let member = Member { link, name: by.policy.clone() };
        if let Err(conflict) = edits::apply(plan, &mut settled, &member, edits.clone()) {
            let refusal = Refusal {
                code: policy::CHAIN_CONFLICT.to_owned(),
                message: conflict.to_string(),
                retry_later: false,
            };
            let links = (conflict.first.link, conflict.second.link);
            policy.conflict::<Adjust>(purpose, links, question(plan, &settled), &by, &refusal);
            return Err((refusal, by));
        }
        said.push(Said { by, edits });
    }
    Ok(said)
}

/// The kernel's devices only, and its shares as indices into them.
fn own_devices(offer: &Offer, allocations: &[Allocation]) -> (types::Node, Vec<types::Share>) {
    let whole = offer.node(|_| 0);
    let mut node = types::Node { models: whole.models, devices: Vec::new(), slots: whole.slots };
    let mut shares = Vec::new();
    let mut known: Vec<(usize, u32)> = Vec::new();
    for allocation in allocations {
        let Some(slot) = node.slots.iter().position(|slot| slot.name == allocation.slot.as_str()) else {
            continue;
        };
        let family = allocation.slot.family();
        let found = offer.inventory.devices.iter().position(|device| {
            device.id == allocation.device
                && offer.inventory.models.get(device.model).is_some_and(|model| model.family == family)
        });
        let Some(index) = found else { continue };
        let device = match known.iter().find(|(known, _)| *known == index) {
            Some((_, device)) => *device,
            None => {
                let Some(device) = whole.devices.get(index) else { continue };
                let number = node.devices.len() as u32;
                node.devices.push(device.clone());
                known.push((index, number));
                number
            }
        };
        shares.push(types::Share { device, slot: slot as u32, amount: allocation.amount });
    }
    (node, shares)
}

/// The plan in the words of the WIT.
pub(super) fn as_question(plan: &Plan) -> configuring::Plan {
    let spec = &plan.spec;
    configuring::Plan {
        env: spec
            .env
            .iter()
            .map(|(name, value)| configuring::Variable {
                name: name.clone(),
                value: (!is_secret(name) && value.len() <= LONGEST_VALUE).then(|| value.clone()),
            })
            .collect(),
        // With the files that earlier policies added, as the container gets them.
        mounts: plan
            .render()
            .mounts
            .iter()
            .map(|mount| configuring::Mount {
                kind: match mount.kind {
                    MountKind::Bind => configuring::MountKind::Bind,
                    MountKind::Volume => configuring::MountKind::Volume,
                    MountKind::Tmpfs => configuring::MountKind::Tmpfs,
                },
                source: mount.source.clone(),
                target: mount.target.clone(),
                read_only: mount.read_only,
            })
            .collect(),
        labels: spec.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        capabilities: spec.cap_add.clone(),
        ulimits: spec
            .ulimits
            .iter()
            .map(|limit| configuring::Ulimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard })
            .collect(),
        memory_limit: spec.memory_limit.unwrap_or(u64::MAX),
        shm_size: spec.shm_size.unwrap_or(64 << 20),
        network: spec.network.clone(),
        hostname: spec.hostname.clone(),
    }
}

/// Names whose values no policy, and so no journal, gets to see.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "PRIVATE_KEY", "ACCESS_KEY", "API_KEY", "CREDENTIAL"]
        .iter()
        .any(|word| name.contains(word))
}
