//! Who the kernel's memory cost its life: answers `event oom` (contracts: kernel §4.6).
//!
//! The agent tells that memory ran out, not for whom, and a child of a child ends without a word to us. So while
//! a task runs its processes are noted every two seconds, and those of the last two notes that are gone when the
//! event comes are said with what they held.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use berth_link::MessageType;
use rustix::process::Pid;

use super::console::Console;
use super::outbox::Outbox;
use crate::children::descendants;

const NOTED_EVERY: Duration = Duration::from_secs(2);
/// The event may come before the process is gone.
const GONE_WITHIN: Duration = Duration::from_secs(15);
const LOOKED_EVERY: Duration = Duration::from_millis(100);
/// Older notes have nothing to do with it.
const RECENT: Duration = Duration::from_secs(30);
/// Bytes of a command line that are said.
const WORDS_MAX: usize = 120;

/// A process that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    pid: Pid,
    words: String,
    resident_kib: u64,
}

/// The notes.
#[derive(Default)]
pub struct Witness {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    asked: bool,
    /// The last two notes, the later one first.
    notes: [Vec<Seen>; 2],
    noted_at: Option<Instant>,
}

impl Witness {
    /// A task begins.
    pub fn begin(&self) {
        self.state().running = true;
        self.changed.notify_all();
    }

    /// The task has ended. What was noted stays: the event may be on its way.
    pub fn over(&self) {
        self.state().running = false;
    }

    /// The agent says that memory ran out.
    pub fn ask(&self) {
        self.state().asked = true;
        self.changed.notify_all();
    }

    /// Notes and answers for ever; the body of the thread.
    pub fn watch(self: Arc<Self>, console: &Console, outbox: &Outbox) {
        loop {
            let (note, asked) = self.wait();
            if asked {
                report(&self.gone(), console, outbox);
            }
            if note {
                let now = look();
                let mut state = self.state();
                let last = std::mem::replace(&mut state.notes[0], now);
                state.notes[1] = last;
                state.noted_at = Some(Instant::now());
            }
        }
    }

    /// Until it is time for a note, or somebody asks.
    fn wait(&self) -> (bool, bool) {
        let deadline = Instant::now() + NOTED_EVERY;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.asked || (state.running && left.is_zero()) {
                return (state.running, std::mem::take(&mut state.asked));
            }
            state = if state.running {
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Those that were noted and are gone; waits for the first, and goes on noting meanwhile.
    fn gone(&self) -> Vec<Seen> {
        let mut noted = {
            let state = self.state();
            let is_recent = state.noted_at.is_some_and(|at| at.elapsed() < RECENT);
            if is_recent { union(&state.notes) } else { Vec::new() }
        };
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let now = look();
            let (living, gone): (Vec<Seen>, Vec<Seen>) =
                noted.into_iter().partition(|seen| now.iter().any(|other| other.pid == seen.pid));
            if !gone.is_empty() || Instant::now() >= deadline {
                return gone;
            }
            noted = union(&[now, living]);
            thread::sleep(LOOKED_EVERY);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The largest first, each once, as it was seen last.
fn union([later, earlier]: &[Vec<Seen>; 2]) -> Vec<Seen> {
    let mut all = later.clone();
    all.extend(earlier.iter().filter(|seen| later.iter().all(|other| other.pid != seen.pid)).cloned());
    all.sort_by_key(|seen| std::cmp::Reverse(seen.resident_kib));
    all
}

fn report(gone: &[Seen], console: &Console, outbox: &Outbox) {
    let mut text = "berth-runner: the kernel ran out of memory; ".to_owned();
    if gone.is_empty() {
        text.push_str("none of the processes that were seen here is gone\n");
    } else {
        text.push_str("gone since then:\n");
    }
    for seen in gone {
        let (pid, mib) = (seen.pid, seen.resident_kib.div_ceil(1024));
        text.push_str(&format!("berth-runner:   {mib:>6} MiB  {} (pid {pid})\n", seen.words));
    }
    console.copy(MessageType::Stderr, text.as_bytes());
    outbox.console(MessageType::Stderr, text.as_bytes());
}

/// All processes below this one.
fn look() -> Vec<Seen> {
    descendants()
        .into_iter()
        .filter_map(|pid| see(pid).map(|(words, resident_kib)| Seen { pid, words, resident_kib }))
        .collect()
}

fn see(pid: Pid) -> Option<(String, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some((plain(&words), resident(&status)))
}

/// A command line on one line, without what would move a cursor.
fn plain(words: &[u8]) -> String {
    let words = words.strip_suffix(b"\0").unwrap_or(words);
    let words = words.get(..WORDS_MAX).unwrap_or(words);
    let text = String::from_utf8_lossy(words);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Kibibytes in memory, by `/proc/PID/status`.
fn resident(status: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_said_once_as_it_was_seen_last_and_the_largest_first() {
        let seen =
            |pid, resident_kib| Seen { pid: Pid::from_raw(pid).unwrap(), words: "x".into(), resident_kib };
        let notes = [vec![seen(1, 5), seen(2, 90)], vec![seen(1, 50), seen(3, 7)]];
        assert_eq!(union(&notes), [seen(2, 90), seen(3, 7), seen(1, 5)]);
    }

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   1024 kB\n"), 1024);
        assert_eq!(resident("Name:\tkthread\n"), 0);
        assert_eq!(plain(b"python3\0a\x1b.py\0"), "python3 a .py");
        assert_eq!(plain(&[b'x'; 500]).len(), WORDS_MAX);
    }
}
