use std::collections::BTreeMap;

use super::families::{Seen, text};
use crate::admission::{Queues, SlotBook};
use crate::amount::ONE;
use crate::ids::Digest;
use crate::kernel::Phase;
use crate::policy::{Active, ModuleTally, Rung, SlotTally, Times, WorldKind};
use crate::route::Counters;

fn book(slot: &str, kind: &str, devices: &[(u64, u64)]) -> SlotBook {
    let named = devices.iter().enumerate();
    SlotBook {
        slot: slot.parse().unwrap(),
        kind: kind.to_owned(),
        offered: devices.iter().map(|device| device.0).sum(),
        held: devices.iter().map(|device| device.1).sum(),
        devices: named.map(|(number, (offered, held))| (number.to_string(), *offered, *held)).collect(),
        holders: Vec::new(),
    }
}

fn slot(world: WorldKind, name: &str, demoted: bool, modules: Vec<ModuleTally>) -> SlotTally {
    let digest = (name != "builtin").then(|| Digest::of(name.as_bytes()));
    SlotTally {
        world,
        link: 0,
        active: Active { name: name.to_owned(), version: "0.1.0".to_owned(), digest, demoted },
        answers: [(Rung::Active, 6), (Rung::LastGood, 1), (Rung::Builtin, 5)],
        modules,
    }
}

fn seen() -> Seen {
    let mut times = Times { count: 7, sum_micros: 1_200_345, ..Times::default() };
    times.buckets[1] = 5;
    times.buckets[7] = 1;
    let faulty = ModuleTally {
        // Names come from modules: nobody has promised that they are tame.
        policy: "pack \"or\" spread\\".to_owned(),
        digest: Some(Digest::of(b"faulty")),
        outcomes: BTreeMap::from([("answered", 6), ("trap", 5), ("demoted", 2)]),
        times,
        demotions: 1,
    };
    let builtin = ModuleTally {
        policy: "builtin".to_owned(),
        outcomes: BTreeMap::from([("answered", 5)]),
        ..ModuleTally::default()
    };
    Seen {
        version: "0.1.0".to_owned(),
        agent: "i-node7".to_owned(),
        engine: Some(("docker".to_owned(), "20.10.24".to_owned())),
        degraded: false,
        draining: true,
        started_at_ms: 1_795_573_483_052,
        now_ms: 1_795_573_543_058,
        resident_bytes: Some(27 << 20),
        policies: vec![
            slot(WorldKind::Scheduler, "faulty", true, vec![faulty]),
            slot(WorldKind::ContainerConfig, "builtin", false, vec![builtin]),
        ],
        journal_dropped: Some(3),
        books: vec![
            book("cpu", "count", &[(ONE, ONE), (ONE, 0)]),
            book("cuda.shares", "count", &[(ONE, ONE / 4), (0, ONE)]),
            book("mem", "bytes", &[(8 << 30, 3 << 30)]),
        ],
        queues: Some(Queues { placing: 2, waiting: 1, starting: 4, start_limit: 4 }),
        phases: vec![Phase::Running, Phase::Running, Phase::Waiting],
        route: Counters {
            messages: 1,
            bytes: 2,
            stray: 3,
            unwanted: 4,
            pauses: 5,
            peak_run_bytes: 6,
            peak_node_bytes: 7,
            node_bytes: 8,
        },
        events: (4096, 70_000),
    }
}

#[test]
fn everything_that_is_counted_is_told() {
    insta::assert_snapshot!(text(&seen()));
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut seen = seen();
    seen.queues = None;
    seen.books.clear();
    seen.journal_dropped = None;
    seen.resident_bytes = None;
    seen.engine = None;
    let text = text(&seen);
    for absent in ["_admission_", "{slot=", "journal", "resident", "docker"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
}

#[test]
fn each_family_is_in_the_readme_under_its_name_and_begun_once() {
    let readme = include_str!("../../../README.md");
    let text = text(&seen());
    let mut names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    for name in &names {
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in the README");
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
