//! Requests that replace policies while kernels run. What they may do is the policy room's to say.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::StreamExt as _;

use super::Shared;
use super::api::ErrorBody;
use super::handlers::{Agent, Answer, on_core};
use super::peer::Caller;
use super::policy_api::{ActivateBody, PushQuery, RollbackBody, ShowQuery};
use crate::policy::swap::{MODULE_BYTES, Order, Pushed, Shown, Swapped};
use crate::policy::{Loading, ModuleRow};

/// The longest reason that is kept.
const REASON_BYTES: usize = 400;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/policies/modules", get(modules).post(push))
        .route("/v1/policies/loading", get(loading))
        .route("/v1/policies/activate", post(activate))
        .route("/v1/policies/rollback", post(roll_back))
        .route("/v1/policies/show", get(show))
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
) -> Answer<Json<Swapped>> {
    let Json(ActivateBody { target, link, reason }) = body?;
    let (swap, order) = (agent.rooms.swap.clone(), order(&caller, reason)?);
    Ok(Json(on_core(&agent, async move { swap.activate(target, link, order).await }).await??))
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
        reason => Ok(Order { uid: caller.uid, reason }),
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
