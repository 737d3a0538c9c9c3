//! Records on disk: redb behind one store thread with group commit (design §8).
//!
//! Rooms above hand in values that implement [`Record`]; what a record means is theirs. JSON with a
//! version; a newer version than this program's is refused by name, a corrupt row is set aside with a
//! message and never fatal.
//!
//! [`open`] locks the state directory and starts the thread `store`, which owns the database. It takes
//! commands from a bounded queue ([`Handle`]), puts all that wait into one transaction, and answers
//! them when that is on disk. Whoever holds a [`Handle`] learns of the thread's end by
//! [`Handle::ended`].
//!
//! Beside the records' tables there are `meta` (instance id, layout) and `set-aside` (damaged rows).

use std::future::Future;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::ids::InstanceId;

mod directory;
mod row;
#[cfg(test)]
mod tests;
mod thread;

use row::{Reading, Row};
use thread::{Command, Reply};

/// A kind of row.
pub trait Record: Serialize + DeserializeOwned + Send + 'static {
    /// Table name; not `meta` or `set-aside`.
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
#[derive(Debug, Clone, thiserror::Error)]
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
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// The database failed.
    #[error("the state database failed: {0}")]
    Database(String),
    /// The store thread has ended.
    #[error("the store thread has ended")]
    Closed,
}

/// Changes to be made in one transaction.
#[derive(Debug, Default)]
pub struct Changes(Vec<Change>);

/// One of them: a row to write, or none to delete it.
#[derive(Debug)]
struct Change {
    table: &'static str,
    key: String,
    row: Option<Vec<u8>>,
}

impl Changes {
    /// Writes a row.
    ///
    /// # Errors
    /// When the record has no JSON form.
    pub fn put<R: Record>(&mut self, record: &R) -> Result<(), StoreError> {
        let row = row::encode(record)?;
        self.0.push(Change { table: R::TABLE, key: record.key(), row: Some(row) });
        Ok(())
    }

    /// Deletes a row; deleting a missing one is no error.
    pub fn delete<R: Record>(&mut self, key: String) {
        self.0.push(Change { table: R::TABLE, key, row: None });
    }
}

/// A row that could not be read: a corrupt one was moved to the table `set-aside`, one of a newer
/// version was left where it is.
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
    commands: mpsc::Sender<Command>,
}

/// What was found when the store was opened.
#[derive(Debug)]
pub struct Opened {
    /// The way to the store thread.
    pub handle: Handle,
    /// This state directory's identity, made when it was first opened.
    pub instance: InstanceId,
}

/// Locks and opens (or makes) the database in `dir`, 0700, and starts the store thread. It blocks
/// until the database is open: milliseconds, longer after a crash.
///
/// # Errors
/// [`StoreError::Locked`] when another agent runs on it; it is not touched then.
/// [`StoreError::Directory`] when it is a symbolic link, belongs to someone else, or others may write to
/// it. [`StoreError::Database`] when the database file is damaged; it is left as it is.
pub fn open(dir: &std::path::Path) -> Result<Opened, StoreError> {
    let directory = directory::Directory::lock(dir)?;
    let (commands, instance) = thread::start(directory)?;
    Ok(Opened { handle: Handle { commands }, instance })
}

impl Handle {
    /// Writes a row; when it returns the row is on disk. Dropping the future does not take the row back.
    ///
    /// # Errors
    /// When it could not be written; whether it is on disk is then unknown.
    pub fn put<R: Record>(&self, record: &R) -> impl Future<Output = Result<(), StoreError>> + Send + use<R> {
        // Encoded before the first await, so that the future does not borrow the record.
        let mut changes = Changes::default();
        let encoded = changes.put(record);
        let handle = self.clone();
        async move {
            encoded?;
            handle.commit(|| changes).await
        }
    }

    /// Makes changes in one transaction; when it returns they are on disk. `changes` is called when they are
    /// put into the queue: what several callers put there reaches the disk in the order of these calls.
    ///
    /// # Errors
    /// When they could not be made; whether they are on disk is then unknown.
    pub async fn commit(&self, changes: impl FnOnce() -> Changes) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let place = self.commands.reserve().await.map_err(|_| StoreError::Closed)?;
        place.send(Command::Commit { changes: changes().0, reply });
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Deletes a row; deleting a missing one is no error. When it returns it is gone from disk.
    ///
    /// # Errors
    /// When it could not be deleted.
    pub async fn delete<R: Record>(&self, key: &str) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        changes.delete::<R>(key.to_owned());
        self.commit(|| changes).await
    }

    /// Every row of the kind, sorted by key, and those that were set aside.
    ///
    /// # Errors
    /// When the database could not be read. A damaged row is none: it is in the second list.
    pub async fn load<R: Record>(&self) -> Result<(Vec<R>, Vec<SetAside>), StoreError> {
        let (records, aside, damaged) = self.read().await?;
        if !damaged.is_empty() {
            self.ask(|reply| Command::SetAside { table: R::TABLE, damaged, reply }).await?;
        }
        Ok((records, aside))
    }

    /// The same without changing anything: those that cannot be read stay where they are.
    ///
    /// # Errors
    /// When the database could not be read.
    pub async fn look<R: Record>(&self) -> Result<(Vec<R>, Vec<SetAside>), StoreError> {
        let (records, aside, _) = self.read().await?;
        Ok((records, aside))
    }

    /// Records, notes on those that cannot be read, and of these the damaged ones with what is wrong.
    async fn read<R: Record>(&self) -> Result<(Vec<R>, Vec<SetAside>, Vec<(Row, String)>), StoreError> {
        let rows = self.ask(|reply| Command::Load { table: R::TABLE, reply }).await?;
        let (mut records, mut aside, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let shown = String::from_utf8_lossy(&row.key).into_owned();
            let note = |problem| SetAside { table: R::TABLE.to_owned(), key: shown, problem };
            match row::read::<R>(&row) {
                Reading::Record(record) => records.push(record),
                Reading::Newer(problem) => aside.push(note(problem)),
                Reading::Damaged(problem) => {
                    aside.push(note(problem.clone()));
                    damaged.push((row, problem));
                }
            }
        }
        Ok((records, aside, damaged))
    }

    /// Writes what is queued, ends the thread and unlocks the directory.
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        // Where the thread has ended already there is nothing to wait for.
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Returns when the store thread has ended, by [`Handle::close`] or by a fault.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}
