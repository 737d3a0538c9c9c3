//! Questions and answers as JSON, both ways: names as in `wit/policy.wit` (kebab case), an enum as a string, a
//! variant as `{"case": value}` (one without a value by its name), flags as a list, an option by absence. Pure.
//!
//! It is the form of the journal, of fixtures and of replay. What is read may be written by hand: a field that is
//! missing has its zero value (0, an empty text or list, the first case of an enum), a whole number may also be a
//! text (JSON knows 53 bits in some hands), and a field that does not exist is an error that says which there are.

use serde_json::{Map, Value};

use super::bindings::{configuring, reporting, scheduling, types};
use super::worlds::{AdjustQuestion, EvictQuestion, OrderQuestion, PlaceQuestion, ReportQuestion};

/// A value of the WIT as JSON. `Null` stands for an option that is none, and is left out of records.
pub trait Jot {
    /// Its JSON.
    fn json(&self) -> Value;
}

/// A value of the WIT from its JSON.
pub trait Read: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, and where.
    fn read(json: &Value) -> Result<Self, Wrong>;

    /// What a missing field is. None: it must be there.
    fn zero() -> Option<Self>;
}

/// Why JSON is not what it should be: where, as `request.wants[2].amount`, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if at.is_empty() { String::new() } else { format!("{at}: ") })]
pub struct Wrong {
    at: String,
    problem: String,
}

impl Wrong {
    /// Of the value itself.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { at: String::new(), problem: problem.into() }
    }

    /// Seen from the record or the list that the value is in.
    #[must_use]
    pub fn within(mut self, part: &str) -> Self {
        let dot = if self.at.is_empty() || self.at.starts_with('[') { "" } else { "." };
        self.at = format!("{part}{dot}{}", self.at);
        self
    }
}

/// The fields of a record that is read; what is left over at the end was not known.
pub struct Fields<'j> {
    object: &'j Map<String, Value>,
    known: Vec<String>,
}

impl<'j> Fields<'j> {
    /// Of an object.
    ///
    /// # Errors
    /// When it is something else.
    pub fn of(json: &'j Value) -> Result<Self, Wrong> {
        let object = json.as_object().ok_or_else(|| expected("an object", json))?;
        Ok(Self { object, known: Vec::new() })
    }

    /// One of them, by its name in Rust or in the WIT.
    ///
    /// # Errors
    /// When it is wrong, or missing and needed.
    pub fn take<T: Read>(&mut self, name: &str) -> Result<T, Wrong> {
        let name = name.replace('_', "-");
        let found = self.object.get(&name).filter(|json| !json.is_null());
        let value = match found {
            Some(json) => T::read(json).map_err(|wrong| wrong.within(&name)),
            None => T::zero().ok_or_else(|| Wrong::new(format!("`{name}` is missing"))),
        };
        self.known.push(name);
        value
    }

    /// No field may be left.
    ///
    /// # Errors
    /// Names the first that is.
    pub fn end(self) -> Result<(), Wrong> {
        match self.object.keys().find(|name| !self.known.contains(name)) {
            None => Ok(()),
            Some(name) => {
                Err(Wrong::new(format!("there is no field `{name}` (there are {})", self.known.join(", "))))
            }
        }
    }
}

fn expected(what: &str, found: &Value) -> Wrong {
    let text = found.to_string();
    let shown: String = text.chars().take(60).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    Wrong::new(format!("{what} is expected, not {shown}{more}"))
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

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Read for $type {
            fn read(json: &Value) -> Result<Self, Wrong> {
                let wanted = || format!("a whole number from {} to {}", Self::MIN, Self::MAX);
                let number = match json {
                    Value::String(text) => text.parse().ok(),
                    Value::Number(number) => number.to_string().parse().ok(),
                    _ => None,
                };
                number.ok_or_else(|| expected(&wanted(), json))
            }

            fn zero() -> Option<Self> {
                Some(0)
            }
        })*
    };
}

numbers!(u32, u64, i32, i64);

impl Read for bool {
    fn read(json: &Value) -> Result<Self, Wrong> {
        json.as_bool().ok_or_else(|| expected("true or false", json))
    }

    fn zero() -> Option<Self> {
        Some(false)
    }
}

impl Read for String {
    fn read(json: &Value) -> Result<Self, Wrong> {
        json.as_str().map(str::to_owned).ok_or_else(|| expected("a text", json))
    }

    fn zero() -> Option<Self> {
        Some(Self::new())
    }
}

impl<T: Read> Read for Option<T> {
    fn read(json: &Value) -> Result<Self, Wrong> {
        T::read(json).map(Some)
    }

    fn zero() -> Option<Self> {
        Some(None)
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(json: &Value) -> Result<Self, Wrong> {
        let list = json.as_array().ok_or_else(|| expected("a list", json))?;
        let read = |(at, json)| T::read(json).map_err(|wrong| wrong.within(&format!("[{at}]")));
        list.iter().enumerate().map(read).collect()
    }

    fn zero() -> Option<Self> {
        Some(Self::new())
    }
}

impl<A: Read, B: Read> Read for (A, B) {
    fn read(json: &Value) -> Result<Self, Wrong> {
        match json.as_array().map(Vec::as_slice) {
            Some([one, other]) => Ok((
                A::read(one).map_err(|wrong| wrong.within("[0]"))?,
                B::read(other).map_err(|wrong| wrong.within("[1]"))?,
            )),
            _ => Err(expected("a list of two", json)),
        }
    }

    fn zero() -> Option<Self> {
        None
    }
}

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
pub fn object<'k>(fields: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(fields.map(|(name, value)| (name.replace('_', "-"), value)).collect::<Map<_, _>>())
}

macro_rules! records {
    ($($record:ty { $($field:ident),* })*) => {
        $(impl Jot for $record {
            fn json(&self) -> Value {
                object([$((stringify!($field), self.$field.json())),*])
            }
        }

        impl Read for $record {
            fn read(json: &Value) -> Result<Self, Wrong> {
                let mut fields = Fields::of(json)?;
                let record = Self { $($field: fields.take(stringify!($field))?),* };
                fields.end()?;
                Ok(record)
            }

            fn zero() -> Option<Self> {
                Some(Self { $($field: Read::zero()?),* })
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
    scheduling::Placement { shares, rest, avoid, note }
    scheduling::RunningKernel {
        kernel_id, owner, project, session_kind, shares, memory_used, disk_used, pids_used, started_at_ms, idle_ms,
        preemptible
    }
    scheduling::Eviction { kernel, reason, grace_ms }
    ReportQuestion { inventory }
    PlaceQuestion { request, node, choice }
    OrderQuestion { waiting, node, load }
    EvictQuestion { pressure, running, node }
    AdjustQuestion { request, node, shares, plan, grants, placed_by_chain }
}

macro_rules! enums {
    ($($type:ty { $($case:ident = $name:literal),* })*) => {
        $(impl Jot for $type {
            fn json(&self) -> Value {
                Value::from(match self { $(Self::$case => $name),* })
            }
        }

        impl Read for $type {
            fn read(json: &Value) -> Result<Self, Wrong> {
                match json.as_str() {
                    $(Some($name) => Ok(Self::$case),)*
                    _ => Err(expected(&[$($name),*].join(" or "), json)),
                }
            }

            fn zero() -> Option<Self> {
                [$(Self::$case),*].into_iter().next()
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
    scheduling::Strategy { Usual = "usual", Pack = "pack", Spread = "spread" }
}

/// One case of a variant with its value.
fn case(name: &str, value: &impl Jot) -> Value {
    object([(name, value.json())])
}

/// The one case that an object names, and its value.
fn named_case(json: &Value) -> Result<(&str, &Value), Wrong> {
    match (json.as_str(), json.as_object().map(|object| (object.len(), object.iter().next()))) {
        (Some(name), _) => Ok((name, &Value::Null)),
        (None, Some((1, Some((name, value))))) => Ok((name, value)),
        _ => Err(expected("one case, as {\"name\": value},", json)),
    }
}

fn value_of<T: Read>(name: &str, json: &Value) -> Result<T, Wrong> {
    T::read(json).map_err(|wrong| wrong.within(name))
}

/// Variants whose cases all have a value: both ways from one list.
macro_rules! variants {
    ($($type:ty { $($case:ident = $name:literal),* })*) => {
        $(impl Jot for $type {
            fn json(&self) -> Value {
                match self { $(Self::$case(value) => case($name, value)),* }
            }
        }

        impl Read for $type {
            fn read(json: &Value) -> Result<Self, Wrong> {
                let (name, value) = named_case(json)?;
                match name {
                    $($name => value_of(name, value).map(Self::$case),)*
                    _ => Err(Wrong::new(format!(
                        "there is no case `{name}` (there are {})", [$($name),*].join(", ")
                    ))),
                }
            }

            fn zero() -> Option<Self> {
                None
            }
        })*
    };
}

variants! {
    types::SettingValue {
        Text = "text", Integer = "integer", Decimal = "decimal", Flag = "flag", Texts = "texts"
    }
    scheduling::Pressure { Memory = "memory", Disk = "disk", Pids = "pids", Devices = "devices" }
    configuring::Edit {
        SetEnv = "set-env", UnsetEnv = "unset-env", AddMount = "add-mount", RemoveMount = "remove-mount",
        AddFile = "add-file", SetLabel = "set-label", AddCapability = "add-capability",
        DropCapability = "drop-capability", SetUlimit = "set-ulimit", SetSysctl = "set-sysctl",
        SetShmSize = "set-shm-size", SetPidsLimit = "set-pids-limit", SetCpuLimit = "set-cpu-limit",
        SetMemorySwap = "set-memory-swap", SetNetwork = "set-network", AddHost = "add-host",
        AddDns = "add-dns", AddDevice = "add-device", SetSecurityOption = "set-security-option",
        SetReadOnlyRoot = "set-read-only-root", SetOomScore = "set-oom-score", Extra = "extra"
    }
}

const KINSHIP: [(scheduling::Kinship, &str); 3] = [
    (scheduling::Kinship::SAME_SESSION, "same-session"),
    (scheduling::Kinship::SAME_OWNER, "same-owner"),
    (scheduling::Kinship::SAME_PROJECT, "same-project"),
];

impl Jot for scheduling::Kinship {
    fn json(&self) -> Value {
        let held = KINSHIP.into_iter().filter(|(flag, _)| self.contains(*flag));
        Value::Array(held.map(|(_, name)| Value::from(name)).collect())
    }
}

impl Read for scheduling::Kinship {
    fn read(json: &Value) -> Result<Self, Wrong> {
        let mut kinship = Self::empty();
        for name in Vec::<String>::read(json)? {
            let flag = KINSHIP.into_iter().find(|(_, known)| *known == name);
            let flag = flag.ok_or_else(|| {
                expected(&KINSHIP.map(|(_, name)| name).join(" or "), &Value::from(name.clone()))
            })?;
            kinship |= flag.0;
        }
        Ok(kinship)
    }

    fn zero() -> Option<Self> {
        Some(Self::empty())
    }
}

impl Read for scheduling::Verdict {
    fn read(json: &Value) -> Result<Self, Wrong> {
        match named_case(json)? {
            ("start", _) => Ok(Self::Start),
            (name @ "wait", why) => value_of(name, why).map(Self::Wait),
            (name @ "refuse", refusal) => value_of(name, refusal).map(Self::Refuse),
            (name, _) => {
                Err(Wrong::new(format!("there is no case `{name}` (there are start, wait, refuse)")))
            }
        }
    }

    fn zero() -> Option<Self> {
        Some(Self::Start)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says<T: Read>(json: &Value, expected: &str) {
        let wrong = T::read(json).err().map(|wrong| wrong.to_string());
        assert!(wrong.as_deref().is_some_and(|wrong| wrong.contains(expected)), "{wrong:?}");
    }

    #[test]
    fn what_is_left_out_is_zero_and_comes_back_as_it_was() {
        let node = types::Node::read(&json!({
            "models": [{"family": "cuda", "kind": "accelerator", "capacity": "1000000"}],
            "devices": [{"number": 3, "uuid": "GPU-1"}, {}],
            "slots": [{"name": "cuda.device", "quantum": 1}],
        }))
        .unwrap();
        assert_eq!((node.models[0].capacity, node.devices[0].number), (1_000_000, 3));
        assert_eq!(node.devices[1].health, types::Health::Healthy);
        assert_eq!((&node.devices[0].uuid, &node.devices[1].uuid), (&Some("GPU-1".to_owned()), &None));
        assert_eq!(types::Node::read(&node.json()), Ok(node));
    }

    #[test]
    fn variants_flags_and_pairs_are_read() {
        let edits = json!([
            {"set-env": ["A", "1"]}, {"add-mount": {"kind": "tmpfs", "target": "/x"}}, {"set-oom-score": -3},
            {"set-read-only-root": true},
        ]);
        let read = Vec::<configuring::Edit>::read(&edits).unwrap();
        assert_eq!(Vec::<configuring::Edit>::read(&read.json()), Ok(read));
        let verdicts = json!(["start", {"wait": "later"}, {"refuse": {"code": "no", "message": "never"}}]);
        let read = Vec::<scheduling::Verdict>::read(&verdicts).unwrap();
        assert_eq!(Vec::<scheduling::Verdict>::read(&read.json()), Ok(read));
        let kinship = scheduling::Kinship::read(&json!(["same-owner", "same-project"])).unwrap();
        assert_eq!(kinship.json(), json!(["same-owner", "same-project"]));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        says::<types::Node>(
            &json!({"devices": [{"numa": 1}]}),
            "devices[0]: there is no field `numa` (there are model, number,",
        );
        says::<types::Node>(&json!({"slots": [{"quantum": -1}]}), "slots[0].quantum: a whole number from 0");
        says::<types::Node>(&json!({"slots": {}}), "slots: a list is expected, not {}");
        says::<types::Device>(
            &json!({"health": "ill"}),
            "health: healthy or degraded or unverified or failed",
        );
        says::<configuring::Edit>(
            &json!({"set-envy": []}),
            "there is no case `set-envy` (there are set-env,",
        );
        says::<configuring::Edit>(&json!({"set-env": ["A"]}), "set-env: a list of two is expected");
        says::<types::Setting>(&json!({"key": "a"}), "`value` is missing");
        says::<u32>(&json!(1.5), "a whole number");
    }
}
