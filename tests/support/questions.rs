//! Builders of questions, and the table on which the shipped guests must agree with the built-in.
//!
//! Included by `tests/guests.rs` and by the unit tests of `src/policy/worlds`; the parent module has the
//! names of the WIT (`types`, `reporting`, `scheduling`, `configuring`) and the questions.

use super::{AdjustQuestion, OrderQuestion, PlaceQuestion, ReportQuestion};
use super::{configuring, reporting, scheduling, types};

/// One whole device in micro-units.
pub const ONE: u64 = 1_000_000;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// A context with these settings.
pub fn context(settings: &[(&str, types::SettingValue)]) -> types::Context {
    types::Context {
        node_name: "node".to_owned(),
        now_ms: 1_700_000_000_000,
        utc_offset_minutes: 0,
        seed: 7,
        settings: settings
            .iter()
            .map(|(key, value)| types::Setting { key: (*key).to_owned(), value: value.clone() })
            .collect(),
        facts: vec![("architecture".to_owned(), "x86_64".to_owned())],
    }
}

/// A kind of device.
pub fn model(kind: types::DeviceKind, family: &str, capacity: u64) -> types::DeviceModel {
    types::DeviceModel {
        kind,
        family: family.to_owned(),
        name: format!("{family} of a test"),
        memory_bytes: 0,
        processing_units: 1,
        capacity,
        partition: None,
        attributes: Vec::new(),
    }
}

/// A healthy device that nobody uses.
pub fn device(model: u32, number: u32, numa_node: Option<u32>) -> types::Device {
    types::Device {
        model,
        number,
        uuid: None,
        parent: None,
        numa_node,
        health: types::Health::Healthy,
        fault: None,
        in_use: 0,
    }
}

/// A node with `cores` and `gpus` spread evenly over `numa` nodes, and 16 GiB of memory.
///
/// Models: 0 `cpu`, 1 `mem`, 2 `cuda`. Devices: the cores, the memory, the GPUs.
pub fn inventory(cores: u32, gpus: u32, numa: u32) -> reporting::Inventory {
    let at = |index: u32, all: u32| (numa > 0).then(|| index * numa / all.max(1));
    let mut devices: Vec<types::Device> =
        (0..cores).map(|number| device(0, number, at(number, cores))).collect();
    devices.push(device(1, 0, None));
    devices.extend((0..gpus).map(|number| device(2, number, at(number, gpus))));
    let models = vec![
        model(types::DeviceKind::Cpu, "cpu", ONE),
        model(types::DeviceKind::Memory, "mem", 16 * GIB),
        model(types::DeviceKind::Accelerator, "cuda", ONE),
    ];
    reporting::Inventory { models, devices, reserved: Vec::new() }
}

/// A slot.
pub fn slot(name: &str, kind: types::SlotKind, quantum: u64, exclusive_group: Option<u32>) -> types::Slot {
    types::Slot { name: name.to_owned(), kind, quantum, exclusive_group }
}

/// The slots 0 `cpu`, 1 `mem`, 2 `cuda.device`, 3 `cuda.shares` (which exclude each other).
pub fn slots() -> Vec<types::Slot> {
    vec![
        slot("cpu", types::SlotKind::Count, ONE, None),
        slot("mem", types::SlotKind::Bytes, 1, None),
        slot("cuda.device", types::SlotKind::Count, ONE, Some(1)),
        slot("cuda.shares", types::SlotKind::Count, ONE / 10, Some(1)),
    ]
}

/// A request for amounts by slot.
pub fn request(wants: &[(u32, u64)]) -> types::KernelRequest {
    types::KernelRequest {
        kernel_id: "8c0f9a6e-54a4-4f6b-8e5b-6a3f4a3c0001".to_owned(),
        session_id: "8c0f9a6e-54a4-4f6b-8e5b-6a3f4a3c0002".to_owned(),
        owner: "1000".to_owned(),
        project: None,
        session_kind: types::SessionKind::Interactive,
        cluster_role: "main".to_owned(),
        cluster_rank: 0,
        cluster_size: 1,
        image: "python:3.12".to_owned(),
        image_digest: None,
        image_labels: Vec::new(),
        wants: wants.iter().map(|&(slot, amount)| types::Want { slot, amount }).collect(),
        may_fragment: false,
        requested_at_ms: 1_700_000_000_000,
        attributes: Vec::new(),
    }
}

/// A question about placing `wants` on `inventory`, of whose devices `in_use` says what is taken.
pub fn place(
    inventory: &reporting::Inventory,
    wants: &[(u32, u64)],
    in_use: impl Fn(usize) -> u64,
) -> PlaceQuestion {
    let slots = slots();
    let mut stock = Vec::new();
    for (slot, known) in (0_u32..).zip(&slots) {
        if !wants.iter().any(|want| want.0 == slot) {
            continue;
        }
        for ((index, number), device) in (0_usize..).zip(0_u32..).zip(&inventory.devices) {
            let model = &inventory.models[device.model as usize];
            let free = model.capacity.saturating_sub(in_use(index));
            let fits = known.name.split('.').next() == Some(&model.family);
            if fits && free > 0 && device.health == types::Health::Healthy {
                stock.push(scheduling::Stock { device: number, slot, free, offered: model.capacity });
            }
        }
    }
    let mut devices = inventory.devices.clone();
    for (index, device) in devices.iter_mut().enumerate() {
        device.in_use = in_use(index);
    }
    PlaceQuestion {
        request: request(wants),
        node: types::Node { models: inventory.models.clone(), devices, slots },
        choice: scheduling::Choice { stock, links: Vec::new(), tenants: Vec::new() },
    }
}

/// A plan with these variables and mount targets.
pub fn plan(env: &[&str], targets: &[&str]) -> configuring::Plan {
    configuring::Plan {
        env: env
            .iter()
            .map(|name| configuring::Variable { name: (*name).to_owned(), value: Some("x".to_owned()) })
            .collect(),
        mounts: targets
            .iter()
            .map(|target| configuring::Mount {
                kind: configuring::MountKind::Bind,
                source: "/srv/x".to_owned(),
                target: (*target).to_owned(),
                read_only: false,
            })
            .collect(),
        labels: Vec::new(),
        capabilities: Vec::new(),
        ulimits: Vec::new(),
        memory_limit: GIB,
        shm_size: 64 << 20,
        network: None,
        hostname: "main1".to_owned(),
    }
}

/// A question about the container of a kernel that holds `cores` of a node with as many.
pub fn adjust(cores: u32, holds: bool, plan: configuring::Plan) -> AdjustQuestion {
    let inventory = inventory(cores, 0, 1);
    let shares = (0..cores).map(|device| types::Share { device, slot: 0, amount: ONE });
    AdjustQuestion {
        request: request(&[(0, u64::from(cores) * ONE)]),
        node: types::Node { models: inventory.models, devices: inventory.devices, slots: slots() },
        shares: if holds { shares.collect() } else { Vec::new() },
        plan,
        grants: berth_needs(),
        placed_by_chain: Vec::new(),
    }
}

fn berth_needs() -> Vec<String> {
    super::BUILTIN_NEEDS.iter().map(|need| (*need).to_owned()).collect()
}

fn integer(number: i64) -> types::SettingValue {
    types::SettingValue::Integer(number)
}

fn text(text: &str) -> types::SettingValue {
    types::SettingValue::Text(text.to_owned())
}

/// Questions to `report`.
pub fn report_table() -> Vec<(types::Context, ReportQuestion)> {
    let mut table = Vec::new();
    for (cores, gpus, numa) in [(0, 0, 0), (1, 0, 0), (2, 0, 1), (8, 2, 2), (64, 8, 2), (512, 8, 4)] {
        table.push((context(&[]), ReportQuestion { inventory: inventory(cores, gpus, numa) }));
    }
    for (key, number) in [("reserve-cpu", 1), ("reserve-cpu", 100), ("reserve-mem", 3), ("reserve-cpu", -1)] {
        let ctx = context(&[(key, integer(number)), ("reserve-mem", integer(1 << 30))]);
        table.push((ctx, ReportQuestion { inventory: inventory(8, 1, 2) }));
    }
    table.push((context(&[("reserve-cpu", text("two"))]), ReportQuestion { inventory: inventory(4, 0, 1) }));
    for (family, amount) in
        [("cpu", ONE), ("cpu", 1), ("cpu", u64::MAX), ("mem", GIB), ("cuda", ONE), ("x", 1)]
    {
        let mut inventory = inventory(4, 2, 1);
        inventory.reserved.push(reporting::Reservation { family: family.to_owned(), amount });
        table.push((context(&[]), ReportQuestion { inventory }));
    }
    for health in [types::Health::Degraded, types::Health::Unverified, types::Health::Failed] {
        let mut inventory = inventory(4, 2, 1);
        inventory.devices[3].health = health;
        inventory.devices[5].health = health;
        inventory.devices[5].fault = Some("fell off the bus".to_owned());
        inventory.reserved.push(reporting::Reservation { family: "cpu".to_owned(), amount: ONE });
        table.push((context(&[]), ReportQuestion { inventory }));
    }
    let mut parts = inventory(2, 1, 1);
    let mut part = model(types::DeviceKind::Accelerator, "cuda", ONE);
    part.partition = Some("1g.18gb".to_owned());
    parts.models.push(part);
    for number in 0..3 {
        let mut part = device(3, number, Some(0));
        part.parent = Some(3);
        parts.devices.push(part);
    }
    table.push((context(&[]), ReportQuestion { inventory: parts }));
    table
}

/// Questions to `place`.
pub fn place_table() -> Vec<(types::Context, PlaceQuestion)> {
    let mut table = Vec::new();
    let node = inventory(16, 4, 2);
    let wants: [&[(u32, u64)]; 14] = [
        &[],
        &[(0, 0)],
        &[(0, ONE)],
        &[(0, 2 * ONE), (1, GIB)],
        &[(0, 9 * ONE)],
        &[(0, 17 * ONE)],
        &[(0, ONE / 2)],
        &[(1, 17 * GIB)],
        &[(2, ONE), (0, 4 * ONE), (1, 3 * GIB)],
        &[(2, 3 * ONE), (0, ONE)],
        &[(3, ONE / 2)],
        &[(3, ONE * 3 / 2), (0, ONE)],
        &[(2, ONE), (3, ONE)],
        &[(9, ONE)],
    ];
    let strategies: [&[(&str, types::SettingValue)]; 3] =
        [&[], &[("strategy", text("spread"))], &[("strategy", text("pack"))]];
    for settings in strategies {
        for wants in wants {
            for taken in 0..3_usize {
                // Nobody; every third core and GPU; half of everything.
                let in_use = move |index: usize| match taken {
                    0 => 0,
                    1 if index.is_multiple_of(3) && index != 16 => ONE,
                    2 if index > 16 => ONE / 2,
                    _ => 0,
                };
                table.push((context(settings), place(&node, wants, in_use)));
            }
        }
    }
    for fragment in [false, true] {
        let mut question = place(&node, &[(3, ONE * 8 / 10)], |index| if index > 16 { ONE / 2 } else { 0 });
        question.request.may_fragment = fragment;
        table.push((context(&[]), question.clone()));
        table.push((context(&[("strategy", text("spread"))]), question));
    }
    table
}

/// Questions to `order`.
pub fn order_table() -> Vec<(types::Context, OrderQuestion)> {
    let node = types::Node {
        models: inventory(4, 0, 1).models,
        devices: inventory(4, 0, 1).devices,
        slots: slots(),
    };
    (0..24_u64)
        .map(|count| {
            let waiting = (0..count * 2).map(|index| {
                let mut request = request(&[(0, ONE)]);
                request.requested_at_ms += index * count % 7;
                request
            });
            let load = scheduling::Load {
                starting: 1,
                start_limit: 4,
                cpu_percent: 30,
                memory_free: GIB,
                tallies: Vec::new(),
            };
            (context(&[]), OrderQuestion { waiting: waiting.collect(), node: node.clone(), load })
        })
        .collect()
}

/// Questions to `adjust`.
pub fn adjust_table() -> Vec<(types::Context, AdjustQuestion)> {
    let mut table = Vec::new();
    let texts = |texts: &[&str]| types::SettingValue::Texts(texts.iter().map(|t| (*t).to_owned()).collect());
    let settings: [&[(&str, types::SettingValue)]; 11] = [
        &[],
        &[("env.HTTP_PROXY", text("http://proxy:3128")), ("env.LANG", text("C.UTF-8"))],
        &[("env.OMP_NUM_THREADS", text("1"))],
        &[("env.9x", text("no name")), ("env.A", text("nul\0"))],
        &[("mounts", texts(&["/data:/data:ro", "/scratch:/scratch", "/data:/data"]))],
        &[("mounts", texts(&["data:/data", "/a:/home/work", "/a:/proc/x", "/a:/b:rx", "/a", "/a/../b:/c"]))],
        &[("pids-limit", integer(100)), ("shm-size", integer(1 << 30)), ("oom-score", integer(-5))],
        &[("pids-limit", integer(1)), ("shm-size", integer(-1)), ("oom-score", integer(5000))],
        &[("thread-variables", types::SettingValue::Flag(false))],
        &[("pids-limit", text("many"))],
        &[("env.A", integer(1)), ("unknown", texts(&[]))],
    ];
    for settings in settings {
        for (cores, holds) in [(0, false), (2, true), (64, false)] {
            let plan = plan(&["LANG", "MKL_NUM_THREADS"], &["/home/work", "/scratch"]);
            table.push((context(settings), adjust(cores, holds, plan)));
        }
    }
    table
}
