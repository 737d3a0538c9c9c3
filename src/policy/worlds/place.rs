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
        for (index, share) in raw.shares.iter().enumerate() {
            check_share(question, &wants, share, &raw.shares[..index])?;
        }
        for &(slot, amount) in &wants {
            check_slot(question, slot, amount, &raw.shares)?;
        }
        if let Some(device) = raw.avoid.iter().find(|device| **device as usize >= node.devices.len()) {
            return Err(format!("avoids device {device}, which does not exist"));
        }
        let strategy = match raw.rest {
            scheduling::Strategy::Usual => scheduler::usual(ctx),
            chosen => chosen,
        };
        let rest = scheduler::fill(request, node, choice, &raw.shares, strategy, &raw.avoid)
            .map_err(|refusal| format!("leaves a rest that cannot be placed: {}", refusal.message))?;
        let mut shares = raw.shares;
        shares.extend(rest);
        shares.sort_unstable_by_key(|share| (share.slot, share.device));
        Ok((shares, raw.note.as_deref().map(tidy).filter(|note| !note.is_empty())))
    }
}

/// One share against what is free and against those before it.
fn check_share(
    question: &PlaceQuestion,
    wants: &[(u32, u64)],
    share: &types::Share,
    earlier: &[types::Share],
) -> Result<(), String> {
    let types::Share { device, slot, amount } = *share;
    let name = slot_name(&question.node, slot);
    if !wants.iter().any(|want| want.0 == slot) {
        return Err(format!("gives {name}, which is not wanted"));
    }
    let quantum = question.node.slots.get(slot as usize).map_or(1, |slot| slot.quantum.max(1));
    if amount == 0 || !amount.is_multiple_of(quantum) {
        return Err(format!("gives {amount} of {name}, which is given in steps of {quantum}"));
    }
    let free = question
        .choice
        .stock
        .iter()
        .filter(|stock| stock.device == device && stock.slot == slot)
        .map(|stock| stock.free)
        .next();
    match free {
        None => return Err(format!("gives {name} of device {device}, which has none")),
        Some(free) if free < amount => {
            return Err(format!("gives {amount} of {name} of device {device}, which has {free} free"));
        }
        Some(_) => {}
    }
    for other in earlier.iter().filter(|other| other.device == device) {
        if other.slot == slot {
            return Err(format!("gives {name} of device {device} twice"));
        }
        if scheduler::exclude_each_other(&question.node, other.slot, slot) {
            let other = slot_name(&question.node, other.slot);
            return Err(format!("gives {other} and {name} of device {device}, which exclude each other"));
        }
    }
    Ok(())
}

/// All shares of a slot that the answer names: their sum, and whether they may be scattered.
fn check_slot(
    question: &PlaceQuestion,
    index: u32,
    amount: u64,
    shares: &[types::Share],
) -> Result<(), String> {
    let shares = shares.iter().filter(|share| share.slot == index);
    let pieces = shares.clone().count();
    if pieces == 0 {
        return Ok(());
    }
    let name = slot_name(&question.node, index);
    let total = shares.map(|share| share.amount).try_fold(0, u64::checked_add);
    if total != Some(amount) {
        let total = total.map_or_else(|| "too much to count".to_owned(), |total| total.to_string());
        return Err(format!("gives {total} of {name} where {amount} is wanted"));
    }
    let kind = question.node.slots.get(index as usize).map(|slot| slot.kind);
    let below_one = kind == Some(types::SlotKind::Count)
        && !question.request.may_fragment
        && amount < scheduler::device_size(&question.choice, index);
    if pieces > 1 && (below_one || kind == Some(types::SlotKind::Unique)) {
        return Err(format!("scatters {amount} of {name} over {pieces} devices"));
    }
    Ok(())
}

fn slot_name(node: &types::Node, slot: u32) -> String {
    match node.slots.get(slot as usize) {
        Some(known) => format!("slot {}", known.name),
        None => format!("slot number {slot}"),
    }
}
