//! The books as people see them. Pure.

use std::collections::BTreeMap;

use super::SlotBook;
use super::ledger::Ledger;
use crate::ids::{KernelId, SlotName};
use crate::inventory::Offer;
use crate::policy::bindings::types::SlotKind;

/// Slots and devices in the order of the offer, then what is held beyond it.
pub(super) fn books(offer: Option<&Offer>, ledger: &Ledger) -> Vec<SlotBook> {
    let mut held: BTreeMap<(&SlotName, &str), u64> =
        ledger.accounts().map(|(slot, device, _, held)| ((slot, device), held)).collect();
    let mut books = Vec::new();
    for slot in offer.map_or(&[][..], |offer| &offer.slots) {
        let mut book = empty(&slot.name, kind(slot.kind));
        for (device, offered) in &slot.offers {
            let device = offer.and_then(|offer| offer.inventory.devices.get(*device));
            let Some(device) = device else { continue };
            let held = held.remove(&(&slot.name, device.id.as_str())).unwrap_or(0);
            book.devices.push((device.id.clone(), *offered, held));
        }
        books.push(book);
    }
    for ((slot, device), held) in held.into_iter().filter(|(_, held)| *held > 0) {
        let at = books.iter().position(|book| book.slot == *slot).unwrap_or_else(|| {
            // Its kind is no longer known; only memory is ever counted in bytes by that name.
            books.push(empty(slot, if slot.family() == "mem" { "bytes" } else { "count" }));
            books.len() - 1
        });
        if let Some(book) = books.get_mut(at) {
            book.devices.push((device.to_owned(), 0, held));
        }
    }
    for book in &mut books {
        book.offered = sum(book.devices.iter().map(|device| device.1));
        book.held = sum(book.devices.iter().map(|device| device.2));
        book.holders = holders(&book.slot, ledger);
    }
    books
}

fn holders(slot: &SlotName, ledger: &Ledger) -> Vec<(KernelId, String, u64)> {
    let of_slot = |allocations: &[super::Allocation]| {
        sum(allocations.iter().filter(|part| part.slot == *slot).map(|part| part.amount))
    };
    ledger
        .holders()
        .map(|(holder, allocations)| (holder.kernel, holder.name.clone(), of_slot(allocations)))
        .filter(|(.., held)| *held > 0)
        .collect()
}

fn empty(slot: &SlotName, kind: &str) -> SlotBook {
    SlotBook {
        slot: slot.clone(),
        kind: kind.to_owned(),
        offered: 0,
        held: 0,
        devices: Vec::new(),
        holders: Vec::new(),
    }
}

fn kind(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Count => "count",
        SlotKind::Bytes => "bytes",
        SlotKind::Unique => "unique",
        SlotKind::Unified => "unified",
    }
}

fn sum(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}
