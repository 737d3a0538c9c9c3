//! Routing: ZeroMQ threads, runs and results (design §3).
//!
//! `route-0` is an OS thread that owns every socket. Callers hold a [`Handle`]: requests go in by a
//! batched queue and an eventfd, output comes back by one bounded channel per run with credit.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::ids::{KernelId, RunId};

pub use berth_link::Status as RunnerStatus;

/// What the agent binds for a kernel.
#[derive(Debug)]
pub struct Attach {
    /// Which kernel.
    pub kernel: KernelId,
    /// Directory on this host in which the sockets `in` and `out` are bound (0755, its parent 0700).
    pub link_dir: PathBuf,
    /// Where the route tells the kernel's actor what it sees. Bounded; reports are coalesced when full.
    pub reports: mpsc::Sender<Report>,
}

/// What the route thread tells a kernel's actor.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The runner answered `status`. The first answer means that the kernel is ready.
    Answered(RunnerStatus),
    /// The runner has not answered `status` for that long.
    Silent(Duration),
    /// A run has ended.
    RunEnded {
        /// Which run.
        run: RunId,
        /// How.
        end: RunEnd,
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

/// One record of a run's output, as the runner sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The run's turn has come and its task was sent.
    Started,
    /// Raw bytes.
    Stdout(Bytes),
    /// Raw bytes.
    Stderr(Bytes),
    /// A media record, JSON `{"type", "data"}` as it came.
    Media(Bytes),
    /// The code asks for a line of input.
    WaitingInput {
        /// Whether it should not be echoed.
        is_password: bool,
    },
    /// That many bytes of standard input have been consumed.
    StdinCredit(u64),
    /// Bytes were lost here, and how many (0: unknown).
    Lost(u64),
    /// The end; nothing follows.
    Ended(RunEnd),
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

/// Why the route refused a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such kernel is attached.
    #[error("kernel {0} has no link: it is not running")]
    NotAttached(KernelId),
    /// The run id is in use.
    #[error("run {0} exists already")]
    RunExists(RunId),
    /// The queue is full, or too many runs wait.
    #[error("too many requests wait; try again")]
    Busy,
    /// The sockets could not be bound.
    #[error("could not bind the kernel's sockets in {dir}: {problem}")]
    Bind {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        problem: String,
    },
    /// The routing thread has ended.
    #[error("the routing thread has ended")]
    Closed,
}

/// A run with its output. Dropping it tells the route that the client is gone: 30 s later the run is
/// detached (design §3).
#[derive(Debug)]
pub struct StreamRun {
    /// Output in order; bounded by credit, so the kernel waits for a slow reader and nobody else does.
    pub output: mpsc::Receiver<Output>,
    /// What the client may do.
    pub control: RunControl,
}

/// What a client may do with its run. Clonable; everything is a message to the routing thread.
#[derive(Debug, Clone)]
pub struct RunControl {
    handle: Handle,
    kernel: KernelId,
    run: RunId,
}

/// A clonable way to the routing thread.
#[derive(Debug, Clone)]
pub struct Handle {
    _private: (),
}

#[expect(missing_docs, clippy::unused_async, reason = "the shape only: the room's owner fills it in")]
impl Handle {
    /// Binds the kernel's sockets; when it returns the runner may be started.
    pub async fn attach(&self, attach: Attach) -> Result<(), RouteError> { let _ = attach; unimplemented!() }
    /// Ends every run of the kernel with [`RunEnd::Detached`], closes and unlinks its sockets. Idempotent.
    pub async fn detach(&self, kernel: KernelId, reason: &str) -> Result<(), RouteError> { let _ = (kernel, reason); unimplemented!() }
    /// Queues a run; runs of one kernel happen one after another.
    pub async fn run(&self, kernel: KernelId, request: RunRequest) -> Result<StreamRun, RouteError> { let _ = (kernel, request); unimplemented!() }
    /// Interrupts what runs in the kernel (op `interrupt`).
    pub async fn interrupt(&self, kernel: KernelId) -> Result<(), RouteError> { let _ = kernel; unimplemented!() }
    /// Sends `status` and waits for the answer.
    pub async fn ping(&self, kernel: KernelId, deadline: Duration) -> Result<RunnerStatus, RouteError> { let _ = (kernel, deadline); let (_t, _r) = oneshot::channel::<()>(); unimplemented!() }
}

#[expect(missing_docs, clippy::unused_async, reason = "the shape only: the room's owner fills it in")]
impl RunControl {
    /// The run's id.
    pub fn run(&self) -> &RunId { &self.run }
    /// Sends standard input. The caller keeps within `berth_link::STDIN_WINDOW` by [`Output::StdinCredit`].
    pub async fn stdin(&self, data: Bytes) -> Result<(), RouteError> { let _ = (data, &self.handle, self.kernel); unimplemented!() }
    /// Ends standard input.
    pub async fn stdin_eof(&self) -> Result<(), RouteError> { unimplemented!() }
    /// Answers [`Output::WaitingInput`].
    pub async fn input(&self, text: String) -> Result<(), RouteError> { let _ = text; unimplemented!() }
    /// Interrupts this run (SIGINT); one that waits for its turn is cancelled.
    pub async fn interrupt(&self) -> Result<(), RouteError> { unimplemented!() }
    /// Detaches from the run at once instead of after 30 s.
    pub async fn cancel(&self) -> Result<(), RouteError> { unimplemented!() }
}
