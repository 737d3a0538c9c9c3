//! The checked-in guests decide as the built-in does, question by question.
//!
//! `BERTH_GUESTS_DIR` names another folder of modules to compare: `cargo xtask guests --check` uses it.
#![expect(clippy::unwrap_used, reason = "a test: what goes wrong ends it")]

use std::path::PathBuf;

use berth::policy::author::{self, Questions};
use berth::policy::bindings::{
    configuring, container_config, host, reporting, scheduler, scheduling, slot_reporter, types,
};
use berth::policy::worlds::adjust::BUILTIN_NEEDS;
use berth::policy::worlds::{
    Adjust, AdjustQuestion, Order, OrderQuestion, Place, PlaceQuestion, Report, ReportQuestion,
};
use berth::policy::{Decision as _, Refusal, Workshop, WorldKind};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

#[path = "support/questions.rs"]
mod questions;

struct Host;

impl host::Host for Host {
    fn log(&mut self, _: host::Level, text: String) {
        eprintln!("guest: {text}");
    }
}

impl types::Host for Host {}

/// The module of a guest, and a linker with all that it may import.
struct Guest {
    engine: Engine,
    component: Component,
    linker: Linker<Host>,
}

/// The bytes of a module.
fn module(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("BERTH_GUESTS_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist")), PathBuf::from);
    std::fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

fn guest(name: &str) -> Guest {
    let bytes = module(name);
    let engine = Engine::default();
    let component = Component::from_binary(&engine, &bytes).unwrap();
    let mut linker = Linker::new(&engine);
    host::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut Host| host).unwrap();
    types::add_to_linker::<_, HasSelf<_>>(&mut linker, |host: &mut Host| host).unwrap();
    Guest { engine, component, linker }
}

/// A fresh instance for every call, as the agent does.
macro_rules! fresh {
    ($guest:expr, $world:ty) => {{
        let mut store = Store::new(&$guest.engine, Host);
        let instance = <$world>::instantiate(&mut store, &$guest.component, &$guest.linker).unwrap();
        (store, instance)
    }};
}

#[track_caller]
fn same<A: PartialEq + std::fmt::Debug>(index: usize, guest: &A, twin: &A) {
    assert_eq!(guest, twin, "question {index} of the table");
}

#[test]
fn slot_reporter_reports_as_the_built_in() {
    let guest = guest("slot-reporter");
    let table = questions::report_table();
    assert!(table.len() >= 20);
    for (index, (ctx, question)) in table.iter().enumerate() {
        let (mut store, instance) = fresh!(guest, slot_reporter::SlotReporter);
        let reporting = instance.berth_policy_reporting();
        let answer = reporting.call_report(&mut store, ctx, &question.inventory).unwrap().unwrap();
        let twin = Report::twin(ctx, question).unwrap();
        same(index, &answer, &twin);
        Report::check(ctx, question, answer).unwrap();
    }
}

#[test]
fn scheduler_places_as_the_built_in() {
    let guest = guest("scheduler");
    let table = questions::place_table();
    assert!(table.len() >= 20);
    for (index, (ctx, question)) in table.iter().enumerate() {
        let (mut store, instance) = fresh!(guest, scheduler::Scheduler);
        let PlaceQuestion { request, node, choice } = question;
        let scheduling = instance.berth_policy_scheduling();
        let answer = scheduling.call_place(&mut store, ctx, request, node, choice).unwrap();
        let answer = answer.map_err(Refusal::from);
        same(index, &answer, &Place::twin(ctx, question));
        if let Ok(answer) = answer {
            Place::check(ctx, question, answer).unwrap();
        }
    }
}

#[test]
fn scheduler_orders_as_the_built_in() {
    let guest = guest("scheduler");
    let table = questions::order_table();
    assert!(table.len() >= 20);
    for (index, (ctx, question)) in table.iter().enumerate() {
        let (mut store, instance) = fresh!(guest, scheduler::Scheduler);
        let OrderQuestion { waiting, node, load } = question;
        let scheduling = instance.berth_policy_scheduling();
        let answer = scheduling.call_order(&mut store, ctx, waiting, node, load).unwrap();
        same(index, &answer, &Order::twin(ctx, question).unwrap());
    }
}

#[test]
fn the_last_core_example_gives_cores_from_the_last_one_down() {
    let guest = guest("examples/last-core");
    let inventory = questions::inventory(4, 0, 1);
    for (cores, expected) in [(1, &[3][..]), (2, &[2, 3]), (4, &[0, 1, 2, 3])] {
        let question = questions::place(&inventory, &[(0, cores * questions::ONE)], |_| 0);
        let (mut store, instance) = fresh!(guest, scheduler::Scheduler);
        let PlaceQuestion { request, node, choice } = &question;
        let ctx = questions::context(&[]);
        let scheduling = instance.berth_policy_scheduling();
        let answer = scheduling.call_place(&mut store, &ctx, request, node, choice).unwrap().unwrap();
        let (shares, note) = Place::check(&ctx, &question, answer).unwrap();
        let numbers: Vec<u32> =
            shares.iter().map(|share| node.devices[share.device as usize].number).collect();
        assert_eq!(numbers, expected, "{cores} cores");
        assert_eq!(note.as_deref(), Some("the last free cores"));
    }
}

/// Examples with their world and what they need to be granted.
const EXAMPLES: [(&str, WorldKind, &[&str]); 10] = [
    ("evict-idle-first", WorldKind::Scheduler, &[]),
    ("gpu-halves", WorldKind::SlotReporter, &[]),
    ("image-allow-list", WorldKind::Scheduler, &[]),
    ("last-core", WorldKind::Scheduler, &[]),
    ("limits-by-kind", WorldKind::ContainerConfig, &["set-pids-limit", "set-oom-score", "set-cpu-limit"]),
    ("night-cores", WorldKind::SlotReporter, &[]),
    ("pack-or-spread", WorldKind::Scheduler, &[]),
    ("proxy-and-ca", WorldKind::ContainerConfig, &["set-env", "add-mount"]),
    ("start-quota", WorldKind::Scheduler, &[]),
    ("withhold-sick", WorldKind::SlotReporter, &[]),
];

#[test]
fn every_example_is_built_and_describes_itself() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/examples");
    let mut folders: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, EXAMPLES.map(|(name, ..)| name));
    for (name, world, needs) in EXAMPLES {
        let policy =
            author::inspect(name.to_owned(), module(&format!("examples/{name}")), &Workshop::IN_MEMORY)
                .unwrap();
        let told: Vec<&str> = policy.needs.iter().map(String::as_str).collect();
        assert_eq!((&*policy.name, policy.world, &told[..]), (name, world, needs));
        assert!(!policy.summary.is_empty() && policy.settings.iter().all(|setting| !setting.help.is_empty()));
    }
}

#[test]
fn every_example_passes_the_fixtures_in_its_module_which_are_those_in_its_folder() {
    for (name, ..) in EXAMPLES {
        let module = module(&format!("examples/{name}"));
        let tested = author::test(name, module.clone(), &Questions::Manifest, &Workshop::IN_MEMORY).unwrap();
        let wrong: Vec<_> = tested.verdicts.iter().filter(|verdict| verdict.problem.is_some()).collect();
        assert!(wrong.is_empty() && tested.verdicts.len() >= 4, "{name}: {wrong:#?}");
        let fixtures = format!("{}/policies/examples/{name}/fixtures", env!("CARGO_MANIFEST_DIR"));
        let packed =
            author::pack(name, module.clone(), Some(fixtures.as_ref()), &Workshop::IN_MEMORY).unwrap();
        assert!(packed == module, "{name}: its fixtures have changed: run `cargo xtask guests`");
    }
}

#[test]
fn scheduler_evicts_preemptible_and_idle_kernels_first() {
    let guest = guest("scheduler");
    let (mut store, instance) = fresh!(guest, scheduler::Scheduler);
    let node = questions::place(&questions::inventory(2, 0, 1), &[], |_| 0).node;
    let kernel = |idle_ms, preemptible, memory_used| scheduling::RunningKernel {
        kernel_id: String::new(),
        owner: String::new(),
        project: None,
        session_kind: types::SessionKind::Batch,
        shares: Vec::new(),
        memory_used,
        disk_used: 0,
        pids_used: 1,
        started_at_ms: 0,
        idle_ms,
        preemptible,
    };
    let running = [kernel(5, false, 1), kernel(9, false, 1), kernel(1, true, 1), kernel(99, true, 0)];
    let pressure = scheduling::Pressure::Memory(questions::GIB);
    let scheduling = instance.berth_policy_scheduling();
    let ctx = questions::context(&[]);
    let answer = scheduling.call_evict(&mut store, &ctx, &pressure, &running, &node).unwrap();
    let order: Vec<u32> = answer.iter().flatten().map(|eviction| eviction.kernel).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn container_config_adjusts_as_the_built_in() {
    let guest = guest("container-config");
    let table = questions::adjust_table();
    assert!(table.len() >= 20);
    for (index, (ctx, question)) in table.iter().enumerate() {
        let (mut store, instance) = fresh!(guest, container_config::ContainerConfig);
        let AdjustQuestion { request, node, shares, plan, .. } = question;
        let configuring = instance.berth_policy_configuring();
        let answer = configuring.call_adjust(&mut store, ctx, request, node, shares, plan).unwrap();
        let answer = answer.map_err(Refusal::from);
        same(index, &answer, &Adjust::twin(ctx, question));
        Adjust::check(ctx, question, answer.unwrap()).unwrap();
    }
}

#[test]
fn guests_describe_themselves_and_accept_their_own_defaults() {
    macro_rules! describes {
        ($name:literal, $module:ident :: $world:ident, $needs:expr) => {{
            use berth::policy::bindings::$module::exports::berth::policy::about;
            let guest = guest($name);
            let (mut store, instance) = fresh!(guest, $module::$world);
            let info: about::PolicyInfo = instance.berth_policy_about().call_describe(&mut store).unwrap();
            assert_eq!(info.name, $name);
            assert_eq!(info.needs, $needs);
            let defaults: Vec<types::Setting> = info
                .settings
                .into_iter()
                .filter_map(|setting| {
                    Some(types::Setting { key: setting.key, value: setting.default_value? })
                })
                .collect();
            let (mut store, instance) = fresh!(guest, $module::$world);
            let verdict = instance.berth_policy_about().call_check_settings(&mut store, &defaults).unwrap();
            assert_eq!(verdict, Ok(()));
        }};
    }
    let none: [&str; 0] = [];
    describes!("slot-reporter", slot_reporter::SlotReporter, none);
    describes!("scheduler", scheduler::Scheduler, none);
    describes!("container-config", container_config::ContainerConfig, BUILTIN_NEEDS);
}

#[test]
fn wrong_settings_are_named() {
    let guest = guest("container-config");
    let (mut store, instance) = fresh!(guest, container_config::ContainerConfig);
    let texts = types::SettingValue::Texts(vec!["/a:b".to_owned()]);
    let setting = |key: &str, value| types::Setting { key: key.to_owned(), value };
    let settings = [
        setting("mounts", texts),
        setting("pids-limit", types::SettingValue::Integer(1)),
        setting("env.9", types::SettingValue::Text(String::new())),
        setting("oom-score", types::SettingValue::Integer(3)),
    ];
    let verdict = instance.berth_policy_about().call_check_settings(&mut store, &settings).unwrap();
    let problems = verdict.unwrap_err();
    let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
    assert_eq!(keys, ["env.9", "mounts", "pids-limit"], "{problems:?}");
}
