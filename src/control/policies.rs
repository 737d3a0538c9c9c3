//! Requests that replace policies while kernels run. What they may do is the policy room's to say.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::api::ErrorBody;
use super::decisions::kernel_id;
use super::handlers::{Agent, Answer, line, on_core, streamed};
use super::peer::Caller;
use super::policy_api::{
    ActivateBody, EndShadowBody, PushQuery, ReplayQuery, RollbackBody, SetBody, ShowQuery, SwapLine,
};
use crate::policy::journal::Wanted;
use crate::policy::swap::{
    Activation, Asked, MODULE_BYTES, Order, Outcome, Pushed, ReplayOrder, SettingsChange, Shown, Steps,
    SwapError, Swapped,
};
use crate::policy::{Loading, ModuleRow, ShadowView};

/// The longest reason that is kept.
const REASON_BYTES: usize = 400;
/// Steps on their way to one client.
const STEPS: usize = 16;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/policies/modules", get(modules).post(push))
        .route("/v1/policies/loading", get(loading))
        .route("/v1/policies/activate", post(activate))
        .route("/v1/policies/settings", post(set))
        .route("/v1/policies/replay", post(replay))
        .route("/v1/policies/shadow/end", post(end_shadows))
        .route("/v1/policies/rollback", post(roll_back))
        .route("/v1/policies/show", get(show))
        .route("/v1/policies/module", get(module))
}

async fn modules(State(agent): Agent) -> Json<Vec<ModuleRow>> {
    Json(agent.rooms.swap.modules().await)
}

async fn loading(State(agent): Agent) -> Json<Option<Loading>> {
    Json(agent.rooms.policy.loading())
}

async fn push(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PushQuery>, QueryRejection>,
    body: Body,
) -> Answer<Json<Pushed>> {
    let Query(query) = query?;
    let bytes = collect(body).await?;
    let swap = agent.rooms.swap.clone();
    let pushed = on_core(&agent, async move { swap.push(bytes, query.link, caller.uid).await }).await??;
    Ok(Json(pushed))
}

/// The whole module. One that is too large is read to its end and not kept: a client that is still writing would
/// not see the refusal.
async fn collect(body: Body) -> Answer<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0_u64);
    let mut body = body.into_data_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| {
            ErrorBody::new("bad-request", format!("the module did not arrive whole: {error}"))
        })?;
        length += piece.len() as u64;
        if length <= MODULE_BYTES {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
        }
    }
    if length <= MODULE_BYTES {
        return Ok(bytes);
    }
    let problem = crate::policy::Problem::TooLarge { bytes: length, limit: MODULE_BYTES };
    Err(crate::policy::swap::SwapError::from(problem).into())
}

async fn activate(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    body: Result<Json<ActivateBody>, JsonRejection>,
) -> Answer<Response> {
    let Json(ActivateBody { target, link, reason, settings, accept_diff, shadow }) = body?;
    let (swap, order) = (agent.rooms.swap.clone(), order(&caller, reason)?);
    let wanted = Activation { target, link, settings, accept_diff, shadow, order };
    Ok(step_by_step(&agent, move |steps| async move {
        swap.activate(wanted, &steps).await.map(|done| SwapLine::Done(Box::new(done)))
    }))
}

async fn set(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    body: Result<Json<SetBody>, JsonRejection>,
) -> Answer<Response> {
    let Json(SetBody { world, link, set, unset, from_configured, accept_diff, reason }) = body?;
    let (swap, order) = (agent.rooms.swap.clone(), order(&caller, reason)?);
    let change = SettingsChange { world, link, set: set.0, unset, from_configured, accept_diff, order };
    Ok(step_by_step(&agent, move |steps| async move {
        let swapped = swap.set(change, &steps).await?;
        Ok(SwapLine::Done(Box::new(Outcome::Active(Box::new(swapped)))))
    }))
}

async fn replay(
    State(agent): Agent,
    query: Result<Query<ReplayQuery>, QueryRejection>,
    body: Body,
) -> Answer<Response> {
    let Query(query) = query?;
    let bytes = collect(body).await?;
    let asked = match (query.module, bytes.is_empty()) {
        (Some(_), false) => {
            return Err(ErrorBody::new(
                "bad-request",
                "a replay takes a module's name or its bytes, not both",
            ));
        }
        (None, false) => Asked::Bytes(bytes),
        (Some(module), true) if module == "builtin" => Asked::Builtin,
        (Some(module), true) => Asked::Pushed(module),
        (None, true) => Asked::Makers,
    };
    let settings = query.settings.as_deref().map(serde_json::from_str).transpose().map_err(|error| {
        ErrorBody::new("bad-request", format!("the settings are no JSON object of settings: {error}"))
    })?;
    let kernel = query.kernel.as_deref().map(|kernel| kernel_id(&agent, kernel)).transpose()?;
    let wanted = Wanted {
        kernel,
        world: query.world,
        link: query.link,
        from: query.from,
        to: query.to,
        most: query.most,
    };
    let (swap, order) = (agent.rooms.swap.clone(), ReplayOrder { asked, wanted, settings });
    Ok(step_by_step(&agent, move |steps| async move {
        swap.replay(order, &steps).await.map(|report| SwapLine::Replayed(Box::new(report)))
    }))
}

/// A line of JSON per step, and one for what came of it. Who hangs up before anything is changed has wanted nothing.
fn step_by_step<F>(agent: &Shared, work: impl FnOnce(Steps) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<SwapLine, SwapError>> + Send + 'static,
{
    let (lines, queue) = mpsc::channel(STEPS);
    let (says, mut heard) = mpsc::channel(STEPS);
    agent.core.spawn(async move {
        let working = work(Steps::to(says));
        tokio::pin!(working);
        let last = loop {
            // Cancel-safe: channels, and a future that goes on from where it was.
            tokio::select! {
                biased;
                Some(step) = heard.recv() => {
                    // Gone: the branch below.
                    let _ = lines.send(line(&SwapLine::Step(step))).await;
                }
                // A client that hangs up is seen by the work, which ends or is past the point where it could.
                () = lines.closed(), if !heard.is_closed() => heard.close(),
                done = &mut working => break done.unwrap_or_else(SwapLine::from),
            }
        };
        // Whoever asked may have gone.
        let _ = lines.send(line(&last)).await;
    });
    streamed("application/x-ndjson", Body::from_stream(ReceiverStream::new(queue)))
}

async fn end_shadows(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    body: Result<Json<EndShadowBody>, JsonRejection>,
) -> Answer<Json<Vec<ShadowView>>> {
    let Json(EndShadowBody { world, link, reason }) = body?;
    let (swap, order) = (agent.rooms.swap.clone(), order(&caller, reason)?);
    Ok(Json(on_core(&agent, async move { swap.end_shadows(world, link, order).await }).await??))
}

async fn roll_back(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    body: Result<Json<RollbackBody>, JsonRejection>,
) -> Answer<Json<Swapped>> {
    let Json(RollbackBody { world, link, reason }) = body?;
    let (swap, order) = (agent.rooms.swap.clone(), order(&caller, reason)?);
    Ok(Json(on_core(&agent, async move { swap.roll_back(world, link, order).await }).await??))
}

fn order(caller: &Caller, reason: Option<String>) -> Answer<Order> {
    match reason {
        Some(reason) if reason.len() > REASON_BYTES || reason.chars().any(char::is_control) => {
            Err(ErrorBody::new("bad-reason", format!("a reason is one line of at most {REASON_BYTES} bytes"))
                .with_hint("say it shorter"))
        }
        reason => Ok(Order { uid: Some(caller.uid), reason }),
    }
}

async fn show(
    State(agent): Agent,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Answer<Json<Vec<Shown>>> {
    let Query(query) = query?;
    let swap = agent.rooms.swap.clone();
    Ok(Json(on_core(&agent, async move { swap.show(&query.of, query.link).await }).await??))
}

/// A pushed module itself, for whoever wants to look into it. (`link` is of no matter here.)
async fn module(
    State(agent): Agent,
    query: Result<Query<ShowQuery>, QueryRejection>,
) -> Answer<([(HeaderName, &'static str); 1], Vec<u8>)> {
    let Query(query) = query?;
    let swap = agent.rooms.swap.clone();
    let bytes = on_core(&agent, async move { swap.module(&query.of).await }).await??;
    Ok(([(CONTENT_TYPE, "application/wasm")], bytes))
}
