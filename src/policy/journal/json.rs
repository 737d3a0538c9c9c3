//! Questions and answers as JSON: names as in `wit/policy.wit` (kebab case), an enum as a string, a variant as
//! `{"case": value}`, flags as a list, an option by absence. Pure.
//!
//! The same form is meant for fixtures and replay, so what is written here is never made prettier.

use serde_json::{Map, Value};

use crate::policy::bindings::{configuring, reporting, scheduling, types};

/// A value of the WIT as JSON. `Null` stands for an option that is none, and is left out of records.
pub trait Jot {
    /// Its JSON.
    fn json(&self) -> Value;
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Jot for $type {
            fn json(&self) -> Value {
                Value::from(self.clone())
            }
        })*
    };
}

plain!(bool, u32, u64, i32, i64, String);

impl<T: Jot> Jot for Option<T> {
    fn json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Jot::json)
    }
}

impl<T: Jot> Jot for Vec<T> {
    fn json(&self) -> Value {
        Value::Array(self.iter().map(Jot::json).collect())
    }
}

impl<A: Jot, B: Jot> Jot for (A, B) {
    fn json(&self) -> Value {
        Value::Array(vec![self.0.json(), self.1.json()])
    }
}

/// An object without what is none.
pub(super) fn object<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(fields.map(|(name, value)| (name.replace('_', "-"), value)).collect::<Map<_, _>>())
}

macro_rules! records {
    ($($record:ty { $($field:ident),* })*) => {
        $(impl Jot for $record {
            fn json(&self) -> Value {
                object([$((stringify!($field), self.$field.json())),*])
            }
        })*
    };
}

records! {
    types::Context { node_name, now_ms, utc_offset_minutes, seed, settings, facts }
    types::Setting { key, value }
    types::Refusal { code, message, retry_later }
    types::DeviceModel { kind, family, name, memory_bytes, processing_units, capacity, partition, attributes }
    types::Device { model, number, uuid, parent, numa_node, health, fault, in_use }
    types::Slot { name, kind, quantum, exclusive_group }
    types::Share { device, slot, amount }
    types::Node { models, devices, slots }
    types::Want { slot, amount }
    types::KernelRequest {
        kernel_id, session_id, owner, project, session_kind, cluster_role, cluster_rank, cluster_size, image,
        image_digest, image_labels, wants, may_fragment, requested_at_ms, attributes
    }
    reporting::Reservation { family, amount }
    reporting::Inventory { models, devices, reserved }
    reporting::Offer { device, amount }
    reporting::SlotOffer { name, kind, quantum, exclusive_group, offers }
    reporting::Withheld { device, amount, reason }
    reporting::Offering { slots, withheld }
    scheduling::Stock { device, slot, free, offered }
    scheduling::Link { a, b, distance }
    scheduling::Tenant { device, slot, amount, kernel, session_kind, kinship }
    scheduling::Choice { stock, links, tenants }
    scheduling::Tally { owner, project, starting, running }
    scheduling::Load { starting, start_limit, cpu_percent, memory_free, tallies }
    scheduling::Decision { request, verdict }
    configuring::Mount { kind, source, target, read_only }
    configuring::Ulimit { name, soft, hard }
    configuring::Variable { name, value }
    configuring::Plan {
        env, mounts, labels, capabilities, ulimits, memory_limit, shm_size, network, hostname
    }
    configuring::TextFile { target, content, mode }
}

macro_rules! enums {
    ($($type:ty { $($case:ident = $name:literal),* })*) => {
        $(impl Jot for $type {
            fn json(&self) -> Value {
                Value::from(match self { $(Self::$case => $name),* })
            }
        })*
    };
}

enums! {
    types::DeviceKind { Cpu = "cpu", Memory = "memory", Accelerator = "accelerator", Other = "other" }
    types::Health {
        Healthy = "healthy", Degraded = "degraded", Unverified = "unverified", Failed = "failed"
    }
    types::SlotKind { Count = "count", Bytes = "bytes", Unique = "unique", Unified = "unified" }
    types::SessionKind {
        Interactive = "interactive", Batch = "batch", Inference = "inference", System = "system"
    }
    configuring::MountKind { Bind = "bind", Volume = "volume", Tmpfs = "tmpfs" }
}

/// One case of a variant with its value.
fn case(name: &str, value: &impl Jot) -> Value {
    object([(name, value.json())])
}

impl Jot for types::SettingValue {
    fn json(&self) -> Value {
        match self {
            Self::Text(text) => case("text", text),
            Self::Integer(number) => case("integer", number),
            Self::Decimal(millionths) => case("decimal", millionths),
            Self::Flag(flag) => case("flag", flag),
            Self::Texts(texts) => case("texts", texts),
        }
    }
}

impl Jot for scheduling::Kinship {
    fn json(&self) -> Value {
        let names = [
            (Self::SAME_SESSION, "same-session"),
            (Self::SAME_OWNER, "same-owner"),
            (Self::SAME_PROJECT, "same-project"),
        ];
        let held = names.into_iter().filter(|(flag, _)| self.contains(*flag));
        Value::Array(held.map(|(_, name)| Value::from(name)).collect())
    }
}

impl Jot for scheduling::Verdict {
    fn json(&self) -> Value {
        match self {
            // A case without a value is its name.
            Self::Start => Value::from("start"),
            Self::Wait(why) => case("wait", why),
            Self::Refuse(refusal) => case("refuse", refusal),
        }
    }
}

impl Jot for configuring::Edit {
    fn json(&self) -> Value {
        match self {
            Self::SetEnv(pair) => case("set-env", pair),
            Self::UnsetEnv(name) => case("unset-env", name),
            Self::AddMount(mount) => case("add-mount", mount),
            Self::RemoveMount(target) => case("remove-mount", target),
            Self::AddFile(file) => case("add-file", file),
            Self::SetLabel(pair) => case("set-label", pair),
            Self::AddCapability(name) => case("add-capability", name),
            Self::DropCapability(name) => case("drop-capability", name),
            Self::SetUlimit(limit) => case("set-ulimit", limit),
            Self::SetSysctl(pair) => case("set-sysctl", pair),
            Self::SetShmSize(bytes) => case("set-shm-size", bytes),
            Self::SetPidsLimit(count) => case("set-pids-limit", count),
            Self::SetCpuLimit(amount) => case("set-cpu-limit", amount),
            Self::SetMemorySwap(bytes) => case("set-memory-swap", bytes),
            Self::SetNetwork(name) => case("set-network", name),
            Self::AddHost(pair) => case("add-host", pair),
            Self::AddDns(address) => case("add-dns", address),
            Self::AddDevice(path) => case("add-device", path),
            Self::SetSecurityOption(option) => case("set-security-option", option),
            Self::SetReadOnlyRoot(flag) => case("set-read-only-root", flag),
            Self::SetOomScore(score) => case("set-oom-score", score),
            Self::Extra(pair) => case("extra", pair),
        }
    }
}
