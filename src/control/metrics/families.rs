//! What is told, under which names: `berth_<subject>_<unit>`, counters end in `_total`. Pure; README has the table.

use super::exposition::{Exposition, Kind, Value};
use crate::admission::{Queues, SlotBook};
use crate::ids::Digest;
use crate::kernel::Phase;
use crate::policy::{BOUNDS_MICROS, Rung, SlotTally};
use crate::route::Counters;

/// Everything that is told, as it was at one time.
#[derive(Debug)]
pub(super) struct Seen {
    /// Version of the agent.
    pub version: String,
    /// Its id.
    pub agent: String,
    /// Kind and version of the engine, once it has answered.
    pub engine: Option<(String, String)>,
    /// Whether the engine answers.
    pub degraded: bool,
    /// Whether new kernels are refused.
    pub draining: bool,
    /// Unix time in milliseconds.
    pub started_at_ms: u64,
    /// Unix time in milliseconds.
    pub now_ms: u64,
    /// Memory of the agent in bytes; none where the system does not tell.
    pub resident_bytes: Option<u64>,
    pub policies: Vec<SlotTally>,
    /// None: there is no journal.
    pub journal_dropped: Option<u64>,
    pub books: Vec<SlotBook>,
    /// None: admission does not answer.
    pub queues: Option<Queues>,
    /// Where each kernel is in its life.
    pub phases: Vec<Phase>,
    pub route: Counters,
    /// Events that are kept for readers, and the number of the newest.
    pub events: (u64, u64),
}

/// The whole text.
pub(super) fn text(seen: &Seen) -> String {
    let mut text = Exposition::default();
    agent(seen, &mut text);
    policies(&seen.policies, &mut text);
    if let Some(dropped) = seen.journal_dropped {
        text.one(
            "berth_policy_journal_dropped_total",
            Kind::Counter,
            "Decisions that are missing in the journal, since its disk was too slow.",
            Value::Whole(dropped),
        );
    }
    admission(seen, &mut text);
    kernels(&seen.phases, &mut text);
    route(&seen.route, &mut text);
    let (retained, newest) = seen.events;
    text.one(
        "berth_outbox_retained_events",
        Kind::Gauge,
        "Lifecycle events that are kept for readers.",
        Value::Whole(retained),
    );
    text.one(
        "berth_outbox_written_events_total",
        Kind::Counter,
        "Lifecycle events written since the state directory was made.",
        Value::Whole(newest),
    );
    text.into_text()
}

fn agent(seen: &Seen, text: &mut Exposition) {
    text.family("berth_build_info", Kind::Gauge, "Version of the agent.")
        .sample(&[("version", &seen.version), ("agent", &seen.agent)], Value::Whole(1));
    let mut engine = text.family("berth_engine_info", Kind::Gauge, "The container engine.");
    if let Some((kind, version)) = &seen.engine {
        engine.sample(&[("engine", kind), ("version", version)], Value::Whole(1));
    }
    let flags = [
        ("berth_degraded", "1 while the engine does not answer.", seen.degraded),
        ("berth_draining", "1 while the node takes no new kernels (berth drain).", seen.draining),
    ];
    for (name, help, flag) in flags {
        text.one(name, Kind::Gauge, help, Value::Whole(u64::from(flag)));
    }
    let up_ms = seen.now_ms.saturating_sub(seen.started_at_ms);
    let (name, help) = ("berth_process_start_time_seconds", "Unix time at which the agent started.");
    text.one(name, Kind::Gauge, help, Value::Thousandths(seen.started_at_ms));
    let (name, help) = ("berth_process_uptime_seconds", "For how long the agent runs.");
    text.one(name, Kind::Gauge, help, Value::Thousandths(up_ms));
    if let Some(bytes) = seen.resident_bytes {
        let (name, help) = ("berth_process_resident_memory_bytes", "Memory of the agent.");
        text.one(name, Kind::Gauge, help, Value::Whole(bytes));
    }
}

fn policies(slots: &[SlotTally], text: &mut Exposition) {
    let links: Vec<(String, String)> =
        slots.iter().map(|slot| (slot.world.to_string(), slot.link.to_string())).collect();
    let slots = || {
        slots.iter().zip(&links).map(|(slot, (world, link))| (slot, [("world", &**world), ("link", &**link)]))
    };

    let mut family = text.family("berth_policy_active_info", Kind::Gauge, "Who decides.");
    for (slot, [world, link]) in slots() {
        let digest = shown(slot.active.digest);
        let (name, version) = (("policy", &*slot.active.name), ("version", &*slot.active.version));
        family.sample(&[world, link, name, version, ("digest", &digest)], Value::Whole(1));
    }
    let mut family = text.family(
        "berth_policy_demoted",
        Kind::Gauge,
        "1 while the active policy is not asked, since it failed too often.",
    );
    for (slot, labels) in slots() {
        family.sample(&labels, Value::Whole(u64::from(slot.active.demoted)));
    }
    let mut family =
        text.family("berth_policy_decisions_total", Kind::Counter, "Decisions by the rung that answered.");
    for (slot, [world, link]) in slots() {
        for (rung, count) in slot.answers {
            family.sample(&[world, link, ("rung", rung_text(rung))], Value::Whole(count));
        }
    }
    let mut family = text.family("berth_policy_calls_total", Kind::Counter, "Calls by how they ended.");
    for (slot, [world, link]) in slots() {
        for module in &slot.modules {
            let digest = shown(module.digest);
            let (policy, digest) = (("policy", &*module.policy), ("digest", &*digest));
            for (code, count) in &module.outcomes {
                family.sample(&[world, link, policy, digest, ("code", code)], Value::Whole(*count));
            }
        }
    }
    let mut family =
        text.family("berth_policy_demotions_total", Kind::Counter, "How often a policy failed too often.");
    for (slot, [world, link]) in slots() {
        for module in &slot.modules {
            let digest = shown(module.digest);
            let labels = [world, link, ("policy", &*module.policy), ("digest", &*digest)];
            family.sample(&labels, Value::Whole(module.demotions));
        }
    }
    let mut family = text.family("berth_policy_call_seconds", Kind::Histogram, "How long calls took.");
    for (slot, [world, link]) in slots() {
        for module in &slot.modules {
            let digest = shown(module.digest);
            let labels = [world, link, ("policy", &*module.policy), ("digest", &*digest)];
            let bounds = BOUNDS_MICROS.map(|bound| Value::Millionths(u64::from(bound)));
            let times = module.times;
            let sum = Value::Millionths(times.sum_micros);
            family.histogram(&labels, bounds.into_iter().zip(times.buckets), times.count, sum);
        }
    }
}

/// As people see it; empty for the built-in.
fn shown(digest: Option<Digest>) -> String {
    digest.map_or_else(String::new, |digest| digest.short())
}

fn rung_text(rung: Rung) -> &'static str {
    match rung {
        Rung::Active => "active",
        Rung::LastGood => "last-good",
        Rung::Builtin => "builtin",
    }
}

fn admission(seen: &Seen, text: &mut Exposition) {
    type Amount = fn(&SlotBook) -> u64;
    let amounts: [(&str, &str, &str, &str, Amount); 3] = [
        (
            "berth_slot_offered_units",
            "Offered of slots that are counted, in whole devices.",
            "berth_slot_offered_bytes",
            "Offered of slots that are bytes.",
            |book| book.offered,
        ),
        (
            "berth_slot_used_units",
            "Held by kernels, in whole devices.",
            "berth_slot_used_bytes",
            "Held by kernels, in bytes.",
            |book| book.held,
        ),
        (
            "berth_slot_free_units",
            "Offered and not held, in whole devices.",
            "berth_slot_free_bytes",
            "Offered and not held, in bytes.",
            free,
        ),
    ];
    for (units, units_help, bytes, bytes_help, amount) in amounts {
        let mut family = text.family(units, Kind::Gauge, units_help);
        for book in seen.books.iter().filter(|book| book.kind != "bytes") {
            family.sample(&[("slot", book.slot.as_str())], Value::Millionths(amount(book)));
        }
        let mut family = text.family(bytes, Kind::Gauge, bytes_help);
        for book in seen.books.iter().filter(|book| book.kind == "bytes") {
            family.sample(&[("slot", book.slot.as_str())], Value::Whole(amount(book)));
        }
    }
    let Some(Queues { placing, waiting, starting, start_limit }) = seen.queues else { return };
    let gauges = [
        ("berth_admission_placing_kernels", "Kernels that wait for room.", placing),
        ("berth_admission_waiting_kernels", "Kernels that have room and wait for a start slot.", waiting),
        ("berth_admission_starting_kernels", "Kernels that are starting.", starting),
        (
            "berth_admission_start_limit_kernels",
            "How many may be starting at once (start-limit).",
            start_limit,
        ),
    ];
    for (name, help, number) in gauges {
        text.one(name, Kind::Gauge, help, Value::Whole(number as u64));
    }
}

/// What is held beyond the offer of one device is not taken off what is free of another.
fn free(book: &SlotBook) -> u64 {
    book.devices.iter().fold(0, |sum, (_, offered, held)| sum.saturating_add(offered.saturating_sub(*held)))
}

fn kernels(phases: &[Phase], text: &mut Exposition) {
    let mut family =
        text.family("berth_kernels", Kind::Gauge, "Kernels by phase; an ended one is kept for its log.");
    for phase in Phase::ALL {
        let count = phases.iter().filter(|known| **known == phase).count();
        family.sample(&[("phase", phase.text())], Value::Whole(count as u64));
    }
}

fn route(counters: &Counters, text: &mut Exposition) {
    let Counters { messages, bytes, stray, unwanted, pauses, peak_run_bytes, peak_node_bytes, node_bytes } =
        *counters;
    let totals = [
        ("berth_route_messages_total", "Messages from runners.", messages),
        ("berth_route_received_bytes_total", "Their payload.", bytes),
        ("berth_route_stray_messages_total", "Messages of them that made no sense.", stray),
        ("berth_route_unwanted_records_total", "Records whose client had gone.", unwanted),
        ("berth_route_pauses_total", "Times that a kernel was left unread for want of room.", pauses),
    ];
    for (name, help, number) in totals {
        text.one(name, Kind::Counter, help, Value::Whole(number));
    }
    let gauges = [
        ("berth_route_buffered_bytes", "Output that is buffered for clients.", node_bytes),
        ("berth_route_buffered_peak_bytes", "The most of it at any time.", peak_node_bytes),
        ("berth_route_run_buffered_peak_bytes", "The most of it for one run.", peak_run_bytes),
    ];
    for (name, help, number) in gauges {
        text.one(name, Kind::Gauge, help, Value::Whole(number));
    }
}
