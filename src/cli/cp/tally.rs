//! What is told of a copy: a line that lives on a terminal, notes on what was left out, the sum.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::error::{CliError, say};
use crate::cli::live::Live;
use crate::cli::output::size;
use crate::cli::signals::Signals;
use crate::tree::Note;
use crate::tree::pack::Step;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);
/// Notes that are told; more are counted.
const NOTES_MAX: usize = 20;

/// Counts what a thread does. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    is_quiet: bool,
    begun: Instant,
    entries: AtomicU64,
    bytes: AtomicU64,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    told: Vec<Note>,
    more: u64,
    losses: u64,
}

/// How waiting ended.
pub(super) enum Waited<T> {
    Done(T),
    /// The user, or the system, wants the command to exit like that.
    Stopped(u8),
}

impl Tally {
    pub(super) fn new(is_quiet: bool) -> Self {
        let inner = Inner {
            is_quiet,
            begun: Instant::now(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            notes: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Counts bytes on their way.
    pub(super) fn moved(&self, bytes: usize) {
        self.inner.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a file, or keeps a note.
    pub(super) fn step(&self, step: Step) {
        match step {
            Step::Carried { .. } => drop(self.inner.entries.fetch_add(1, Ordering::Relaxed)),
            Step::Note(note) => self.note(note),
        }
    }

    pub(super) fn note(&self, note: Note) {
        let mut notes = self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.losses += u64::from(note.is_loss);
        if notes.told.len() < NOTES_MAX { notes.told.push(note) } else { notes.more += 1 }
    }

    /// Notes that nobody has kept.
    pub(super) fn more_notes(&self, count: u64) {
        self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner).more += count;
    }

    /// Waits, telling on a terminal how it goes on.
    pub(super) async fn watch<T>(&self, signals: &mut Signals, work: impl Future<Output = T>) -> Waited<T> {
        tokio::pin!(work);
        let mut live = Live::new();
        let mut tick = tokio::time::interval(EVERY);
        loop {
            // Cancel-safe: signals, a future that stays, a timer.
            tokio::select! {
                biased;
                exit = signals.stop() => return Waited::Stopped(exit),
                done = &mut work => return Waited::Done(done),
                _ = tick.tick(), if live.is_terminal() && !self.inner.is_quiet => live.show(&self.line()),
            }
        }
    }

    /// Tells the notes and, on a terminal, the sum.
    ///
    /// # Errors
    /// When something was not copied, or not whole.
    pub(super) fn end(&self) -> Result<(), CliError> {
        if Live::new().is_terminal() && !self.inner.is_quiet {
            say(&self.line());
        }
        let notes = self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner);
        for note in &notes.told {
            say(&format!("{} {}", note.path, note.problem));
        }
        if notes.more > 0 {
            say(&format!("and {} more", notes.more));
        }
        match notes.losses {
            0 => Ok(()),
            1 => Err(CliError::new("one thing was not copied, or not whole").with_code("incomplete")),
            count => Err(CliError::new(format!("{count} things were not copied, or not whole"))
                .with_code("incomplete")),
        }
    }

    fn line(&self) -> String {
        let (entries, bytes) =
            (self.inner.entries.load(Ordering::Relaxed), self.inner.bytes.load(Ordering::Relaxed));
        line(entries, bytes, self.inner.begun.elapsed())
    }
}

/// `3 files, 4.5 MB, 1.2 MB/s`.
fn line(entries: u64, bytes: u64, since: Duration) -> String {
    let files = if entries == 1 { "1 file".to_owned() } else { format!("{entries} files") };
    let per_second = u128::from(bytes) * 1000 / since.as_millis().max(1);
    format!("{files}, {}, {}/s", size(bytes), size(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts() {
        assert_eq!(line(1, 999, Duration::from_secs(1)), "1 file, 999 B, 999 B/s");
        assert_eq!(line(12, 4_500_000, Duration::from_secs(3)), "12 files, 4.5 MB, 1.5 MB/s");
    }

    #[test]
    fn what_was_left_out_is_no_failure_and_what_was_lost_is() {
        let tally = Tally::new(true);
        let note = |is_loss| Note { path: "x".to_owned(), problem: "y".to_owned(), is_loss };
        tally.note(note(false));
        assert_eq!(tally.end(), Ok(()));
        (0..30).for_each(|_| tally.note(note(true)));
        assert_eq!(tally.end().unwrap_err().message, "30 things were not copied, or not whole");
    }
}
