//! Lifecycle events as a stream, and the places of named readers: [`crate::events`].

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt as _};

use super::Shared;
use super::api::{AcknowledgeBody, ErrorBody, EventLine, EventsQuery};
use super::handlers::{Agent, Answer, line, on_core, streamed, until_stopping};
use crate::events::{Next, Reader};
use crate::ids::KernelRef;
use crate::kernel::Kernels;

/// Longest name of a reader.
const NAME_MAX: usize = 64;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/events", get(read)).route("/v1/events/readers/{name}", put(acknowledge))
}

/// A line of JSON per event: what is retained, or with `follow` without an end.
async fn read(State(agent): Agent, query: Result<Query<EventsQuery>, QueryRejection>) -> Answer<Response> {
    let Query(query) = query?;
    let outbox = &agent.rooms.outbox;
    let place = match &query.reader {
        Some(name) => outbox.cursor(checked(name)?),
        None => query.from,
    };
    // Whoever names no place has missed nothing that was dropped before.
    let told_of_loss = place.is_some();
    let everything = !query.follow || query.reader.is_some();
    let reader = outbox.subscribe(place.or(everything.then_some(1)));
    let end = (!query.follow).then(|| outbox.subscribe(None).cursor());
    let lines = events(reader, end, told_of_loss, agent.rooms.kernels.clone());
    let lines = until_stopping(lines, agent.cancel.clone(), |error| EventLine::Error { error });
    Ok(streamed("application/x-ndjson", Body::from_stream(lines.map(|event| line(&event)))))
}

/// What the reader meets, up to the event before number `end`.
fn events(
    reader: Reader,
    end: Option<u64>,
    mut told_of_loss: bool,
    kernels: Kernels,
) -> impl Stream<Item = EventLine> {
    let lines = futures_util::stream::unfold((reader, kernels), move |(mut reader, kernels)| async move {
        if end.is_some_and(|end| reader.cursor() >= end) {
            return None;
        }
        let line = match reader.next().await? {
            Next::Lost(lost) => EventLine::Lost { lost },
            Next::Event(event) => {
                let name = kernels.get(&KernelRef::Id(event.kernel)).ok().map(|kernel| kernel.name);
                EventLine::Event { event, name }
            }
        };
        Some((line, (reader, kernels)))
    });
    lines.filter(move |line| {
        let keep = told_of_loss || !matches!(line, EventLine::Lost { .. });
        told_of_loss |= keep;
        std::future::ready(keep)
    })
}

/// Notes that a reader has seen everything before an event.
async fn acknowledge(
    State(agent): Agent,
    Path(name): Path<String>,
    body: Result<Json<AcknowledgeBody>, JsonRejection>,
) -> Answer<StatusCode> {
    let Json(body) = body?;
    checked(&name)?;
    let newest = agent.rooms.outbox.subscribe(None).cursor();
    if body.next > newest {
        let problem = format!("event {} has not happened yet: the next is {newest}", body.next);
        return Err(ErrorBody::new("bad-request", problem));
    }
    let outbox = agent.rooms.outbox.clone();
    on_core(&agent, async move { outbox.acknowledge(&name, body.next).await }).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// A reader's name is a key on disk and a part of a path.
fn checked(name: &str) -> Answer<&str> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(fine) {
        return Ok(name);
    }
    Err(ErrorBody::new("bad-name", format!("{name:?} is no name of a reader"))
        .with_hint(format!("letters, digits, -, _ and ., at most {NAME_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_readers_are_plain() {
        assert_eq!(checked("ops-1.a_b"), Ok("ops-1.a_b"));
        for wrong in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert_eq!(checked(wrong).unwrap_err().code, "bad-name", "{wrong:?}");
        }
    }
}
