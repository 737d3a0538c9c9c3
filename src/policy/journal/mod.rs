//! What was decided, by whom, from what: one JSON record a line in a bounded ring on disk (design §6).
//!
//! ```text
//!  asking room ──bounded queue, never waited for──> thread policy-journal ──> <state>/journal/NNNN.jsonl
//! ```
//! The asking room hands over question, answer and who gave it; making JSON of them and writing it is the
//! thread's work, so a slow disk slows no decision: what does not fit into the queue is dropped and counted.
//! Nothing is synced; after a crash of the machine the last records may be missing or torn, which readers skip.
//!
//! Values that policies do not get to see (`variable` without a value) are not in it. `report` is asked every
//! 30 s and written only when question or answer differ from the last. Records with `"replayable": false` met a
//! deadline, a memory limit, a full queue or the end of the stack: another machine, compiler, or the same one later,
//! may decide otherwise.
//!
//! Files: `told` (each decision), `ring` (the files), `exported` (a file that somebody keeps), `phrase` (for people).

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::{CHAIN_CONFLICT, DecidedBy, PolicyFault, Refusal, Rung, WorldKind};
use crate::ids::Digest;

pub mod exported;
pub mod phrase;
mod ring;
#[cfg(test)]
mod tests;
mod told;

pub use ring::Cursor;
pub use told::Told;

/// Records that may wait for the thread.
const QUEUE: usize = 1024;
/// Records written at once.
const GROUP: usize = 64;
/// How long a reader waits for what was told before.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// `policy` of a refusal that admission made without asking one: nothing was free.
pub const ADMISSION: &str = "admission";

/// One decision, as it lies in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Counts up, over restarts too.
    pub seq: u64,
    /// When it was decided, Unix time in milliseconds.
    pub time_ms: u64,
    /// Version of the agent: what an answer left out its built-in decided.
    pub agent: String,
    /// The world.
    pub world: WorldKind,
    /// Which member of the world's chain, from 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub link: usize,
    /// The function.
    pub function: String,
    /// Ids of the kernels it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<String>,
    /// Asked for `create --dry-run`: nothing came of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
    /// Who answered; `builtin` for the twin, [`ADMISSION`] where nobody was asked.
    pub policy: String,
    /// Its version.
    pub version: String,
    /// Digest of its module; none for the twin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// On which rung.
    pub rung: Rung,
    /// In all, with the rungs that failed.
    pub micros: u64,
    /// Why rungs above were passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<PolicyFault>,
    /// False: it depended on the machine and its load.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub replayable: bool,
    /// What the one who answered was told besides the question: settings, time, seed.
    pub context: Value,
    /// What was asked.
    pub question: Value,
    /// What was answered, checked and completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
    /// Or why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The policy's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_true(flag: &bool) -> bool {
    *flag
}

fn yes() -> bool {
    true
}

/// What is wanted of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Only decisions about this kernel, by its id.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Only of this world.
    #[serde(default)]
    pub world: Option<WorldKind>,
    /// Only of this member of the world's chain.
    #[serde(default)]
    pub link: Option<usize>,
    /// Only from this number on.
    #[serde(default)]
    pub from: Option<u64>,
    /// Only up to this number.
    #[serde(default)]
    pub to: Option<u64>,
    /// The last so many.
    #[serde(default)]
    pub most: Option<usize>,
}

impl Wanted {
    /// Whether this one is.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        self.kernel.as_ref().is_none_or(|kernel| entry.kernels.contains(kernel))
            && self.world.is_none_or(|world| entry.world == world)
            && self.link.is_none_or(|link| entry.link == link)
            && self.from.is_none_or(|from| entry.seq >= from)
            && self.to.is_none_or(|to| entry.seq <= to)
    }
}

/// A decision on its way to the thread: makes the record there.
pub(super) struct Telling {
    /// Written only when it differs from the last of its function.
    pub only_changes: bool,
    /// Called on the journal's thread with the record's number.
    pub record: Box<dyn FnOnce(u64) -> Entry + Send>,
}

enum Message {
    Decision(Telling),
    /// Answered when everything before it is written.
    Settle(oneshot::Sender<()>),
}

/// A clonable way to the journal. Its thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    dropped: AtomicU64,
    /// What keeps records from being written.
    trouble: Mutex<Option<String>>,
    /// Number of the last record written.
    written: watch::Sender<u64>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Decision(_) => "Decision",
            Self::Settle(_) => "Settle",
        })
    }
}

impl Journal {
    /// Opens the ring of at most `bytes` in `dir` and starts its thread.
    ///
    /// # Errors
    /// When the folder cannot be made or written to.
    pub fn open(dir: &Path, bytes: u64) -> io::Result<Self> {
        let (ring, last) = ring::Ring::open(dir, bytes)?;
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            dropped: AtomicU64::new(0),
            trouble: Mutex::default(),
            written: watch::Sender::new(last),
        });
        let writer = Writer { ring, seq: last, last_report: None, shared: Arc::clone(&shared) };
        std::thread::Builder::new().name("policy-journal".to_owned()).spawn(move || writer.run(&messages))?;
        Ok(Self { queue, shared })
    }

    /// Takes a decision, at once: one that does not fit into the queue is dropped and counted.
    pub(super) fn tell(&self, told: Telling) {
        match self.queue.try_send(Message::Decision(told)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many decisions were not written since the agent started.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// What keeps it from being written or whole, a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.or_else(|| match self.dropped() {
            0 => None,
            dropped => Some(format!("{dropped} decisions are missing in the journal: its disk was too slow")),
        })
    }

    /// Waits until what was told so far is written, not for long: a disk that hangs keeps nobody.
    pub async fn settled(&self) {
        let (reply, done) = oneshot::channel();
        let mut message = Message::Settle(reply);
        let written = async {
            // A full queue does not tell when there is room again.
            while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
                message = back;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _ = done.await;
        };
        let _ = tokio::time::timeout(SETTLED_WITHIN, written).await;
    }

    /// The last entries that are wanted, oldest first. Reads files: not for a tokio worker.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn read(&self, wanted: &Wanted) -> io::Result<Vec<Entry>> {
        let most = wanted.most.unwrap_or(usize::MAX);
        ring::last(&self.shared.dir, most, wanted.kernel.as_deref(), |entry| wanted.matches(entry))
    }

    /// Hands `each` the entries that are wanted, oldest first and one file of the ring at a time, until it breaks.
    /// With [`Wanted::most`] the last so many. Reads files: not for a tokio worker.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn scan(&self, wanted: &Wanted, each: impl FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
        if wanted.most.is_some() {
            let _ = self.read(wanted)?.into_iter().try_for_each(each);
            return Ok(());
        }
        ring::scan(&self.shared.dir, |entry| wanted.matches(entry), each)
    }

    /// A reader that starts behind everything that is there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn follow(&self) -> io::Result<Follower> {
        let written = self.shared.written.subscribe();
        Ok(Follower { cursor: Cursor::at_end(&self.shared.dir)?, written })
    }
}

/// Reads on as the journal grows.
#[derive(Debug)]
pub struct Follower {
    cursor: Cursor,
    written: watch::Receiver<u64>,
}

impl Follower {
    /// What has been written since the last call. Reads files: not for a tokio worker.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn read_on(&mut self) -> io::Result<Vec<Entry>> {
        self.written.mark_unchanged();
        self.cursor.next()
    }

    /// Waits until there is more; false: there will be no more. Cancel-safe.
    pub async fn more(&mut self) -> bool {
        self.written.changed().await.is_ok()
    }
}

/// What the thread owns.
struct Writer {
    ring: ring::Ring,
    seq: u64,
    /// The last decision of those that are written on change only.
    last_report: Option<Entry>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut told_dropped = 0;
        while let Ok(first) = messages.recv() {
            let (mut lines, mut settled, before) = (Vec::new(), Vec::new(), self.seq);
            for message in std::iter::once(first).chain(messages.try_iter().take(GROUP - 1)) {
                match message {
                    Message::Decision(told) => self.write_down(told, &mut lines),
                    Message::Settle(reply) => settled.push(reply),
                }
            }
            if !lines.is_empty() {
                self.append(&lines, self.seq - before);
            }
            for reply in settled {
                let _ = reply.send(());
            }
            let dropped = self.shared.dropped.load(Ordering::Relaxed);
            if dropped > told_dropped {
                tracing::warn!(dropped, "decisions were not written into the journal: its disk is too slow");
                told_dropped = dropped;
            }
        }
    }

    fn write_down(&mut self, told: Telling, lines: &mut Vec<u8>) {
        let entry = (told.record)(self.seq + 1);
        if told.only_changes {
            if self.last_report.as_ref().is_some_and(|last| says_the_same(last, &entry)) {
                return;
            }
            self.last_report = Some(entry.clone());
        }
        let before = lines.len();
        match serde_json::to_writer(&mut *lines, &entry) {
            Ok(()) => {
                lines.push(b'\n');
                self.seq += 1;
            }
            Err(error) => {
                lines.truncate(before);
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a decision has no JSON form and is not in the journal");
            }
        }
    }

    fn append(&mut self, lines: &[u8], count: u64) {
        let outcome = self.ring.append(lines);
        let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                *trouble = None;
                drop(trouble);
                self.shared.written.send_replace(self.seq);
            }
            Err(error) => {
                if trouble.is_none() {
                    tracing::error!(%error, "the journal cannot be written; decisions go on without it");
                }
                *trouble = Some(format!("the journal of decisions cannot be written: {error}"));
                drop(trouble);
                self.shared.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// Whether nothing but the time differs.
fn says_the_same(one: &Entry, other: &Entry) -> bool {
    one.function == other.function
        && one.digest == other.digest
        && one.rung == other.rung
        && one.question == other.question
        && one.answer == other.answer
        && one.refusal == other.refusal
        && one.context.get("settings") == other.context.get("settings")
        && one.faults.iter().map(|fault| fault.fault).eq(other.faults.iter().map(|fault| fault.fault))
}

/// What is known of a decision when its record is made.
pub(super) struct Made {
    pub link: usize,
    pub dry_run: bool,
    pub by: DecidedBy,
    pub context: Value,
    pub kernels: Vec<String>,
    pub question: Value,
    pub answer: Result<Value, Refusal>,
    pub time_ms: u64,
}

impl Made {
    pub fn entry(self, seq: u64) -> Entry {
        // What the chain made of two answers no single policy can say again, and admission asks nobody.
        let of_chain = self.answer.as_ref().is_err_and(|refusal| refusal.code == CHAIN_CONFLICT);
        let asked_nobody = of_chain || self.by.policy == ADMISSION;
        let replayable = !asked_nobody && !self.by.faults.iter().any(PolicyFault::depends_on_the_machine);
        let (answer, refusal) = match self.answer {
            Ok(answer) => (Some(answer), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let DecidedBy { world, function, policy, version, digest, rung, faults, micros, note } = self.by;
        Entry {
            seq,
            time_ms: self.time_ms,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            world,
            link: self.link,
            function,
            kernels: self.kernels,
            dry_run: self.dry_run,
            policy,
            version,
            digest,
            rung,
            micros,
            faults,
            replayable,
            context: self.context,
            question: self.question,
            answer,
            refusal,
            note,
        }
    }
}

/// Unix time in milliseconds.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
