//! What the run machine is told, and what it asks for.

use std::time::Duration;

use berth_link::Op;
use bytes::Bytes;

use crate::ids::RunId;
use crate::route::{Output, RunEnd, RunRequest, RunnerStatus, Step};

/// What happens to the machine.
#[derive(Debug, Clone)]
pub(in crate::route) enum Input<'a> {
    /// A run is queued. The caller has asked [`super::Machine::knows`].
    Submit(RunRequest),
    /// Standard input. The caller has asked [`super::Machine::stdin_room`].
    Stdin { run: RunId, data: Bytes },
    /// The end of standard input.
    StdinEof { run: RunId },
    /// The answer to `waiting-input`.
    Answer { run: RunId, text: String },
    /// Interrupt that run; none: whatever runs.
    Interrupt { run: Option<RunId> },
    /// The client wants no more of the run.
    Cancel { run: RunId },
    /// The client has gone without a word.
    ClientGone { run: RunId },
    /// It has come back, to a run that [`Machine::place`] found here.
    ClientBack {
        run: RunId,
        /// What is left of its time, for a run whose clock this agent has not started.
        timeout: Option<Duration>,
    },
    /// The runner sent something.
    Record(Record),
    /// The runner answered `status`.
    Answered {
        /// The answer.
        status: &'a RunnerStatus,
        /// It was asked by the keepalive, not by a caller.
        keepalive: bool,
        /// The current task was sent after this runner process began.
        task_is_its: bool,
    },
    /// A timer that was armed has fired.
    Timer { run: RunId, timer: Timer },
    /// The kernel goes away.
    Detach { reason: String },
}

/// What a runner's message means for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::route) enum Record {
    /// Goes to the client as it is.
    Output(Output),
    /// Standard input was consumed.
    Credit(u64),
    /// A step of a batch has ended; the run goes on (contracts: kernel §1.7, BUG-1).
    Step(Step, i32),
    /// The task has ended.
    Finished(i32),
}

/// Timers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::route) enum Timer {
    /// [`crate::route::RunRequest::timeout`].
    Timeout,
    /// After the interrupt that the timeout sent.
    Grace,
    /// After the client was lost.
    LostClient,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::route) enum Effect {
    /// Send this to the runner.
    Send(Op, Bytes),
    /// Give this to the client of the run at the head.
    Emit(Output),
    /// The run has ended: tell its client and the kernel's actor.
    Ended { run: RunId, end: RunEnd },
    /// Call back with [`Input::Timer`]. All timers of a run are void after its [`Effect::Ended`].
    Arm { run: RunId, timer: Timer, after: Duration },
    /// Do not.
    Disarm { run: RunId, timer: Timer },
    /// A run of an earlier agent is at the head now; what is emitted for it is kept for its client, who may
    /// come. `at`: console bytes before the first that is.
    Adopt { run: RunId, at: u64 },
    /// What came belongs to nobody.
    Stray,
}

/// Where a run is whose client has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::route) enum Place {
    /// The runner has not answered yet: ask again when it has.
    Unsettled,
    /// It waits for its turn here, for another connection of its client.
    Waiting,
    /// It runs.
    Current {
        /// Standard input that arrived, from its start.
        stdin_bytes: u64,
        /// As [`super::Machine::stdin_room`].
        stdin_room: usize,
    },
    /// It has ended.
    Ended {
        /// How.
        end: RunEnd,
        /// Console bytes that it wrote.
        output_bytes: u64,
    },
    /// Its task was never sent.
    Never,
    /// The runner that had it is gone.
    Restarted,
    /// The runner does not remember runs: whether it ran cannot be told.
    Unsure,
}
