//! SIGINT to what runs, from the moment the agent has sent the task.
//!
//! An interrupt that comes before the task has become a process, or before the language process has
//! begun with the code, waits for that; without a task it is nothing, so it never ends an idle language
//! process or what an ended task left behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};

use crate::children::Children;

/// Who would be interrupted.
pub struct Interrupt {
    children: Arc<Children>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queued: usize,
    running: bool,
    target: Option<Pid>,
    pending: bool,
}

impl Interrupt {
    /// Nothing runs.
    pub fn new(children: Arc<Children>) -> Self {
        Self { children, state: Mutex::default() }
    }

    /// The agent asks.
    pub fn ask(&self) {
        let mut state = self.state();
        match state.target {
            Some(pid) => self.children.signal_group(pid, Signal::INT),
            None => state.pending = state.running || state.queued > 0,
        }
    }

    /// A task was queued.
    pub fn queued(&self) {
        self.state().queued += 1;
    }

    /// A task begins.
    pub fn begin(&self) {
        let mut state = self.state();
        state.queued = state.queued.saturating_sub(1);
        state.running = true;
    }

    /// The task can be interrupted: the group of this child.
    pub fn ready(&self, pid: Pid) {
        let mut state = self.state();
        state.target = Some(pid);
        if std::mem::take(&mut state.pending) {
            self.children.signal_group(pid, Signal::INT);
        }
    }

    /// The task has ended.
    pub fn over(&self) {
        let mut state = self.state();
        (state.running, state.target, state.pending) = (false, None, false);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
