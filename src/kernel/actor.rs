//! One task per kernel: it owns the kernel's state, carries out one step at a time, and is the only one that
//! saves, starts, stops or removes it (design §3, actor form).
//!
//! In: [`Command`]s of the registry, [`Report`]s of the route, the end of the step under way, the closing of
//! the creator's progress receiver, the lease. Out: the [`KernelView`] by a `watch`, progress, events,
//! records.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::record::KernelRecord;
use super::runs;
use super::shared::{Shared, now_ms};
use super::state::{Effect, Input, Notice, State, Step, failed};
use super::steps::{self, ChosenImage, Outcome, StepError, StepResult};
use super::{CreateRequest, KernelError, KernelView, Phase, Progress, Termination};
use crate::admission::{Share, StartPermit};
use crate::engine::{ContainerSpec, ContainerState};
use crate::events::EventKind;
use crate::failpoint;
use crate::route::Report;
use crate::store::{Changes, StoreError};

/// What the registry asks of an actor.
#[derive(Debug)]
pub enum Command {
    /// Stop; answered when it has ended.
    Stop {
        /// How long it may take.
        grace: Duration,
        /// contracts: kernel §5.2.
        reason: String,
        /// Gets the view once it is collected.
        done: oneshot::Sender<Result<KernelView, KernelError>>,
    },
    /// Remove; answered when nothing is left, or when removing failed.
    Remove {
        /// Gets the outcome.
        done: oneshot::Sender<Result<(), KernelError>>,
    },
    /// The engine says its container has ended.
    Died {
        /// As the engine tells it.
        exit_code: Option<i32>,
        /// Killed for memory.
        oom: bool,
        /// `self-terminated`, `container-not-found`.
        reason: String,
    },
    /// Try a failed removal again.
    RetryRemove,
}

/// How an actor begins.
#[derive(Debug)]
pub enum Origin {
    /// A new kernel; progress goes to its creator.
    Created(mpsc::Sender<Progress>),
    /// One of an earlier agent process.
    Recovered {
        /// Its record.
        record: Box<KernelRecord>,
        /// Its share, booked anew.
        share: Option<Share>,
        /// What the engine has of its container.
        container: Option<ContainerState>,
    },
}

type Running = Pin<Box<dyn Future<Output = StepResult> + Send>>;

/// See the module documentation.
pub struct Actor {
    shared: Arc<Shared>,
    request: CreateRequest,
    view: watch::Sender<KernelView>,
    state: State,
    step: Option<(Step, Running)>,
    commands: mpsc::Receiver<Command>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    leases: watch::Receiver<usize>,
    unleased_since: Option<Instant>,
    /// Whether this agent process has bound its sockets.
    attached: bool,
    /// Whether its runner has answered this agent process.
    answered: bool,
    progress: Option<mpsc::Sender<Progress>>,
    failure: Option<KernelError>,
    image: Option<ChosenImage>,
    spec: Option<ContainerSpec>,
    share: Option<Share>,
    permit: Option<StartPermit>,
    stop_grace: Duration,
    stop_waiters: Vec<oneshot::Sender<Result<KernelView, KernelError>>>,
    remove_waiters: Vec<oneshot::Sender<Result<(), KernelError>>>,
    first: Vec<Effect>,
}

impl Actor {
    /// An actor that has not begun yet.
    pub fn new(
        shared: Arc<Shared>,
        request: CreateRequest,
        view: watch::Sender<KernelView>,
        commands: mpsc::Receiver<Command>,
        leases: watch::Receiver<usize>,
        origin: Origin,
    ) -> Self {
        let stop_grace = shared.settings.stop_grace;
        let ((state, first), progress, share, image) = match origin {
            Origin::Created(progress) => (State::requested(), Some(progress), None, None),
            Origin::Recovered { record, share, container } => {
                let view = &record.view;
                let ran = view.ready_at_ms.is_some();
                let state = State::recovered(
                    view.phase,
                    view.termination.clone(),
                    (record.remove, ran),
                    container.as_ref(),
                );
                (state, None, share, record.image)
            }
        };
        Self {
            shared,
            request,
            view,
            state,
            step: None,
            commands,
            reports: mpsc::channel(16),
            leases,
            unleased_since: None,
            attached: false,
            answered: false,
            progress,
            failure: None,
            image,
            spec: None,
            share,
            permit: None,
            stop_grace,
            stop_waiters: Vec::new(),
            remove_waiters: Vec::new(),
            first,
        }
    }

    /// Lives the kernel's life; returns when nothing is left of it, or when the registry is gone (the
    /// agent ends; the kernel runs on).
    pub async fn run(mut self) {
        let first = std::mem::take(&mut self.first);
        if !self.carry_out(first).await {
            return;
        }
        loop {
            // Biased: commands before results, so that a stop is known before the next step begins.
            // Every branch is cancel-safe: channel receives, a watch, a timer, and a future that stays in
            // `self.step` when another branch wins.
            let input = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return,
                    Some(command) => self.command(command),
                },
                () = creator_gone(self.progress.as_ref()) => {
                    self.progress = None;
                    self.failure = Some(KernelError::new("cancelled", "the creation was cancelled"));
                    Some(Input::Remove(failed("task-cancelled", "its creator went away")))
                }
                Some(report) = self.reports.1.recv() => self.report(report),
                (step, result) = step_end(&mut self.step) => {
                    self.step = None;
                    Some(self.ended(step, result).await)
                }
                () = lease_over(self.request.leased && self.state.phase == Phase::Running,
                                &mut self.leases, &mut self.unleased_since, self.shared.settings.lease) => {
                    info!(kernel = %self.request.kernel, "its client has been gone for too long");
                    Some(Input::Remove(failed("task-cancelled", "its client was gone for too long")))
                }
            };
            if let Some(input) = input {
                let effects = self.state.apply(input);
                if !self.carry_out(effects).await {
                    return;
                }
            }
        }
    }

    fn command(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Stop { grace, reason, done } => {
                if self.state.phase == Phase::Collected {
                    let _ = done.send(Ok(self.view.borrow().clone()));
                    return None;
                }
                self.stop_grace = grace;
                self.stop_waiters.push(done);
                Some(Input::Stop(Termination { reason, ..Termination::default() }))
            }
            Command::Remove { done } => {
                self.remove_waiters.push(done);
                Some(Input::Remove(Termination {
                    reason: "user-requested".to_owned(),
                    ..Termination::default()
                }))
            }
            Command::Died { exit_code, oom, reason } => {
                Some(Input::Died(Termination { reason, exit_code, oom, message: None }))
            }
            Command::RetryRemove => Some(Input::RetryRemove),
        }
    }

    fn report(&mut self, report: Report) -> Option<Input> {
        match report {
            Report::Answered(status) => {
                failpoint::reach("answered");
                self.view.send_if_modified(|view| {
                    let heard = view.silent_ms.take().is_some();
                    runs::told(&mut view.runs, &status, now_ms()) || heard
                });
                if !std::mem::replace(&mut self.answered, true) {
                    self.view.send_modify(|view| {
                        view.ready_at_ms.get_or_insert_with(now_ms);
                        if let Some(replied) = status.replied_at {
                            view.runner_boot_ms.get_or_insert((replied - status.started_at) * 1e3);
                        }
                    });
                }
                if self.state.step != Some(Step::AwaitReady) {
                    return None;
                }
                self.step = None;
                Some(Input::Done(Step::AwaitReady))
            }
            Report::Silent(duration) => {
                warn!(kernel = %self.request.kernel, ?duration, "the runner does not answer");
                let silent = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                self.view.send_modify(|view| view.silent_ms = Some(silent));
                None
            }
            Report::RunEnded { run, end } => {
                info!(kernel = %self.request.kernel, %run, ?end, "a run has ended");
                self.view.send_modify(|view| runs::ended(&mut view.runs, run, &end, now_ms()));
                None
            }
            Report::OutputLost { run, bytes } => {
                info!(kernel = %self.request.kernel, %run, bytes, "output of a run was lost");
                self.view.send_modify(|view| runs::lost(&mut view.runs, run, bytes));
                None
            }
        }
    }

    /// Keeps what a step made and says what its end means.
    async fn ended(&mut self, step: Step, result: StepResult) -> Input {
        match result {
            Ok(outcome) => {
                self.keep(outcome);
                Input::Done(step)
            }
            Err(StepError { mut error, reason }) => {
                let container = self.view.borrow().container.clone();
                if matches!(step, Step::Start | Step::AwaitReady)
                    && let Some(container) = container
                    && let Some(words) = steps::last_words(&self.shared, &container).await
                {
                    error.message = format!("{}; it said: {words}", error.message);
                }
                warn!(kernel = %self.request.kernel, ?step, code = error.code, "{}", error.message);
                if step == Step::Remove {
                    for waiter in self.remove_waiters.drain(..) {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
                let why = failed(reason, error.message.clone());
                if !self.state.ran && self.failure.is_none() {
                    self.failure = Some(error);
                }
                Input::Failed(step, why)
            }
        }
    }

    fn keep(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Placed { image, placed } => {
                self.view.send_modify(|view| {
                    view.image.clone_from(&image.reference);
                    view.allocations = placed.share.allocations().to_vec();
                    view.decisions.push(placed.by);
                });
                self.share = Some(placed.share);
                self.image = Some(image);
            }
            Outcome::Permitted(permit, by) => {
                self.permit = Some(permit);
                self.view.send_modify(|view| {
                    view.starting_at_ms = Some(now_ms());
                    view.decisions.push(by);
                });
            }
            Outcome::Prepared(spec, decided) => {
                self.attached = true;
                self.view.send_modify(|view| {
                    view.decisions.extend(decided);
                    view.container_name = Some(spec.name.clone());
                    view.cpuset.clone_from(&spec.cpuset);
                    view.memory_limit = spec.memory_limit;
                    view.mounts.clone_from(&spec.mounts);
                });
                self.spec = Some(*spec);
            }
            Outcome::Created(container) => self.view.send_modify(|view| view.container = Some(container)),
            Outcome::Ended(state) => {
                if let Some(ContainerState::Exited { code, oom_killed }) = state
                    && let Some(termination) = &mut self.state.termination
                {
                    termination.exit_code = termination.exit_code.or(code);
                    termination.oom |= oom_killed;
                }
            }
            Outcome::Done => {}
        }
    }

    /// Carries effects out in order; false when the actor has nothing left to do.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        for effect in effects {
            match effect {
                Effect::Begin(step) => self.begin(step),
                Effect::Cancel => self.step = None,
                Effect::Commit(notice) => {
                    if let Err(error) = self.commit(notice).await {
                        warn!(kernel = %self.request.kernel, %error, "the record could not be saved");
                        // Without the intent on disk nothing more is begun. One that runs goes on, and its
                        // older record still leads to it.
                        if !self.state.ran && self.state.termination.is_none() {
                            self.failure = Some(error.into());
                            let why = failed("failed-to-create", "its record could not be saved");
                            let effects = self.state.apply(Input::NotSaved(why));
                            return Box::pin(self.carry_out(effects)).await;
                        }
                    }
                }
                Effect::TellRunning => {
                    self.permit = None;
                    self.publish();
                    let kernel = Box::new(self.view.borrow().clone());
                    if let Some(progress) = self.progress.take() {
                        let _ = progress.try_send(Progress::Running { kernel });
                    }
                }
                Effect::TellFailed => {
                    let error = self.failure.take().unwrap_or_else(|| self.failure_of_termination());
                    if let Some(progress) = self.progress.take() {
                        let _ = progress.send(Progress::Failed { error }).await;
                    }
                }
                Effect::Finish => {
                    self.publish();
                    for waiter in self.remove_waiters.drain(..) {
                        let _ = waiter.send(Ok(()));
                    }
                    return false;
                }
            }
        }
        self.publish();
        if matches!(self.state.phase, Phase::Collected | Phase::Gone) {
            self.share = None;
            self.permit = None;
            for waiter in self.stop_waiters.drain(..) {
                let _ = waiter.send(Ok(self.view.borrow().clone()));
            }
        }
        true
    }

    fn begin(&mut self, step: Step) {
        let shared = self.shared.clone();
        let view = self.view.borrow().clone();
        let kernel = self.request.kernel;
        let container = view.container.clone();
        let running: Running = match (step, self.image.clone(), self.spec.clone(), container) {
            (Step::Place, ..) => {
                Box::pin(steps::place(shared, self.request.clone(), view.name, view.created_at_ms))
            }
            (Step::AwaitPermit, Some(image), ..) => Box::pin(steps::await_permit(
                shared,
                steps::admission_request(&self.request, &view.name, &image, view.created_at_ms),
            )),
            (Step::Prepare, Some(image), ..) => Box::pin(steps::prepare(
                shared,
                steps::Preparation {
                    request: self.request.clone(),
                    name: view.name,
                    image,
                    allocations: view.allocations,
                    runs_as: view.runs_as,
                    reports: self.reports.0.clone(),
                    at_ms: view.created_at_ms,
                },
            )),
            (Step::Create, _, Some(spec), _) => Box::pin(steps::create(shared, spec)),
            (Step::Start, _, _, Some(container)) => {
                let attach = self.attach_anew();
                Box::pin(async move {
                    attach.await;
                    steps::start(shared, container).await
                })
            }
            // A runner can be faster than the engine's word that its container was started.
            (Step::AwaitReady, ..) if self.answered => Box::pin(async { Ok(Outcome::Done) }),
            (Step::AwaitReady, ..) => {
                let attach = self.attach_anew();
                let ran = self.state.ran;
                Box::pin(async move {
                    attach.await;
                    if ran {
                        // It ran before this agent did: it is waited for as long as its container runs.
                        return std::future::pending().await;
                    }
                    steps::await_ready(shared.settings.ready_timeout).await
                })
            }
            (Step::Stop, _, _, Some(container)) => Box::pin(steps::stop(shared, container, self.stop_grace)),
            (Step::Stop, ..) => Box::pin(async { Ok(Outcome::Done) }),
            (Step::Collect, _, _, container) => {
                let reason = self.state.termination.as_ref().map_or("unknown", |why| &why.reason).to_owned();
                Box::pin(steps::collect(shared, kernel, container, reason))
            }
            (Step::Remove, image, spec, container) => {
                let spec =
                    spec.or_else(|| image.map(|image| steps::cleaning_spec(&self.shared, &view, &image)));
                Box::pin(steps::remove(shared, kernel, container, self.state.has_container, spec))
            }
            (step, ..) => Box::pin(async move {
                let message = format!("step {step:?} was begun before what it needs was there");
                Err(StepError { error: KernelError::new("internal", message), reason: "failed-to-create" })
            }),
        };
        self.step = Some((step, running));
    }

    /// Binds the sockets of a kernel that an earlier agent process made; otherwise does nothing. The end of
    /// what it returns is theirs.
    fn attach_anew(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let missing = !std::mem::replace(&mut self.attached, true);
        let (shared, kernel, reports) = (self.shared.clone(), self.request.kernel, self.reports.0.clone());
        async move {
            while missing && let Err(error) = steps::attach(&shared, kernel, reports.clone()).await {
                warn!(%kernel, code = error.code, "{}", error.message);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Puts the record and the event that tells of it on disk, in one transaction.
    async fn commit(&mut self, notice: Option<Notice>) -> Result<(), StoreError> {
        self.publish();
        let record = KernelRecord {
            view: self.view.borrow().clone(),
            request: self.request.clone(),
            image: self.image.clone(),
            remove: self.state.remove,
        };
        let mut changes = Changes::default();
        changes.put(&record)?;
        let event = notice.map(|notice| match notice {
            Notice::Preparing => EventKind::KernelPreparing,
            Notice::Creating => EventKind::KernelCreating,
            Notice::Started => EventKind::KernelStarted,
            Notice::Terminated => {
                let why = self.state.termination.clone().unwrap_or_default();
                EventKind::KernelTerminated { reason: why.reason, exit_code: why.exit_code }
            }
        });
        let event = event.map(|kind| (self.request.kernel, self.request.session, kind));
        self.shared.outbox.commit(changes, event).await?;
        failpoint::reach(match notice {
            Some(Notice::Preparing) => "committed-preparing",
            Some(Notice::Creating) => "committed-creating",
            Some(Notice::Started) => "committed-started",
            Some(Notice::Terminated) => "committed-terminated",
            None => "committed-stopping",
        });
        Ok(())
    }

    /// Lets everybody see where the kernel is.
    fn publish(&self) {
        let mut changed = false;
        self.view.send_if_modified(|view| {
            changed = view.phase != self.state.phase || view.termination != self.state.termination;
            view.phase = self.state.phase;
            view.termination.clone_from(&self.state.termination);
            changed
        });
        if changed && let Some(progress) = &self.progress {
            let note = match self.state.phase {
                Phase::Waiting => Some("waiting for a start slot".to_owned()),
                Phase::Started => Some("waiting for the runner".to_owned()),
                _ => None,
            };
            let _ = progress.try_send(Progress::Phase { phase: self.state.phase, note });
        }
    }

    fn failure_of_termination(&self) -> KernelError {
        let why = self.state.termination.clone().unwrap_or_default();
        let code = why.exit_code.map_or(String::new(), |code| format!(" with exit code {code}"));
        let message = why.message.unwrap_or_else(|| format!("the kernel ended{code} before it was ready"));
        KernelError::new(&why.reason, message)
    }
}

/// Resolves when whoever waits for the creation has gone.
async fn creator_gone(progress: Option<&mpsc::Sender<Progress>>) {
    match progress {
        Some(progress) => progress.closed().await,
        None => std::future::pending().await,
    }
}

/// Resolves with the end of the step under way.
async fn step_end(step: &mut Option<(Step, Running)>) -> (Step, StepResult) {
    match step {
        Some((step, running)) => (*step, running.as_mut().await),
        None => std::future::pending().await,
    }
}

/// Resolves when a leased kernel has had no client for `lease`. `since` keeps the moment over the many
/// times this is polled anew.
async fn lease_over(
    leased: bool,
    leases: &mut watch::Receiver<usize>,
    since: &mut Option<Instant>,
    lease: Duration,
) {
    if !leased {
        return std::future::pending().await;
    }
    loop {
        if *leases.borrow_and_update() > 0 {
            *since = None;
            if leases.changed().await.is_err() {
                return std::future::pending().await;
            }
        } else {
            let start = *since.get_or_insert_with(Instant::now);
            match tokio::time::timeout_at(start + lease, leases.changed()).await {
                Err(_) => return,
                Ok(Err(_)) => return std::future::pending().await,
                Ok(Ok(())) => {}
            }
        }
    }
}
