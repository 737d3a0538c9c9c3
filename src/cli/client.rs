//! HTTP over the agent's socket. One connection per request; nothing is kept.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::codec::Decoder as _;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use super::error::CliError;
use super::what::Upload;
use crate::control::api::{CreateBody, ErrorBody, FilesLine, LogsQuery};
use crate::control::{socket, stream};
use crate::ids::{KernelId, KernelRef};
use crate::kernel::files::Received;
use crate::kernel::{KernelView, Phase, Progress};

#[cfg(test)]
mod tests;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An agent, by its socket.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    socket: PathBuf,
}

/// An answer whose body is still to be read. Dropping it hangs up, which cancels what the agent does for it.
struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Agent {
    /// The agent at that socket, or at the default one, which must lie where nobody else can have put it.
    pub(super) fn at(named: Option<PathBuf>) -> Result<Self, CliError> {
        let socket = match named {
            Some(socket) => socket,
            None => {
                let default = socket::default_path();
                socket::check_directory(&default).map_err(|problem| {
                    CliError::new(format!("the default socket is not to be trusted: {problem}"))
                        .with_hint("name the agent's socket with --socket or BERTH_SOCKET")
                })?;
                default
            }
        };
        Ok(Self { socket })
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Reads something.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.send(Method::GET, path, empty()).await?.json().await
    }

    /// Asks for something with a JSON body, or none.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        let body = body.map_or_else(|| Ok(empty()), json)?;
        self.send(Method::POST, path, body).await?.json().await
    }

    /// Puts something there.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.send(Method::PUT, path, json(body)?).await?.json().await
    }

    /// Puts something there, answered by nothing.
    pub(super) async fn put_quietly(&self, path: &str, body: &impl Serialize) -> Result<(), CliError> {
        self.send(Method::PUT, path, json(body)?).await?.bytes().await.map(drop)
    }

    /// Takes something away.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.send(Method::DELETE, path, empty()).await?.json().await
    }

    /// Reads bytes.
    pub(super) async fn bytes(&self, path: &str) -> Result<Vec<u8>, CliError> {
        Ok(self.send(Method::GET, path, empty()).await?.bytes().await?.to_vec())
    }

    /// Asks for an answer of a JSON value a line. Dropping it hangs up, which cancels what the agent does.
    pub(super) async fn lines(&self, method: Method, path: &str, body: Body) -> Result<Lines, CliError> {
        Ok(Lines { answer: self.send(method, path, body).await?, buffer: BytesMut::new() })
    }

    /// Asks for something that answers nothing.
    pub(super) async fn command(&self, method: Method, path: &str) -> Result<(), CliError> {
        self.send(method, path, empty()).await?.bytes().await.map(drop)
    }

    /// One kernel.
    pub(super) async fn kernel(&self, kernel: &KernelRef) -> Result<KernelView, CliError> {
        self.get(&format!("/v1/kernels/{kernel}")).await
    }

    /// Removes a kernel, running or not; one that is not there (any more) is no error.
    pub(super) async fn remove_by_force(&self, kernel: KernelId) -> Result<(), CliError> {
        match self.command(Method::DELETE, &format!("/v1/kernels/{kernel}?force=true")).await {
            Err(error) if error.code == "no-such-kernel" => Ok(()),
            other => other,
        }
    }

    /// Makes a kernel; `note` hears what people may want to know meanwhile. Dropping the future cancels.
    pub(super) async fn create(
        &self,
        body: &CreateBody,
        mut note: impl FnMut(Phase, Option<&str>),
    ) -> Result<KernelView, CliError> {
        let mut lines = self.lines(Method::POST, "/v1/kernels", json(body)?).await?;
        while let Some(step) = lines.next().await? {
            match step {
                Progress::Phase { phase, note: text } => note(phase, text.as_deref()),
                Progress::Running { kernel } => return Ok(*kernel),
                Progress::Failed { error } => return Err(ErrorBody::from(error).into()),
            }
        }
        Err(lost())
    }

    /// Puts a file into a kernel's working directory.
    pub(super) async fn upload(&self, kernel: KernelId, file: &Upload) -> Result<(), CliError> {
        let shown = file.from.display();
        let source = tokio::fs::File::open(&file.from)
            .await
            .map_err(|error| CliError::new(format!("{shown} cannot be read: {error}")))?;
        let pieces = ReaderStream::with_capacity(source, 256 * 1024).map(|piece| piece.map(Frame::data));
        let path = format!("/v1/kernels/{kernel}/files?path={}&mode={}", escaped(&file.name), file.mode);
        let sent = self.send_files(&path, StreamBody::new(pieces).boxed_unsync()).await;
        sent.map(drop).map_err(|error| CliError {
            message: format!("{shown} could not be uploaded: {}", error.message),
            ..error
        })
    }

    /// Puts a file or a tree into a kernel.
    pub(super) async fn send_files(&self, path: &str, body: Body) -> Result<Received, CliError> {
        match self.lines(Method::PUT, path, body).await?.next().await? {
            Some(FilesLine::Received(received)) => Ok(received),
            Some(FilesLine::Failed { error }) => Err(error.into()),
            None => Err(lost()),
        }
    }

    /// Hands the agent the bytes of a file.
    pub(super) async fn hand<T: DeserializeOwned>(&self, path: &str, bytes: Vec<u8>) -> Result<T, CliError> {
        self.send(Method::POST, path, self::bytes(bytes)).await?.json().await
    }

    /// A kernel's log, frame by frame.
    pub(super) async fn logs(
        &self,
        kernel: &KernelRef,
        query: LogsQuery,
        mut each: impl FnMut(stream::ServerFrame) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut path = format!("/v1/kernels/{kernel}/logs?follow={}", query.follow);
        if let Some(lines) = query.tail {
            path += &format!("&tail={lines}");
        }
        let mut frames = self.frames(&path).await?;
        while let Some(frame) = frames.next().await? {
            each(frame)?;
        }
        Ok(())
    }

    /// Asks for an answer of frames. Dropping it hangs up, which cancels what the agent does.
    pub(super) async fn frames(&self, path: &str) -> Result<Frames, CliError> {
        let answer = self.send(Method::GET, path, empty()).await?;
        Ok(Frames { answer, codec: stream::ClientCodec::default(), buffer: BytesMut::new() })
    }

    /// Opens the connection of a run: [`stream`].
    pub(super) async fn open_stream(&self, kernel: &KernelRef) -> Result<Upgraded, CliError> {
        let (mut sender, _connection) = self.connect().await?;
        let request = Request::post(format!("/v1/kernels/{kernel}/runs"))
            .header(HOST, "berth")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, stream::PROTOCOL)
            .body(empty())
            .map_err(|error| CliError::new(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        hyper::upgrade::on(response).await.map_err(|error| failed(&error))
    }

    /// Connects and runs the connection beside us until it is closed or handed over.
    async fn connect(&self) -> Result<(http1::SendRequest<Body>, AbortOnDropHandle<()>), CliError> {
        let at = self.socket.display();
        let connection = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                CliError::new(format!("no agent answers at {at}")).with_code("no-agent").with_hint(
                    "start one with `berth serve`, or name its socket with --socket or BERTH_SOCKET",
                )
            }
            io::ErrorKind::PermissionDenied => CliError::new(format!("you may not use the agent at {at}"))
                .with_code("not-allowed")
                .with_hint("be in its [control] group, or start your own agent with `berth serve`"),
            _ => CliError::new(format!("the agent at {at} cannot be reached: {error}")),
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(connection)).await.map_err(|error| failed(&error))?;
        let task = tokio::spawn(async move {
            // What goes wrong is seen by the request it happens to.
            let _ = connection.with_upgrades().await;
        });
        Ok((sender, AbortOnDropHandle::new(task)))
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Answer, CliError> {
        let (mut sender, connection) = self.connect().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "berth")
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| CliError::new(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        if response.status().is_success() {
            Ok(Answer { response, _connection: connection })
        } else {
            Err(refusal(response).await)
        }
    }
}

impl Answer {
    async fn bytes(self) -> Result<Bytes, CliError> {
        let body = self.response.into_body().collect().await.map_err(|error| failed(&error))?;
        Ok(body.to_bytes())
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, CliError> {
        serde_json::from_slice(&self.bytes().await?).map_err(|error| not_understood(&error))
    }

    /// The next piece of the body.
    async fn piece(&mut self) -> Result<Option<Bytes>, CliError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame.map_err(|error| failed(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// An answer of JSON values, a line each.
pub(super) struct Lines {
    answer: Answer,
    buffer: BytesMut,
}

impl Lines {
    /// The next value; none at the end.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CliError> {
        let line = self.next_line().await?;
        line.map(|line| serde_json::from_slice(&line).map_err(|error| not_understood(&error))).transpose()
    }

    /// The next value as it came, with its newline.
    pub(super) async fn next_line(&mut self) -> Result<Option<Bytes>, CliError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.split_to(end + 1).freeze()));
            }
            match self.answer.piece().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(lost()),
            }
        }
    }

    /// Whether the next value has arrived already.
    pub(super) fn has_more(&self) -> bool {
        self.buffer.contains(&b'\n')
    }
}

/// An answer of frames: [`stream`].
pub(super) struct Frames {
    answer: Answer,
    codec: stream::ClientCodec,
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<stream::ServerFrame>, CliError> {
        let broken = |error: stream::FrameError| CliError::new(format!("the answer is malformed: {error}"));
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buffer).map_err(broken)? {
                return Ok(Some(frame));
            }
            match self.answer.piece().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return self.codec.decode_eof(&mut self.buffer).map_err(broken),
            }
        }
    }
}

async fn refusal(response: Response<Incoming>) -> CliError {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return failed(&error),
    };
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(error) => error.into(),
        Err(_) => CliError::new(format!("the agent answered {status}")),
    }
}

fn failed(error: &hyper::Error) -> CliError {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return lost();
    }
    let mut message = format!("the agent could not be asked: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        if let Some(BrokenPipe | ConnectionReset | UnexpectedEof) = cause.downcast_ref().map(io::Error::kind)
        {
            return lost();
        }
        message += &format!(": {cause}");
        source = cause.source();
    }
    CliError::new(message)
}

/// The agent went away in the middle of it.
pub(super) fn lost() -> CliError {
    CliError::new("the connection to the agent was lost")
        .with_code("agent-lost")
        .with_hint("`berth status` says whether it is back")
}

pub(super) fn not_understood(error: &serde_json::Error) -> CliError {
    CliError::new(format!("the agent's answer was not understood: {error}")).with_hint(
        "agent and command are of different versions: compare `berth status` and `berth --version`",
    )
}

pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn json(body: &impl Serialize) -> Result<Body, CliError> {
    serde_json::to_vec(body).map(bytes).map_err(|error| CliError::new(error.to_string()))
}

pub(super) fn bytes(bytes: Vec<u8>) -> Body {
    Full::from(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Percent-encoding for a value in a query (RFC 3986).
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
