//! The requests about images: they become calls of the engine, whose steps go back line by line.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::api::{ErrorBody, ImageLine, ImageQuery, ImageRow, ImportQuery};
use super::handlers::{Agent, Answer, line, on_core, stopping, streamed};
use crate::engine::{ArchiveKind, ImageSteps, Import, SharedEngine};
use crate::images::{self, LABEL_DEFAULT};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/images", get(list).delete(remove))
        .route("/v1/images/pull", post(pull))
        .route("/v1/images/import", post(import))
}

async fn list(State(agent): Agent) -> Answer<Json<Vec<ImageRow>>> {
    let engine = agent.rooms.kernels.engine().clone();
    let images = on_core(&agent, async move { engine.images().await }).await??;
    let row = |image| ImageRow { runs_kernels: images::use_of(&image), image };
    Ok(Json(images.into_iter().map(row).collect()))
}

async fn remove(
    State(agent): Agent,
    query: Result<Query<ImageQuery>, QueryRejection>,
) -> Answer<Json<Vec<String>>> {
    let Query(ImageQuery { image: reference, force }) = query?;
    check(&reference)?;
    let kernels = agent.rooms.kernels.clone();
    let removed = on_core(&agent, async move {
        let Some(image) = kernels.engine().image(&reference).await? else {
            // An engine without images says that; any other, that there is none.
            return kernels.engine().remove_image(&reference, force).await.map_err(ErrorBody::from);
        };
        let users = kernels.users_of(&image).await?;
        if let (Some(first), false) = (users.first(), force) {
            let names = users.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(ErrorBody::new("image-in-use", format!("{reference} is in use by {names}"))
                .with_hint(format!("`berth rm -f {first}` first, or `berth image rm --force {reference}`")));
        }
        Ok(kernels.engine().remove_image(&reference, force).await?)
    });
    Ok(Json(removed.await??))
}

async fn pull(State(agent): Agent, query: Result<Query<ImageQuery>, QueryRejection>) -> Answer<Response> {
    let Query(query) = query?;
    check(&query.image)?;
    let engine = agent.rooms.kernels.engine().clone();
    let (lines, receiver) = mpsc::channel(16);
    run(&agent, lines.clone(), async move { hand_on(engine.pull(&query.image, None).await?, &lines).await });
    Ok(answered(receiver))
}

/// The archive is handed on as it arrives. When that fails, the rest of it is read and thrown away: a client
/// that is still writing would not see why.
async fn import(
    State(agent): Agent,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Body,
) -> Answer<Response> {
    let Query(query) = query?;
    if let Some(name) = &query.name {
        check(name)?;
    }
    let engine = agent.rooms.kernels.engine().clone();
    let (lines, receiver) = mpsc::channel(16);
    run(&agent, lines.clone(), async move {
        let mut pieces = body.into_data_stream().map(|piece| piece.map_err(io::Error::other));
        let (feed, fed) = mpsc::channel(4);
        let work = async {
            let done = import_fed(&engine, query, fed, &lines).await;
            if let Err(error) = &done {
                let _ = lines.send(ImageLine::Failed { error: error.clone() }).await;
            }
            done
        };
        let pump = async move {
            while let Some(piece) = pieces.next().await {
                let broken = piece.is_err();
                let _ = feed.send(piece).await;
                if broken {
                    break;
                }
            }
        };
        // Both: an import ends after its archive, a failure is told while the archive still comes.
        let (_, _told) = tokio::join!(pump, work);
        Ok(())
    });
    Ok(answered(receiver))
}

async fn import_fed(
    engine: &SharedEngine,
    query: ImportQuery,
    mut fed: mpsc::Receiver<io::Result<Bytes>>,
    lines: &mpsc::Sender<ImageLine>,
) -> Answer<()> {
    let head = peek(&mut fed).await.map_err(|error| {
        ErrorBody::new("bad-request", format!("the archive did not arrive whole: {error}"))
    })?;
    let kind = images::kind(&head.iter().flatten().copied().take(images::HEAD).collect::<Vec<_>>()).map_err(
        |error| {
            ErrorBody::new("bad-archive", error.to_string())
                .with_hint("give what `docker save` writes, or a tar (plain or .gz) of a root file system")
        },
    )?;
    let import = plan(kind, query)?;
    let archive = futures_util::stream::iter(head.into_iter().map(Ok)).chain(ReceiverStream::new(fed));
    hand_on(engine.import(import, archive.boxed()).await?, lines).await
}

/// What is to be made of an archive, by what it is and what was asked for.
fn plan(kind: ArchiveKind, query: ImportQuery) -> Answer<Import> {
    let labels = match (kind, query.default) {
        (_, false) => Vec::new(),
        (ArchiveKind::Root, true) => vec![(LABEL_DEFAULT.to_owned(), "1".to_owned())],
        (ArchiveKind::Saved, true) => {
            return Err(ErrorBody::new("bad-request", "a saved image keeps the labels it was saved with")
                .with_hint("leave --default out, or import a root file system"));
        }
    };
    if kind == ArchiveKind::Root && query.name.is_none() {
        return Err(ErrorBody::new("bad-name", "a root file system has no name of its own")
            .with_hint("give it one: --name NAME"));
    }
    Ok(Import { kind, name: query.name, labels })
}

/// As many of the first pieces as tell what the archive is.
async fn peek(fed: &mut mpsc::Receiver<io::Result<Bytes>>) -> io::Result<VecDeque<Bytes>> {
    let (mut head, mut length) = (VecDeque::new(), 0);
    while length < images::HEAD {
        let Some(piece) = fed.recv().await else { break };
        let piece = piece?;
        length += piece.len();
        head.push_back(piece);
    }
    Ok(head)
}

/// Runs a transfer on the agent's runtime until it ends, the client hangs up, or the agent stops.
fn run(
    agent: &Shared,
    lines: mpsc::Sender<ImageLine>,
    work: impl Future<Output = Answer<()>> + Send + 'static,
) {
    let cancel = agent.cancel.clone();
    let transfer = async move {
        let end = tokio::select! {
            () = lines.closed() => return,
            () = cancel.cancelled() => Err(stopping()),
            end = work => end,
        };
        if let Err(error) = end {
            // Nobody listens any more, or hears it.
            let _ = lines.send(ImageLine::Failed { error }).await;
        }
    };
    agent.sessions.spawn_on(transfer, &agent.core);
}

async fn hand_on(mut steps: ImageSteps, lines: &mpsc::Sender<ImageLine>) -> Answer<()> {
    while let Some(step) = steps.recv().await {
        // A client that is gone ends the transfer elsewhere.
        let _ = lines.send(ImageLine::Step(step?)).await;
    }
    Ok(())
}

fn answered(lines: mpsc::Receiver<ImageLine>) -> Response {
    let lines = ReceiverStream::new(lines).map(|step| line(&step));
    streamed("application/x-ndjson", Body::from_stream(lines))
}

fn check(reference: &str) -> Answer<()> {
    images::check_reference(reference).map_err(|problem| {
        ErrorBody::new("bad-name", problem).with_hint("`berth image list` shows names and ids")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_archive_becomes_depends_on_what_it_is() {
        let query = |name: Option<&str>, default| ImportQuery { name: name.map(str::to_owned), default };
        let label = (LABEL_DEFAULT.to_owned(), "1".to_owned());
        let root = plan(ArchiveKind::Root, query(Some("a:1"), true)).unwrap();
        assert_eq!((root.name.as_deref(), root.labels), (Some("a:1"), vec![label]));
        assert_eq!(plan(ArchiveKind::Root, query(None, false)).unwrap_err().code, "bad-name");
        assert_eq!(plan(ArchiveKind::Saved, query(None, false)).unwrap().name, None);
        assert_eq!(plan(ArchiveKind::Saved, query(None, true)).unwrap_err().code, "bad-request");
    }

    #[tokio::test]
    async fn the_head_of_an_archive_is_kept_for_the_engine() {
        let (feed, mut fed) = mpsc::channel(4);
        for piece in ["one", "two"] {
            feed.send(Ok(Bytes::from(piece))).await.unwrap();
        }
        drop(feed);
        assert_eq!(peek(&mut fed).await.unwrap(), ["one", "two"]);
        let (feed, mut fed) = mpsc::channel(4);
        feed.send(Ok(Bytes::from(vec![0; images::HEAD]))).await.unwrap();
        assert_eq!(peek(&mut fed).await.unwrap().len(), 1, "it does not wait for more");
    }
}
