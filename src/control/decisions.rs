//! Requests about decisions: the journal, why a kernel is as it is, and what one would be (`--dry-run`).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::api::{CreateBody, ErrorBody};
use super::handlers::{Agent, Answer, failed, line, on_core, parse, request_for, streamed};
use super::peer::Caller;
use super::policy_api::{DecisionsQuery, WhyView};
use super::{Shared, why};
use crate::ids::KernelRef;
use crate::kernel::{KernelView, Rehearsal};
use crate::policy::journal::{Entry, Follower, Journal, Wanted};

/// Records on their way to one client.
const QUEUE: usize = 64;
/// Records that `why` looks at.
const ABOUT_ONE: usize = 1000;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/decisions", get(decisions))
        .route("/v1/kernels/{kernel}/why", get(why))
        .route("/v1/dry-run", post(dry_run))
}

async fn dry_run(
    State(agent): Agent,
    Extension(caller): Extension<Caller>,
    body: Result<Json<CreateBody>, JsonRejection>,
) -> Answer<Json<Rehearsal>> {
    let Json(body) = body?;
    let shared = Arc::clone(&agent);
    let rehearsal = on_core(&agent, async move {
        let request = request_for(&shared, &caller, body).await?;
        Ok::<_, ErrorBody>(shared.rooms.kernels.rehearse(request).await?)
    });
    Ok(Json(rehearsal.await??))
}

async fn why(State(agent): Agent, Path(kernel): Path<String>) -> Answer<Json<WhyView>> {
    let asked = parse(&kernel)?;
    let (view, id) = match (agent.rooms.kernels.get(&asked), &asked) {
        (Ok(view), _) => (Some(view.clone()), view.id),
        (Err(_), KernelRef::Id(id)) => (None, *id),
        (Err(error), KernelRef::Name(_)) => {
            return Err(ErrorBody::from(error)
                .with_hint("`berth ps -a` lists all; one that was removed is asked for by its id"));
        }
    };
    let wanted = Wanted { kernel: Some(id.to_string()), most: Some(ABOUT_ONE), ..Wanted::default() };
    let decisions = match agent.rooms.policy.journal().cloned() {
        Some(journal) => read(&agent, journal, wanted).await?,
        None => Vec::new(),
    };
    if view.is_none() && decisions.is_empty() {
        return Err(ErrorBody::new(
            "no-such-kernel",
            format!("there is no kernel {id}, and the journal of decisions knows nothing of it"),
        )
        .with_hint("`berth ps -a` lists all; the journal forgets the oldest decisions first"));
    }
    let name = view.as_ref().map(|view: &KernelView| view.name.clone());
    let sentences = why::sentences(&id.to_string(), view.as_ref(), &decisions);
    Ok(Json(WhyView { kernel: id, name, sentences, decisions }))
}

/// A line of JSON per decision, oldest first; with `follow` until the client hangs up or the agent ends.
async fn decisions(
    State(agent): Agent,
    query: Result<Query<DecisionsQuery>, QueryRejection>,
) -> Answer<Response> {
    let Query(query) = query?;
    let Some(journal) = agent.rooms.policy.journal().cloned() else {
        return Err(ErrorBody::new("no-journal", "this agent writes no journal of decisions")
            .with_hint("`berth status` says why"));
    };
    let kernel = query.kernel.as_deref().map(|kernel| kernel_id(&agent, kernel)).transpose()?;
    let wanted = Wanted { kernel, most: query.most, ..Wanted::default() };
    journal.settled().await;
    // Before what is there is read, so that nothing falls between; what is seen twice is told once.
    let follower = match query.follow {
        true => Some(journal.follow().map_err(|error| unreadable(&error))?),
        false => None,
    };
    let there = read(&agent, journal, wanted.clone()).await?;
    let (lines, queue) = mpsc::channel(QUEUE);
    let cancel = agent.cancel.clone();
    agent.core.spawn(async move {
        let mut last = 0;
        for entry in there {
            last = entry.seq;
            if lines.send(line(&entry)).await.is_err() {
                return;
            }
        }
        if let Some(follower) = follower {
            follow(follower, &wanted, last, &lines, &cancel).await;
        }
    });
    Ok(streamed("application/x-ndjson", Body::from_stream(ReceiverStream::new(queue).map(|line| line))))
}

type Line = Result<Bytes, serde_json::Error>;

/// Tells what is written after `last`. Ends with the client or the agent.
async fn follow(
    mut follower: Follower,
    wanted: &Wanted,
    last: u64,
    lines: &mpsc::Sender<Line>,
    cancel: &CancellationToken,
) {
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let entries = follower.read_on();
            (follower, entries)
        });
        let Ok((back, Ok(entries))) = read.await else { return };
        follower = back;
        let more_to_read = !entries.is_empty();
        for entry in entries.iter().filter(|entry| entry.seq > last && wanted.matches(entry)) {
            if lines.send(line(entry)).await.is_err() {
                return;
            }
        }
        if more_to_read {
            continue;
        }
        // Cancel-safe: a watch, a channel's closing, a token.
        tokio::select! {
            more = follower.more() => if !more { return },
            () = lines.closed() => return,
            () = cancel.cancelled() => return,
        }
    }
}

/// The id of a kernel that is there by name, or of any by id.
pub(super) fn kernel_id(agent: &Shared, kernel: &str) -> Answer<String> {
    match parse(kernel)? {
        KernelRef::Id(id) => Ok(id.to_string()),
        name => Ok(agent.rooms.kernels.get(&name)?.id.to_string()),
    }
}

async fn read(agent: &Shared, journal: Journal, wanted: Wanted) -> Answer<Vec<Entry>> {
    journal.settled().await;
    let reading = agent.core.spawn_blocking(move || journal.read(&wanted)).await;
    reading.map_err(|_| failed())?.map_err(|error| unreadable(&error))
}

fn unreadable(error: &std::io::Error) -> ErrorBody {
    ErrorBody::new("journal-unreadable", format!("the journal of decisions cannot be read: {error}"))
        .with_hint("see whether the disk of the state directory is in order")
}
