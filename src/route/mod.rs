//! Routing: ZeroMQ threads, runs and results (design §3).
//!
//! `route-0` is an OS thread that owns every socket, two per kernel, and the whole execution path.
//!
//! ```text
//!  Handle, RunControl --Request--> inbox --+           +--> PUSH --> runner
//!                     (vector + eventfd)   |  machine  |
//!  OutputReceiver <--batches of Output-----+  per kernel <-- PULL <-- runner
//!        +---------credit, Resume--------->+           +--Report--> kernel actor (try_send)
//! ```
//! * [`machine`]: what a run is and who it belongs to; `adoption`: runs of an earlier agent; pure.
//! * [`held`]: what came before the runner's first answer, and whose it is; pure.
//! * [`flow`]: output on its way to a client, and the bound on it; [`window`]: output for a client that polls,
//!   and [`results`]: what it is given; pure.
//! * [`door`]: who asks by a socket of this thread, in no protocol's words, [`desk`] its sockets, [`zap`] who may
//!   come in; [`inquiries`]: questions to a runner
//!   that have one reply.
//! * [`wire`], [`keepalive`], [`timers`], [`reports`]: what a message means, what an answer is worth,
//!   what is due, what the actor is told; no I/O either.
//! * [`sockets`]: socket files and the two sockets of a kernel; the only unsafe code.
//! * [`attachment`], [`thread`]: one kernel, and all of them, [`attention`] whose turn it is; [`parked`]: output that waits for a client
//!   who may come back.
//! * [`inbox`], [`handle`]: how callers get in.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::ids::{KernelId, RunId};

mod attachment;
mod attention;
mod desk;
pub mod door;
mod flow;
mod handle;
mod held;
mod inbox;
mod inquiries;
mod keepalive;
mod machine;
mod parked;
mod reports;
mod results;
mod sockets;
mod thread;
mod timers;
mod window;
mod wire;
mod zap;

#[cfg(test)]
mod tests;

pub use berth_link::Status as RunnerStatus;
pub use desk::{Curve, Doorway};
pub use flow::{Limits, OutputReceiver};
pub use handle::{Handle, RouteThread, RunControl, start};
pub use inbox::Counters;
pub use inquiries::{Inquiry, Notice};
pub use results::{Batch, ConsoleItem, RunResult, RunStatus};

/// Why runs are detached when the agent stops; they go on in their kernels.
pub const AGENT_STOPPED: &str = "agent-stopped";

/// How the routing thread works. The default is what `serve` uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How much output may be buffered.
    pub limits: Limits,
    /// How long after an answer a runner is asked again, and how long it may take to answer.
    pub keepalive: Duration,
    /// How long a run goes on, and its output is kept, without its client.
    pub lost_client: Duration,
    /// How long a run whose client polls may be left unpolled before its oldest output gives way, and how
    /// long its end is kept.
    pub unpolled: Duration,
    /// How long a run whose client polls may take; none: as long as it likes.
    pub polled_run_limit: Option<Duration>,
}

impl Default for Config {
    /// Contracts: kernel §1.10 for the keepalive; design §3 for lost and silent clients.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            keepalive: Duration::from_secs(10),
            lost_client: Duration::from_secs(30),
            unpolled: Duration::from_secs(600),
            polled_run_limit: None,
        }
    }
}

/// Where the agent and a kernel's runner meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAt {
    /// The agent binds the sockets `in` and `out` in this directory of the host (0755, its parent 0700) and the
    /// runner connects (design §5).
    Directory(PathBuf),
    /// The runner, such as the reference's, listens; on these ports of the host's 127.0.0.1 (contracts: kernel
    /// §1.1).
    Loopback {
        /// Of its PULL, `repl-in`.
        port_in: u16,
        /// Of its PUSH, `repl-out`.
        port_out: u16,
    },
}

impl fmt::Display for LinkAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Loopback { port_in, port_out } => write!(f, "127.0.0.1, ports {port_in} and {port_out}"),
        }
    }
}

/// A kernel to be attached.
#[derive(Debug)]
pub struct Attach {
    /// Which kernel.
    pub kernel: KernelId,
    /// Where its runner is met.
    pub at: LinkAt,
    /// Where the route tells the kernel's actor what it sees. Bounded; reports are coalesced when full.
    pub reports: mpsc::Sender<Report>,
}

/// What the route thread tells a kernel's actor.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The runner answered `status`. The first answer means that the kernel is ready.
    Answered(Box<RunnerStatus>),
    /// The runner has not answered `status` for that long.
    Silent(Duration),
    /// A run has ended.
    RunEnded {
        /// Which run.
        run: RunId,
        /// How.
        end: RunEnd,
    },
    /// Output of a run did not reach its client and will not.
    OutputLost {
        /// Which run.
        run: RunId,
        /// How much of it, from its start.
        bytes: u64,
    },
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A shell command (op `exec`).
    Exec(String),
    /// Exactly these words (op `argv`).
    Argv(Vec<String>),
    /// Source code for the kernel's language process (op `code`).
    Code(String),
    /// The three steps of a batch run, one after another; an empty one is skipped, `*` lets the runner guess
    /// (ops `clean`, `build`, `exec`).
    Batch {
        /// Clean step.
        clean: String,
        /// Build step.
        build: String,
        /// Run step.
        exec: String,
    },
}

/// A step of a batch run before its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `clean`.
    Clean,
    /// `build`.
    Build,
}

/// A run to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Made by the client.
    pub run: RunId,
    /// What is to be run.
    pub task: Task,
    /// Whether the client will send standard input.
    pub stdin: bool,
    /// Ends the run with [`RunEnd::TimedOut`] (after an interrupt) when it takes longer; none: no limit.
    pub timeout: Option<Duration>,
}

/// What the client of a run knows when it comes back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Console bytes that it has, those it was told are lost included.
    pub received_bytes: u64,
    /// Those of them that it was told are lost.
    #[serde(default)]
    pub lost_bytes: u64,
    /// The runner that began the run; none when it heard of no beginning.
    #[serde(default)]
    pub incarnation: Option<String>,
}

/// One record of a run's output, as the runner sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The run's turn has come and its task was sent.
    Started,
    /// Raw bytes.
    Stdout(Bytes),
    /// Raw bytes.
    Stderr(Bytes),
    /// Text for people that is neither.
    Log(Bytes),
    /// A media record, JSON `{"type", "data"}` as it came.
    Media(Bytes),
    /// A step of a batch has ended; the run goes on.
    StepEnded {
        /// Which.
        step: Step,
        /// As the runner tells it.
        exit_code: i32,
    },
    /// The code asks for a line of input.
    WaitingInput {
        /// Whether it should not be echoed; none in batch mode, which does not say.
        is_password: Option<bool>,
    },
    /// That many bytes of standard input have been consumed.
    StdinCredit(u64),
    /// Bytes were lost here, and how many (0: unknown).
    Lost(u64),
    /// The end; nothing follows.
    Ended(RunEnd),
}

impl Output {
    /// Bytes of standard output and standard error.
    #[must_use]
    pub fn console_bytes(&self) -> u64 {
        match self {
            Self::Stdout(data) | Self::Stderr(data) => data.len() as u64,
            _ => 0,
        }
    }
}

/// How a run ended. Every run ends exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum RunEnd {
    /// The task ended; negative: killed by that signal.
    Finished {
        /// As the runner tells it.
        exit_code: i32,
    },
    /// It took longer than its timeout.
    TimedOut,
    /// The client was gone for too long, or cancelled it while it waited for its turn.
    Cancelled,
    /// The runner was started anew.
    RunnerRestarted,
    /// The kernel went away.
    Detached {
        /// Why, e.g. `user-requested`, `self-terminated`.
        reason: String,
    },
}

impl RunEnd {
    /// Why, as a stable word; `finished` for a run that ended by itself.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Finished { .. } => "finished",
            Self::TimedOut => "exec-timeout",
            Self::Cancelled => "cancelled",
            Self::RunnerRestarted => "runner-restarted",
            Self::Detached { reason } => reason,
        }
    }
}

/// Why the route refused a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The routing thread could not be started.
    #[error("could not start the routing thread: {problem}")]
    Start {
        /// The system's words.
        problem: String,
    },
    /// No such kernel is attached.
    #[error("kernel {0} has no link: it is not running")]
    NotAttached(KernelId),
    /// The kernel has its sockets already.
    #[error("kernel {0} has a link already: detach it first")]
    AlreadyAttached(KernelId),
    /// The runner has not answered in time.
    #[error("the runner of kernel {kernel} has not answered within {deadline:?}")]
    Silent {
        /// Which kernel.
        kernel: KernelId,
        /// How long was waited.
        deadline: Duration,
    },
    /// The runner cannot answer before the client of that run reads on.
    #[error("blocked by unread output of run {0}")]
    Blocked(RunId),
    /// The run id is in use.
    #[error("run {0} exists already")]
    RunExists(RunId),
    /// Its client came back, and the kernel's runner is one that does not remember runs.
    #[error("whether run {0} was carried out cannot be told: the kernel's runner is of an older berth")]
    RunForgotten(RunId),
    /// No run of that name is known here: it ended long ago, or never began.
    #[error("run {0} is not known in this kernel: it ended long ago, or never began")]
    RunUnknown(RunId),
    /// It ended before it began.
    #[error("run {run} was not carried out: {}", end.reason())]
    NeverBegun {
        /// Which run.
        run: RunId,
        /// How it ended.
        end: RunEnd,
    },
    /// Its runner was started anew before it answered.
    #[error("the runner of kernel {0} was started anew")]
    Restarted(KernelId),
    /// The queue is full, or too many runs wait.
    #[error("too many requests wait; try again")]
    Busy,
    /// The sockets could not be opened.
    #[error("could not open the kernel's sockets at {at}: {problem}")]
    Bind {
        /// Where.
        at: LinkAt,
        /// The system's words.
        problem: String,
    },
    /// The door could not be opened.
    #[error("cannot listen for calls at {listen}: {problem}")]
    Door {
        /// Where.
        listen: String,
        /// The system's words.
        problem: String,
    },
    /// The routing thread has ended.
    #[error("the routing thread has ended")]
    Closed,
}

/// A run with its output. Dropping it tells the route that the client is gone: what it has not taken is
/// kept for 30 s, then the run is detached (design §3).
#[derive(Debug)]
pub struct StreamRun {
    /// Output in order; bounded by credit, so the kernel waits for a slow reader and nobody else does.
    pub output: OutputReceiver,
    /// What the client may do.
    pub control: RunControl,
}

/// A run whose client has come back.
#[derive(Debug)]
pub struct Rejoined {
    /// The run with the rest of its output, [`Output::Lost`] first when something is missing before it.
    pub run: StreamRun,
    /// Standard input that has arrived, from its start; `u64::MAX` when it has ended and wants no more.
    pub stdin_bytes: u64,
    /// Bytes of standard input that may be sent now.
    pub stdin_room: usize,
    /// Its turn has come already.
    pub started: bool,
}
