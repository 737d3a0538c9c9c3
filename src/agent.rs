//! Composition root: start order, supervision of every task, exit (design §4).
//!
//! Start order: configuration, lock of the state directory, engine, policies with what operators made of them,
//! routing, records and the engine's list (adoption), then the control API. Whatever is wrong is told before anything is touched. The
//! end comes in the opposite order; kernels run on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::{self, Config, ConfigError, Overrides};
use crate::control::{self, Rooms};
use crate::drain::Drain;
use crate::engine::{self, Deadlines, EngineError, EngineInfo, Place, SharedEngine};
use crate::events::Outbox;
use crate::ids::{Digest, KernelRef};
use crate::inventory;
use crate::kernel::{Files, KernelError, Kernels, Settings, Shared, now_ms, reconcile};
use crate::manager::ClusterStatus;
use crate::manager::methods::{self, Methods};
use crate::pulse::{self, Beats, Watched};
use crate::scratch::{Scratch, ScratchError};
use crate::store::{self, StoreError};
use crate::{admission, policy, route};

mod cluster;
mod status;

use cluster::{Around, join_cluster, messenger, open_door, rpc_keys};
pub use status::{DrainStatus, NodeStatus, RpcStatus};

/// Why the agent did not start or had to end; one line and the next step.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    /// One line (or one line per mistake of the configuration).
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl AgentError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<ConfigError> for AgentError {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::Read { .. } => "name another file by --config, or make this one readable",
            ConfigError::Syntax { .. } | ConfigError::Mistakes(_) => {
                "mend the values and try again; `berth serve --check` tries them"
            }
        };
        Self::new(error.to_string(), hint)
    }
}

impl From<StoreError> for AgentError {
    fn from(error: StoreError) -> Self {
        let hint = match &error {
            StoreError::Locked { .. } => {
                "use the running agent, stop it, or give this one another --state-dir"
            }
            StoreError::Directory { .. } => "name another folder by --state-dir, or mend this one",
            StoreError::Database(_) | StoreError::Closed => {
                "see whether the disk is full; keep the file and start with another --state-dir"
            }
        };
        Self::new(error.to_string(), hint)
    }
}

impl From<EngineError> for AgentError {
    fn from(error: EngineError) -> Self {
        let KernelError { message, hint, .. } = error.into();
        Self { message, hint }
    }
}

impl From<ScratchError> for AgentError {
    fn from(error: ScratchError) -> Self {
        let KernelError { message, hint, .. } = error.into();
        Self { message, hint }
    }
}

impl From<KernelError> for AgentError {
    fn from(error: KernelError) -> Self {
        Self { message: error.message, hint: error.hint }
    }
}

/// Runs the agent until SIGTERM or SIGINT; kernels run on. Builds its own runtime: call it from `main`.
/// With `check` it validates configuration, engine, policies and folders, prints what it found, and returns.
///
/// # Errors
/// When it cannot start.
pub fn serve(overrides: Overrides, check: bool) -> Result<(), AgentError> {
    let config = config::load(&overrides)?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(4))
        .thread_name("worker")
        .enable_all()
        .build()
        .map_err(|error| AgentError::new(format!("cannot start the runtime: {error}"), "see `ulimit -u`"))?;
    if check { runtime.block_on(examine(config)) } else { runtime.block_on(live(config, overrides)) }
}

/// `--check`: everything that a start would look at, without keeping any of it.
async fn examine(config: Config) -> Result<(), AgentError> {
    let runner = config.kernel_runner.find().map_err(no_runner)?;
    let engine = connect(&config, runner).await?;
    let info = engine.info().await?;
    let policies = start_policies(&config, None).await?;
    let inventory = inventory::detect();
    let offer = inventory::offer(&policies, Arc::new(inventory), config.resource).await;
    println!(
        "configuration  {}",
        config.file.as_deref().map_or("defaults".to_owned(), |path| path.display().to_string())
    );
    println!("state          {}", config.standalone.state_dir.display());
    println!("engine         {} {} at {}", info.kind.as_str(), info.version, info.endpoint);
    for sentence in &info.not_enforced {
        println!("               not enforced: {sentence}");
    }
    for view in policies.list() {
        println!(
            "policy         {} {} {}",
            view.name,
            view.version,
            view.digest.map_or("builtin".to_owned(), |d| d.short())
        );
    }
    match offer {
        Ok(offer) => {
            for slot in &offer.slots {
                let total: u64 = slot.offers.iter().map(|(_, amount)| amount).sum();
                println!("offers         {} {total}", slot.name);
            }
        }
        Err(refusal) => println!("offers         nothing: {}", refusal.message),
    }
    Ok(())
}

fn no_runner(problem: String) -> AgentError {
    AgentError::new(problem, "build it by `cargo xtask build`, or name it in [kernel-runner] path")
}

/// Starts every room, waits for a signal, ends them.
async fn live(config: Config, overrides: Overrides) -> Result<(), AgentError> {
    let started_at_ms = now_ms();
    let opened = {
        let dir = config.standalone.state_dir.clone();
        blocking(move || store::open(&dir)).await??
    };
    let state_dir = config.standalone.state_dir.clone();
    let runner = config.kernel_runner.find().map_err(no_runner)?;
    let runner = {
        let state_dir = state_dir.clone();
        blocking(move || install_runner(&runner, &state_dir)).await??
    };
    let scratch = {
        let (named, state_dir) = (config.container.scratch_root.clone(), state_dir.clone());
        blocking(move || Scratch::open(named.as_deref(), &state_dir)).await??
    };
    let engine = connect(&config, runner.clone()).await?;
    let engine_info = engine.info().await?;
    let mut kept = policy::Kept::load(&opened.handle, &state_dir).await?;
    kept.workshop = match config.private {
        // Its state goes with it; what was compiled serves the next `berth run`.
        true => policy::Workshop::of_user(),
        false => policy::Workshop::own(kept.workshop.cache),
    };
    let policies = start_policies(&config, Some(kept.clone())).await?;
    let swap = policy::swap::Swap::new(policies.clone(), opened.handle.clone(), kept, &config.policy);
    let (curve, public_key) = rpc_keys(&config)?.map(|keys| (keys.curve, keys.public)).unzip();
    let routing = route::Config { polled_run_limit: config.routing.exec_timeout, ..route::Config::default() };
    let (route, route_thread) = route::start(routing).map_err(|error| {
        AgentError::new(error.to_string(), "see `ulimit -n`; the agent needs two sockets per kernel")
    })?;
    let mut tasks = JoinSet::new();
    let (offers, reporter) =
        inventory::watch(policies.clone(), Arc::new(inventory::detect()), config.resource).await;
    tasks.spawn(named("inventory", reporter));
    tasks.spawn(named("policy-guard", swap.clone().guard()));
    let journal = policies.journal().cloned();
    let reloaded = swap.clone();
    let admission = admission::start(
        admission::Config { start_limit: config.lifecycle.start_limit, ..admission::Config::default() },
        policies.clone(),
        offers.clone(),
    );
    let ended = admission.clone();
    tasks.spawn(named("admission", async move { ended.ended().await }));
    let (status_sender, status) = watch::channel(NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: config.agent.id.clone(),
        instance: opened.instance,
        pid: std::process::id(),
        started_at_ms,
        state: "starting".to_owned(),
        drain: None,
        problems: Vec::new(),
        engine: Some(engine_info.clone()),
        state_dir,
        scratch_root: scratch.root().to_owned(),
        private: config.private,
        rpc: None,
        cluster: config.cluster.as_ref().map(ClusterStatus::new),
    });
    let outbox = Outbox::open(opened.handle.clone()).await?;
    let drain = Drain::open(opened.handle.clone(), admission.clone()).await?;
    let kernels = Kernels::new(Arc::new(Shared {
        agent: config.agent.id.clone(),
        instance: opened.instance,
        engine: engine.clone(),
        engine_info,
        route: route.clone(),
        admission: admission.clone(),
        policy: policies.clone(),
        store: opened.handle.clone(),
        outbox: outbox.clone(),
        scratch,
        offers: offers.clone(),
        runner,
        settings: settings(&config),
    }));
    let adopted = reconcile::recover(&kernels).await?;
    if adopted > 0 {
        info!(adopted, "kernels of an earlier agent process were taken up");
    }
    tasks.spawn(named("reconciler", reconcile::watch(kernels.clone())));
    tasks.spawn(named("drain", drain.clone().watch(kernels.clone(), config.lifecycle.stop_grace)));
    tasks.spawn(named("engine-health", engine_health(engine, status_sender.clone())));
    let (pulse_of_admission, pulse_of_route) = (admission.clone(), route.clone());
    // Not before every kernel is known: a call for one that is not would be refused.
    let files = Files::new(kernels.clone());
    let (joined_sender, joined) = watch::channel(None);
    let messenger = messenger(&config, &joined)?;
    let (workers, jobs) = mpsc::channel(methods::QUEUE);
    let rpc = open_door(&config, &route, curve, workers).await?;
    if rpc.is_some() {
        let (images, bringer) = methods::images(kernels.engine().clone(), config.agent.id.clone(), messenger);
        let methods = Methods::new(kernels.clone(), files.clone(), images, route.clone());
        tasks.spawn(named("images", bringer.run()));
        tasks.spawn(named("methods", methods.serve(jobs)));
    }
    status_sender.send_modify(|status| status.rpc = rpc.clone());
    // Not before calls are answered: a heartbeat brings the first of them.
    let around = Around { offers: &offers, policies: &policies, status: &status_sender };
    let heartbeat =
        join_cluster(&config, rpc.as_ref(), public_key, (joined_sender, joined), &around, &mut tasks)?;
    let control = control::start(
        &config.control,
        Rooms {
            kernels: kernels.clone(),
            files,
            route,
            policy: policies,
            swap,
            admission,
            outbox,
            drain,
            offers,
            status,
        },
        config.mounts.allow.clone(),
    )
    .map_err(|error| AgentError { message: error.to_string(), hint: Some(error.hint()) })?;
    // Before the service manager hears of it.
    status_sender.send_modify(|status| status.state = "ready".to_owned());
    let supervisor = Beats::default();
    let pulse = {
        let (admission, route, supervisor) = (pulse_of_admission, pulse_of_route, supervisor.clone());
        let watched = vec![
            Watched::new("supervisor", move || supervisor.count()),
            Watched::new("admission", move || admission.beats()),
            Watched::new("route-0", move || route.beats()),
        ];
        pulse::start(config.lifecycle.stall_limit, watched).map_err(|error| {
            AgentError::new(format!("no thread for the pulse: {error}"), "see `ulimit -u`")
        })?
    };
    info!(socket = %config.control.socket.display(), instance = %opened.instance, "ready");
    let reload = Reload { overrides, swap: reloaded };
    let ended = until_told(&mut tasks, &supervisor, &reload, config.private).await;
    drop(pulse);
    // The manager is told first: what it sent from now on would be lost.
    blocking(move || drop(heartbeat)).await?;
    status_sender.send_modify(|status| status.state = "stopping".to_owned());
    info!(kernels_run_on = !config.private, "stopping");
    control.stop().await;
    if config.private {
        // A private agent serves one `berth run`: nothing of it outlives that.
        remove_all(&kernels).await;
    }
    tasks.shutdown().await;
    drop(kernels);
    route_thread.stop();
    if let Some(journal) = journal {
        journal.settled().await;
    }
    opened.handle.close().await;
    ended
}

async fn connect(config: &Config, runner: PathBuf) -> Result<SharedEngine, AgentError> {
    Ok(engine::connect(config.standalone.engine, place(config, runner)).await?)
}

/// What the engine of this configuration needs to know.
pub(crate) fn place(config: &Config, runner: PathBuf) -> Place {
    Place {
        docker_host: std::env::var("DOCKER_HOST").ok(),
        process_dir: config.standalone.state_dir.join("process"),
        runner,
        deadlines: Deadlines::default(),
    }
}

async fn start_policies(config: &Config, kept: Option<policy::Kept>) -> Result<policy::Handle, AgentError> {
    let config = config.policy.clone();
    let start = move || match kept {
        Some(kept) => policy::start_kept(config, kept),
        None => policy::start(config),
    };
    blocking(start)
        .await?
        .map_err(|error| AgentError::new(error.to_string(), "mend [policy], or start with --policy builtin"))
}

/// Removes every kernel.
async fn remove_all(kernels: &Kernels) {
    let removals = kernels.list(true).into_iter().map(|view| {
        let kernels = kernels.clone();
        async move {
            if let Err(error) = kernels.remove(&KernelRef::Id(view.id), true).await {
                warn!(kernel = %view.id, code = error.code, "could not be removed: {}", error.message);
            }
        }
    });
    futures_util::future::join_all(removals).await;
}

/// What SIGHUP reads again.
struct Reload {
    overrides: Overrides,
    swap: policy::swap::Swap,
}

impl Reload {
    /// Reads `agent.toml` with the flags of the start, and hands its `[policy]` over. On a task of its own: a
    /// policy that is compiled or replayed holds up nobody.
    fn begin(&self) {
        info!("SIGHUP: [policy] of agent.toml is read again");
        let (overrides, swap) = (self.overrides.clone(), self.swap.clone());
        tokio::spawn(async move {
            match blocking(move || config::load(&overrides)).await {
                Ok(Ok(config)) => swap.reload(config.policy).await,
                Ok(Err(error)) => swap.not_reloaded(&error.to_string().replace('\n', "; ")),
                Err(error) => swap.not_reloaded(&error.to_string()),
            }
        });
    }
}

/// Waits for SIGTERM or SIGINT, or for a task that must not end; reads `[policy]` again on SIGHUP. A private agent
/// ends with its terminal.
async fn until_told(
    tasks: &mut JoinSet<&'static str>,
    alive: &Beats,
    reload: &Reload,
    private: bool,
) -> Result<(), AgentError> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot =
        |error: std::io::Error| AgentError::new(format!("cannot listen for signals: {error}"), "report this");
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    let mut timer = tokio::time::interval(pulse::PROGRESS_WITHIN / 2);
    loop {
        // Cancel-safe: signal receivers, JoinSet::join_next and an interval.
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => match private {
                true => return Ok(()),
                false => reload.begin(),
            },
            Some(ended) = tasks.join_next() => {
                let what = match ended {
                    Ok(name) => format!("the task {name} ended"),
                    Err(failure) => format!("a task failed: {failure}"),
                };
                error!("{what}; kernels run on, restart the agent");
                return Err(AgentError::new(what, "restart the agent; kernels run on and are taken up again"));
            }
            _ = timer.tick() => alive.beat(),
        }
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Says degraded while the engine does not answer.
async fn engine_health(engine: SharedEngine, status: watch::Sender<NodeStatus>) {
    let mut timer = tokio::time::interval(std::time::Duration::from_secs(10));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let found: Result<EngineInfo, EngineError> = engine.info().await;
        status.send_if_modified(|status| {
            let (state, problems) = match &found {
                Ok(_) => ("ready", Vec::new()),
                Err(error) => ("degraded", vec![error.to_string()]),
            };
            let steady = matches!(status.state.as_str(), "ready" | "degraded");
            let changed = steady && (status.state != state || status.problems != problems);
            if changed {
                status.state = state.to_owned();
                status.problems = problems;
            }
            if let Ok(info) = &found {
                status.engine = Some(info.clone());
            }
            changed
        });
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        default_image: config.standalone.image.clone(),
        default_memory: config.standalone.memory_limit,
        kernel_uid: config.container.kernel_uid,
        kernel_gid: config.container.kernel_gid,
        log_max_bytes: config.container.log_max_bytes,
        ready_timeout: config.lifecycle.ready_timeout,
        stop_grace: config.lifecycle.stop_grace,
        lease: config.lifecycle.lease,
        reconcile_interval: config.lifecycle.reconcile_interval,
    }
}

/// Copies the runner to `<state>/runner/<sha256>/`, so that an upgrade never changes the program of a running
/// kernel (design §5).
fn install_runner(from: &Path, state_dir: &Path) -> Result<PathBuf, AgentError> {
    let hint = "see whether the disk of the state directory is full";
    let cannot = |what: &str, path: &Path, error: std::io::Error| {
        AgentError::new(format!("cannot {what} {}: {error}", path.display()), hint)
    };
    let bytes = std::fs::read(from).map_err(|error| cannot("read", from, error))?;
    let dir = state_dir.join("runner").join(Digest::of(&bytes).to_string());
    let target = dir.join("berth-runner");
    if std::fs::read(&target).is_ok_and(|there| there == bytes) {
        return Ok(target);
    }
    std::fs::create_dir_all(&dir).map_err(|error| cannot("make", &dir, error))?;
    let temporary = dir.join("berth-runner.new");
    std::fs::write(&temporary, &bytes).map_err(|error| cannot("write", &temporary, error))?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| cannot("set the mode of", &temporary, error))?;
    std::fs::rename(&temporary, &target).map_err(|error| cannot("write", &target, error))?;
    Ok(target)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| AgentError::new(format!("a start-up step ended early: {error}"), "report this"))
}
