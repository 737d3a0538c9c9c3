//! What people are told when there is no place: what was asked, what is there, who holds it, what to do.
//! Pure.

use std::time::Duration;

use super::ledger::Ledger;
use super::{Refused, Request};
use crate::amount;
use crate::ids::SlotName;
use crate::inventory::{Offer, OfferedSlot};
use crate::policy::Refusal;
use crate::policy::bindings::types::SlotKind;

/// How many holders a message names.
const NAMED: usize = 4;

pub(super) fn refused(code: &str, message: String, hint: &str, again: Again) -> Refused {
    let refusal = Refusal { code: code.to_owned(), message, retry_later: again == Again::MayHelp };
    Refused { refusal, hint: (!hint.is_empty()).then(|| hint.to_owned()), by: None }
}

/// Whether asking later may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    MayHelp,
    IsUseless,
}

pub(super) fn ended() -> Refused {
    let message = "the agent's admission has ended, no kernel can be placed".to_owned();
    refused(
        "admission-ended",
        message,
        "restart the agent; kernels that run are not touched",
        Again::IsUseless,
    )
}

pub(super) fn busy() -> Refused {
    let message = "too many requests wait for a place already".to_owned();
    refused("busy", message, "try again in a moment", Again::MayHelp)
}

pub(super) fn draining() -> Refused {
    let message = "this node is drained and takes no new kernels".to_owned();
    refused("draining", message, "`berth undrain` ends that; `berth status` says since when", Again::MayHelp)
}

pub(super) fn not_ready() -> Refused {
    let message = "the node does not know yet what it offers".to_owned();
    refused("not-ready", message, "try again in a moment; `berth status` says what is wrong", Again::MayHelp)
}

pub(super) fn already_booked(name: &str) -> Refused {
    let message = format!("{name} holds a share already");
    refused("already-booked", message, "", Again::IsUseless)
}

pub(super) fn not_booked(problem: &str) -> Refused {
    let message = format!("the placement could not be booked: {problem}");
    refused("placement-failed", message, "`berth policy list` shows which policy places", Again::MayHelp)
}

/// The same refusal after the time to wait is over.
pub(super) fn timed_out(waited: Duration, last: Refused) -> Refused {
    let message = format!("waited {waited:?} for room; {}", last.refusal.message);
    let hint = match last.hint.as_deref().and_then(|hint| hint.split(',').next()) {
        Some(stop) if stop.starts_with("`berth stop") => format!("{stop}, or wait longer"),
        _ => "wait longer".to_owned(),
    };
    let refusal = Refusal { code: "wait-timeout".to_owned(), message, retry_later: true };
    Refused { refusal, hint: Some(hint), by: last.by }
}

/// What is wrong with the request itself on this node, whatever is free.
pub(super) fn check(request: &Request, offer: &Offer) -> Result<(), Refused> {
    for (at, (name, amount)) in request.wants.iter().enumerate() {
        let useless = |code, message, hint: &str| Err(refused(code, message, hint, Again::IsUseless));
        let Some(slot) = offer.slots.iter().find(|slot| slot.name == *name) else {
            let offered: Vec<_> = offer.slots.iter().map(|slot| slot.name.as_str()).collect();
            let there = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
            let message = format!("this node has no slot {name}; it offers {there}");
            return useless("no-such-slot", message, "`berth slots` shows what there is");
        };
        let asked = phrase(slot, *amount);
        if slot.kind == SlotKind::Unified {
            let message = format!("{name} belongs to every kernel and cannot be asked for");
            return useless("not-countable", message, &format!("leave {name} out"));
        }
        if *amount == 0 {
            let message = format!("{asked} asked");
            return useless("invalid-amount", message, &format!("ask for more than 0, or leave {name} out"));
        }
        let earlier = request.wants.get(..at).unwrap_or_default();
        if earlier.iter().any(|(other, _)| other == name) {
            return useless("slot-twice", format!("{name} is asked for twice"), "ask for it once");
        }
        if let Some(other) = earlier.iter().find(|(other, _)| same_group(offer, slot, other)) {
            let message = format!("{} and {name} exclude each other", other.0);
            return useless("exclusive-slots", message, "ask for one of them");
        }
        if slot.kind == SlotKind::Unique && *amount > amount::ONE {
            let message = format!("{asked} asked, but a kernel can have only one");
            return useless("unique-slot", message, "ask for 1");
        }
        let offered = total(slot);
        if *amount > offered {
            let message = format!("{asked} asked, {} offered", spell(slot, offered));
            let hint = match offered {
                0 => "`berth slots` says why".to_owned(),
                some => format!("ask for at most {}", spell(slot, some)),
            };
            return useless("not-enough-free", message, &hint);
        }
        if slot.quantum > 0 && *amount % slot.quantum != 0 {
            let below = *amount - *amount % slot.quantum;
            let above = below.saturating_add(slot.quantum);
            let near: Vec<_> = [below, above]
                .into_iter()
                .filter(|near| (1..=offered).contains(near))
                .map(|near| spell(slot, near))
                .collect();
            let message = format!("{asked} asked, but {name} goes in steps of {}", spell(slot, slot.quantum));
            return useless("not-a-multiple", message, &format!("ask for {}", near.join(" or ")));
        }
    }
    Ok(())
}

/// What is not free of what the request wants; none when all of it is.
pub(super) fn lacking(request: &Request, offer: &Offer, ledger: &Ledger) -> Option<Refused> {
    let mut sentences = Vec::new();
    let mut stop = None;
    for (name, amount) in &request.wants {
        let Some(slot) = offer.slots.iter().find(|slot| slot.name == *name) else { continue };
        let free = free(slot, offer, ledger);
        if *amount <= free {
            continue;
        }
        let mut holders = holders(slot, ledger);
        holders.sort_by_key(|(_, held)| std::cmp::Reverse(*held));
        // The smallest whose end is enough, else the largest.
        let enough = holders.iter().rev().find(|(_, held)| *held >= *amount - free);
        stop = stop.or_else(|| enough.or(holders.first()).map(|(name, _)| name.clone()));
        let mut sentence = format!("{} asked, {} free", phrase(slot, *amount), spell(slot, free));
        if !holders.is_empty() {
            let mut named: Vec<_> = holders
                .iter()
                .take(NAMED)
                .map(|(name, held)| format!("{name} holds {}", spell(slot, *held)))
                .collect();
            let more = &holders[named.len()..];
            if !more.is_empty() {
                let held = more.iter().fold(0_u64, |sum, (_, held)| sum.saturating_add(*held));
                named.push(format!("{} more hold {}", more.len(), spell(slot, held)));
            }
            sentence = format!("{sentence}; {}", named.join(", "));
        }
        sentences.push(sentence);
    }
    if sentences.is_empty() {
        return None;
    }
    let hint = stop.map_or("wait with `--wait`".to_owned(), |name| {
        format!("`berth stop {name}`, or wait with `--wait`")
    });
    Some(refused("not-enough-free", sentences.join("; and "), &hint, Again::MayHelp))
}

/// Enough may be free, but somebody who came earlier waits for more of it.
pub(super) fn behind(request: &Request, earlier: &Request, offer: &Offer, ledger: &Ledger) -> Refused {
    let both = offer.slots.iter().find_map(|slot| {
        let of =
            |wants: &[(SlotName, u64)]| wants.iter().find(|(name, _)| *name == slot.name).map(|want| want.1);
        Some((slot, of(&request.wants)?, of(&earlier.wants)?))
    });
    let message = match both {
        Some((slot, ours, theirs)) => format!(
            "{} asked, {} free, but {} came first and waits for {}",
            phrase(slot, ours),
            spell(slot, free(slot, offer, ledger)),
            earlier.name,
            spell(slot, theirs)
        ),
        None => format!("{} came first and waits for room", earlier.name),
    };
    refused("not-enough-free", message, "wait in line with `--wait`", Again::MayHelp)
}

/// Whether two requests want a slot in common.
pub(super) fn compete(one: &Request, other: &Request) -> bool {
    one.wants.iter().any(|(name, _)| other.wants.iter().any(|(theirs, _)| theirs == name))
}

fn same_group(offer: &Offer, slot: &OfferedSlot, other: &SlotName) -> bool {
    slot.exclusive_group.is_some()
        && offer.slots.iter().any(|found| {
            found.name == *other
                && found.exclusive_group == slot.exclusive_group
                && found.name.family() == slot.name.family()
        })
}

fn total(slot: &OfferedSlot) -> u64 {
    slot.offers.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
}

fn free(slot: &OfferedSlot, offer: &Offer, ledger: &Ledger) -> u64 {
    let devices = slot.offers.iter().filter_map(|(device, _)| offer.inventory.devices.get(*device));
    devices.fold(0, |sum, device| sum.saturating_add(ledger.free(&slot.name, &device.id)))
}

/// Who holds how much of a slot, oldest first.
fn holders(slot: &OfferedSlot, ledger: &Ledger) -> Vec<(String, u64)> {
    let of_slot = |allocations: &[super::Allocation]| {
        let parts = allocations.iter().filter(|part| part.slot == slot.name);
        parts.fold(0_u64, |sum, part| sum.saturating_add(part.amount))
    };
    ledger
        .holders()
        .map(|(holder, allocations)| (holder.name.clone(), of_slot(allocations)))
        .filter(|(_, held)| *held > 0)
        .collect()
}

fn spell(slot: &OfferedSlot, amount: u64) -> String {
    match slot.kind {
        SlotKind::Bytes => amount::format_bytes(amount),
        SlotKind::Count | SlotKind::Unique | SlotKind::Unified => amount::format_count(amount),
    }
}

fn phrase(slot: &OfferedSlot, amount: u64) -> String {
    let spelt = spell(slot, amount);
    match slot.name.as_str() {
        "cpu" if amount == amount::ONE => "1 core".to_owned(),
        "cpu" => format!("{spelt} cores"),
        "mem" => format!("{spelt} of memory"),
        other => format!("{spelt} {other}"),
    }
}
