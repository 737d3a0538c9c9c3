//! What is known of a value besides its bytes.

use callosum::{ImageRef, Value};

/// Whether two values are the same; a float that is no number is the same as itself here.
#[must_use]
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Map(one), Value::Map(other)) => {
            let same_pair = |(one, other): (&(Value, Value), &(Value, Value))| {
                same(&one.0, &other.0) && same(&one.1, &other.1)
            };
            one.len() == other.len() && one.iter().zip(other).all(same_pair)
        }
        _ => one == other,
    }
}

/// The value as it comes back after it was written: extension types become what stands for them.
#[must_use]
pub fn plain(value: &Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.iter().map(plain).collect()),
        Value::Map(pairs) => {
            Value::Map(pairs.iter().map(|(key, value)| (plain(key), plain(value))).collect())
        }
        Value::Uuid(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let parts =
                [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
            parts.join("-").into()
        }
        Value::Enum { value: text, .. }
        | Value::Decimal(text)
        | Value::Path(text)
        | Value::SlotName(text) => text.as_str().into(),
        Value::ImageRef(image) => image.canonical().into(),
        Value::Slots(slots) => {
            Value::map(slots.iter().map(|(slot, amount)| (slot.as_str(), amount.as_str())))
        }
        Value::BinarySize(bytes) => (*bytes).into(),
        Value::DateTime(bytes) => bytes.clone().into(),
        other => other.clone(),
    }
}

/// How many values lie in it, keys of maps among them, the value itself not.
#[must_use]
pub fn inner(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(|value| 1 + inner(value)).sum(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| 2 + inner(key) + inner(value)).sum(),
        Value::Slots(slots) => slots.len() * 2,
        _ => 0,
    }
}

/// How deep it is nested; zero where nothing is in it.
#[must_use]
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Map(pairs) => {
            1 + pairs.iter().map(|(key, value)| depth(key).max(depth(value))).max().unwrap_or(0)
        }
        Value::Slots(_) => 1,
        _ => 0,
    }
}

/// Bytes of text that were taken out of a pickle.
#[must_use]
pub fn text_bytes(value: &Value) -> usize {
    match value {
        Value::Enum { value: text, .. } | Value::Decimal(text) | Value::SlotName(text) => text.len(),
        Value::Slots(slots) => slots.iter().map(|(slot, amount)| slot.len() + amount.len()).sum(),
        Value::ImageRef(image) => {
            let ImageRef { name, project, tag, registry, architecture, is_local: _ } = &**image;
            let project = project.as_deref().unwrap_or_default();
            [name, project, tag, registry, architecture].iter().map(|text| text.len()).sum()
        }
        _ => 0,
    }
}
