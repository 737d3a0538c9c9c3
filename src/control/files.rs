//! The requests about files of a kernel. Bodies are streams both ways; the work is done by the kernel room's threads.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::codec::Encoder as _;

use super::Shared;
use super::api::{ErrorBody, FileQuery, FilesLine, FolderQuery, TreeQuery};
use super::handlers::{Agent, Answer, line, on_core, parse, stopping, streamed, until_stopping};
use super::stream::{ServerCodec, ServerFrame};
use crate::kernel::files::{Files, Incoming, Piece, Received};
use crate::kernel::{KernelError, files};
use crate::tree::Carried;
use crate::tree::list::Listing;
use crate::tree::whole::Meta;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/kernels/{kernel}/files", get(read).put(write))
        .route("/v1/kernels/{kernel}/files/list", get(list))
        .route("/v1/kernels/{kernel}/files/tree", get(pack).put(unpack))
}

async fn list(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<FolderQuery>, QueryRejection>,
) -> Answer<Json<Listing>> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    let files = agent.rooms.files.clone();
    let most = query.most.unwrap_or(files::LISTED_MAX);
    let listing = on_core(&agent, async move { files.list(&kernel, &query.path, most).await });
    Ok(Json(listing.await??))
}

async fn read(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<FileQuery>, QueryRejection>,
) -> Answer<Response> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    Ok(sent(&agent, agent.rooms.files.read(&kernel, &query.path, query.most)?))
}

async fn pack(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<TreeQuery>, QueryRejection>,
) -> Answer<Response> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    let pieces = agent.rooms.files.pack(&kernel, &query.path, query.name.as_deref(), query.most)?;
    Ok(sent(&agent, pieces))
}

async fn write(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<FileQuery>, QueryRejection>,
    body: Body,
) -> Answer<Response> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    let meta = Meta { mode: query.mode, mtime: None };
    Ok(received(&agent, body, |files, content| async move {
        let bytes = files.write(&kernel, &query.path, meta, content).await?;
        Ok(Received { carried: Carried { entries: 1, bytes }, ..Received::default() })
    }))
}

async fn unpack(
    State(agent): Agent,
    Path(kernel): Path<String>,
    query: Result<Query<TreeQuery>, QueryRejection>,
    body: Body,
) -> Answer<Response> {
    let (kernel, Query(query)) = (parse(&kernel)?, query?);
    Ok(received(
        &agent,
        body,
        |files, archive| async move { files.unpack(&kernel, &query.path, archive).await },
    ))
}

/// What comes out, as frames: the bytes, a line of JSON per note, at worst an error.
fn sent(agent: &Shared, pieces: mpsc::Receiver<Piece>) -> Response {
    let frames = ReceiverStream::new(pieces).map(|piece| match piece {
        Piece::Data(data) => ServerFrame::Stdout(data),
        Piece::Note(note) => match line(&note) {
            Ok(note) => ServerFrame::Stderr(note),
            Err(error) => ServerFrame::Error(ErrorBody::new("internal", error.to_string())),
        },
        Piece::Failed(error) => ServerFrame::Error(error.into()),
    });
    let frames = until_stopping(frames, agent.cancel.clone(), ServerFrame::Error).map(|frame| {
        let mut wire = BytesMut::new();
        ServerCodec::default().encode(frame, &mut wire).map(|()| wire.freeze())
    });
    streamed("application/octet-stream", Body::from_stream(frames))
}

/// Hands a body on as it arrives, and answers with one line. A failure is told at once; the rest of the body is read and
/// thrown away, since a client that is still writing would not see the answer. When the client hangs up or the agent
/// stops, the body does not get to its end, and nothing half stays.
fn received<F>(agent: &Shared, body: Body, work: impl FnOnce(Files, Incoming) -> F) -> Response
where
    F: Future<Output = Result<Received, KernelError>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(1);
    let (feed, fed) = mpsc::channel(4);
    let working = work(agent.rooms.files.clone(), fed);
    let cancel = agent.cancel.clone();
    let transfer = async move {
        let work = async {
            let last = match working.await {
                Ok(received) => FilesLine::Received(received),
                Err(_) if cancel.is_cancelled() => FilesLine::Failed { error: stopping() },
                Err(error) => FilesLine::Failed { error: error.into() },
            };
            // Nobody may listen any more.
            let _ = lines.send(last).await;
        };
        let arrive = async {
            // Not to its end in the first two cases: the work fails, and takes away what is half.
            tokio::select! {
                () = lines.closed() => {}
                () = cancel.cancelled() => {}
                () = pump(body, feed) => {}
            }
        };
        tokio::join!(arrive, work);
    };
    agent.sessions.spawn_on(transfer, &agent.core);
    let lines = ReceiverStream::new(receiver).map(|step| line(&step));
    streamed("application/x-ndjson", Body::from_stream(lines))
}

async fn pump(body: Body, feed: mpsc::Sender<io::Result<Bytes>>) {
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            // An empty one would be taken for the end.
            Ok(piece) if piece.is_empty() => {}
            // Who does not take it any more has said why.
            Ok(piece) => drop(feed.send(Ok(piece)).await),
            Err(error) => return drop(feed.send(Err(io::Error::other(error))).await),
        }
    }
    let _ = feed.send(Ok(Bytes::new())).await;
}
