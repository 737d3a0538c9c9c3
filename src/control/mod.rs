//! The control API: HTTP on a unix socket, for `berth`'s own commands and for operators (design §9).
//!
//! The listener is an OS thread of its own, `admin`, with a current-thread runtime, so that `status` is
//! answered while everything else is busy (design §3). What works for longer (a creation, a stream, a file)
//! runs on the agent's runtime, where [`start`] was called. No decision is made here: requests become
//! calls of the rooms in [`Rooms`], answers become JSON ([`api`]).
//!
//! * [`socket`]: the socket's file, stale ones, who may reach it; [`peer`]: who connected
//! * `handlers`: one function per request; `policies`: those that replace policies; `decisions`: the journal,
//!   `create --dry-run`, and `why` with its sentences; `events`, `files`, `drain`, `images`, `doctor`: more of
//!   them by subject; `metrics`: what the agent counts, for Prometheus, if wanted over TCP too; `session`: one
//!   run over an upgraded connection
//! * [`stream`]: the frames of such a connection, pure; [`mounts`]: what a caller may mount

use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::NodeStatus;
use crate::config::ControlSection;
use crate::drain::Drain;
use crate::events::Outbox;
use crate::inventory::Offer;
use crate::kernel::{Files, Kernels};
use crate::{admission, policy, route};

pub mod api;
mod decisions;
mod doctor;
mod drain;
mod events;
mod files;
mod handlers;
mod images;
mod metrics;
pub mod mounts;
pub mod peer;
mod policies;
pub mod policy_api;
mod session;
pub mod socket;
pub mod stream;
mod why;

/// How long open requests and streams have to end when the agent does.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The rooms that the API speaks to.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// Kernels.
    pub kernels: Kernels,
    /// Their files.
    pub files: Files,
    /// Runs.
    pub route: route::Handle,
    /// Policies.
    pub policy: policy::Handle,
    /// Replacing them.
    pub swap: policy::swap::Swap,
    /// The books.
    pub admission: admission::Handle,
    /// Lifecycle events.
    pub outbox: Outbox,
    /// Whether new kernels are taken.
    pub drain: Drain,
    /// What the node offers; none before the first decision.
    pub offers: watch::Receiver<Option<Offer>>,
    /// What the agent says of itself.
    pub status: watch::Receiver<NodeStatus>,
}

/// Why the control API did not start; one line.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody answers on the socket.
    #[error("a berth agent is already running at {}{}", path.display(), pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
        /// Its process, when the system tells.
        pid: Option<i32>,
    },
    /// Something else lies there.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// unix(7) allows 107 bytes.
    #[error("the control socket's path {} is longer than 107 bytes", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Others could put their own socket there.
    #[error("the control socket {} would not be safe: {problem}", path.display())]
    Directory {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// `[control] group` is unknown.
    #[error("there is no group {group:?} in /etc/group ([control] group)")]
    NoSuchGroup {
        /// The group.
        group: String,
    },
    /// `[control] metrics-listen` cannot be had.
    #[error("metrics cannot be served at {address}: {error} ([control] metrics-listen)")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        error: io::Error,
    },
    /// The system refused.
    #[error("the control socket {} cannot be used: {what}: {error}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// The system's words.
        error: io::Error,
    },
}

impl ControlError {
    /// The next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::AlreadyRunning { .. } => {
                "use it, stop it, or give this one another --socket and --state-dir".to_owned()
            }
            Self::NotASocket { .. } => "remove it, or choose another --socket".to_owned(),
            Self::PathTooLong { .. } => "choose a shorter --socket".to_owned(),
            Self::Directory { path, .. } => {
                let dir = path.parent().unwrap_or(Path::new("/"));
                format!(
                    "remove {} or make it yours alone (chmod 700), or choose another --socket",
                    dir.display()
                )
            }
            Self::NoSuchGroup { .. } => "make the group, or give its number".to_owned(),
            Self::Metrics { .. } => "name another port, or leave it out".to_owned(),
            Self::Socket { .. } => "choose a place you can write to with --socket".to_owned(),
        }
    }
}

/// The running control API. Dropping it ends it without waiting.
#[derive(Debug)]
pub struct Control {
    cancel: CancellationToken,
    sessions: TaskTracker,
    thread: Option<JoinHandle<()>>,
    ended: watch::Receiver<()>,
    _file: socket::SocketFile,
}

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    rooms: Rooms,
    mounts_allow: Vec<PathBuf>,
    agent_uid: u32,
    group: Option<u32>,
    /// The agent's runtime: see the module documentation.
    core: tokio::runtime::Handle,
    /// Streams and what else outlives its request.
    sessions: TaskTracker,
    cancel: CancellationToken,
}

/// Binds the socket and, where one is wanted, the port for metrics, and starts the thread. Must be called on the
/// agent's runtime.
///
/// # Errors
/// When the socket or the port cannot be had; nothing of another agent's is touched then.
pub fn start(
    section: &ControlSection,
    rooms: Rooms,
    mounts_allow: Vec<PathBuf>,
) -> Result<Control, ControlError> {
    let socket = &*section.socket;
    let group = section.group.as_deref().map(socket::find_group).transpose()?;
    let socket::Bound { listener, file } = socket::bind(socket, group)?;
    let failed = |what| move |error| ControlError::Socket { path: socket.to_owned(), what, error };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("its runtime could not be made"))?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::UnixListener::from_std(listener).map_err(failed("it could not be listened on"))?
    };
    let metrics = section.metrics_listen.map(|address| {
        let _entered = runtime.enter();
        metrics::bind(address).map_err(|error| ControlError::Metrics { address, error })
    });
    let metrics = metrics.transpose()?.map(|listener| (listener, rooms.clone()));

    let (cancel, sessions) = (CancellationToken::new(), TaskTracker::new());
    let shared = Arc::new(Shared {
        rooms,
        mounts_allow,
        agent_uid: rustix::process::geteuid().as_raw(),
        group: group.map(rustix::fs::Gid::as_raw),
        core: tokio::runtime::Handle::current(),
        sessions: sessions.clone(),
        cancel: cancel.clone(),
    });
    let (alive, ended) = watch::channel(());
    let app = handlers::router(shared);
    let stopping = cancel.clone();
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            let _alive = alive;
            if let Some((listener, rooms)) = metrics {
                runtime.spawn(metrics::serve(listener, rooms, stopping.clone()));
            }
            runtime.block_on(listen(listener, app, stopping));
            runtime.shutdown_timeout(Duration::ZERO);
        })
        .map_err(failed("its thread could not be started"))?;
    tracing::info!(socket = %socket.display(), "the control API listens");
    Ok(Control { cancel, sessions, thread: Some(thread), ended, _file: file })
}

/// Serves until told to stop, then waits for open requests as long as [`STOP_WITHIN`].
async fn listen(listener: tokio::net::UnixListener, app: axum::Router, stopping: CancellationToken) {
    let service = app.into_make_service_with_connect_info::<peer::Peer>();
    let signal = stopping.clone().cancelled_owned();
    let server = axum::serve(listener, service).with_graceful_shutdown(signal);
    let too_late = async {
        stopping.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    tokio::select! {
        served = server.into_future() => {
            if let Err(error) = served {
                tracing::error!(%error, "the control API failed");
            }
        }
        () = too_late => {}
    }
}

impl Control {
    /// Stops listening, tells open streams that the agent ends, waits a short while for them, and removes
    /// the socket. Kernels are not touched.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        self.sessions.close();
        if tokio::time::timeout(STOP_WITHIN, self.sessions.wait()).await.is_err() {
            tracing::warn!(open = self.sessions.len(), "streams were still open when the control API ended");
        }
        self.ended().await;
        if let Some(thread) = self.thread.take() {
            // It has left its loop: this returns at once.
            let _ = thread.join();
        }
    }

    /// Waits until the thread has ended, by [`Control::stop`] or by a failure. Cancel-safe.
    pub async fn ended(&mut self) {
        while self.ended.changed().await.is_ok() {}
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
