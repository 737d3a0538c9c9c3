//! The rules of the checks a second time, as plainly as they can be said and without the code that checks: no wrong
//! answer passes, no right one is refused. Answers are thrown at both, arbitrary ones and right ones with mistakes.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::tests::questions::{self, GIB, ONE};
use super::tests::{self, assert_offering, assert_shares};
use super::*;

mod edits;

use configuring::{Edit, Mount, MountKind};
use scheduling::{Pressure, Verdict};
use types::{DeviceKind, SlotKind};

// ---- report

fn offering_is_right(inventory: &reporting::Inventory, raw: &reporting::Offering) -> bool {
    let model = |device: u32| {
        let device = inventory.devices.get(device as usize)?;
        inventory.models.get(device.model as usize)
    };
    let withheld = raw.withheld.iter().all(|entry| {
        model(entry.device).is_some_and(|model| entry.amount.is_none_or(|amount| amount <= model.capacity))
    });
    let names: BTreeSet<&String> = raw.slots.iter().map(|slot| &slot.name).collect();
    let slots = raw.slots.iter().all(|slot| {
        let total: u128 = slot.offers.iter().map(|offer| u128::from(offer.amount)).sum();
        let devices: BTreeSet<u32> = slot.offers.iter().map(|offer| offer.device).collect();
        slot.name.parse::<crate::ids::SlotName>().is_ok()
            && slot.quantum > 0
            && u64::try_from(total).is_ok()
            && devices.len() == slot.offers.len()
            && slot.offers.iter().all(|offer| {
                model(offer.device).is_some_and(|model| {
                    let family =
                        slot.name == model.family || slot.name.starts_with(&(model.family.clone() + "."));
                    let bytes = slot.kind == SlotKind::Bytes;
                    family && bytes == (model.kind == DeviceKind::Memory) && offer.amount <= model.capacity
                })
            })
    });
    withheld && slots && names.len() == raw.slots.len() && silicon_is_shared_rightly(inventory, &raw.slots)
}

/// Every two offers that draw on the same silicon are of two slots that exclude each other.
fn silicon_is_shared_rightly(inventory: &reporting::Inventory, slots: &[reporting::SlotOffer]) -> bool {
    let above = |device: u32| {
        let (mut found, mut at) = (BTreeSet::new(), device);
        while let Some(parent) = inventory.devices.get(at as usize).and_then(|device| device.parent) {
            if parent as usize >= inventory.devices.len() || parent == device || !found.insert(parent) {
                break;
            }
            at = parent;
        }
        found
    };
    let all: Vec<(usize, u32)> = slots
        .iter()
        .enumerate()
        .flat_map(|(index, slot)| slot.offers.iter().map(move |offer| (index, offer.device)))
        .collect();
    all.iter().enumerate().all(|(position, &(slot, device))| {
        all.iter().enumerate().all(|(other_position, &(other, other_device))| {
            let same = device == other_device || above(device).contains(&other_device);
            let (one, two) = (slots[slot].exclusive_group, slots[other].exclusive_group);
            position == other_position || !same || (slot != other && one.is_some() && one == two)
        })
    })
}

/// Inventories that no agent finds, too: devices of no model, parents in rings.
fn any_inventories() -> impl Strategy<Value = reporting::Inventory> {
    (tests::inventories(), vec((0..16_usize, option::of(0..18_u32), 0..6_u32), 0..3)).prop_map(
        |(mut inventory, wild)| {
            for (at, parent, model) in wild {
                if let Some(device) = inventory.devices.get_mut(at) {
                    (device.parent, device.model) = (parent, if model == 5 { 9 } else { device.model });
                }
            }
            inventory
        },
    )
}

/// The built-in's offering with up to two mistakes, or none.
fn nearly_right(inventory: &reporting::Inventory, mistakes: &[(u8, usize, u64)]) -> reporting::Offering {
    let question = ReportQuestion { inventory: inventory.clone() };
    let mut raw = Report::twin(&questions::context(&[]), &question).unwrap();
    for &(kind, at, amount) in mistakes {
        let count = raw.slots.len();
        if count == 0 {
            break;
        }
        let slot = &mut raw.slots[at % count];
        let offers = slot.offers.len().max(1);
        match kind {
            0 => slot.exclusive_group = Some(1),
            1 => slot.quantum = amount,
            2 => slot.name.push_str(".x"),
            3 => {
                if let Some(offer) = slot.offers.get_mut(at % offers) {
                    offer.amount = amount;
                }
            }
            4 => slot.offers.extend(slot.offers.first().cloned()),
            5 => {
                if let Some(offer) = slot.offers.get_mut(at % offers) {
                    offer.device = at as u32 % 20;
                }
            }
            6 => {
                let again = reporting::SlotOffer { name: format!("{}.b", slot.name), ..slot.clone() };
                raw.slots.push(again);
            }
            7 => slot.kind = SlotKind::Bytes,
            _ => raw.withheld.push(reporting::Withheld {
                device: at as u32 % 20,
                amount: Some(amount).filter(|_| at.is_multiple_of(2)),
                reason: "x".to_owned(),
            }),
        }
    }
    raw
}

// ---- place

fn placement_is_right(question: &PlaceQuestion, raw: &scheduling::Placement) -> bool {
    let PlaceQuestion { request, node, .. } = question;
    let slot = |index: u32| node.slots.get(index as usize);
    if request.wants.iter().any(|want| slot(want.slot).is_none()) {
        return false;
    }
    let counted = |want: &&types::Want| {
        want.amount > 0 && slot(want.slot).is_some_and(|slot| slot.kind != SlotKind::Unified)
    };
    let wants: Vec<&types::Want> = request.wants.iter().filter(counted).collect();
    for (index, one) in wants.iter().enumerate() {
        for other in &wants[index + 1..] {
            let (group, rival) = (
                node.slots[one.slot as usize].exclusive_group,
                node.slots[other.slot as usize].exclusive_group,
            );
            if one.slot == other.slot || (group.is_some() && group == rival) {
                return false;
            }
        }
    }
    let in_reach = raw.avoid.iter().all(|device| (*device as usize) < node.devices.len());
    let only_wanted = raw.shares.iter().all(|share| wants.iter().any(|want| want.slot == share.slot));
    in_reach && only_wanted && wants.iter().all(|want| slot_is_right(question, raw, want))
}

fn slot_is_right(question: &PlaceQuestion, raw: &scheduling::Placement, want: &types::Want) -> bool {
    let slot = &question.node.slots[want.slot as usize];
    let quantum = slot.quantum.max(1);
    let stock: Vec<&scheduling::Stock> =
        question.choice.stock.iter().filter(|stock| stock.slot == want.slot).collect();
    let one_device = stock.iter().map(|stock| stock.offered).max().unwrap_or(0);
    let whole = slot.kind == SlotKind::Count && !question.request.may_fragment;
    let shares: Vec<&types::Share> = raw.shares.iter().filter(|share| share.slot == want.slot).collect();
    if shares.is_empty() {
        // The built-in has to find it.
        let free: Vec<u128> = stock
            .iter()
            .filter(|stock| (stock.device as usize) < question.node.devices.len())
            .filter(|stock| !raw.avoid.contains(&stock.device))
            .map(|stock| u128::from(stock.free / quantum * quantum))
            .collect();
        let wanted = u128::from(want.amount);
        let on_one = slot.kind == SlotKind::Unique || (whole && want.amount <= one_device);
        let found = if on_one { free.iter().any(|free| *free >= wanted) } else { true };
        return want.amount.is_multiple_of(quantum) && free.iter().sum::<u128>() >= wanted && found;
    }
    let sum: u128 = shares.iter().map(|share| u128::from(share.amount)).sum();
    let devices: BTreeSet<u32> = shares.iter().map(|share| share.device).collect();
    let each = shares.iter().all(|share| {
        let free = stock.iter().find(|stock| stock.device == share.device).map(|stock| stock.free);
        share.amount > 0 && share.amount % quantum == 0 && free.is_some_and(|free| share.amount <= free)
    });
    let scattered =
        shares.len() > 1 && (slot.kind == SlotKind::Unique || (whole && want.amount < one_device));
    each && devices.len() == shares.len() && sum == u128::from(want.amount) && !scattered
}

/// The built-in's placement with some shares left out and up to two mistakes.
fn nearly_placed(question: &PlaceQuestion, keep: u8, mistakes: &[(u8, usize, u64)]) -> scheduling::Placement {
    let empty =
        scheduling::Placement { shares: vec![], rest: scheduling::Strategy::Pack, avoid: vec![], note: None };
    let mut raw = Place::twin(&questions::context(&[]), question).unwrap_or(empty);
    raw.shares.retain(|share| keep >> (share.slot % 8) & 1 == 1);
    for &(kind, at, amount) in mistakes {
        let count = raw.shares.len().max(1);
        match (kind, raw.shares.get_mut(at % count)) {
            (0, Some(share)) => share.amount = amount,
            (1, Some(share)) => share.device = at as u32 % 20,
            (2, Some(share)) => share.slot = at as u32 % 5,
            (3, Some(share)) => {
                let half = types::Share { amount: share.amount / 2, ..*share };
                share.amount -= half.amount;
                raw.shares.push(types::Share { device: at as u32 % 20, ..half });
            }
            (4, Some(share)) => {
                let again = *share;
                raw.shares.push(again);
            }
            (5, Some(_)) => {
                raw.shares.swap_remove(at % count);
            }
            (6, _) => raw.avoid.push(at as u32 % 20),
            (_, _) => raw.shares.push(types::Share { device: at as u32 % 20, slot: at as u32 % 4, amount }),
        }
    }
    raw
}

fn mistakes() -> impl Strategy<Value = Vec<(u8, usize, u64)>> {
    vec((0..9_u8, 0..60_usize, tests::amounts()), 0..3)
}

// ---- the properties

fn agree<T, E: std::fmt::Display>(checked: &Result<T, E>, right: bool) -> Result<(), TestCaseError> {
    match (checked, right) {
        (Ok(_), false) => Err(TestCaseError::fail("a wrong answer passed")),
        (Err(problem), true) => Err(TestCaseError::fail(format!("a right answer was refused: it {problem}"))),
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn an_offering_passes_when_it_is_right_and_only_then(
        inventory in any_inventories(), arbitrary in tests::offerings(), mistakes in mistakes(), which in any::<bool>(),
    ) {
        let raw = if which { arbitrary } else { nearly_right(&inventory, &mistakes) };
        let right = offering_is_right(&inventory, &raw);
        let question = ReportQuestion { inventory };
        let checked = Report::check(&questions::context(&[]), &question, raw);
        agree(&checked, right)?;
        if let Ok((answer, _)) = checked {
            // Where parents form a ring there is no whole to be a part of.
            let plain = question.inventory.devices.iter().enumerate().all(|(index, device)| {
                device.parent.is_none_or(|parent| (parent as usize) < index)
            });
            if plain {
                assert_offering(&question.inventory, &answer);
            }
        }
    }

    #[test]
    fn a_placement_passes_when_it_is_right_and_only_then(
        question in tests::place_questions(), arbitrary in tests::placements(), keep in any::<u8>(),
        mistakes in mistakes(), which in 0..4_u8,
    ) {
        let raw = if which == 0 { arbitrary } else { nearly_placed(&question, keep, &mistakes) };
        let right = placement_is_right(&question, &raw);
        let checked = Place::check(&questions::context(&[]), &question, raw);
        agree(&checked, right)?;
        if let Ok((shares, _)) = checked {
            assert_shares(&question, &shares);
        }
    }

    #[test]
    fn an_order_passes_when_it_is_right_and_only_then(count in 0..70_usize, raw in vec(0..72_u32, 0..12)) {
        let mut question = questions::order_table().swap_remove(0).1;
        question.waiting = vec![questions::request(&[]); count];
        let right = raw.iter().collect::<BTreeSet<_>>().len() == raw.len()
            && raw.iter().all(|request| (*request as usize) < count);
        let decisions: Vec<scheduling::Decision> =
            raw.iter().map(|request| scheduling::Decision { request: *request, verdict: Verdict::Start }).collect();
        let checked = Order::check(&questions::context(&[]), &question, decisions);
        agree(&checked, right)?;
        if let Ok((answer, _)) = checked {
            let all: BTreeSet<u32> = answer.iter().map(|decision| decision.request).collect();
            prop_assert!(all.len() == count && answer.len() == count, "everyone once");
            prop_assert!(answer.iter().zip(&raw).all(|(decision, request)| decision.request == *request));
        }
    }

    #[test]
    fn an_eviction_passes_when_it_is_right_and_only_then(
        count in 0..12_usize, raw in vec((0..13_u32, option::of(0..700_000_u32)), 0..8),
    ) {
        let kernel = scheduling::RunningKernel {
            kernel_id: "k".to_owned(), owner: "o".to_owned(), project: None,
            session_kind: types::SessionKind::Batch, shares: Vec::new(), memory_used: 1, disk_used: 0, pids_used: 1,
            started_at_ms: 0, idle_ms: 0, preemptible: true,
        };
        let node = types::Node { models: Vec::new(), devices: Vec::new(), slots: Vec::new() };
        let question = EvictQuestion { pressure: Pressure::Memory(GIB), running: vec![kernel; count], node };
        let right = raw.iter().map(|eviction| eviction.0).collect::<BTreeSet<_>>().len() == raw.len()
            && raw.iter().all(|(kernel, grace)| {
                (*kernel as usize) < count && grace.is_none_or(|grace| grace <= 600_000)
            });
        let evictions: Vec<scheduling::Eviction> = raw
            .into_iter()
            .map(|(kernel, grace_ms)| scheduling::Eviction { kernel, reason: "r".to_owned(), grace_ms })
            .collect();
        let checked = Evict::check(&questions::context(&[]), &question, Some(evictions.clone()));
        agree(&checked, right)?;
        if let Ok((answer, _)) = checked {
            prop_assert_eq!(answer, evictions, "nobody is added, nobody spared");
        }
        let twin = Evict::twin(&questions::context(&[]), &question).unwrap();
        prop_assert!(Evict::check(&questions::context(&[]), &question, twin).is_ok());
    }

    #[test]
    fn edits_pass_when_they_are_right_and_only_then(
        arbitrary in tests::edits(), sensible in edits::sensible_edits(), which in 0..4_u8, rules in edits::rules(),
        all in any::<bool>(), placed in any::<bool>(),
    ) {
        let raw = if which == 0 { arbitrary } else { sensible };
        let mut question = questions::adjust(2, true, questions::plan(&["A"], &["/scratch", "/data"]));
        question.grants = if all { grants::ALL_EDITS.map(str::to_owned).to_vec() } else { rules };
        if placed {
            question.placed_by_chain = vec!["/scratch".to_owned()];
        }
        let right = edits::edits_are_right(&question, &question.grants, &raw);
        let checked = Adjust::check(&questions::context(&[]), &question, raw.clone());
        agree(&checked, right)?;
        if let Ok((answer, _)) = checked {
            prop_assert_eq!(answer, raw);
        }
    }
}

/// Answers as long as they can be: judging one takes no more than reading it. Were it quadratic, these would take
/// minutes.
#[test]
fn the_longest_answers_are_judged_in_time_that_grows_with_their_length() {
    let ctx = questions::context(&[]);
    let inventory = questions::inventory(512, 8, 2);
    let place = questions::place(&inventory, &[(0, 4 * ONE)], |_| 0);
    let share = types::Share { device: 0, slot: 0, amount: ONE };
    let raw = scheduling::Placement {
        shares: vec![share; 200_000],
        rest: scheduling::Strategy::Usual,
        avoid: vec![],
        note: None,
    };
    assert!(Place::check(&ctx, &place, raw.clone()).unwrap_err().contains("twice"));
    let raw = scheduling::Placement { shares: vec![], avoid: vec![511; 500_000], ..raw };
    assert!(Place::check(&ctx, &place, raw).is_ok());

    let slot = |number: usize| reporting::SlotOffer {
        name: format!("cpu.s{number}"),
        kind: SlotKind::Count,
        quantum: ONE,
        exclusive_group: Some(1),
        offers: vec![reporting::Offer { device: number as u32 % 512, amount: ONE }],
    };
    let raw = reporting::Offering { slots: (0..60_000).map(slot).collect(), withheld: vec![] };
    assert_eq!(Report::check(&ctx, &ReportQuestion { inventory }, raw).unwrap().0.slots.len(), 60_002);

    let question = questions::adjust(2, true, questions::plan(&[], &["/scratch"; 2_000]));
    let mount = |number: usize| {
        Edit::AddMount(Mount {
            kind: MountKind::Bind,
            source: "/data".to_owned(),
            target: format!("/data/{number}"),
            read_only: true,
        })
    };
    let raw: Vec<Edit> = (0..100_000).map(mount).collect();
    assert!(Adjust::check(&ctx, &question, raw).is_ok());
}
