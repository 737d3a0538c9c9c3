//! Children: starting them, learning of their end, and ending all descendants.
//!
//! One thread waits for signals and reaps ([`Children::reap`]); starting a child and reaping exclude
//! each other, so that no end is seen before its child is known, and a process id is never signalled
//! after it was given back.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// Who is told how a child ended; by exit code, negative when killed by a signal.
pub type OnEnd = Box<dyn FnOnce(i32) + Send>;

/// The children this program started.
#[derive(Default)]
pub struct Children {
    known: Mutex<HashMap<Pid, OnEnd>>,
    refusing: AtomicBool,
}

impl Children {
    /// Starts a child; `on_end` is called from the reaping thread once it has ended.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn start(&self, command: &mut Command, on_end: OnEnd) -> io::Result<Pid> {
        let mut known = self.known();
        if self.refusing.load(Ordering::Relaxed) {
            return Err(io::Error::other("the kernel is ending"));
        }
        // The standard library's handle is of no use: its wait would race with the reaper's.
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the system gave a child no process id"))?;
        known.insert(pid, on_end);
        Ok(pid)
    }

    /// Starts nothing any more: the program is ending.
    pub fn refuse(&self) {
        let _known = self.known();
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Sends a signal to the group of a child that has not ended.
    pub fn signal_group(&self, pid: Pid, signal: Signal) {
        let known = self.known();
        if known.contains_key(&pid) {
            // It may have ended in this moment; then there is nobody to tell.
            let _gone = rustix::process::kill_process_group(pid, signal);
        }
    }

    /// Sends a signal to a child alone, if it has not ended.
    pub fn signal_one(&self, pid: Pid, signal: Signal) {
        let known = self.known();
        if known.contains_key(&pid) {
            self::signal(pid, signal);
        }
    }

    /// Reaps everything that has ended, adopted orphans too.
    pub fn reap(&self) {
        loop {
            let (on_end, status) = {
                let mut known = self.known();
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) => (known.remove(&pid), status),
                    _ => return,
                }
            };
            if let Some(on_end) = on_end {
                on_end(exit_code(status));
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Pid, OnEnd>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exit code as Python and the contract have it: negative when killed by a signal (kernel §1.4).
fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => -signal,
        (None, None) => -1,
    }
}

/// Ends every descendant: SIGTERM, and SIGKILL for those that are left after `grace`. Reaps them.
pub fn end_all(children: &Children, grace: Duration) {
    let started = Instant::now();
    if grace > Duration::ZERO {
        for pid in descendants() {
            signal(pid, Signal::TERM);
            // A stopped process would not hear of it.
            signal(pid, Signal::CONT);
        }
        while started.elapsed() < grace {
            children.reap();
            if descendants().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // Again and again: a process may fork between the look and the shot. The bound is for processes
    // that even SIGKILL does not reach (state D).
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let left = descendants();
        if left.is_empty() {
            break;
        }
        for pid in left {
            signal(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
        children.reap();
    }
    children.reap();
}

/// Sends a signal; that the process has ended meanwhile is no failure.
pub fn signal(pid: Pid, signal: Signal) {
    let _gone = rustix::process::kill_process(pid, signal);
}

/// All living processes below this one, parents before their children, so that a shell that is killed
/// does not first see its child die. As pid 1: everything else in this process namespace.
pub fn descendants() -> Vec<Pid> {
    let own = rustix::process::getpid();
    let processes = living();
    if own == Pid::INIT {
        return processes.into_iter().map(|(pid, _)| pid).filter(|pid| *pid != own).collect();
    }
    let mut known = HashSet::from([own]);
    let mut below = Vec::new();
    loop {
        let before = below.len();
        for (pid, parent) in &processes {
            if parent.is_some_and(|parent| known.contains(&parent)) && known.insert(*pid) {
                below.push(*pid);
            }
        }
        if below.len() == before {
            return below;
        }
    }
}

/// Every process that is no zombie, with its parent.
fn living() -> Vec<(Pid, Option<Pid>)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            let (state, parent) = parse_stat(&stat)?;
            (state != b'Z' && state != b'X').then(|| (pid, Pid::from_raw(parent)))
        })
        .collect()
}

/// State and parent in a line of `/proc/PID/stat`. The name before them may hold anything, brackets too.
fn parse_stat(stat: &[u8]) -> Option<(u8, i32)> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let mut fields = stat.get(end + 1..)?.split(|b| *b == b' ').filter(|f| !f.is_empty());
    let state = *fields.next()?.first()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    Some((state, parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_parent() {
        assert_eq!(parse_stat(b"12 (a) R 7 (b)) S 3 12 12 0"), Some((b'S', 3)));
        assert_eq!(parse_stat(b"12 (x"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
