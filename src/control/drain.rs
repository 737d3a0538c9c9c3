//! The requests about the drain of the node: [`crate::drain`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};

use super::Shared;
use super::api::{DrainBody, DrainQuery};
use super::handlers::{Agent, Answer, on_core, stopping};
use crate::drain::DrainView;

/// How long a waiter goes without a look of its own: an event comes a moment before the list shows it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/drain", get(view).put(begin).delete(end))
}

/// At once, or when no kernel is left or the drain was ended.
async fn view(
    State(agent): Agent,
    query: Result<Query<DrainQuery>, QueryRejection>,
) -> Answer<Json<DrainView>> {
    let Query(query) = query?;
    let mut events = agent.rooms.outbox.subscribe(None);
    loop {
        let view = agent.rooms.drain.view(&agent.rooms.kernels);
        if !query.wait || view.kernels.is_empty() || view.draining.is_none() {
            return Ok(Json(view));
        }
        // Cancel-safe, all of them.
        tokio::select! {
            () = agent.cancel.cancelled() => return Err(stopping()),
            _ = events.next() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn begin(State(agent): Agent, body: Result<Json<DrainBody>, JsonRejection>) -> Answer<Json<DrainView>> {
    let Json(body) = body?;
    let drain = agent.rooms.drain.clone();
    on_core(&agent, async move { drain.begin(body.stop_after_ms.map(Duration::from_millis)).await })
        .await??;
    Ok(Json(agent.rooms.drain.view(&agent.rooms.kernels)))
}

async fn end(State(agent): Agent) -> Answer<Json<DrainView>> {
    let drain = agent.rooms.drain.clone();
    on_core(&agent, async move { drain.end().await }).await??;
    Ok(Json(agent.rooms.drain.view(&agent.rooms.kernels)))
}
