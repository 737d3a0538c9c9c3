//! The ways in: [`start`], the clonable [`Handle`], and [`RunControl`] for the client of one run.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mio::{Poll, Waker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;

use super::door::{Answer, Caller};
use super::inbox::{Feed, Inbox, Joined, Rejoin, Reply, Request};
use super::inquiries::{Inquiry, Notice};
use super::thread::{Task, WAKE};
use super::{
    Attach, Config, Counters, Doorway, Rejoined, Resume, RouteError, RunRequest, RunnerStatus, StreamRun,
    flow, sockets,
};
use crate::ids::{KernelId, RunId};

/// Descriptors of one kernel: its directory, two listeners, two connections, two mailboxes, one spare.
const FILES_PER_KERNEL: usize = 8;
/// Descriptors for everything else in the agent.
const FILES_RESERVED: usize = 256;
/// The soft limit that is asked for.
const FILES_WANTED: u64 = 1 << 20;

/// Starts the routing thread, and raises the process's limit of open files as far as it may.
///
/// # Errors
/// When the system refuses an epoll descriptor or a thread.
pub fn start(config: Config) -> Result<(Handle, RouteThread), RouteError> {
    let refuse = |error: std::io::Error| RouteError::Start { problem: error.to_string() };
    let max_kernels = raise_open_files().saturating_sub(FILES_RESERVED) / FILES_PER_KERNEL;
    let poll = Poll::new().map_err(refuse)?;
    let waker = Waker::new(poll.registry(), WAKE).map_err(refuse)?;
    let inbox = Arc::new(Inbox::new(waker, config.limits));
    let task = Task::new(poll, Arc::clone(&inbox), config, max_kernels);
    let (alive, ended) = oneshot::channel();
    let join = std::thread::Builder::new()
        .name("route-0".into())
        .spawn(move || {
            // Dropped when the thread ends, also by a panic.
            let _alive: oneshot::Sender<()> = alive;
            task.run();
        })
        .map_err(refuse)?;
    Ok((Handle { inbox: Arc::clone(&inbox) }, RouteThread { inbox, join: Some(join), ended }))
}

/// Raises the soft limit of open files and returns it.
fn raise_open_files() -> usize {
    let before = getrlimit(Resource::Nofile);
    let (soft, hard) = (before.current.unwrap_or(u64::MAX), before.maximum.unwrap_or(u64::MAX));
    // Only root may raise the hard limit; anybody else gets the soft one up to it.
    for limit in [FILES_WANTED, hard.min(FILES_WANTED)] {
        let maximum = before.maximum.map(|hard| hard.max(limit));
        if soft >= limit || setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).is_ok() {
            break;
        }
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < 16_384 {
        tracing::warn!(
            limit,
            "the limit of open files is low and could not be raised; each kernel needs {FILES_PER_KERNEL}"
        );
    }
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The routing thread's owner. Dropping it stops the thread without waiting for it.
#[derive(Debug)]
pub struct RouteThread {
    inbox: Arc<Inbox>,
    join: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<()>,
}

impl RouteThread {
    /// Waits until the thread has ended, which it should not do unasked. Cancel-safe.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: the sender's drop is the signal.
        let _ = (&mut self.ended).await;
    }

    /// Ends every run with the reason `agent-stopped`, removes the socket files and waits for the
    /// thread. Kernels run on. Blocks for as long as closing the sockets takes.
    pub fn stop(mut self) {
        self.inbox.push_always(Request::Stop);
        if let Some(join) = self.join.take()
            && join.join().is_err()
        {
            tracing::error!("the routing thread had panicked");
        }
    }
}

impl Drop for RouteThread {
    fn drop(&mut self) {
        self.inbox.push_always(Request::Stop);
    }
}

/// A clonable way to the routing thread.
#[derive(Clone)]
pub struct Handle {
    inbox: Arc<Inbox>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("counters", &self.counters()).finish()
    }
}

impl Handle {
    /// Opens the kernel's sockets; when it returns the runner may be started. Socket files that an
    /// earlier agent left are replaced, and a runner that runs already connects again by itself; one that
    /// listens is connected to as soon as it does.
    ///
    /// # Errors
    /// [`RouteError::Bind`] when the directory is missing or cannot be written, or the limit of open
    /// files is used up; [`RouteError::AlreadyAttached`]; [`RouteError::Busy`].
    pub async fn attach(&self, attach: Attach) -> Result<(), RouteError> {
        let Attach { kernel, at, reports } = attach;
        let inbox = Arc::clone(&self.inbox);
        // Files are made off the routing thread and off this worker.
        let link = tokio::task::spawn_blocking(move || sockets::prepare(&inbox, kernel, at))
            .await
            .map_err(|_| RouteError::Closed)??;
        self.ask(|reply| Request::Attach { kernel, link, reports, reply }).await
    }

    /// Ends every run of the kernel with [`super::RunEnd::Detached`], closes and unlinks its sockets.
    /// Idempotent.
    ///
    /// # Errors
    /// [`RouteError::Busy`] and [`RouteError::Closed`].
    pub async fn detach(&self, kernel: KernelId, reason: &str) -> Result<(), RouteError> {
        let reason = reason.to_owned();
        let place = self.ask(|reply| Request::Detach { kernel, reason, reply }).await?;
        // Here, not on the routing thread, the socket files are removed.
        drop(place);
        Ok(())
    }

    /// Queues a run; runs of one kernel happen one after another.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::RunExists`]; [`RouteError::Busy`] when 128 runs wait.
    pub async fn run(&self, kernel: KernelId, request: RunRequest) -> Result<StreamRun, RouteError> {
        let run = request.run.clone();
        let (outlet, tap) = flow::stream(&self.inbox, kernel, &run, 0);
        // In this form from the beginning: a caller that gives up drops it, and the run is cancelled.
        let output = tap.into();
        self.ask(|reply| Request::Run { kernel, request, outlet, reply }).await?;
        Ok(StreamRun { output, control: RunControl { handle: self.clone(), kernel, run } })
    }

    /// Takes a run up again whose client was away, or whose agent was: one that runs or has ended goes on
    /// where the client left it, one that was never sent is queued. Waits for the runner's first answer.
    ///
    /// # Errors
    /// As [`Self::run`]: [`RouteError::RunExists`] while another connection of its client has it; and
    /// [`RouteError::RunForgotten`].
    pub async fn rejoin(
        &self,
        kernel: KernelId,
        request: RunRequest,
        resume: Resume,
    ) -> Result<Rejoined, RouteError> {
        let run = request.run.clone();
        let joined =
            self.ask(|reply| Request::Rejoin(Box::new(Rejoin { kernel, request, resume, reply }))).await?;
        let Joined { output, stdin_bytes, stdin_room, started } = joined;
        let run = StreamRun { output, control: RunControl { handle: self.clone(), kernel, run } };
        Ok(Rejoined { run, stdin_bytes, stdin_room, started })
    }

    /// Interrupts what runs in the kernel (op `interrupt`), also a task whose run has ended here.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Busy`] when the runner takes nothing.
    pub async fn interrupt(&self, kernel: KernelId) -> Result<(), RouteError> {
        self.ask(|reply| Request::Interrupt { kernel, run: None, reply }).await
    }

    /// Sends `status` and waits for the answer.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Silent`] after the deadline; [`RouteError::Blocked`]
    /// when the kernel waits for a client to read.
    pub async fn ping(&self, kernel: KernelId, deadline: Duration) -> Result<RunnerStatus, RouteError> {
        let answer = self.ask(|reply| Request::Ping { kernel, reply });
        match tokio::time::timeout(deadline, answer).await {
            Ok(Err(RouteError::Closed)) => Err(RouteError::NotAttached(kernel)),
            Ok(answer) => answer,
            Err(_) => Err(RouteError::Silent { kernel, deadline }),
        }
    }

    /// Asks the runner something that has one reply, and waits for it: JSON, as the runner sent it.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Silent`] after the contract's time for that question;
    /// [`RouteError::Blocked`] when the kernel waits for a client to read; [`RouteError::Restarted`] when its
    /// runner was replaced before it answered; [`RouteError::Busy`].
    pub async fn inquire(&self, kernel: KernelId, inquiry: Inquiry) -> Result<Bytes, RouteError> {
        let (kind, payload, patience) = inquiry.into_parts();
        self.ask(|reply| Request::Inquire { kernel, kind, payload, patience, reply }).await
    }

    /// Tells the runner something that it does not answer.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Busy`] when the runner takes nothing.
    pub async fn notify(&self, kernel: KernelId, notice: Notice) -> Result<(), RouteError> {
        self.ask(|reply| Request::Notify { kernel, notice, reply }).await
    }

    /// Opens the door by which calls come in, and says where it listens. There is one at most.
    ///
    /// # Errors
    /// [`RouteError::Door`] when the address cannot be listened at.
    pub async fn open_door(&self, doorway: Doorway) -> Result<String, RouteError> {
        self.ask(|reply| Request::OpenDoor { doorway: Box::new(doorway), reply }).await
    }

    /// Answers a call that the door has handed to another room. One that was answered or given up meanwhile, or
    /// whose caller has gone, is forgotten.
    pub fn answer(&self, caller: Caller, answer: Answer) {
        self.inbox.push_always(Request::Answer { caller, answer });
    }

    /// What the thread has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inbox.counters()
    }

    /// Grows at least every 5 s while the thread lives (design, invariant 6).
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.inbox.beats()
    }

    #[cfg(test)]
    pub(super) fn inbox_for_tests(&self) -> &Inbox {
        &self.inbox
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RouteError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(request(reply))?;
        answer.await.map_err(|_| RouteError::Closed)?
    }
}

/// What a client may do with its run. Clonable; everything is a message to the routing thread.
/// For a run that has ended all of it does nothing.
#[derive(Debug, Clone)]
pub struct RunControl {
    handle: Handle,
    kernel: KernelId,
    run: RunId,
}

impl RunControl {
    /// The run's id.
    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Sends standard input. The caller keeps within `berth_link::STDIN_WINDOW` by
    /// [`super::Output::StdinCredit`].
    ///
    /// # Errors
    /// [`RouteError::Busy`] beyond that window, and nothing was sent; [`RouteError::NotAttached`].
    pub async fn stdin(&self, data: Bytes) -> Result<(), RouteError> {
        self.feed(Feed::Stdin(data)).await
    }

    /// Ends standard input.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Busy`] when the runner takes nothing.
    pub async fn stdin_eof(&self) -> Result<(), RouteError> {
        self.feed(Feed::StdinEof).await
    }

    /// Answers [`super::Output::WaitingInput`].
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Busy`] when the runner takes nothing.
    pub async fn input(&self, text: String) -> Result<(), RouteError> {
        self.feed(Feed::Answer(text)).await
    }

    /// Interrupts this run (SIGINT); one that waits for its turn is cancelled.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`]; [`RouteError::Busy`] when the runner takes nothing.
    pub async fn interrupt(&self) -> Result<(), RouteError> {
        let Self { handle, kernel, run } = self.clone();
        handle.ask(|reply| Request::Interrupt { kernel, run: Some(run), reply }).await
    }

    /// Detaches from the run at once instead of after 30 s: it ends as cancelled. What the kernel does
    /// for it goes on unseen; interrupt it first to end that too.
    ///
    /// # Errors
    /// [`RouteError::NotAttached`].
    pub async fn cancel(&self) -> Result<(), RouteError> {
        let Self { handle, kernel, run } = self.clone();
        handle.ask(|reply| Request::Cancel { kernel, run, reply }).await
    }

    async fn feed(&self, feed: Feed) -> Result<(), RouteError> {
        let Self { handle, kernel, run } = self.clone();
        handle.ask(|reply| Request::Feed { kernel, run, feed, reply }).await
    }
}
