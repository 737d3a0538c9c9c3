//! One row: `{"version":N,"value":{…}}`. Pure.

use serde::{Deserialize, Serialize};

use super::{Record, StoreError};

/// A row as it lies in its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub key: Vec<u8>,
    pub bytes: Vec<u8>,
}

/// What became of a row.
pub(super) enum Reading<R> {
    Record(R),
    /// Written by a newer berth: left alone.
    Newer(String),
    /// Not readable: to be set aside.
    Damaged(String),
}

#[derive(Serialize)]
struct Written<'a, R> {
    version: u32,
    value: &'a R,
}

#[derive(Deserialize)]
struct Envelope {
    version: u32,
    value: serde_json::Value,
}

pub(super) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&Written { version: R::VERSION, value: record })
        .map_err(|error| StoreError::Database(format!("a {} record has no JSON form: {error}", R::TABLE)))
}

pub(super) fn read<R: Record>(row: &Row) -> Reading<R> {
    let envelope: Envelope = match serde_json::from_slice(&row.bytes) {
        Ok(envelope) => envelope,
        Err(error) => return Reading::Damaged(format!("it is no versioned JSON record: {error}")),
    };
    let Envelope { version, value } = envelope;
    if version > R::VERSION {
        return Reading::Newer(format!(
            "a newer berth wrote it: record version {version}, this one reads up to {}",
            R::VERSION
        ));
    }
    let record = if version == R::VERSION {
        serde_json::from_value(value).map_err(|error| error.to_string())
    } else {
        R::upgrade(version, value)
    };
    match record {
        Ok(record) if record.key().as_bytes() == row.key => Reading::Record(record),
        Ok(record) => Reading::Damaged(format!("it holds the record of {:?}", record.key())),
        Err(problem) => Reading::Damaged(format!("version {version} of it cannot be read: {problem}")),
    }
}
