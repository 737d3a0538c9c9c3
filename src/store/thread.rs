//! The store thread: it owns the database and commits in groups.
//!
//! All commands that wait are applied in order in one transaction and answered when it is on disk. A
//! group that fails is answered with the error as a whole; the database is then opened again with the
//! next group, because redb refuses everything after an I/O error (a full disk), and freed space should
//! be enough to go on.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableTable as _, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

use super::directory::Directory;
use super::row::Row;
use super::{Change, StoreError};
use crate::ids::InstanceId;

/// Where the answer to a command goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the thread can be asked.
#[derive(Debug)]
pub(super) enum Command {
    Commit {
        changes: Vec<Change>,
        reply: Reply<()>,
    },
    Load {
        table: &'static str,
        reply: Reply<Vec<Row>>,
    },
    /// Moves rows that are still as they were read to `set-aside`, each with what is wrong with it.
    SetAside {
        table: &'static str,
        damaged: Vec<(Row, String)>,
        reply: Reply<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Commands that may wait; more of them wait outside.
const QUEUE: usize = 256;
/// Commands in one transaction at most.
const GROUP: usize = 256;
/// The layout of the database as a whole. One above it is refused.
const LAYOUT: u32 = 1;
/// Kept small: the records of a node are a few hundred kilobytes.
const CACHE_BYTES: usize = 8 << 20;

const META: &str = "meta";
const SET_ASIDE: &str = "set-aside";
const KEY_LAYOUT: &[u8] = b"layout";
const KEY_INSTANCE: &[u8] = b"instance";

/// redb panics where a `str` key is not UTF-8, so keys are bytes.
fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// Opens the database: at the start, and again after an I/O error. It owns the locked directory.
pub(super) type Opener = Box<dyn FnMut() -> Result<Database, StoreError> + Send>;

/// Starts the thread; returns when the database is open.
pub(super) fn start(directory: Directory) -> Result<(mpsc::Sender<Command>, InstanceId), StoreError> {
    let file = directory.database_path();
    start_with(Box::new(move || open_database(&directory)), file)
}

/// The same with another way to open the database, which lies in `file`.
pub(super) fn start_with(
    opener: Opener,
    file: PathBuf,
) -> Result<(mpsc::Sender<Command>, InstanceId), StoreError> {
    let (commands, queue) = mpsc::channel(QUEUE);
    let (opened, ready) = sync_channel(1);
    let thread = Thread { database: None, opener, file: file.clone() };
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || thread.run(queue, &opened))
        .map_err(|error| StoreError::Database(format!("its thread cannot be started: {error}")))?;
    // Without a word from the thread it panicked, which redb may do over a damaged file.
    let instance = ready.recv().unwrap_or_else(|_| Err(damaged(&file, "reading it failed")))?;
    Ok((commands, instance))
}

/// What the thread owns. The fields are dropped in this order: the lock goes last.
struct Thread {
    /// None before the first group after an I/O error.
    database: Option<Database>,
    opener: Opener,
    file: PathBuf,
}

/// Commands to be done in one transaction, and who asked for the end behind them.
type Group = (Vec<Command>, Option<oneshot::Sender<()>>);

impl Thread {
    fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        opened: &SyncSender<Result<InstanceId, StoreError>>,
    ) {
        let instance = self.identify();
        let failed = instance.is_err();
        if failed {
            drop(self);
            let _ = opened.send(instance);
            return;
        }
        let _ = opened.send(instance);
        while let Some((group, close)) = next_group(&mut queue) {
            if !group.is_empty() {
                self.commit(group);
            }
            if let Some(reply) = close {
                // In this order, so that whoever waits for the reply can open the directory at once.
                drop(self);
                let _ = reply.send(());
                return;
            }
        }
    }

    fn commit(&mut self, group: Vec<Command>) {
        let outcome = self.apply(&group);
        if let Err(error) = &outcome {
            tracing::error!(commands = group.len(), "{error}");
            self.database = None;
        }
        let (outcome, loaded) = match outcome {
            Ok(loaded) => (Ok(()), loaded),
            Err(error) => (Err(error), Vec::new()),
        };
        let mut loaded = loaded.into_iter();
        for command in group {
            // Whoever no longer waits for an answer does not need it.
            match command {
                Command::Commit { reply, .. } | Command::SetAside { reply, .. } => {
                    let _ = reply.send(outcome.clone());
                }
                Command::Load { reply, .. } => {
                    let rows = outcome.clone().map(|()| loaded.next().unwrap_or_default());
                    let _ = reply.send(rows);
                }
                Command::Close { reply } => drop(reply),
            }
        }
    }

    /// Does the group in one transaction; the rows of its loads in order.
    fn apply(&mut self, group: &[Command]) -> Result<Vec<Vec<Row>>, StoreError> {
        let file = self.file.clone();
        let database = self.open()?;
        let mut loaded = Vec::new();
        let mut changed = false;
        let mut work = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            for command in group {
                match command {
                    Command::Commit { changes, .. } => {
                        for Change { table: name, key, row } in changes {
                            let mut rows = transaction.open_table(table(name))?;
                            changed |= match row {
                                Some(row) => {
                                    rows.insert(key.as_bytes(), row.as_slice())?;
                                    true
                                }
                                None => rows.remove(key.as_bytes())?.is_some(),
                            };
                        }
                    }
                    Command::Load { table: name, .. } => loaded.push(rows(&transaction, name)?),
                    Command::SetAside { table: name, damaged, .. } => {
                        for (row, problem) in damaged {
                            changed |= set_aside(&transaction, name, row, problem)?;
                        }
                    }
                    Command::Close { .. } => {}
                }
            }
            // Written on change only (design §8).
            if changed { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
        };
        work().map_err(|error| failure(&file, error))?;
        Ok(loaded)
    }

    fn open(&mut self) -> Result<&Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => (self.opener)()?,
        };
        Ok(self.database.insert(database))
    }

    /// The instance id, made at the first opening. Refuses a layout of a newer berth.
    fn identify(&mut self) -> Result<InstanceId, StoreError> {
        let file = self.file.clone();
        let database = self.open()?;
        let found = (|| -> Result<_, redb::Error> {
            let transaction = database.begin_write()?;
            let mut meta = transaction.open_table(table(META))?;
            let layout = meta.get(KEY_LAYOUT)?.map(|value| value.value().to_vec());
            let instance = meta.get(KEY_INSTANCE)?.map(|value| value.value().to_vec());
            if layout.is_some() || instance.is_some() {
                drop(meta);
                transaction.abort()?;
                return Ok((layout, instance));
            }
            let (layout, instance) = (LAYOUT.to_string(), InstanceId::random().to_string());
            meta.insert(KEY_LAYOUT, layout.as_bytes())?;
            meta.insert(KEY_INSTANCE, instance.as_bytes())?;
            drop(meta);
            transaction.commit()?;
            Ok((Some(layout.into_bytes()), Some(instance.into_bytes())))
        })();
        let (layout, instance) = found.map_err(|error| failure(&file, error))?;
        match parse::<u32>(layout) {
            Some(LAYOUT) => {}
            Some(newer) if newer > LAYOUT => {
                return Err(StoreError::Database(format!(
                    "a newer berth wrote {} (layout {newer}, this one knows {LAYOUT}): start that berth, or name another --state-dir",
                    file.display()
                )));
            }
            _ => return Err(damaged(&file, "its layout cannot be read")),
        }
        parse(instance).ok_or_else(|| damaged(&file, "its instance id cannot be read"))
    }
}

/// Waits for a command and takes all that wait behind it, up to a close. None: every handle is gone.
fn next_group(queue: &mut mpsc::Receiver<Command>) -> Option<Group> {
    let mut group = Vec::new();
    let mut next = Some(queue.blocking_recv()?);
    while let Some(command) = next {
        match command {
            Command::Close { reply } => return Some((group, Some(reply))),
            command => group.push(command),
        }
        next = if group.len() < GROUP { queue.try_recv().ok() } else { None };
    }
    Some((group, None))
}

fn rows(transaction: &WriteTransaction, name: &str) -> Result<Vec<Row>, redb::Error> {
    let table = transaction.open_table(table(name))?;
    let mut rows = Vec::new();
    for entry in table.iter()? {
        let (key, bytes) = entry?;
        rows.push(Row { key: key.value().to_vec(), bytes: bytes.value().to_vec() });
    }
    Ok(rows)
}

/// Moves a row to `set-aside`; not when it has been rewritten since it was read.
fn set_aside(
    transaction: &WriteTransaction,
    name: &str,
    row: &Row,
    problem: &str,
) -> Result<bool, redb::Error> {
    let mut from = transaction.open_table(table(name))?;
    let unchanged = from.get(row.key.as_slice())?.is_some_and(|found| found.value() == row.bytes);
    if !unchanged {
        return Ok(false);
    }
    from.remove(row.key.as_slice())?;
    let mut aside = transaction.open_table(table(SET_ASIDE))?;
    let key = String::from_utf8_lossy(&row.key);
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    // The bytes as text where they are text, else as numbers: nothing of them is lost.
    let kept = match std::str::from_utf8(&row.bytes) {
        Ok(text) => serde_json::json!(text),
        Err(_) => serde_json::json!(row.bytes),
    };
    let note = serde_json::json!({
        "table": name, "key": key, "problem": problem, "at_ms": u64::try_from(at_ms).unwrap_or(u64::MAX), "row": kept,
    });
    // A key may be set aside more than once.
    let mut place = format!("{name}/{key}");
    let mut again = 1;
    while aside.get(place.as_bytes())?.is_some() {
        again += 1;
        place = format!("{name}/{key}#{again}");
    }
    aside.insert(place.as_bytes(), note.to_string().as_bytes())?;
    Ok(true)
}

fn open_database(directory: &Directory) -> Result<Database, StoreError> {
    let file = directory.database_path();
    let backend = directory.open_database_file()?;
    let database = FileBackend::new(backend).and_then(|backend| {
        // The check makes redb refuse a damaged file instead of panicking on it later; the file is small.
        Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
    });
    database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Locked { dir: directory.path().to_owned(), pid: None }
        }
        DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => {
            damaged(&file, &error.to_string())
        }
        error => failure(&file, error.into()),
    })
}

fn failure(file: &Path, error: redb::Error) -> StoreError {
    use std::io::ErrorKind;
    match error {
        redb::Error::Corrupted(problem) => damaged(file, &problem),
        redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull => StoreError::Database(format!(
            "no space is left to write {}: free some on its file system; the agent goes on by itself",
            file.display()
        )),
        redb::Error::Io(error)
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            damaged(file, &error.to_string())
        }
        error => StoreError::Database(format!("{}: {error}", file.display())),
    }
}

/// The file as a whole is of no use. It is left as it is: only a person may decide to forget it.
fn damaged(file: &Path, problem: &str) -> StoreError {
    StoreError::Database(format!(
        "{} cannot be read ({problem}): put a copy back, or `mv {0} {0}.damaged` to start with an empty one",
        file.display(),
    ))
}

fn parse<T: std::str::FromStr>(bytes: Option<Vec<u8>>) -> Option<T> {
    String::from_utf8(bytes?).ok()?.parse().ok()
}
