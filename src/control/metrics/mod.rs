//! `GET /metrics`: what the agent counts, as text for Prometheus.
//!
//! On the control socket, for those who may use it, and, with `[control] metrics-listen`, on a TCP port of this host
//! alone, where nothing else is served: whoever is on this host may read it there. Both are answered on the `admin`
//! thread. [`families`] says what is told and [`exposition`] how, both pure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::handlers::Agent;
use super::{Rooms, Shared};
use crate::kernel::now_ms;

mod exposition;
mod families;
#[cfg(test)]
mod tests;

use exposition::CONTENT_TYPE;

/// How long the books are waited for: a scrape without them says what the rest of the agent does.
const BOOKS_WITHIN: Duration = Duration::from_secs(1);
/// Connections over TCP that are served at once; others wait.
const CONNECTIONS: usize = 4;
/// How long one of them may last.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/metrics", get(scrape))
}

async fn scrape(State(agent): Agent) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&agent.rooms).await).into_response()
}

/// A port of this host, ready for [`serve`]. Must be called on the runtime of the thread.
///
/// # Errors
/// When it cannot be had.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    TcpListener::from_std(listener)
}

/// Answers on that port until told to stop.
pub(super) async fn serve(listener: TcpListener, rooms: Rooms, stopping: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        // Cancel-safe: the permit comes back, and a connection that was not accepted waits.
        let (permit, accepted) = tokio::select! {
            () = stopping.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let rooms = rooms.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // What a client does wrong, or how slow it is, is its own matter.
                    let _ = tokio::time::timeout(CONNECTION_WITHIN, connection(stream, rooms)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(BOOKS_WITHIN).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, rooms: Rooms) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let rooms = rooms.clone();
        async move {
            let is_metrics = request.method() == Method::GET && request.uri().path() == "/metrics";
            let (status, kind, body) = match is_metrics {
                true => (StatusCode::OK, CONTENT_TYPE, text(&rooms).await),
                false => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics is all there is\n".to_owned()),
            };
            hyper::Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, kind)
                .body(Full::new(Bytes::from(body)))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await
}

async fn text(rooms: &Rooms) -> String {
    families::text(&look(rooms).await)
}

/// What the rooms say now.
async fn look(rooms: &Rooms) -> families::Seen {
    let admission = async { (rooms.admission.books().await, rooms.admission.queues().await) };
    let (books, queues) = match tokio::time::timeout(BOOKS_WITHIN, admission).await {
        Ok((books, queues)) => (books, queues),
        Err(_) => (Vec::new(), None),
    };
    let status = rooms.status.borrow().clone();
    families::Seen {
        version: status.version,
        agent: status.agent.to_string(),
        engine: status.engine.map(|engine| (engine.kind.as_str().to_owned(), engine.version)),
        degraded: status.state == "degraded",
        draining: rooms.drain.state().is_some(),
        started_at_ms: status.started_at_ms,
        now_ms: now_ms(),
        resident_bytes: resident_bytes(),
        policies: rooms.policy.tallies(),
        journal_dropped: rooms.policy.journal().map(|journal| journal.dropped()),
        books,
        queues,
        phases: rooms.kernels.list(true).into_iter().map(|kernel| kernel.phase).collect(),
        route: rooms.route.counters(),
        events: rooms.outbox.counts(),
    }
}

/// `VmRSS` of this process (proc_pid_status(5)), in bytes.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
