//! `place`: which devices a kernel gets.

use super::{Decision, Refusal, WorldKind, scheduler, scheduling, tidy, types};

/// `place`: which devices a kernel gets.
#[derive(Debug)]
pub struct Place;

/// A request and what is to be had.
#[derive(Debug, Clone)]
pub struct PlaceQuestion {
    /// The kernel as it was asked for.
    pub request: types::KernelRequest,
    /// All devices and slots.
    pub node: types::Node,
    /// What is free.
    pub choice: scheduling::Choice,
}

impl Decision for Place {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "place";
    type Question = PlaceQuestion;
    type Raw = scheduling::Placement;
    /// Exactly the wanted amount for every wanted slot (`rest` has been placed by the built-in).
    type Answer = Vec<types::Share>;

    fn twin(ctx: &types::Context, question: &PlaceQuestion) -> Result<Self::Raw, Refusal> {
        Ok(scheduler::place(ctx, &question.request, &question.node, &question.choice)?)
    }

    fn check(
        ctx: &types::Context,
        question: &PlaceQuestion,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        let PlaceQuestion { request, node, choice } = question;
        let wants = scheduler::wants(request, node)
            .map_err(|refusal| format!("places what cannot be placed: {}", refusal.message))?;
        check_shares(question, &wants, &raw.shares)?;
        let mut avoid = raw.avoid;
        // Named as often as the answer has room for, it costs the search no more than once each.
        avoid.sort_unstable();
        avoid.dedup();
        if let Some(device) = avoid.last().filter(|device| **device as usize >= node.devices.len()) {
            return Err(format!("avoids device {device}, which does not exist"));
        }
        let strategy = match raw.rest {
            scheduling::Strategy::Usual => scheduler::usual(ctx),
            chosen => chosen,
        };
        let rest = scheduler::fill(request, node, choice, &raw.shares, strategy, &avoid)
            .map_err(|refusal| format!("leaves a rest that cannot be placed: {}", refusal.message))?;
        let mut shares = raw.shares;
        shares.extend(rest);
        shares.sort_unstable_by_key(|share| (share.slot, share.device));
        Ok((shares, raw.note.as_deref().map(tidy).filter(|note| !note.is_empty())))
    }
}

/// Each share against what is free, and those of a slot together against what is wanted of it. Sorted once, so that
/// an answer with as many shares as fit into one costs no more than reading it.
fn check_shares(
    question: &PlaceQuestion,
    wants: &[(u32, u64)],
    given: &[types::Share],
) -> Result<(), String> {
    let mut stock: Vec<(u32, u32, u64)> =
        question.choice.stock.iter().map(|stock| (stock.slot, stock.device, stock.free)).collect();
    stock.sort_by_key(|(slot, device, _)| (*slot, *device));
    let mut shares: Vec<types::Share> = given.to_vec();
    shares.sort_unstable_by_key(|share| (share.slot, share.device));
    for pair in shares.windows(2) {
        if (pair[0].slot, pair[0].device) == (pair[1].slot, pair[1].device) {
            let name = slot_name(&question.node, pair[0].slot);
            return Err(format!("gives {name} of device {} twice", pair[0].device));
        }
    }
    for shares in shares.chunk_by(|one, other| one.slot == other.slot) {
        let slot = shares[0].slot;
        let name = || slot_name(&question.node, slot);
        // Slots that exclude each other are never wanted together, so no device is given under two such.
        let Some(&(_, wanted)) = wants.iter().find(|want| want.0 == slot) else {
            return Err(format!("gives {}, which is not wanted", name()));
        };
        for share in shares {
            check_share(question, &stock, share)?;
        }
        check_slot(question, slot, wanted, shares)?;
    }
    Ok(())
}

/// One share against what is free. `stock` is sorted by slot and device.
fn check_share(
    question: &PlaceQuestion,
    stock: &[(u32, u32, u64)],
    share: &types::Share,
) -> Result<(), String> {
    let types::Share { device, slot, amount } = *share;
    let name = || slot_name(&question.node, slot);
    let quantum = question.node.slots.get(slot as usize).map_or(1, |slot| slot.quantum.max(1));
    if amount == 0 || !amount.is_multiple_of(quantum) {
        return Err(format!("gives {amount} of {}, which is given in steps of {quantum}", name()));
    }
    let at = stock.partition_point(|entry| (entry.0, entry.1) < (slot, device));
    match stock.get(at).filter(|entry| (entry.0, entry.1) == (slot, device)) {
        None => Err(format!("gives {} of device {device}, which has none", name())),
        Some((.., free)) if *free < amount => {
            Err(format!("gives {amount} of {} of device {device}, which has {free} free", name()))
        }
        Some(_) => Ok(()),
    }
}

/// All shares of a slot that the answer names: their sum, and whether they may be scattered.
fn check_slot(
    question: &PlaceQuestion,
    index: u32,
    amount: u64,
    shares: &[types::Share],
) -> Result<(), String> {
    let pieces = shares.len();
    let name = || slot_name(&question.node, index);
    let total = shares.iter().map(|share| share.amount).try_fold(0, u64::checked_add);
    if total != Some(amount) {
        let total = total.map_or_else(|| "too much to count".to_owned(), |total| total.to_string());
        return Err(format!("gives {total} of {} where {amount} is wanted", name()));
    }
    let kind = question.node.slots.get(index as usize).map(|slot| slot.kind);
    let below_one = kind == Some(types::SlotKind::Count)
        && !question.request.may_fragment
        && amount < scheduler::device_size(&question.choice, index);
    if pieces > 1 && (below_one || kind == Some(types::SlotKind::Unique)) {
        return Err(format!("scatters {amount} of {} over {pieces} devices", name()));
    }
    Ok(())
}

fn slot_name(node: &types::Node, slot: u32) -> String {
    match node.slots.get(slot as usize) {
        Some(known) => format!("slot {}", known.name),
        None => format!("slot number {slot}"),
    }
}
