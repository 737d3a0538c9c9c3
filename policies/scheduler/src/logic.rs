//! Who gets which devices, who starts next, who must go. Pure.
//!
//! Placement: accelerators first, then cores, then memory, each near what was chosen before it: on one
//! NUMA node where it fits, else on the fewest. `pack` fills devices and nodes that are in use already,
//! `spread` takes the emptiest. Links between accelerators are not looked at yet.
//!
//! Included twice: by the guest beside it, and by the agent as its built-in (`src/policy/worlds/`).
//! The parent module has the types of the WIT as `scheduling` and `types`.

use super::scheduling::{Choice, Decision, Eviction, Placement, Pressure, RunningKernel, Strategy, Verdict};
use super::types::{
    Context, DeviceKind, Health, KernelRequest, Node, Refusal, SessionKind, SettingValue, Share, Slot,
    SlotKind,
};

/// Micro-units of one whole device.
const ONE: u64 = 1_000_000;

/// `pack` or `spread`.
pub const STRATEGY: &str = "strategy";

/// Places everything that is wanted.
pub fn place(
    ctx: &Context,
    request: &KernelRequest,
    node: &Node,
    choice: &Choice,
) -> Result<Placement, Refusal> {
    let shares = fill(request, node, choice, &[], usual(ctx), &[])?;
    Ok(Placement { shares, rest: Strategy::Usual, avoid: Vec::new(), note: None })
}

/// What the operator configured: pack, unless the setting says spread.
pub fn usual(ctx: &Context) -> Strategy {
    let spread = ctx.settings.iter().any(|setting| {
        setting.key == STRATEGY && matches!(&setting.value, SettingValue::Text(text) if text == "spread")
    });
    if spread { Strategy::Spread } else { Strategy::Pack }
}

/// Shares for every wanted slot that `given` does not name, near those of `given`, without `avoid`.
pub fn fill(
    request: &KernelRequest,
    node: &Node,
    choice: &Choice,
    given: &[Share],
    strategy: Strategy,
    avoid: &[u32],
) -> Result<Vec<Share>, Refusal> {
    let mut wants = wants(request, node)?;
    // Few accelerators, many cores, memory anywhere: the scarce choose first.
    wants.sort_by_key(|want| (rank(node, choice, want.0), want.0));
    let mut shares: Vec<Share> = given.to_vec();
    for (slot, amount) in wants {
        if given.iter().any(|share| share.slot == slot) {
            continue;
        }
        let search = Search { request, node, choice, shares: &shares, spread: strategy == Strategy::Spread };
        let found = search.slot(slot, amount, avoid)?;
        shares.extend(found);
    }
    Ok(shares.split_off(given.len()))
}

/// What is wanted of each slot that is counted, once each.
pub fn wants(request: &KernelRequest, node: &Node) -> Result<Vec<(u32, u64)>, Refusal> {
    let mut wants: Vec<(u32, u64)> = Vec::with_capacity(request.wants.len());
    for want in &request.wants {
        let Some(slot) = node.slots.get(want.slot as usize) else {
            return Err(refusal(
                "no-such-slot",
                "a slot is asked for that this node has not".to_owned(),
                false,
            ));
        };
        if want.amount == 0 || slot.kind == SlotKind::Unified {
            continue;
        }
        if wants.iter().any(|earlier| earlier.0 == want.slot) {
            return Err(refusal(
                "malformed-request",
                ["slot ", &slot.name, " is asked for twice"].concat(),
                false,
            ));
        }
        let rival = wants
            .iter()
            .filter_map(|earlier| node.slots.get(earlier.0 as usize))
            .find(|other| other.exclusive_group.is_some() && other.exclusive_group == slot.exclusive_group);
        if let Some(rival) = rival {
            let message = ["slots ", &rival.name, " and ", &slot.name, " exclude each other"].concat();
            return Err(refusal("exclusive-slots", message, false));
        }
        wants.push((want.slot, want.amount));
    }
    Ok(wants)
}

/// The largest amount that one device offers under a slot.
pub fn device_size(choice: &Choice, slot: u32) -> u64 {
    choice.stock.iter().filter(|stock| stock.slot == slot).map(|stock| stock.offered).max().unwrap_or(0)
}

/// Whether two slots exclude each other on one device.
pub fn exclude_each_other(node: &Node, one: u32, other: u32) -> bool {
    let group = |slot: u32| node.slots.get(slot as usize).and_then(|slot| slot.exclusive_group);
    one != other && group(one).is_some() && group(one) == group(other)
}

fn rank(node: &Node, choice: &Choice, slot: u32) -> u8 {
    let device = choice.stock.iter().find(|stock| stock.slot == slot).map(|stock| stock.device);
    match device.and_then(|device| kind_of(node, device)) {
        Some(DeviceKind::Accelerator) => 0,
        Some(DeviceKind::Other) => 1,
        Some(DeviceKind::Cpu) => 2,
        Some(DeviceKind::Memory) => 3,
        None => 4,
    }
}

fn kind_of(node: &Node, device: u32) -> Option<DeviceKind> {
    let device = node.devices.get(device as usize)?;
    node.models.get(device.model as usize).map(|model| model.kind)
}

fn numa_of(node: &Node, device: u32) -> Option<u32> {
    node.devices.get(device as usize).and_then(|device| device.numa_node)
}

/// A device that has something free, in whole quanta.
#[derive(Clone, Copy)]
struct Candidate {
    device: u32,
    free: u64,
}

/// The candidates of one NUMA node (or of none known).
struct Group {
    numa: Option<u32>,
    near: bool,
    total: u64,
    members: Vec<Candidate>,
}

struct Search<'a> {
    request: &'a KernelRequest,
    node: &'a Node,
    choice: &'a Choice,
    /// What has been chosen so far.
    shares: &'a [Share],
    spread: bool,
}

impl Search<'_> {
    fn slot(&self, index: u32, amount: u64, avoid: &[u32]) -> Result<Vec<Share>, Refusal> {
        let Some(slot) = self.node.slots.get(index as usize) else { return Ok(Vec::new()) };
        let quantum = slot.quantum.max(1);
        if !amount.is_multiple_of(quantum) {
            let message =
                [&*tell(slot, amount), " asked, but it is given in steps of ", &tell(slot, quantum)];
            return Err(refusal("not-a-multiple", message.concat(), false));
        }
        let size = device_size(self.choice, index);
        let groups = self.groups(index, quantum, avoid);
        let free = groups.iter().fold(0_u64, |sum, group| sum.saturating_add(group.total));
        if free < amount {
            let message = [&*tell(slot, amount), " asked, ", &count(slot, free), " free"].concat();
            return Err(refusal("not-enough-free", message, self.ever(index, slot) >= amount));
        }
        let whole = slot.kind == SlotKind::Count && !self.request.may_fragment && amount <= size;
        let mut chosen = if whole || slot.kind == SlotKind::Unique {
            self.one(slot, amount, size, &groups)?
        } else if self.spread && quantum < size && slot.kind == SlotKind::Count {
            evenly(groups, amount, quantum)
        } else {
            self.nearby(groups, amount)
        };
        chosen.sort_unstable_by_key(|candidate| candidate.device);
        let share =
            |candidate: Candidate| Share { device: candidate.device, slot: index, amount: candidate.free };
        Ok(chosen.into_iter().map(share).collect())
    }

    /// What there would be if nobody held anything. Devices of which nothing is free are not in the stock.
    fn ever(&self, index: u32, slot: &Slot) -> u64 {
        let stock = self.choice.stock.iter().filter(|stock| stock.slot == index);
        let listed = stock.clone().fold(0_u64, |sum, stock| sum.saturating_add(stock.offered));
        let family = slot.name.split('.').next();
        let mut all = listed;
        for (number, device) in self.node.devices.iter().enumerate() {
            let Some(model) = self.node.models.get(device.model as usize) else { continue };
            if device.in_use > 0
                && family == Some(&model.family)
                && matches!(device.health, Health::Healthy | Health::Degraded)
                && !stock.clone().any(|stock| stock.device as usize == number)
            {
                all = all.saturating_add(model.capacity);
            }
        }
        all
    }

    /// Who has something free, by NUMA node.
    fn groups(&self, slot: u32, quantum: u64, avoid: &[u32]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for stock in self.choice.stock.iter().filter(|stock| stock.slot == slot) {
            let free = stock.free / quantum * quantum;
            let held = |share: &Share| {
                share.device == stock.device && exclude_each_other(self.node, share.slot, slot)
            };
            if free == 0
                || stock.device as usize >= self.node.devices.len()
                || avoid.contains(&stock.device)
                || self.shares.iter().any(held)
            {
                continue;
            }
            let numa = numa_of(self.node, stock.device);
            let candidate = Candidate { device: stock.device, free };
            if let Some(group) = groups.iter_mut().find(|group| group.numa == numa) {
                group.total = group.total.saturating_add(free);
                group.members.push(candidate);
                continue;
            }
            let near =
                numa.is_some() && self.shares.iter().any(|share| numa_of(self.node, share.device) == numa);
            groups.push(Group { numa, near, total: free, members: vec![candidate] });
        }
        groups
    }

    /// All of it on one device.
    fn one(&self, slot: &Slot, amount: u64, size: u64, groups: &[Group]) -> Result<Vec<Candidate>, Refusal> {
        let all =
            groups.iter().flat_map(|group| group.members.iter().map(move |member| (group.near, member)));
        let fitting = all.clone().filter(|(_, member)| member.free >= amount);
        let best = fitting.min_by_key(|(near, member)| {
            let fullness = if self.spread { u64::MAX - member.free } else { member.free };
            (!near, fullness, member.device)
        });
        if let Some((_, member)) = best {
            return Ok(vec![Candidate { device: member.device, free: amount }]);
        }
        let most = all.map(|(_, member)| member.free).max().unwrap_or(0);
        let message =
            [&*tell(slot, amount), " asked on one device, at most ", &count(slot, most), " free on one"];
        Err(refusal("not-enough-free", message.concat(), amount <= size))
    }

    /// On the one NUMA node that suits best, else on the fewest; there on the fewest devices.
    fn nearby(&self, mut groups: Vec<Group>, amount: u64) -> Vec<Candidate> {
        let fitting = groups.iter().enumerate().filter(|(_, group)| group.total >= amount);
        let best = fitting.min_by_key(|(_, group)| {
            let fullness = if self.spread { u64::MAX - group.total } else { group.total };
            (!group.near, fullness, group.numa)
        });
        match best.map(|(index, _)| index) {
            Some(index) => groups = vec![groups.swap_remove(index)],
            None => groups.sort_by_key(|group| (u64::MAX - group.total, !group.near, group.numa)),
        }
        let mut chosen = Vec::new();
        let mut missing = amount;
        for group in &mut groups {
            while missing > 0 {
                // The last piece goes where it fits, what comes before to the one with the most.
                let key = |(_, member): &(usize, &Candidate)| {
                    let fits = member.free >= missing;
                    let order = if fits && !self.spread { member.free } else { u64::MAX - member.free };
                    (!fits, order, member.device)
                };
                let Some((index, _)) = group.members.iter().enumerate().min_by_key(key) else { break };
                let member = group.members.swap_remove(index);
                let part = member.free.min(missing);
                missing -= part;
                chosen.push(Candidate { device: member.device, free: part });
            }
        }
        chosen
    }
}

/// The same on every device, as far as it has so much.
fn evenly(groups: Vec<Group>, amount: u64, quantum: u64) -> Vec<Candidate> {
    let mut members: Vec<Candidate> = groups.into_iter().flat_map(|group| group.members).collect();
    // The fullest first: what they cannot take goes to the others.
    members.sort_unstable_by_key(|member| (member.free, u32::MAX - member.device));
    let mut missing = amount;
    let mut chosen = Vec::new();
    let mut left = members.len() as u64;
    for member in members {
        let level = (missing / quantum).checked_div(left).unwrap_or(0) * quantum;
        let rounded = if left == 1 { missing } else { level };
        let part = rounded.min(member.free);
        left -= 1;
        if part > 0 {
            missing -= part;
            chosen.push(Candidate { device: member.device, free: part });
        }
    }
    chosen
}

/// The indices of those who wait, first come first.
pub fn arrivals(waiting: &[KernelRequest]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..waiting.len()).filter_map(|index| u32::try_from(index).ok()).collect();
    order.sort_by_key(|index| waiting[*index as usize].requested_at_ms);
    order
}

/// First come, first served: everyone may start. How many do at a time the agent bounds.
pub fn order(waiting: &[KernelRequest]) -> Vec<Decision> {
    arrivals(waiting).into_iter().map(|request| Decision { request, verdict: Verdict::Start }).collect()
}

/// Preemptible kernels first, then those idle longest. System kernels stay, and those whose end frees nothing.
pub fn evict(pressure: &Pressure, running: &[RunningKernel]) -> Vec<Eviction> {
    let frees = |kernel: &RunningKernel| match pressure {
        Pressure::Memory(_) => kernel.memory_used > 0,
        Pressure::Disk(_) => kernel.disk_used > 0,
        Pressure::Pids(_) => kernel.pids_used > 0,
        Pressure::Devices(lost) => kernel.shares.iter().any(|share| lost.contains(&share.device)),
    };
    let reason = match pressure {
        Pressure::Memory(_) => "the node runs out of memory",
        Pressure::Disk(_) => "the node runs out of disk space",
        Pressure::Pids(_) => "the node runs out of processes",
        Pressure::Devices(_) => "a device of it was lost",
    };
    let mut order: Vec<u32> = Vec::new();
    for (index, kernel) in running.iter().enumerate() {
        let stays = kernel.session_kind == SessionKind::System || !frees(kernel);
        order.extend(u32::try_from(index).ok().filter(|_| !stays));
    }
    order.sort_by_key(|index| {
        let kernel = &running[*index as usize];
        (!kernel.preemptible, u64::MAX - kernel.idle_ms)
    });
    let eviction = |kernel| Eviction { kernel, reason: reason.to_owned(), grace_ms: None };
    order.into_iter().map(eviction).collect()
}

fn refusal(code: &str, message: String, retry_later: bool) -> Refusal {
    Refusal { code: code.to_owned(), message, retry_later }
}

/// `2 cores`, `1.5 GiB of mem`, `0.5 cuda.shares`.
fn tell(slot: &Slot, amount: u64) -> String {
    match slot.kind {
        SlotKind::Bytes => [&*count(slot, amount), " of ", &slot.name].concat(),
        _ if slot.name == "cpu" => {
            [&*count(slot, amount), if amount == ONE { " core" } else { " cores" }].concat()
        }
        _ => [&*count(slot, amount), " ", &slot.name].concat(),
    }
}

/// `2`, `0.5`, `1.5 GiB`: bytes to a tenth, rounded down.
fn count(slot: &Slot, amount: u64) -> String {
    if slot.kind != SlotKind::Bytes {
        return decimal(amount / ONE, amount % ONE, 6);
    }
    for (shift, unit) in [(30, " GiB"), (20, " MiB"), (10, " KiB")] {
        if amount >> shift > 0 {
            let rest = amount & ((1 << shift) - 1);
            return [&*decimal(amount >> shift, (rest * 10) >> shift, 1), unit].concat();
        }
    }
    [&*amount.to_string(), " bytes"].concat()
}

/// `whole.rest` with so many digits, without zeros at the end.
fn decimal(whole: u64, rest: u64, digits: usize) -> String {
    let mut text = whole.to_string();
    if rest > 0 {
        let rest = rest.to_string();
        text.push('.');
        text.extend(std::iter::repeat_n('0', digits.saturating_sub(rest.len())));
        text.push_str(rest.trim_end_matches('0'));
    }
    text
}
