//! Records on disk: redb behind one store thread with group commit (design §8).
//!
//! Rooms above hand in values that implement [`Record`]; what a record means is theirs. JSON with a
//! version; a newer version than this program's is refused by name, a corrupt row is set aside with a
//! message and never fatal.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::InstanceId;

/// A kind of row.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    /// Table name.
    const TABLE: &'static str;
    /// Version written; older ones stay readable.
    const VERSION: u32;
    /// Reads an older version's JSON. `version` is never [`Self::VERSION`] and never newer.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the row.
    fn upgrade(version: u32, value: serde_json::Value) -> Result<Self, String>;
    /// The row's key.
    fn key(&self) -> String;
}

/// Why the store could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent holds the state directory.
    #[error("{dir} is in use by another berth agent{}", pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// The other agent's pid, when it could be read.
        pid: Option<u32>,
    },
    /// The directory cannot be used.
    #[error("the state directory {dir} cannot be used: {problem}")]
    Directory {
        /// The state directory.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The database failed.
    #[error("the state database failed: {0}")]
    Database(String),
    /// The store thread has ended.
    #[error("the store thread has ended")]
    Closed,
}

/// A row that could not be read; it was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its table.
    pub table: String,
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A clonable way to the store thread.
#[derive(Debug, Clone)]
pub struct Handle {
    _private: (),
}

/// What was found when the store was opened.
#[derive(Debug)]
pub struct Opened {
    /// The way to the store thread.
    pub handle: Handle,
    /// This state directory's identity, made when it was first opened.
    pub instance: InstanceId,
}

/// Locks and opens (or makes) the database in `dir`, 0700, and starts the store thread.
///
/// # Errors
/// [`StoreError::Locked`] when another agent runs on it; it is not touched then.
pub fn open(dir: &std::path::Path) -> Result<Opened, StoreError> { let _ = dir; unimplemented!() }

#[expect(missing_docs, clippy::unused_async, reason = "the shape only: the room's owner fills it in")]
impl Handle {
    /// Writes a row; when it returns the row is on disk.
    pub async fn put<R: Record>(&self, record: &R) -> Result<(), StoreError> { let _ = record; unimplemented!() }
    /// Deletes a row; deleting a missing one is no error. When it returns it is gone from disk.
    pub async fn delete<R: Record>(&self, key: &str) -> Result<(), StoreError> { let _ = key; unimplemented!() }
    /// Every row of the kind, sorted by key, and those that were set aside.
    pub async fn load<R: Record>(&self) -> Result<(Vec<R>, Vec<SetAside>), StoreError> { unimplemented!() }
    /// Writes what is queued and ends the thread.
    pub async fn close(&self) { unimplemented!() }
}
