//! The connection: an API version agreed on once, kept, and agreed on anew when the engine refuses it
//! or was away (it may have come back as another version).
//!
//! The library asks without a version, which every engine answers in its newest one; here each request
//! names the version that was agreed on, so that a newer engine does not change what is understood.
//!
//! Every call opens a connection of its own, so nothing here needs mending after an engine restart
//! but the version.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest};
use hyper::Uri;

use super::address::Address;
use super::error::{self, About};
use crate::engine::deadlines::within;
use crate::engine::{Deadlines, EngineError};

/// The library's own time-out, in seconds: out of the way, since each call has a deadline of its own.
const LIBRARY_TIMEOUT_S: u64 = 24 * 60 * 60;

/// What was agreed on with the engine.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) docker: bollard::Docker,
    /// The engine's architecture, in the words of images.
    pub(super) architecture: String,
    /// The engine's version.
    pub(super) version: String,
}

/// The way to the engine.
#[derive(Debug)]
pub(super) struct Client {
    address: Address,
    endpoint: String,
    session: Mutex<Option<Session>>,
    pub(super) deadlines: Deadlines,
}

impl Client {
    pub(super) fn new(address: Address, deadlines: Deadlines) -> Self {
        let endpoint = address.to_string();
        Self { address, endpoint, session: Mutex::new(None), deadlines }
    }

    /// The address, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One call with its deadline. `make` is asked a second time when the engine refuses the agreed
    /// API version: such a request had no effect.
    pub(super) async fn call<T, F, W>(
        &self,
        call: &'static str,
        deadline: Duration,
        about: About<'_>,
        make: F,
    ) -> Result<T, EngineError>
    where
        F: Fn(Session) -> W,
        W: Future<Output = Result<T, Error>>,
    {
        within(call, deadline, async {
            self.attempt(make).await.map_err(|error| self.translate(call, about, &error))
        })
        .await
    }

    /// The session, agreed on anew when there is none.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        if let Some(session) = self.kept() {
            return Ok(session);
        }
        // Two callers at once agree twice, on the same: no lock is held while waiting.
        let session = self.agree().await?;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(session)
    }

    /// Forgets what was agreed on.
    pub(super) fn forget(&self) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn translate(&self, call: &'static str, about: About<'_>, error: &Error) -> EngineError {
        error::translate(call, &self.endpoint, about, error)
    }

    /// Forgets the session when `error` says that the engine went away or is another one now.
    pub(super) fn learn(&self, error: &Error) {
        if error::refuses_version(error) || error::is_unreachable(error) {
            self.forget();
        }
    }

    async fn attempt<T, F, W>(&self, make: F) -> Result<T, Error>
    where
        F: Fn(Session) -> W,
        W: Future<Output = Result<T, Error>>,
    {
        let first = make(self.session().await?).await;
        match first {
            Err(error) if error::refuses_version(&error) => {
                self.forget();
                make(self.session().await?).await
            }
            Err(error) => {
                self.learn(&error);
                Err(error)
            }
            done => done,
        }
    }

    fn kept(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn agree(&self) -> Result<Session, Error> {
        let docker = match &self.address {
            Address::Unix(path) => {
                // The library calls every socket that it cannot look at "not found".
                std::fs::metadata(path).map_err(|err| Error::IOError { err })?;
                bollard::Docker::connect_with_unix(path, LIBRARY_TIMEOUT_S, API_DEFAULT_VERSION)?
            }
            Address::Tcp(address) => {
                bollard::Docker::connect_with_http(address, LIBRARY_TIMEOUT_S, API_DEFAULT_VERSION)?
            }
        };
        let docker = docker.negotiate_version().await?;
        let version = docker.version().await?;
        let agreed = docker.client_version();
        Ok(Session {
            docker: docker.with_request_modifier(move |request| named(request, &agreed.to_string())),
            architecture: version.arch.unwrap_or_default(),
            version: version.version.unwrap_or_default(),
        })
    }
}

/// The same request, of the API version `version`.
fn named(mut request: BollardRequest, version: &str) -> BollardRequest {
    let mut parts = request.uri().clone().into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
    // Neither can fail: a prefix of plain letters before a path that was one already.
    if let Ok(path) = format!("/v{version}{path}").parse() {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}
