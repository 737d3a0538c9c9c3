//! `policy-clock`: ticks the engine's epoch every millisecond while a call is in flight, else is parked.
//!
//! A tick only makes running guests look at their own deadline, so a late tick lengthens no other call's
//! time and a burst of them shortens none.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::Engine;

pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a call before the thread parks: waking it costs more than a short call does.
const LINGER: u32 = 8;

/// The clock; it ends with this value.
#[derive(Debug)]
pub(super) struct Clock {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    parked: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    pub fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("policy-clock".to_owned()).spawn(move || tick(&own, &engine))?;
        Ok(Self { shared })
    }

    /// Says that a call is in flight until the value is dropped.
    pub fn running(&self) -> Running<'_> {
        let mut state = self.shared.lock();
        state.running += 1;
        if state.parked {
            self.shared.wake.notify_one();
        }
        Running { shared: &self.shared }
    }

    #[cfg(test)]
    pub fn is_parked(&self) -> bool {
        self.shared.lock().parked
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

/// See [`Clock::running`].
#[derive(Debug)]
pub(super) struct Running<'a> {
    shared: &'a Shared,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.lock().running -= 1;
    }
}

fn tick(shared: &Shared, engine: &Engine) {
    let mut idle = 0;
    loop {
        {
            let mut state = shared.lock();
            idle = if state.running == 0 { idle + 1 } else { 0 };
            if idle > LINGER {
                state.parked = true;
                while state.running == 0 && !state.closed {
                    state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.parked = false;
                idle = 0;
            }
            if state.closed {
                return;
            }
        }
        std::thread::sleep(TICK);
        engine.increment_epoch();
    }
}

/// CPU time of this thread so far.
pub(super) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
