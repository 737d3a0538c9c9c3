//! Which process is meant: a pid alone may by now be somebody else's.
//!
//! A process is named by pid, start time and boot; it is only ever signalled through a pidfd that was
//! opened *before* the name was compared, so that a recycled pid is never hit.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of this host, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Process id.
    pub(super) pid: i32,
    /// Clock ticks from boot to its start (`proc_pid_stat(5)`, field 22).
    pub(super) start_time: u64,
    /// The boot that both are counted in.
    pub(super) boot: String,
}

/// What `/proc/PID/stat` tells.
struct Stat {
    state: u8,
    parent: i32,
    start_time: u64,
}

impl Identity {
    /// The process that has this pid now.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: stat(pid)?.start_time, boot: boot()? })
    }

    /// A handle on the process; none when it has ended.
    pub(super) fn open(&self) -> io::Result<Option<OwnedFd>> {
        if boot()? != self.boot {
            return Ok(None);
        }
        let Some(handle) = handle(self.pid)? else { return Ok(None) };
        match stat(self.pid) {
            Ok(stat) if stat.start_time == self.start_time && stat.state != b'Z' => Ok(Some(handle)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal. False: it has ended.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.open()? {
            Some(handle) => send(&handle, signal),
            None => Ok(false),
        }
    }

    /// Its descendant `depth` generations down, by the eldest child of each; none when the line ends.
    pub(super) fn descendant(&self, depth: usize) -> Option<Identity> {
        let mut who = self.clone();
        for _ in 0..depth {
            let mut children: Vec<_> =
                children(who.pid).into_iter().filter_map(|pid| Self::of(pid).ok()).collect();
            children.sort_by_key(|child| child.start_time);
            let child = children.into_iter().next()?;
            // Still ours: a pid that was recycled meanwhile has another parent.
            if stat(child.pid).ok()?.parent != who.pid {
                return None;
            }
            who = child;
        }
        Some(who)
    }
}

/// Kills every process whose environment holds `marker` (`NAME=VALUE`). Tells how many there were.
/// What a supervisor that was itself killed could not end is found so.
pub(super) fn kill_marked(marker: &str) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    pids.filter(|pid| *pid != own)
        .filter(|pid| {
            let Ok(Some(handle)) = handle(*pid) else { return false };
            is_marked(*pid, marker) && matches!(send(&handle, Signal::KILL), Ok(true))
        })
        .count()
}

/// Whether a process was started with `path` among its words.
pub(super) fn was_started_with(pid: i32, path: &Path) -> bool {
    let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    words.split(|byte| *byte == 0).any(|word| word == path.as_os_str().as_encoded_bytes())
}

fn is_marked(pid: i32, marker: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes())
}

fn handle(pid: i32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(handle) => Ok(Some(handle)),
        Err(error) if is_gone(&error.into()) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn send(handle: &OwnedFd, signal: Signal) -> io::Result<bool> {
    match pidfd_send_signal(handle, signal) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error.into()) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // EINVAL: pidfd_open(2) of a thread that leads no process.
    [rustix::io::Errno::SRCH, rustix::io::Errno::NOENT, rustix::io::Errno::INVAL]
        .iter()
        .any(|gone| error.raw_os_error() == Some(gone.raw_os_error()))
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat cannot be read"))
}

/// The name in it may hold anything, `) 1 (` too: fields are counted from its last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22, of which 3 and 4 are taken.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_is_read_whatever_its_name() {
        let line = "42 (a) Z 1 (b) R 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_time), (b'R', 7, 987_654));
        assert!(parse_stat("42 (x").is_none());
        assert!(parse_stat("42 (x) R 1").is_none());
    }

    #[test]
    fn a_recycled_pid_is_not_the_process_that_was_meant() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.open().unwrap().is_some());
        let earlier = Identity { start_time: me.start_time - 1, ..me.clone() };
        assert!(earlier.open().unwrap().is_none());
        assert!(!earlier.signal(Signal::KILL).unwrap(), "nobody is hit");
        let before_boot = Identity { boot: "another".into(), ..me };
        assert!(before_boot.open().unwrap().is_none());
    }

    #[test]
    fn a_process_that_has_ended_is_gone_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        if let Some(handle) = identity.open().unwrap() {
            let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
        }
        assert!(identity.open().unwrap().is_none());
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
    }

    #[test]
    fn marked_processes_are_found_and_killed() {
        let value = uuid::Uuid::new_v4().simple().to_string();
        let mut child =
            std::process::Command::new("sleep").arg("1000").env("BERTH_TEST", &value).spawn().unwrap();
        // Between fork and exec it still has our environment.
        let killed = (0..1000).any(|_| {
            std::thread::yield_now();
            kill_marked(&format!("BERTH_TEST={value}")) == 1
        });
        if !killed {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        assert!(killed);
    }
}
