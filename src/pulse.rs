//! The pulse: a thread of its own that knows whether the core lives (invariant 6).
//!
//! The supervisor, admission and the routing thread each move a counter at least every 5 s
//! ([`PROGRESS_WITHIN`]). When one stands still for the limit (`[lifecycle] stall-limit-sec`), the pulse logs
//! its name, no longer feeds the service manager's watchdog, and aborts the process. Kernels survive that, so
//! starting the agent again is the cure; an agent that hangs would be worse than one that is gone.
//!
//! It also speaks to the service manager (sd_notify(3)): ready, stopping, and the watchdog's food.

use std::fmt;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Every watched task moves its counter at least this often.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(5);
/// How often the pulse looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A counter that its owner moves while it lives.
#[derive(Debug, Clone, Default)]
pub struct Beats(Arc<AtomicU64>);

impl Beats {
    /// Moves it.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was moved.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that shows that it lives.
pub struct Watched {
    name: &'static str,
    count: Box<dyn Fn() -> u64 + Send>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Watched {
    /// A task of this name whose counter `count` reads; it must not wait for anything.
    pub fn new(name: &'static str, count: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { name, count: Box::new(count) }
    }
}

/// The running pulse. Dropping it ends the thread.
#[derive(Debug)]
pub struct Pulse {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread, which tells the service manager that the agent is ready.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(limit: Duration, watched: Vec<Watched>) -> std::io::Result<Pulse> {
    let (stop, stopped) = sync_channel::<()>(0);
    let manager = Manager::find();
    let thread = std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
        manager.tell("READY=1");
        let mut book = Book::new(limit, watched.len(), Instant::now());
        // Ends when the sender is dropped.
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
            let counts: Vec<u64> = watched.iter().map(|task| (task.count)()).collect();
            if let Some((at, still_for)) = book.look(&counts, Instant::now()) {
                let name = watched.get(at).map_or("?", |task| task.name);
                tracing::error!(
                    task = name, still_for_s = still_for.as_secs(),
                    "the task {name} stands still; the agent ends itself, kernels run on and are taken up when it is started again"
                );
                std::process::abort();
            }
            manager.feed(Instant::now());
        }
        manager.tell("STOPPING=1");
    })?;
    Ok(Pulse { stop: Some(stop), thread: Some(thread) })
}

impl Drop for Pulse {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Since when each counter has stood still. Pure.
#[derive(Debug)]
struct Book {
    limit: Duration,
    seen: Vec<(Option<u64>, Instant)>,
    looked: Instant,
}

impl Book {
    fn new(limit: Duration, tasks: usize, now: Instant) -> Self {
        Self { limit, seen: vec![(None, now); tasks], looked: now }
    }

    /// The first task that has stood still for the limit, and for how long.
    fn look(&mut self, counts: &[u64], now: Instant) -> Option<(usize, Duration)> {
        // Not looking for so long means that the whole process stood still (SIGSTOP, a frozen cgroup, a
        // machine that slept): nobody could have moved a counter.
        let slept = now.saturating_duration_since(self.looked) > 5 * LOOK_EVERY;
        self.looked = now;
        for ((seen, since), count) in self.seen.iter_mut().zip(counts) {
            if slept || *seen != Some(*count) {
                (*seen, *since) = (Some(*count), now);
            }
        }
        let still = self.seen.iter().map(|(_, since)| now.saturating_duration_since(*since));
        still.enumerate().find(|(_, still_for)| *still_for >= self.limit)
    }
}

/// The service manager, where there is one.
#[derive(Debug)]
struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    fed: std::cell::Cell<Option<Instant>>,
}

impl Manager {
    /// By `NOTIFY_SOCKET` and `WATCHDOG_USEC` (sd_notify(3), sd_watchdog_enabled(3)).
    fn find() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                [b'/', ..] => SocketAddr::from_pathname(&name),
                _ => return None,
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = micros.filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        if let Some((socket, _)) = &socket {
            // A manager that does not read must not hold the pulse up.
            let _ = socket.set_nonblocking(true);
        }
        Self { socket, watchdog, fed: std::cell::Cell::new(None) }
    }

    fn tell(&self, word: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(word.as_bytes(), address)
        {
            tracing::debug!(%error, word, "the service manager did not take a word");
        }
    }

    /// Feeds the watchdog twice in its time.
    fn feed(&self, now: Instant) {
        let Some(time) = self.watchdog else { return };
        if self
            .fed
            .get()
            .is_none_or(|fed| now.saturating_duration_since(fed) >= time / 2 - LOOK_EVERY.min(time / 4))
        {
            self.fed.set(Some(now));
            self.tell("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_task_that_stands_still_for_the_whole_limit_is_named() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut book = Book::new(Duration::from_secs(10), 2, start);
        for second in 1..=10 {
            assert_eq!(book.look(&[second, 7], at(second)), None, "at {second}");
        }
        assert_eq!(book.look(&[11, 7], at(11)), Some((1, Duration::from_secs(10))));
        assert_eq!(book.look(&[12, 8], at(12)), None);
    }

    #[test]
    fn a_process_that_was_stopped_as_a_whole_is_not_blamed() {
        let start = Instant::now();
        let mut book = Book::new(Duration::from_secs(10), 1, start);
        assert_eq!(book.look(&[1], start + Duration::from_secs(1)), None);
        assert_eq!(book.look(&[1], start + Duration::from_secs(3600)), None);
        assert_eq!(book.look(&[1], start + Duration::from_secs(3601)), None);
    }
}
