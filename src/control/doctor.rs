//! The request for a look at the node: [`crate::doctor`].

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::Shared;
use super::handlers::{Agent, Answer, on_core};
use crate::doctor::{self, Report};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/doctor", get(look))
}

async fn look(State(agent): Agent) -> Answer<Json<Report>> {
    let state_dir = agent.rooms.status.borrow().state_dir.clone();
    let (kernels, policies) = (agent.rooms.kernels.clone(), agent.rooms.policy.list());
    Ok(Json(on_core(&agent, async move { doctor::online(&kernels, policies, state_dir).await }).await?))
}
