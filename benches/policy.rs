//! What a decision by a policy costs, a fresh instance each, beside the same question answered by the built-in, and
//! the time to instantiate the same component and drop it again, which no decision can be below.
//!
//! `call` and `instantiate-and-drop` are CPU time of their thread (a guest cannot sleep), so a busy machine distorts
//! them less; the others are wall clock.
//!
//! * `call`: all that a policy thread does for a decision: lower the question into a fresh instance, call, lift, check;
//! * `asked`: the same through the handle, with the way to the policy thread and back, as the agent asks;
//! * `builtin`: the native twin through the handle, on the asking thread.
//!
//! The sizes are those of the targets: 64 cores and 8 GPUs; 64 waiting; 40 variables and 20 mounts. First it prints
//! the ratios that the targets are about, taken by turns in this one run, and how a call grows with the devices.

use std::hint::black_box;
use std::time::Duration;

use berth::policy::bindings::{configuring, reporting, scheduling, types};
use berth::policy::worlds::{
    Adjust, AdjustQuestion, Order, OrderQuestion, Place, PlaceQuestion, Report, ReportQuestion,
};
use berth::policy::{self, Asked, Config, Handle, Kept, Rung, Workshop, WorldKind};
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

/// So many cores on two NUMA nodes, the memory, and so many GPUs.
fn devices(cores: u32, gpus: u32) -> Vec<types::Device> {
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
    let half = |number, all: u32| Some(number / all.div_ceil(2));
    let cores = (0..cores).map(|number| device(0, number, half(number, cores)));
    let gpus = (0..gpus).map(|number| device(2, number, half(number, gpus)));
    cores.chain([device(1, 0, None)]).chain(gpus).collect()
}

fn node(cores: u32, gpus: u32) -> types::Node {
    let slot = |name: &str, kind, quantum| types::Slot {
        name: name.to_owned(),
        kind,
        quantum,
        exclusive_group: None,
    };
    types::Node {
        models: models(),
        devices: devices(cores, gpus),
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

fn report(cores: u32, gpus: u32) -> ReportQuestion {
    ReportQuestion {
        inventory: reporting::Inventory { models: models(), devices: devices(cores, gpus), reserved: vec![] },
    }
}

fn place(cores: u32, gpus: u32) -> PlaceQuestion {
    let node = node(cores, gpus);
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
    OrderQuestion { waiting: (0..64).map(request).collect(), node: node(64, 8), load }
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
    let mut node = node(64, 8);
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

/// Rounds of which the median counts.
const ROUNDS: usize = 101;
/// Calls in a round.
const CALLS: u64 = 50;

/// The median time of one, in microseconds; none where it cannot be had.
fn micros(mut round: impl FnMut() -> Option<Duration>) -> Option<f64> {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect::<Option<_>>()?;
    times.sort_unstable();
    Some(times[ROUNDS / 2].as_secs_f64() * 1e6 / CALLS as f64)
}

/// A call against instantiating and dropping the same component, by turns.
fn print_ratio<D: Asked>(shipped: &Handle, question: &D::Question, target: Option<f64>) {
    let (mut calls, mut least) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        calls.push(shipped.time_calls::<D>(question, CALLS));
        least.push(shipped.time_instantiations(D::WORLD, CALLS));
    }
    let mut calls = calls.into_iter();
    let mut least = least.into_iter();
    let (call, least) = (micros(|| calls.next().flatten()), micros(|| least.next().flatten()));
    let (Some(call), Some(least)) = (call, least) else {
        return println!("{}: not measured, another rung than the shipped policy answered", D::FUNCTION);
    };
    let target = target.map_or(String::new(), |target| format!(" (target {target} x)"));
    let ratio = call / least;
    println!("{}: call {call:.1} us, instantiate and drop {least:.1} us: {ratio:.2} x{target}", D::FUNCTION);
}

/// The same question about more and more devices.
fn print_growth<D: Asked>(shipped: &Handle, question: impl Fn(u32) -> D::Question) {
    let times: Vec<String> = [8, 64, 512]
        .into_iter()
        .map(|devices| {
            let question = question(devices);
            let time = micros(|| shipped.time_calls::<D>(&question, CALLS));
            time.map_or_else(|| "?".to_owned(), |time| format!("{devices} devices {time:.1} us"))
        })
        .collect();
    println!("{}: {}", D::FUNCTION, times.join(", "));
}

/// One decision by the shipped policy and by the built-in; not timed where another rung than the shipped
/// policy's answers, since that would be a figure for something else.
macro_rules! decide {
    ($criterion:expr, $runtime:expr, $shipped:expr, $journal:expr, $decision:ty, $question:expr, $name:literal) => {{
        let question = $question;
        let first = $runtime.block_on($shipped.ask::<$decision>(question.clone()));
        if first.by.rung == Rung::Active {
            $criterion.bench_function(concat!($name, "/call"), |b| {
                b.iter_custom(|times| $shipped.time_calls::<$decision>(&question, times).unwrap_or_default());
            });
            for (handle, name) in
                [($shipped, concat!($name, "/asked")), ($journal, concat!($name, "/asked, journal"))]
            {
                $criterion.bench_function(name, |b| {
                    b.iter_batched(
                        || question.clone(),
                        |question| $runtime.block_on(handle.ask::<$decision>(black_box(question))),
                        criterion::BatchSize::SmallInput,
                    );
                });
            }
        } else {
            eprintln!(concat!($name, " skipped: {:?}"), first.by.faults);
        }
        let builtin = Handle::builtin();
        $criterion.bench_function(concat!($name, "/builtin"), |b| {
            b.iter_batched(
                || question.clone(),
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
    // Long enough for a machine that does something else as well.
    let config = Config { node_name: "bench".to_owned(), deadline_ms: 10_000, ..Config::default() };
    let Ok(dir) = tempfile::tempdir() else {
        eprintln!("skipped: no folder for a journal");
        return;
    };
    let kept = Kept {
        rows: vec![],
        pushed: vec![],
        modules: dir.path().join("policies"),
        journal: dir.path().join("journal"),
        workshop: Workshop { cache: Some(dir.path().join("cache")), program: None },
        problems: vec![],
    };
    let (shipped, journal) = match (policy::start(config.clone()), policy::start_kept(config, kept)) {
        (Ok(shipped), Ok(journal)) => (shipped, journal),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    print_ratio::<Report>(&shipped, &report(64, 8), Some(3.0));
    print_ratio::<Place>(&shipped, &place(64, 8), Some(4.0));
    print_ratio::<Adjust>(&shipped, &adjust(), Some(4.0));
    print_ratio::<Order>(&shipped, &order(), None);
    print_growth::<Report>(&shipped, |devices| report(devices, 0));
    print_growth::<Place>(&shipped, |devices| place(devices, 0));
    instantiate_and_drop(criterion, &shipped);
    let (shipped, journal) = (&shipped, &journal);
    decide!(criterion, runtime, shipped, journal, Report, report(64, 8), "report");
    decide!(criterion, runtime, shipped, journal, Place, place(64, 8), "place");
    decide!(criterion, runtime, shipped, journal, Order, order(), "order");
    decide!(criterion, runtime, shipped, journal, Adjust, adjust(), "adjust");
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

criterion_group!(benches, decisions);
criterion_main!(benches);
