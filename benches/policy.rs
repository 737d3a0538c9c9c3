//! Decisions as the agent asks them: through the handle, to a policy thread and back, a fresh instance
//! each; beside the same question answered by the built-in, and the time to instantiate the same component
//! and drop it again, which no decision can be below. Prints the time of the call alone as well: on the
//! policy thread, without the way there and back.
//!
//! The sizes are those of the targets: 64 cores and 8 GPUs; 64 waiting; 40 variables and 20 mounts.

use std::hint::black_box;

use berth::policy::bindings::{configuring, reporting, scheduling, types};
use berth::policy::worlds::{
    Adjust, AdjustQuestion, Order, OrderQuestion, Place, PlaceQuestion, Report, ReportQuestion,
};
use berth::policy::{self, Config, Handle, Rung, WorldKind};
use criterion::{Criterion, criterion_group, criterion_main};

const MICRO: u64 = 1_000_000;

fn models() -> Vec<types::DeviceModel> {
    let model = |kind, family: &str, memory_bytes, processing_units, capacity| types::DeviceModel {
        kind,
        family: family.to_owned(),
        name: format!("{family} of the bench"),
        memory_bytes,
        processing_units,
        capacity,
        partition: None,
        attributes: vec![],
    };
    vec![
        model(types::DeviceKind::Cpu, "cpu", 0, 1, MICRO),
        model(types::DeviceKind::Memory, "mem", 512 << 30, 0, 512 << 30),
        model(types::DeviceKind::Accelerator, "cuda", 80 << 30, 132, MICRO),
    ]
}

fn devices() -> Vec<types::Device> {
    let device = |model, number: u32, numa_node| types::Device {
        model,
        number,
        uuid: (model == 2).then(|| format!("GPU-0000-{number:04}")),
        parent: None,
        numa_node,
        health: types::Health::Healthy,
        fault: None,
        in_use: 0,
    };
    let cores = (0..64).map(|number| device(0, number, Some(number / 32)));
    let gpus = (0..8).map(|number| device(2, number, Some(number / 4)));
    cores.chain([device(1, 0, None)]).chain(gpus).collect()
}

fn node() -> types::Node {
    let slot = |name: &str, kind, quantum| types::Slot {
        name: name.to_owned(),
        kind,
        quantum,
        exclusive_group: None,
    };
    types::Node {
        models: models(),
        devices: devices(),
        slots: vec![
            slot("cpu", types::SlotKind::Count, MICRO),
            slot("mem", types::SlotKind::Bytes, 1),
            slot("cuda.device", types::SlotKind::Count, MICRO),
        ],
    }
}

fn request(number: usize) -> types::KernelRequest {
    types::KernelRequest {
        kernel_id: format!("kernel-{number}"),
        session_id: format!("session-{number}"),
        owner: format!("user-{}", number % 8),
        project: None,
        session_kind: types::SessionKind::Interactive,
        cluster_role: "main".to_owned(),
        cluster_rank: 0,
        cluster_size: 1,
        image: "cr.example.com/stable/python:3.12".to_owned(),
        image_digest: None,
        image_labels: vec![],
        wants: vec![
            types::Want { slot: 0, amount: 4 * MICRO },
            types::Want { slot: 1, amount: 8 << 30 },
            types::Want { slot: 2, amount: 2 * MICRO },
        ],
        may_fragment: true,
        requested_at_ms: number as u64,
        attributes: vec![],
    }
}

fn report() -> ReportQuestion {
    ReportQuestion {
        inventory: reporting::Inventory { models: models(), devices: devices(), reserved: vec![] },
    }
}

fn place() -> PlaceQuestion {
    let node = node();
    let stock = |(index, device): (usize, &types::Device)| {
        let free = node.models[device.model as usize].capacity;
        // Model and slot have the same number here.
        scheduling::Stock { device: index as u32, slot: device.model, free, offered: free }
    };
    let stock = node.devices.iter().enumerate().map(stock).collect();
    PlaceQuestion {
        request: request(0),
        choice: scheduling::Choice { stock, links: vec![], tenants: vec![] },
        node,
    }
}

fn order() -> OrderQuestion {
    let load = scheduling::Load {
        starting: 1,
        start_limit: 4,
        cpu_percent: 30,
        memory_free: 64 << 30,
        tallies: vec![],
    };
    OrderQuestion { waiting: (0..64).map(request).collect(), node: node(), load }
}

fn adjust() -> AdjustQuestion {
    let variable = |n: u32| configuring::Variable {
        name: format!("VARIABLE_{n}"),
        value: Some(format!("value of {n}")),
    };
    let mount = |n: u32| configuring::Mount {
        kind: configuring::MountKind::Bind,
        source: format!("/srv/data/{n}"),
        target: format!("/home/work/{n}"),
        read_only: n.is_multiple_of(2),
    };
    let mut node = node();
    node.devices.truncate(4);
    AdjustQuestion {
        request: request(0),
        node,
        shares: (0..4).map(|device| types::Share { device, slot: 0, amount: MICRO }).collect(),
        plan: configuring::Plan {
            env: (0..40).map(variable).collect(),
            mounts: (0..20).map(mount).collect(),
            labels: vec![],
            capabilities: vec![],
            ulimits: vec![],
            memory_limit: 8 << 30,
            shm_size: 64 << 20,
            network: None,
            hostname: "main1".to_owned(),
        },
        grants: vec![],
        placed_by_chain: vec![],
    }
}

/// One decision by the shipped policy and by the built-in; not timed where another rung than the shipped
/// policy's answers, since that would be a figure for something else.
macro_rules! decide {
    ($criterion:expr, $runtime:expr, $shipped:expr, $decision:ty, $question:expr, $name:literal) => {{
        let first = $runtime.block_on($shipped.ask::<$decision>($question));
        if first.by.rung == Rung::Active {
            $criterion.bench_function(concat!($name, "/shipped"), |b| {
                b.iter_batched(
                    || $question,
                    |question| $runtime.block_on($shipped.ask::<$decision>(black_box(question))),
                    criterion::BatchSize::SmallInput,
                );
            });
        } else {
            eprintln!(concat!($name, "/shipped skipped: {:?}"), first.by.faults);
        }
        let builtin = Handle::builtin();
        $criterion.bench_function(concat!($name, "/builtin"), |b| {
            b.iter_batched(
                || $question,
                |question| builtin.ask_builtin::<$decision>(black_box(question)),
                criterion::BatchSize::SmallInput,
            );
        });
    }};
}

fn decisions(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        eprintln!("skipped: no runtime");
        return;
    };
    let shipped = match policy::start(Config { node_name: "bench".to_owned(), ..Config::default() }) {
        Ok(handle) => handle,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    instantiate_and_drop(criterion, &shipped);
    decide!(criterion, runtime, shipped, Report, report(), "report");
    decide!(criterion, runtime, shipped, Place, place(), "place");
    print_call_alone(&shipped, WorldKind::Scheduler, "place alone");
    decide!(criterion, runtime, shipped, Order, order(), "order");
    decide!(criterion, runtime, shipped, Adjust, adjust(), "adjust");
    print_call_alone(&shipped, WorldKind::SlotReporter, "report alone");
    print_call_alone(&shipped, WorldKind::ContainerConfig, "adjust alone");
}

/// What no decision of that world can be below.
fn instantiate_and_drop(criterion: &mut Criterion, handle: &Handle) {
    for world in [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig] {
        if handle.time_instantiations(world, 1).is_none() {
            eprintln!("{world}/instantiate-and-drop skipped: the built-in is active");
            continue;
        }
        criterion.bench_function(&format!("{world}/instantiate-and-drop"), |b| {
            b.iter_custom(|times| handle.time_instantiations(world, times).unwrap_or_default());
        });
    }
}

/// Instantiate, call, check and drop on the policy thread, as `berth policy list` shows it.
fn print_call_alone(handle: &Handle, world: WorldKind, what: &str) {
    for view in handle.list().iter().filter(|view| view.world == world && view.digest.is_some()) {
        println!("{what}: p50 {} us, p99 {} us of the last thousand", view.p50_micros, view.p99_micros);
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
