//! The steps of a kernel's life, each an owned future that the actor awaits (design §4).
//!
//! A step takes copies of what it needs and returns what it made; it never touches the actor. Engine calls
//! have deadlines of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{Inputs, Plan, chain};
use super::shared::Shared;
use super::{CreateRequest, KernelError, KernelView};
use crate::admission::{self, Allocation, Placed, StartPermit};
use crate::engine::{ContainerSpec, ContainerState, EngineError, LogChunk, LogOptions, MountKind, MountSpec};
use crate::failpoint;
use crate::ids::{ContainerId, KernelId, KernelName};
use crate::images;
use crate::inventory::Offer;
use crate::policy::{DecidedBy, Purpose};
use crate::route::{Attach, LinkAt, Report};
use crate::scratch::{ScratchError, files};

/// What a step made.
#[derive(Debug)]
pub enum Outcome {
    /// Image and share.
    Placed {
        /// Reference to use, id and labels.
        image: ChosenImage,
        /// The share.
        placed: Placed,
    },
    /// A start slot.
    Permitted(StartPermit, DecidedBy),
    /// What the engine will be asked for.
    Prepared(Box<ContainerSpec>, Vec<DecidedBy>),
    /// The container.
    Created(ContainerId),
    /// Nothing to keep.
    Done,
    /// How the container ended, as far as the engine knows.
    Ended(Option<ContainerState>),
}

/// The image a kernel is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenImage {
    /// As asked for, or a name of the chosen one.
    pub reference: String,
    /// The engine's id.
    pub id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a step failed: the error for whoever waits, and the termination reason.
#[derive(Debug)]
pub struct StepError {
    /// For people.
    pub error: KernelError,
    /// contracts: kernel §5.2.
    pub reason: &'static str,
}

/// What a step ends with.
pub type StepResult = Result<Outcome, StepError>;

fn failing(reason: &'static str) -> impl Fn(KernelError) -> StepError {
    move |error| StepError { error, reason }
}

/// What admission is asked.
pub fn admission_request(
    request: &CreateRequest,
    name: &KernelName,
    image: &ChosenImage,
    at_ms: u64,
) -> admission::Request {
    admission::Request {
        kernel: request.kernel,
        session: request.session,
        name: name.to_string(),
        owner: request.caller.0.to_string(),
        image: image.reference.clone(),
        image_labels: image.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        wants: request.wants.iter().map(|(slot, amount)| (slot.clone(), *amount)).collect(),
        requested_at_ms: at_ms,
    }
}

/// The image that a request means.
pub async fn choose_image(shared: &Shared, request: &CreateRequest) -> Result<ChosenImage, KernelError> {
    let (wanted, default) = (request.image.as_deref(), shared.settings.default_image.as_deref());
    let chosen = images::choose(&*shared.engine, wanted, default).await?;
    let reference =
        request.image.clone().or_else(|| chosen.tags.first().cloned()).unwrap_or_else(|| chosen.id.clone());
    Ok(ChosenImage { reference, id: chosen.id, labels: chosen.labels })
}

/// Chooses the image and takes a share.
pub async fn place(shared: Arc<Shared>, request: CreateRequest, name: KernelName, at_ms: u64) -> StepResult {
    let fail = failing("failed-to-create");
    let image = choose_image(&shared, &request).await.map_err(&fail)?;
    let wanted = admission_request(&request, &name, &image, at_ms);
    let placed =
        shared.admission.place(wanted, request.wait).await.map_err(|refused| fail(refused.into()))?;
    failpoint::reach("placed");
    Ok(Outcome::Placed { image, placed })
}

/// Waits for a start slot.
pub async fn await_permit(shared: Arc<Shared>, request: admission::Request) -> StepResult {
    let (permit, by) = shared
        .admission
        .start_permit(request)
        .await
        .map_err(|refused| failing("failed-to-create")(refused.into()))?;
    Ok(Outcome::Permitted(permit, by))
}

/// What [`prepare`] needs.
#[derive(Debug)]
pub struct Preparation {
    /// As it was asked for.
    pub request: CreateRequest,
    /// Its name.
    pub name: KernelName,
    /// Its image.
    pub image: ChosenImage,
    /// What it holds.
    pub allocations: Vec<Allocation>,
    /// uid and gid of its processes.
    pub runs_as: (u32, u32),
    /// Where the route reports to.
    pub reports: tokio::sync::mpsc::Sender<Report>,
    /// Unix time in milliseconds of the request.
    pub at_ms: u64,
}

/// The container before any policy has seen it.
pub fn plan(
    shared: &Shared,
    request: &CreateRequest,
    name: &KernelName,
    image: &ChosenImage,
    allocations: &[Allocation],
    runs_as: (u32, u32),
    offer: &Offer,
) -> Plan {
    Plan::base(&Inputs {
        agent: &shared.agent,
        instance: shared.instance,
        kernel: request.kernel,
        session: request.session,
        name,
        image: &image.reference,
        image_labels: &image.labels,
        env: &request.env,
        mounts: &request.mounts,
        allocations,
        shared_cores: &offer.cores(),
        default_memory: shared.settings.default_memory,
        runs_as,
        folders: &shared.scratch.folders(request.kernel),
        runner: &shared.runner,
        layout: shared.engine.layout(),
        log_max_bytes: shared.settings.log_max_bytes,
    })
}

/// Makes folders, plan and sockets, and asks the `container-config` chain.
pub async fn prepare(shared: Arc<Shared>, preparation: Preparation) -> StepResult {
    let Preparation { request, name, image, allocations, runs_as, reports, at_ms } = preparation;
    let fail = failing("failed-to-create");
    let offer = shared.offers.borrow().clone();
    let offer = offer.ok_or_else(|| {
        fail(
            KernelError::new("not-ready", "the node does not know yet what it offers")
                .hint("try again in a moment"),
        )
    })?;
    let mut plan = plan(&shared, &request, &name, &image, &allocations, runs_as, &offer);
    let question = admission_request(&request, &name, &image, at_ms);
    let said = chain::run(&shared.policy, Purpose::Real, &mut plan, &question, &offer, &allocations)
        .await
        .map_err(|(refusal, _)| fail(refusal.into()))?;
    let decided = said.into_iter().map(|said| said.by).collect();
    let spec = plan.render();
    let scratch = shared.scratch.clone();
    let kernel = request.kernel;
    let written = spec.clone();
    blocking(move || {
        let folders = scratch.make(kernel, runs_as)?;
        let environ = files::environ_txt(&written.env);
        let resource = files::resource_txt(&written.mounts, &allocations);
        files::write(&folders, &environ, &resource)?;
        for (path, file) in plan.files_on_host() {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(|source| ScratchError::Io {
                    what: "make",
                    path: dir.to_owned(),
                    source,
                })?;
            }
            files::write_file(&path, file.content.as_bytes())?;
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))
                .map_err(|source| ScratchError::Io { what: "set the mode of", path: path.clone(), source })?;
        }
        Ok(())
    })
    .await
    .map_err(&fail)?;
    failpoint::reach("folders-made");
    attach(&shared, request.kernel, reports).await.map_err(&fail)?;
    failpoint::reach("attached");
    Ok(Outcome::Prepared(Box::new(spec), decided))
}

/// Binds the kernel's sockets.
pub async fn attach(
    shared: &Shared,
    kernel: KernelId,
    reports: tokio::sync::mpsc::Sender<Report>,
) -> Result<(), KernelError> {
    let at = LinkAt::Directory(shared.scratch.folders(kernel).link);
    Ok(shared.route.attach(Attach { kernel, at, reports }).await?)
}

/// Makes the container.
pub async fn create(shared: Arc<Shared>, spec: ContainerSpec) -> StepResult {
    let fail = failing("failed-to-create");
    let made = match shared.engine.create(&spec).await {
        // The name holds the kernel's id: an earlier agent process was killed before it heard of it.
        Err(EngineError::NameTaken(_)) => {
            remove_containers(&shared, spec.kernel).await.map_err(|error| fail(error.into()))?;
            shared.engine.create(&spec).await
        }
        other => other,
    };
    let container = made.map_err(|error| fail(error.into()))?;
    failpoint::reach("container-created");
    let folders = shared.scratch.folders(spec.kernel);
    let id = container.to_string();
    blocking(move || files::append_container_id(&folders, &id)).await.map_err(&fail)?;
    Ok(Outcome::Created(container))
}

/// Starts the container.
pub async fn start(shared: Arc<Shared>, container: ContainerId) -> StepResult {
    shared.engine.start(&container).await.map_err(|error| failing("failed-to-start")(error.into()))?;
    failpoint::reach("container-started");
    Ok(Outcome::Done)
}

/// Fails when the runner has not answered in time; the actor drops it when it has.
pub async fn await_ready(timeout: Duration) -> StepResult {
    tokio::time::sleep(timeout).await;
    let message = format!("the runner did not answer within {} s", timeout.as_secs());
    Err(StepError {
        error: KernelError::new("not-ready-in-time", message)
            .hint("raise [lifecycle] ready-timeout-sec if this node is slow"),
        reason: "failed-to-start",
    })
}

/// Asks the container to end.
pub async fn stop(shared: Arc<Shared>, container: ContainerId, grace: Duration) -> StepResult {
    let stopped = shared.engine.stop(&container, grace).await;
    failpoint::reach("container-stopped");
    match stopped {
        Ok(()) | Err(EngineError::NoSuchContainer(_)) => Ok(Outcome::Done),
        Err(error) => Err(failing("user-requested")(error.into())),
    }
}

/// Detaches the route and looks how the container ended.
pub async fn collect(
    shared: Arc<Shared>,
    kernel: KernelId,
    container: Option<ContainerId>,
    reason: String,
) -> StepResult {
    if let Err(error) = shared.route.detach(kernel, &reason).await {
        tracing::warn!(%kernel, %error, "the kernel's link could not be closed");
    }
    let scratch = shared.scratch.clone();
    if let Err(error) = blocking(move || scratch.remove_sockets(kernel)).await {
        tracing::warn!(%kernel, code = error.code, "{}", error.message);
    }
    failpoint::reach("detached");
    let Some(container) = container else { return Ok(Outcome::Ended(None)) };
    match shared.engine.inspect(&container).await {
        Ok(view) => Ok(Outcome::Ended(view.map(|view| view.state))),
        Err(error) => {
            tracing::warn!(%kernel, %error, "how the container ended is not known");
            Ok(Outcome::Ended(None))
        }
    }
}

/// Removes container, folders and record.
pub async fn remove(
    shared: Arc<Shared>,
    kernel: KernelId,
    container: Option<ContainerId>,
    may_have_container: bool,
    spec: Option<ContainerSpec>,
) -> StepResult {
    let fail = failing("user-requested");
    let removed = match &container {
        Some(container) => shared.engine.remove(container).await,
        // A create that ended unheard: its container is found by its label.
        None if may_have_container => remove_containers(&shared, kernel).await,
        None => Ok(()),
    };
    removed.map_err(|error| fail(error.into()))?;
    failpoint::reach("container-removed");
    remove_folders(&shared, kernel, spec).await.map_err(&fail)?;
    failpoint::reach("folders-removed");
    shared
        .store
        .delete::<super::record::KernelRecord>(&kernel.to_string())
        .await
        .map_err(|error| fail(error.into()))?;
    failpoint::reach("record-removed");
    Ok(Outcome::Done)
}

/// Removes every container that carries the kernel's label.
async fn remove_containers(shared: &Shared, kernel: KernelId) -> Result<(), EngineError> {
    for view in shared.engine.list(shared.instance).await? {
        if view.kernel() == Some(kernel) {
            shared.engine.remove(&view.id).await?;
        }
    }
    Ok(())
}

/// Removes the folders; what another uid left in them by the runner inside a last container of the same
/// image (design §10).
async fn remove_folders(
    shared: &Arc<Shared>,
    kernel: KernelId,
    spec: Option<ContainerSpec>,
) -> Result<(), KernelError> {
    let scratch = shared.scratch.clone();
    let first = blocking(move || scratch.remove(kernel)).await;
    let (Err(error), Some(spec)) = (&first, spec) else { return first };
    tracing::info!(%kernel, %error, "files of another user are removed by a last container");
    let base = shared.scratch.folders(kernel).base;
    let target = "/berth-clean";
    let last = ContainerSpec {
        name: format!("{}.clean", spec.name),
        command: vec!["clean".to_owned(), target.to_owned()],
        working_dir: "/".to_owned(),
        network: Some("none".to_owned()),
        cpuset: Vec::new(),
        read_only_root: false,
        mounts: spec
            .mounts
            .iter()
            .filter(|mount| spec.entrypoint.first() == Some(&mount.target))
            .cloned()
            .chain([MountSpec {
                kind: MountKind::Bind,
                source: base.display().to_string(),
                target: target.to_owned(),
                read_only: false,
            }])
            .collect(),
        ..spec
    };
    let container = shared.engine.create(&last).await?;
    let ended = async {
        shared.engine.start(&container).await?;
        shared.engine.wait(&container).await
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    let removed = shared.engine.remove(&container).await;
    if let Ok(ended) = ended {
        ended?;
    }
    removed?;
    let scratch = shared.scratch.clone();
    blocking(move || scratch.remove(kernel)).await
}

/// A spec for a last container of a kernel that an earlier agent process planned: only what removing its
/// folders needs.
pub fn cleaning_spec(shared: &Shared, view: &KernelView, image: &ChosenImage) -> ContainerSpec {
    Plan::base(&Inputs {
        agent: &shared.agent,
        instance: shared.instance,
        kernel: view.id,
        session: view.session,
        name: &view.name,
        image: &image.reference,
        image_labels: &image.labels,
        env: &BTreeMap::new(),
        mounts: &[],
        allocations: &[],
        shared_cores: &[],
        default_memory: shared.settings.default_memory,
        runs_as: view.runs_as,
        folders: &shared.scratch.folders(view.id),
        runner: &shared.runner,
        layout: shared.engine.layout(),
        log_max_bytes: shared.settings.log_max_bytes,
    })
    .render()
}

/// The last lines a container wrote, for the message of a start that failed.
pub async fn last_words(shared: &Shared, container: &ContainerId) -> Option<String> {
    let options = LogOptions { tail: Some(3), follow: false };
    let read = async {
        let mut log = shared.engine.logs(container, options).await.ok()?;
        let mut text = Vec::new();
        while let Some(Ok(LogChunk::Stdout(bytes) | LogChunk::Stderr(bytes))) = log.recv().await {
            text.extend_from_slice(&bytes);
            if text.len() > 4096 {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        let words: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        (!words.is_empty()).then(|| words.join(" / "))
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.ok().flatten()
}

/// Runs file operations off the workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ScratchError> + Send + 'static,
) -> Result<T, KernelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(KernelError::from),
        Err(error) => Err(KernelError::new("internal", format!("a file operation ended early: {error}"))),
    }
}
