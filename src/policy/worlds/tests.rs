//! What accepted answers keep to, stated a second time and without the code that checks them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::adjust::BUILTIN_NEEDS;
use super::*;
use configuring::{Edit, Mount, MountKind};
use questions::{GIB, ONE};

#[path = "../../../tests/support/questions.rs"]
#[allow(dead_code, reason = "the tables are for tests/guests.rs")]
pub(in crate::policy) mod questions;

/// Amounts that mean something, and some that overflow.
pub(super) fn amounts() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..20_u64).prop_map(|count| count * ONE),
        2 => (0..40_u64).prop_map(|count| count * ONE / 10),
        1 => (0..20_u64).prop_map(|count| count * GIB),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ]
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["cpu", "mem", "cuda\\.device", "cuda\\.shares", "cpu\\.x", "Bad", ""].prop_map(String::from)
}

pub(super) fn settings() -> impl Strategy<Value = types::Context> {
    let key = prop_oneof![
        Just("reserve-cpu"),
        Just("reserve-mem"),
        Just("strategy"),
        Just("mounts"),
        Just("pids-limit"),
        Just("shm-size"),
        Just("oom-score"),
        Just("thread-variables"),
        Just("env.A"),
        Just("env.OMP_NUM_THREADS"),
        Just("env."),
        Just("env.9"),
    ];
    let path = prop_oneof![
        Just("/data:/data"),
        Just("/a:/b:ro"),
        Just("/a:/home/work"),
        Just("/a:/home/work/x"),
        Just("/:/"),
        Just("a:b"),
        Just("/a/..:/c"),
        Just("/x:/data"),
    ];
    let value = prop_oneof![
        "spread|pack|\\PC{0,8}".prop_map(types::SettingValue::Text),
        (-3_i64..200_000).prop_map(types::SettingValue::Integer),
        any::<i64>().prop_map(types::SettingValue::Integer),
        any::<bool>().prop_map(types::SettingValue::Flag),
        vec(path.prop_map(String::from), 0..4).prop_map(types::SettingValue::Texts),
    ];
    vec((key, value), 0..6).prop_map(|settings| questions::context(&settings))
}

/// A node as the agent would find it: healthy and broken devices, parts of GPUs, reservations.
pub(super) fn inventories() -> impl Strategy<Value = reporting::Inventory> {
    let health = prop_oneof![
        6 => Just(types::Health::Healthy), 1 => Just(types::Health::Degraded),
        1 => Just(types::Health::Unverified), 1 => Just(types::Health::Failed),
    ];
    let reserved = vec((prop_oneof!["cpu", "mem", "cuda", "x"], amounts()), 0..3);
    (0..10_u32, 0..4_u32, 0..3_u32, vec(health, 20), 0..4_u32, reserved).prop_map(
        |(cores, gpus, numa, health, parts, reserved)| {
            let mut inventory = questions::inventory(cores, gpus, numa);
            let mut part = questions::model(types::DeviceKind::Accelerator, "cuda", ONE);
            part.partition = Some("1g.18gb".to_owned());
            inventory.models.push(part);
            for number in 0..parts.min(gpus * 4) {
                let mut device = questions::device(3, number, Some(0));
                device.parent = Some(cores + 1);
                inventory.devices.push(device);
            }
            for (device, health) in inventory.devices.iter_mut().zip(health) {
                device.health = health;
            }
            inventory.reserved = reserved
                .into_iter()
                .map(|(family, amount)| reporting::Reservation { family, amount })
                .collect();
            inventory
        },
    )
}

pub(super) fn offerings() -> impl Strategy<Value = reporting::Offering> {
    let kind = prop_oneof![
        3 => Just(types::SlotKind::Count), 2 => Just(types::SlotKind::Bytes),
        1 => Just(types::SlotKind::Unique), 1 => Just(types::SlotKind::Unified),
    ];
    let quantum = prop_oneof![4 => Just(1_u64), 2 => Just(ONE), 1 => amounts()];
    let offers = vec((0..12_u32, amounts()), 0..4);
    let slots = vec((names(), kind, quantum, option::of(0..2_u32), offers), 0..4);
    let withheld = vec((0..12_u32, option::of(amounts()), "\\PC{0,8}"), 0..3);
    (slots, withheld).prop_map(|(slots, withheld)| reporting::Offering {
        slots: slots
            .into_iter()
            .map(|(name, kind, quantum, exclusive_group, offers)| reporting::SlotOffer {
                name,
                kind,
                quantum,
                exclusive_group,
                offers: offers
                    .into_iter()
                    .map(|(device, amount)| reporting::Offer { device, amount })
                    .collect(),
            })
            .collect(),
        withheld: withheld
            .into_iter()
            .map(|(device, amount, reason)| reporting::Withheld { device, amount, reason })
            .collect(),
    })
}

pub(super) fn assert_offering(inventory: &reporting::Inventory, answer: &reporting::Offering) {
    let mut names = BTreeSet::new();
    let mut users: BTreeMap<u32, Vec<Option<u32>>> = BTreeMap::new();
    for slot in &answer.slots {
        assert!(names.insert(&slot.name), "{} twice", slot.name);
        assert!(slot.name.parse::<crate::ids::SlotName>().is_ok());
        for offer in &slot.offers {
            let device = &inventory.devices[offer.device as usize];
            let model = &inventory.models[device.model as usize];
            assert!(matches!(device.health, types::Health::Healthy | types::Health::Degraded));
            assert!(slot.name == model.family || slot.name.starts_with(&format!("{}.", model.family)));
            assert!(offer.amount > 0 && offer.amount % slot.quantum == 0);
            let whole = answer.withheld.iter().any(|w| w.device == offer.device && w.amount.is_none());
            assert!(!whole, "device {} is withheld and offered", offer.device);
            let withheld = answer.withheld.iter().filter(|w| w.device == offer.device);
            let withheld = withheld.fold(0_u64, |sum, w| sum.saturating_add(w.amount.unwrap_or(0)));
            assert!(offer.amount <= model.capacity.saturating_sub(withheld));
            users.entry(offer.device).or_default().push(slot.exclusive_group);
            if let Some(parent) = device.parent {
                let parent_slots =
                    answer.slots.iter().filter(|s| s.offers.iter().any(|o| o.device == parent));
                for other in parent_slots {
                    assert!(other.exclusive_group.is_some() && other.exclusive_group == slot.exclusive_group);
                }
            }
        }
    }
    for (device, groups) in users {
        let one = groups.len() == 1 || groups.iter().all(|group| group.is_some() && *group == groups[0]);
        assert!(one, "device {device} is in slots that do not exclude each other");
    }
}

/// A node, some of it taken, and a request.
pub(super) fn place_questions() -> impl Strategy<Value = PlaceQuestion> {
    let wanted = prop_oneof![
        4 => (0..10_u64).prop_map(|count| count * ONE),
        2 => (0..30_u64).prop_map(|count| count * ONE / 10),
        1 => amounts(),
    ];
    let wants = vec((0..4_u32, wanted), 0..4);
    let taken =
        vec(prop_oneof![2 => Just(0_u64), 1 => (0..=10_u64).prop_map(|tenths| tenths * ONE / 10)], 20);
    (inventories(), wants, taken, any::<bool>()).prop_map(|(inventory, wants, taken, fragment)| {
        let mut question =
            questions::place(&inventory, &wants, |index| taken.get(index).copied().unwrap_or(0));
        question.request.may_fragment = fragment;
        question
    })
}

pub(super) fn placements() -> impl Strategy<Value = scheduling::Placement> {
    let shares = vec((0..16_u32, 0..5_u32, amounts()), 0..4);
    let rest = prop_oneof![
        Just(scheduling::Strategy::Usual),
        Just(scheduling::Strategy::Pack),
        Just(scheduling::Strategy::Spread),
    ];
    (shares, rest, vec(0..16_u32, 0..3), option::of("\\PC{0,8}")).prop_map(|(shares, rest, avoid, note)| {
        let shares = shares.into_iter().map(|(device, slot, amount)| types::Share { device, slot, amount });
        scheduling::Placement { shares: shares.collect(), rest, avoid, note }
    })
}

pub(super) fn assert_shares(question: &PlaceQuestion, shares: &[types::Share]) {
    let mut sums: BTreeMap<u32, u128> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for share in shares {
        assert!(seen.insert((share.device, share.slot)), "a device twice under a slot");
        let slot = &question.node.slots[share.slot as usize];
        assert!(share.amount > 0 && share.amount % slot.quantum == 0);
        let free = question.choice.stock.iter().find(|s| s.device == share.device && s.slot == share.slot);
        assert!(free.is_some_and(|stock| stock.free >= share.amount), "more than is free");
        *sums.entry(share.slot).or_default() += u128::from(share.amount);
    }
    let wanted: BTreeMap<u32, u128> = question
        .request
        .wants
        .iter()
        .filter(|want| want.amount > 0)
        .map(|want| (want.slot, u128::from(want.amount)))
        .collect();
    assert_eq!(sums, wanted);
    for one in shares {
        for other in shares.iter().filter(|other| other.device == one.device && other.slot != one.slot) {
            let group = |share: &types::Share| question.node.slots[share.slot as usize].exclusive_group;
            assert!(group(one).is_none() || group(one) != group(other));
        }
    }
}

pub(super) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = prop_oneof![
        Just("/data"),
        Just("/data/x"),
        Just("/secret"),
        Just("/home/work"),
        Just("/home/work/x"),
        Just("/opt/kernel/a"),
        Just("/data/../etc"),
        Just("relative"),
        Just("/x//y"),
        Just("/home/config"),
        Just("/proc"),
        Just("/scratch"),
        Just("/"),
    ]
    .prop_map(String::from);
    let word = prop_oneof![
        Just("A"),
        Just("B"),
        Just("9"),
        Just("a=b"),
        Just(""),
        Just("SYS_PTRACE"),
        Just("ALL"),
        Just("nofile"),
        Just("host"),
        Just("net.core.somaxconn"),
        Just("kernel.core_pattern"),
        Just("10.0.0.1"),
        Just("ai.berth.instance"),
    ]
    .prop_map(String::from);
    let kind = prop_oneof![Just(MountKind::Bind), Just(MountKind::Volume), Just(MountKind::Tmpfs)];
    let edit = prop_oneof![
        3 => (word.clone(), word.clone()).prop_map(Edit::SetEnv),
        1 => word.clone().prop_map(Edit::UnsetEnv),
        3 => (kind, path.clone(), path.clone()).prop_map(|(kind, source, target)| {
            Edit::AddMount(Mount { kind, source, target, read_only: true })
        }),
        1 => path.clone().prop_map(Edit::RemoveMount),
        1 => (path.clone(), any::<u32>()).prop_map(|(target, mode)| {
            Edit::AddFile(configuring::TextFile { target, content: String::new(), mode: mode >> 20 })
        }),
        1 => (word.clone(), word.clone()).prop_map(Edit::SetLabel),
        1 => word.clone().prop_map(Edit::AddCapability),
        1 => word.clone().prop_map(Edit::DropCapability),
        1 => (word.clone(), -2..5_i64, -2..5_i64).prop_map(|(name, soft, hard)| {
            Edit::SetUlimit(configuring::Ulimit { name, soft, hard })
        }),
        1 => (word.clone(), word.clone()).prop_map(Edit::SetSysctl),
        1 => amounts().prop_map(Edit::SetShmSize),
        1 => amounts().prop_map(Edit::SetPidsLimit),
        1 => amounts().prop_map(Edit::SetMemorySwap),
        1 => amounts().prop_map(Edit::SetCpuLimit),
        1 => word.clone().prop_map(Edit::SetNetwork),
        1 => (word.clone(), word.clone()).prop_map(Edit::AddHost),
        1 => word.clone().prop_map(Edit::AddDns),
        1 => path.prop_map(Edit::AddDevice),
        1 => word.clone().prop_map(Edit::SetSecurityOption),
        1 => any::<i32>().prop_map(Edit::SetOomScore),
        1 => (word.clone(), word).prop_map(Edit::Extra),
    ];
    vec(edit, 0..4)
}

fn assert_edits(question: &AdjustQuestion, edits: &[Edit]) {
    let granted = |kind: &str| question.grants.iter().any(|grant| grant == kind);
    let mut targets = BTreeSet::new();
    let mut variables = BTreeSet::new();
    for edit in edits {
        let target = match edit {
            Edit::AddMount(mount) => {
                let below_data = mount.source == "/data" || mount.source.starts_with("/data/");
                assert!(granted("add-mount") || below_data, "{} was not granted", mount.source);
                assert!(!mount.source.contains(".."));
                Some(&mount.target)
            }
            Edit::AddFile(file) => {
                assert!(granted("add-file") && file.mode <= 0o777);
                Some(&file.target)
            }
            Edit::SetEnv((name, _)) => {
                assert!(granted("set-env") && !name.is_empty() && !name.contains('='));
                assert!(variables.insert(name), "{name} twice");
                None
            }
            Edit::SetNetwork(name) => {
                assert!(granted("set-network") && name != "host");
                None
            }
            Edit::AddCapability(name) => {
                assert_ne!(name, "ALL");
                None
            }
            Edit::SetSysctl((name, _)) => {
                assert_ne!(name, "kernel.core_pattern");
                None
            }
            Edit::SetLabel((name, _)) => {
                assert!(!name.starts_with("ai.berth."));
                None
            }
            Edit::SetMemorySwap(size) => {
                assert!(*size >= question.plan.memory_limit);
                None
            }
            Edit::Extra(_) => panic!("an unknown edit was accepted"),
            _ => None,
        };
        if let Some(target) = target {
            assert!(target.starts_with('/') && !target.contains("..") && !target.contains("//"));
            let forbidden = ["/", "/home", "/home/work", "/home/config", "/opt", "/opt/kernel", "/proc"];
            assert!(!forbidden.contains(&&**target) && !target.starts_with("/opt/kernel/"), "{target}");
            assert!(targets.insert(target), "{target} twice");
            let removed =
                edits.iter().any(|edit| matches!(edit, Edit::RemoveMount(other) if other == target));
            assert!(removed || !question.plan.mounts.iter().any(|mount| mount.target == *target));
        }
    }
}

proptest! {
    #[test]
    fn accepted_offerings_hold_only_what_works_and_exists(
        ctx in settings(), inventory in inventories(), raw in offerings(),
    ) {
        let question = ReportQuestion { inventory };
        if let Ok((answer, _)) = Report::check(&ctx, &question, raw) {
            assert_offering(&question.inventory, &answer);
            for model in &question.inventory.models[..2] {
                let named = answer.slots.iter().any(|slot| slot.name.split('.').next() == Some(&model.family));
                let all = question.inventory.devices.iter().enumerate().filter(|(_, device)| {
                    question.inventory.models[device.model as usize].family == model.family
                });
                let mut gone = all.map(|(index, _)| {
                    answer.withheld.iter().any(|entry| entry.device as usize == index)
                });
                prop_assert!(named || gone.all(|gone| gone), "{} is neither offered nor withheld", model.family);
            }
            let (again, _) = Report::check(&ctx, &question, answer.clone()).unwrap();
            prop_assert_eq!(&again.slots, &answer.slots, "a complete answer stays as it is");
        }
    }

    #[test]
    fn the_built_in_report_is_always_accepted(ctx in settings(), inventory in inventories()) {
        let question = ReportQuestion { inventory };
        let raw = Report::twin(&ctx, &question).unwrap();
        let (answer, _) = Report::check(&ctx, &question, raw.clone()).unwrap();
        assert_offering(&question.inventory, &answer);
        prop_assert_eq!(raw.slots, answer.slots);
    }

    #[test]
    fn accepted_placements_take_what_is_free_and_give_what_is_wanted(
        ctx in settings(), question in place_questions(), raw in placements(),
    ) {
        if let Ok((shares, _)) = Place::check(&ctx, &question, raw.clone()) {
            assert_shares(&question, &shares);
            for share in &shares {
                prop_assert!(raw.shares.contains(share) || !raw.avoid.contains(&share.device));
            }
        }
    }

    #[test]
    fn partial_placements_are_completed(
        ctx in settings(), question in place_questions(), keep in 0..4_usize,
    ) {
        if let Ok(mut raw) = Place::twin(&ctx, &question) {
            let slots: BTreeSet<u32> = raw.shares.iter().map(|share| share.slot).take(keep).collect();
            raw.shares.retain(|share| slots.contains(&share.slot));
            let (shares, _) = Place::check(&ctx, &question, raw).unwrap();
            assert_shares(&question, &shares);
        }
    }

    #[test]
    fn the_built_in_placement_is_always_accepted_and_refuses_only_for_a_reason(
        ctx in settings(), question in place_questions(),
    ) {
        match Place::twin(&ctx, &question) {
            Ok(raw) => {
                let (mut shares, _) = Place::check(&ctx, &question, raw.clone()).unwrap();
                assert_shares(&question, &shares);
                let mut raw = raw.shares;
                raw.sort_by_key(|share| (share.slot, share.device));
                shares.sort_by_key(|share| (share.slot, share.device));
                prop_assert_eq!(raw, shares);
            }
            Err(refusal) if refusal.code == "not-enough-free" => {
                let short = question.request.wants.iter().any(|want| {
                    let stock = question.choice.stock.iter().filter(|stock| stock.slot == want.slot);
                    let quantum = question.node.slots[want.slot as usize].quantum;
                    let free: u128 = stock.clone().map(|stock| u128::from(stock.free / quantum * quantum)).sum();
                    let one = stock.map(|stock| stock.free / quantum * quantum).max().unwrap_or(0);
                    free < u128::from(want.amount) || (!question.request.may_fragment && one < want.amount)
                });
                prop_assert!(short, "{}", refusal.message);
            }
            Err(refusal) => {
                prop_assert!(["exclusive-slots", "malformed-request", "not-a-multiple"].contains(&&*refusal.code));
            }
        }
    }

    #[test]
    fn placement_survives_questions_that_make_no_sense(
        ctx in settings(), question in place_questions(), raw in placements(),
        stock in vec((any::<u8>(), 0..6_u32, any::<u64>(), any::<u64>()), 0..8),
        quantum in any::<u64>(), model in any::<u32>(),
    ) {
        let mut question = question;
        question.choice.stock.extend(stock.into_iter().map(|(device, slot, free, offered)| {
            scheduling::Stock { device: u32::from(device), slot, free, offered }
        }));
        question.node.slots[3].quantum = quantum;
        if let Some(device) = question.node.devices.first_mut() {
            device.model = model;
        }
        let _ = Place::check(&ctx, &question, raw);
        let _ = Place::twin(&ctx, &question);
    }

    #[test]
    fn accepted_orders_hold_everyone_once(
        ctx in settings(), count in 0..8_usize, raw in vec((0..9_u32, 0..3_u8), 0..6),
    ) {
        let mut question = questions::order_table().swap_remove(4).1;
        question.waiting = (0..count).map(|index| {
            let mut request = questions::request(&[]);
            request.requested_at_ms = index as u64;
            request
        }).collect();
        let twin = Order::twin(&ctx, &question).unwrap();
        prop_assert_eq!(&Order::check(&ctx, &question, twin.clone()).unwrap().0, &twin);
        let raw: Vec<_> = raw.into_iter().map(|(request, verdict)| {
            let verdict = match verdict {
                0 => scheduling::Verdict::Start,
                1 => scheduling::Verdict::Wait("later".to_owned()),
                _ => scheduling::Verdict::Refuse(types::Refusal {
                    code: "no".to_owned(), message: "no".to_owned(), retry_later: false,
                }),
            };
            scheduling::Decision { request, verdict }
        }).collect();
        let distinct: BTreeSet<u32> = raw.iter().map(|decision| decision.request).collect();
        let fine = distinct.len() == raw.len() && distinct.iter().all(|request| (*request as usize) < count);
        match Order::check(&ctx, &question, raw.clone()) {
            Ok((answer, _)) => {
                prop_assert!(fine);
                prop_assert_eq!(answer.len(), count);
                prop_assert_eq!(&answer[..raw.len()], &raw[..]);
                let rest: Vec<u32> = answer[raw.len()..].iter().map(|decision| decision.request).collect();
                prop_assert!(rest.is_sorted() && rest.iter().all(|request| !distinct.contains(request)));
            }
            Err(_) => prop_assert!(!fine),
        }
    }

    #[test]
    fn accepted_edits_are_granted_and_sane(
        ctx in settings(), raw in edits(), grants in 0..3_usize, targets in 0..3_usize,
    ) {
        let plan = questions::plan(&["A"], &["/home/work", "/scratch", "/data"][..targets]);
        let mut question = questions::adjust(2, true, plan);
        let all = ["set-env", "add-mount", "add-file", "remove-mount", "set-label", "add-capability", "set-sysctl",
            "set-network", "set-memory-swap", "extra"];
        question.grants = match grants {
            0 => Vec::new(),
            1 => vec!["set-env".to_owned(), "add-mount:/data/**".to_owned()],
            _ => all.map(str::to_owned).to_vec(),
        };
        if let Ok((answer, _)) = Adjust::check(&ctx, &question, raw) {
            assert_edits(&question, &answer);
        }
        // Whatever is granted and set, the built-in keeps to it.
        let twin = Adjust::twin(&ctx, &question).unwrap();
        let (answer, _) = Adjust::check(&ctx, &question, twin).unwrap();
        assert_edits(&question, &answer);
        question.grants = BUILTIN_NEEDS.map(str::to_owned).to_vec();
        let twin = Adjust::twin(&ctx, &question).unwrap();
        prop_assert!(Adjust::check(&ctx, &question, twin).is_ok());
    }
}

fn placed(settings: &[(&str, types::SettingValue)], question: &PlaceQuestion) -> Vec<(u32, u32, u64)> {
    let ctx = questions::context(settings);
    let raw = Place::twin(&ctx, question).unwrap();
    let (shares, _) = Place::check(&ctx, question, raw).unwrap();
    shares.iter().map(|share| (share.slot, share.device, share.amount)).collect()
}

#[test]
fn cores_lie_on_one_numa_node_and_near_the_accelerator() {
    // Cores 0..8 are on node 0 and 8..16 on node 1; device 16 is the memory, GPUs 17, 18 | 19, 20.
    let node = questions::inventory(16, 4, 2);
    let cores = |question: &PlaceQuestion| -> Vec<u32> {
        placed(&[], question).into_iter().filter(|share| share.0 == 0).map(|share| share.1).collect()
    };
    assert_eq!(cores(&questions::place(&node, &[(0, 2 * ONE)], |_| 0)), [0, 1]);
    let first_used = |index: usize| if index < 7 { ONE } else { 0 };
    assert_eq!(cores(&questions::place(&node, &[(0, 2 * ONE)], first_used)), [8, 9]);
    assert_eq!(cores(&questions::place(&node, &[(0, ONE)], first_used)), [7], "full nodes first");
    let gpus_used = |index: usize| if matches!(index, 17 | 18) { ONE } else { 0 };
    assert_eq!(cores(&questions::place(&node, &[(0, ONE), (2, ONE)], gpus_used)), [8], "near the GPU");
}

#[test]
fn spreading_takes_the_emptiest() {
    let node = questions::inventory(4, 2, 2);
    let spread = [("strategy", types::SettingValue::Text("spread".to_owned()))];
    let half_used = |index: usize| if index == 5 { ONE / 2 } else { 0 };
    let question = questions::place(&node, &[(3, ONE / 2)], half_used);
    assert_eq!(placed(&[], &question), [(3, 5, ONE / 2)]);
    assert_eq!(placed(&spread, &question), [(3, 6, ONE / 2)]);
}

#[test]
fn a_refusal_says_what_is_asked_and_what_is_free() {
    let check = |wants: &[(u32, u64)], code: &str, message: &str, retry_later: bool| {
        let node = questions::inventory(2, 1, 1);
        let question = questions::place(&node, wants, |index| if index == 0 { ONE } else { 0 });
        let refusal = Place::twin(&questions::context(&[]), &question).unwrap_err();
        let expected = Refusal { code: code.to_owned(), message: message.to_owned(), retry_later };
        assert_eq!(refusal, expected);
    };
    // Core 0 is taken and so not in the stock, but it may come back.
    check(&[(0, 2 * ONE)], "not-enough-free", "2 cores asked, 1 free", true);
    check(&[(0, 1000 * ONE)], "not-enough-free", "1000 cores asked, 1 free", false);
    check(&[(1, 33 * GIB / 2)], "not-enough-free", "16.5 GiB of mem asked, 16 GiB free", false);
    check(&[(0, ONE / 2)], "not-a-multiple", "0.5 cores asked, but it is given in steps of 1 core", false);
    check(
        &[(2, ONE), (3, ONE)],
        "exclusive-slots",
        "slots cuda.device and cuda.shares exclude each other",
        false,
    );
    check(&[(7, ONE)], "no-such-slot", "a slot is asked for that this node has not", false);
}

#[test]
fn what_a_policy_does_not_say_the_built_in_decides() {
    let mut inventory = questions::inventory(4, 0, 1);
    inventory.reserved.push(reporting::Reservation { family: "cpu".to_owned(), amount: ONE });
    let question = ReportQuestion { inventory };
    let withheld = vec![reporting::Withheld { device: 3, amount: None, reason: "hot".to_owned() }];
    let raw = reporting::Offering { slots: Vec::new(), withheld };
    let (answer, _) = Report::check(&questions::context(&[]), &question, raw).unwrap();
    let cores: Vec<u32> = answer.slots[0].offers.iter().map(|offer| offer.device).collect();
    assert_eq!((answer.slots[0].name.as_str(), cores), ("cpu", vec![0, 1]));
    assert_eq!((answer.slots[1].name.as_str(), answer.slots[1].offers[0].amount), ("mem", 16 * GIB));
    let reasons: Vec<&str> = answer.withheld.iter().map(|entry| entry.reason.as_str()).collect();
    assert_eq!(reasons, ["hot", "reserved for the system"]);
}

#[test]
fn wrong_answers_are_refused_with_the_reason() {
    let ctx = questions::context(&[]);
    let question = questions::adjust(2, true, questions::plan(&[], &["/scratch"]));
    let check = |edit: Edit, expected: &str| {
        assert_eq!(Adjust::check(&ctx, &question, vec![edit]).unwrap_err(), expected);
    };
    let mount = |target: &str| {
        Edit::AddMount(Mount {
            kind: MountKind::Bind,
            source: "/data".to_owned(),
            target: target.to_owned(),
            read_only: true,
        })
    };
    check(mount("/scratch"), "add-mount \"/data\": something is mounted at /scratch already");
    check(mount("/home/work"), "add-mount \"/data\": a mount there would hide what the kernel needs");
    check(Edit::SetNetwork("host".to_owned()), "set-network \"host\": this edit is not granted (`grants`)");
    check(Edit::Extra(("x".to_owned(), "y".to_owned())), "extra \"x\": this agent knows no such key");
}
