//! One function per request of the control API; the table is in [`super::api`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::Encoder as _;
use tokio_util::sync::CancellationToken;

use super::api::{CreateBody, ErrorBody, ListQuery, LogsQuery, RemoveQuery, SlotsView, StopBody};
use super::peer::{Caller, Peer};
use super::stream::{self, ServerCodec, ServerFrame};
use super::{Shared, mounts, session};
use crate::agent::{DrainStatus, NodeStatus};
use crate::engine::{LogChunk, LogOptions};
use crate::ids::KernelRef;
use crate::kernel::{CreateRequest, KernelView};
use crate::policy::PolicyView;

pub(super) type Agent = State<Arc<Shared>>;
pub(super) type Answer<T> = Result<T, ErrorBody>;

/// All paths, behind the check of who asks.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/slots", get(slots))
        .route("/v1/policies", get(policies))
        .merge(super::policies::routes())
        .merge(super::decisions::routes())
        .route("/v1/kernels", get(list).post(create))
        .route("/v1/kernels/{kernel}", get(inspect).delete(remove))
        .route("/v1/kernels/{kernel}/stop", post(stop))
        .route("/v1/kernels/{kernel}/interrupt", post(interrupt))
        .route("/v1/kernels/{kernel}/logs", get(logs))
        .route("/v1/kernels/{kernel}/runs", post(run))
        .merge(super::files::routes())
        .merge(super::events::routes())
        .merge(super::doctor::routes())
        .merge(super::drain::routes())
        .merge(super::images::routes())
        .merge(super::metrics::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Lets in the agent's user, root and the socket's group, nobody else.
async fn guard(
    State(agent): Agent,
    ConnectInfo(Peer(caller)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(caller) = caller.filter(|caller| caller.may_enter(agent.agent_uid, agent.group)) else {
        return ErrorBody::new("not-allowed", "this agent does not take your requests")
            .with_hint(
                "it is another user's: start your own with `berth serve`, or be in its [control] group",
            )
            .into_response();
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn status(State(agent): Agent) -> Json<NodeStatus> {
    let mut status = agent.rooms.status.borrow().clone();
    status.problems.extend(agent.rooms.policy.problems());
    if let Some(draining) = agent.rooms.drain.state() {
        let kernels_left = agent.rooms.kernels.list(false).len();
        status.drain = Some(DrainStatus { draining, kernels_left });
        if status.state == "ready" {
            status.state = "draining".to_owned();
        }
    }
    Json(status)
}

async fn slots(State(agent): Agent) -> Json<SlotsView> {
    let slots = agent.rooms.admission.books().await;
    let offer = agent.rooms.offers.borrow();
    let (withheld, decided_by) = match offer.as_ref() {
        Some(offer) => (offer.withheld.clone(), Some(offer.by.clone())),
        None => (Vec::new(), None),
    };
    let draining = agent.rooms.drain.state();
    Json(SlotsView { slots, withheld, decided_by, draining })
}

async fn policies(State(agent): Agent) -> Json<Vec<PolicyView>> {
    Json(agent.rooms.policy.list())
}

async fn list(
    State(agent): Agent,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<Vec<KernelView>>> {
    let Query(query) = query?;
    Ok(Json(agent.rooms.kernels.list(query.all)))
}

async fn inspect(State(agent): Agent, Path(kernel): Path<String>) -> Answer<Json<KernelView>> {
    Ok(Json(agent.rooms.kernels.get(&parse(&kernel)?)?))
}

/// Answers with a line of JSON per step. The receiver lives in the body, so that a client that hangs up
/// cancels the creation.
async fn create(
    State(agent): Agent,
    axum::Extension(caller): axum::Extension<Caller>,
    body: Result<Json<CreateBody>, JsonRejection>,
) -> Answer<Response> {
    let Json(body) = body?;
    let shared = Arc::clone(&agent);
    let progress = on_core(&agent, async move {
        let request = request_for(&shared, &caller, body).await?;
        Answer::Ok(shared.rooms.kernels.create(request).await)
    })
    .await??;
    let lines = ReceiverStream::new(progress).map(|step| line(&step));
    Ok(streamed("application/x-ndjson", Body::from_stream(lines)))
}

/// What the caller may have of what is asked for.
pub(super) async fn request_for(shared: &Shared, caller: &Caller, body: CreateBody) -> Answer<CreateRequest> {
    let (asked, allow, whose) = (body.mounts, shared.mounts_allow.clone(), caller.clone());
    // Looks at the file system, which may be a slow one.
    let mounts = tokio::task::spawn_blocking(move || mounts::resolve(&asked, &whose, &allow))
        .await
        .map_err(|_| failed())??;
    Ok(CreateRequest {
        kernel: body.kernel,
        session: body.session,
        name: body.name,
        image: body.image,
        wants: body.wants,
        env: body.env,
        mounts,
        caller: (caller.uid, caller.gid),
        wait: body.wait_ms.map(Duration::from_millis),
        leased: body.leased,
    })
}

/// A value as a line of JSON.
pub(super) fn line(step: &impl serde::Serialize) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(step)?;
    line.push(b'\n');
    Ok(line.into())
}

async fn stop(
    State(agent): Agent,
    Path(kernel): Path<String>,
    body: Result<Json<StopBody>, JsonRejection>,
) -> Answer<Json<KernelView>> {
    let (kernel, Json(body)) = (parse(&kernel)?, body?);
    let shared = Arc::clone(&agent);
    let view = on_core(&agent, async move {
        let grace = Duration::from_millis(body.grace_ms);
        shared.rooms.kernels.stop(&kernel, grace, "user-requested").await
    });
    Ok(Json(view.await??))
}

async fn remove(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<RemoveQuery>, QueryRejection>,
) -> Answer<StatusCode> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    let shared = Arc::clone(&agent);
    on_core(&agent, async move { shared.rooms.kernels.remove(&kernel, query.force).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn interrupt(State(agent): Agent, Path(kernel): Path<String>) -> Answer<StatusCode> {
    let kernel = agent.rooms.kernels.get(&parse(&kernel)?)?;
    agent.rooms.route.interrupt(kernel.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn logs(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Answer<Response> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    let options = LogOptions { tail: query.tail, follow: query.follow };
    let shared = Arc::clone(&agent);
    let chunks = on_core(&agent, async move { shared.rooms.kernels.logs(&kernel, options).await }).await??;
    let frames = ReceiverStream::new(chunks).map(|chunk| match chunk {
        Ok(LogChunk::Stdout(data)) => ServerFrame::Stdout(data),
        Ok(LogChunk::Stderr(data)) => ServerFrame::Stderr(data),
        Err(error) => ServerFrame::Error(ErrorBody::new(error.code(), error.to_string())),
    });
    let frames = until_stopping(frames, agent.cancel.clone(), ServerFrame::Error).map(|frame| {
        let mut wire = BytesMut::new();
        ServerCodec::default().encode(frame, &mut wire).map(|()| wire.freeze())
    });
    Ok(streamed("application/octet-stream", Body::from_stream(frames)))
}

/// Upgrades to a stream; from then on [`session`] has the connection.
async fn run(State(agent): Agent, Path(kernel): Path<String>, mut request: Request) -> Answer<Response> {
    let kernel = agent.rooms.kernels.get(&parse(&kernel)?)?;
    let asked = request.headers().get(header::UPGRADE);
    if asked.is_none_or(|protocol| protocol.as_bytes() != stream::PROTOCOL.as_bytes()) {
        return Err(ErrorBody::new(
            "upgrade-required",
            format!("a run needs `Upgrade: {}`", stream::PROTOCOL),
        ));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let lease = {
        let _entered = agent.core.enter();
        agent.rooms.kernels.lease(kernel.id)
    };
    let (route, cancel) = (agent.rooms.route.clone(), agent.cancel.clone());
    let session = async move {
        let _lease = lease;
        match upgrade.await {
            Ok(upgraded) => {
                let connection = hyper_util::rt::TokioIo::new(upgraded);
                session::serve(connection, kernel.id, &route, &cancel).await;
            }
            Err(error) => {
                tracing::debug!(kernel = %kernel.id, %error, "a client left before its stream began")
            }
        }
    };
    agent.sessions.spawn_on(session, &agent.core);

    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(stream::PROTOCOL));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response)
}

async fn unknown_path(request: Request) -> ErrorBody {
    ErrorBody::new("no-such-path", format!("this agent knows no {}", request.uri().path()))
        .with_hint(format!("it is berth {}; paths begin with /v1/", env!("CARGO_PKG_VERSION")))
}

async fn wrong_method(request: Request) -> ErrorBody {
    ErrorBody::new("wrong-method", format!("{} does not take {}", request.uri().path(), request.method()))
}

/// Runs on the agent's runtime, so that what a room spawns lives there and not on this thread.
pub(super) async fn on_core<T: Send + 'static>(
    agent: &Shared,
    work: impl Future<Output = T> + Send + 'static,
) -> Answer<T> {
    agent.core.spawn(work).await.map_err(|_| failed())
}

/// What open requests are told when the agent stops.
pub(super) fn stopping() -> ErrorBody {
    ErrorBody::new("stopping", "the agent is ending; kernels run on")
        .with_hint("try again when `berth status` says that it is back")
}

/// A stream that may never end, ended with a word about it when the agent stops.
pub(super) fn until_stopping<T>(
    stream: impl Stream<Item = T>,
    ending: CancellationToken,
    word: impl FnOnce(ErrorBody) -> T,
) -> impl Stream<Item = T> {
    let told = ending.clone();
    let last = futures_util::stream::once(async move { told.is_cancelled().then(|| word(stopping())) });
    stream.take_until(ending.cancelled_owned()).chain(last.filter_map(std::future::ready))
}

pub(super) fn failed() -> ErrorBody {
    ErrorBody::new("internal", "the request failed inside the agent").with_hint("its log says more")
}

pub(super) fn parse(kernel: &str) -> Answer<KernelRef> {
    kernel.parse().map_err(|error: crate::ids::ParseIdError| ErrorBody::new("bad-name", error.to_string()))
}

pub(super) fn streamed(kind: &'static str, body: Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

impl IntoResponse for ErrorBody {
    fn into_response(self) -> Response {
        (self.status(), Json(self)).into_response()
    }
}

impl From<QueryRejection> for ErrorBody {
    fn from(rejection: QueryRejection) -> Self {
        Self::new("bad-request", rejection.body_text())
    }
}

impl From<JsonRejection> for ErrorBody {
    fn from(rejection: JsonRejection) -> Self {
        Self::new("bad-request", rejection.body_text())
    }
}
