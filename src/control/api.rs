//! What the control API says in JSON: one set of types for the agent and for `berth`'s own commands.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`crate::agent::NodeStatus`] |
//! | `GET /v1/slots` | [`SlotsView`] |
//! | `GET /v1/policies` | list of [`crate::policy::PolicyView`] |
//! | `GET /v1/policies/modules` | list of [`crate::policy::ModuleRow`] |
//! | `POST /v1/policies/modules?link=N` bytes | [`crate::policy::swap::Pushed`] |
//! | `GET /v1/policies/loading` | [`crate::policy::Loading`], or null where none is being loaded |
//! | `POST /v1/policies/activate` [`ActivateBody`] | a line of JSON per [`SwapLine`] |
//! | `POST /v1/policies/settings` [`SetBody`] | the same |
//! | `POST /v1/policies/replay?module=M&world=W&kernel=K&from=N&to=N&most=N` bytes or none | the same |
//! | `POST /v1/policies/shadow/end` [`EndShadowBody`] | list of [`crate::policy::ShadowView`] |
//! | `POST /v1/policies/rollback` [`RollbackBody`] | [`crate::policy::swap::Swapped`] |
//! | `GET /v1/policies/module?of=TEXT` | the bytes of a pushed module |
//! | `GET /v1/policies/show?of=TEXT&link=N` | list of [`crate::policy::swap::Shown`] |
//! | `GET /v1/decisions?kernel=K&most=N&follow=true` | a line of JSON per [`crate::policy::journal::Entry`] |
//! | `GET /v1/kernels/{ref}/why` | [`WhyView`] |
//! | `POST /v1/dry-run` [`CreateBody`] | [`crate::kernel::Rehearsal`] |
//! | `POST /v1/kernels` [`CreateBody`] | a line of JSON per [`crate::kernel::Progress`]; hanging up cancels |
//! | `GET /v1/kernels?all=true` | list of [`KernelView`] |
//! | `GET /v1/kernels/{ref}` | [`KernelView`] |
//! | `POST /v1/kernels/{ref}/stop` [`StopBody`] | [`KernelView`] |
//! | `DELETE /v1/kernels/{ref}?force=true` | nothing |
//! | `POST /v1/kernels/{ref}/interrupt` | nothing |
//! | `GET /v1/kernels/{ref}/logs?tail=N&follow=true` | frames of [`super::stream`]: stdout, stderr, at worst error |
//! | `GET /v1/kernels/{ref}/files?path=P&most=N` | frames of [`super::stream`]: stdout, the file; stderr, a line of JSON per [`crate::tree::Note`]; at worst error |
//! | `PUT /v1/kernels/{ref}/files?path=P&mode=M` bytes | a line of JSON: [`FilesLine`] |
//! | `GET /v1/kernels/{ref}/files/tree?path=P&name=N&most=N` | frames as above: a tar archive |
//! | `PUT /v1/kernels/{ref}/files/tree?path=P` a tar archive | a line of JSON: [`FilesLine`] |
//! | `GET /v1/kernels/{ref}/files/list?path=P&most=N` | [`crate::tree::list::Listing`] |
//! | `POST /v1/kernels/{ref}/runs` | upgrades to [`super::stream`] |
//! | `GET /v1/events?from=N&follow=true&reader=NAME` | a line of JSON per [`EventLine`] |
//! | `PUT /v1/events/readers/{name}` [`AcknowledgeBody`] | nothing |
//! | `GET /v1/doctor` | [`crate::doctor::Report`] |
//! | `GET /v1/images` | list of [`ImageRow`] |
//! | `POST /v1/images/pull?image=REF` | a line of JSON per [`ImageLine`]; hanging up cancels |
//! | `POST /v1/images/import?name=REF&default=true` bytes | the same |
//! | `DELETE /v1/images?image=REF&force=true` | list of what was removed |
//! | `GET /metrics` | text for Prometheus, see [`super`] |
//! | `GET /v1/drain?wait=true` | [`crate::drain::DrainView`] |
//! | `PUT /v1/drain` [`DrainBody`], `DELETE /v1/drain` | [`crate::drain::DrainView`] |
//!
//! Everything that goes wrong is an [`ErrorBody`].
//!
//! [`KernelView`]: crate::kernel::KernelView
//! [`ActivateBody`]: super::policy_api::ActivateBody
//! [`SetBody`]: super::policy_api::SetBody
//! [`SwapLine`]: super::policy_api::SwapLine
//! [`EndShadowBody`]: super::policy_api::EndShadowBody
//! [`RollbackBody`]: super::policy_api::RollbackBody
//! [`WhyView`]: super::policy_api::WhyView

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::admission::SlotBook;
use crate::drain::Draining;
use crate::engine::{EngineError, ImageStep, ImageView};
use crate::events::Event;
use crate::ids::{KernelId, KernelName, SessionId, SlotName};
use crate::images;
use crate::inventory::WithheldView;
use crate::kernel::KernelError;
use crate::kernel::files::Received;
use crate::policy::DecidedBy;
use crate::route::RouteError;
use crate::store::StoreError;

/// A kernel to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// Made by the client, so that it can speak of the kernel before it has an answer.
    pub kernel: KernelId,
    /// Its session.
    pub session: SessionId,
    /// None: a made-up name.
    #[serde(default)]
    pub name: Option<KernelName>,
    /// None: the configured default, else a runnable local image.
    #[serde(default)]
    pub image: Option<String>,
    /// Amounts to be booked, micro-units or bytes.
    #[serde(default)]
    pub wants: BTreeMap<SlotName, u64>,
    /// Environment of the kernel.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Mounts; the agent checks them against its configuration and the caller.
    #[serde(default)]
    pub mounts: Vec<MountAsk>,
    /// Wait that long for room, in milliseconds.
    #[serde(default)]
    pub wait_ms: Option<u64>,
    /// Whether it ends with its client.
    #[serde(default)]
    pub leased: bool,
}

/// A mount as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountAsk {
    /// Absolute path on the agent's host.
    pub source: String,
    /// Absolute path in the kernel.
    pub target: String,
    /// Whether it is read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// How to stop a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopBody {
    /// Milliseconds between SIGTERM and SIGKILL.
    pub grace_ms: u64,
}

/// The books, and what is not offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsView {
    /// The books of each slot.
    pub slots: Vec<SlotBook>,
    /// What is withheld and why.
    pub withheld: Vec<WithheldView>,
    /// Who decided what is offered; none before the first decision.
    pub decided_by: Option<DecidedBy>,
    /// Since when no new kernels are taken; none: they are.
    #[serde(default)]
    pub draining: Option<Draining>,
}

/// `?from=&follow=&reader=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Number of the first event; none: the oldest that is retained, or with `follow` the next.
    #[serde(default)]
    pub from: Option<u64>,
    /// Go on with what is still to happen.
    #[serde(default)]
    pub follow: bool,
    /// Begin where the reader of that name has come to; it wins over `from`.
    #[serde(default)]
    pub reader: Option<String>,
}

/// A line of the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// Something happened.
    Event {
        /// What.
        event: Event,
        /// The kernel's name, while there is a kernel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<KernelName>,
    },
    /// The reader fell behind.
    Lost {
        /// That many events are no longer retained.
        lost: u64,
    },
    /// The stream ends early. Last.
    Error {
        /// Why.
        error: ErrorBody,
    },
}

/// How far a reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcknowledgeBody {
    /// Number of the event that it reads next.
    pub next: u64,
}

/// An image of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// As the engine knows it.
    #[serde(flatten)]
    pub image: ImageView,
    /// How kernels may use it.
    pub runs_kernels: images::Use,
}

/// A line of a pull or an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageLine {
    /// It goes on, or is done.
    Step(ImageStep),
    /// It came to nothing. Last.
    Failed {
        /// Why.
        error: ErrorBody,
    },
}

/// `?image=&force=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageQuery {
    /// Name or id.
    pub image: String,
    /// Also when it is in use.
    #[serde(default)]
    pub force: bool,
}

/// `?name=&default=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportQuery {
    /// Name of the image; none: the one in the archive.
    #[serde(default)]
    pub name: Option<String>,
    /// Label it as one that may be chosen for kernels that name none.
    #[serde(default)]
    pub default: bool,
}

/// `?wait=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainQuery {
    /// Answer only when no kernel is left, or the drain was ended.
    #[serde(default)]
    pub wait: bool,
}

/// How the node is to be drained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainBody {
    /// Milliseconds from now until what is left is stopped; none: never.
    #[serde(default)]
    pub stop_after_ms: Option<u64>,
}

/// `?all=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// Ended kernels too.
    #[serde(default)]
    pub all: bool,
}

/// `?force=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveQuery {
    /// Running ones too.
    #[serde(default)]
    pub force: bool,
}

/// `?tail=&follow=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsQuery {
    /// Only the last lines.
    #[serde(default)]
    pub tail: Option<u64>,
    /// Until the container has ended.
    #[serde(default)]
    pub follow: bool,
}

/// `?path=&mode=&most=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileQuery {
    /// Relative to the kernel's work folder.
    pub path: String,
    /// Permission bits of a file that is written, decimal.
    #[serde(default = "FileQuery::default_mode")]
    pub mode: u32,
    /// Bytes that a file that is read may have.
    #[serde(default)]
    pub most: Option<u64>,
}

/// `?path=&name=&most=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeQuery {
    /// Relative to the kernel's work folder: what is packed, or the folder that is unpacked into.
    pub path: String,
    /// What it is called in the archive that is packed; `.`: what is in it. None: its own name.
    #[serde(default)]
    pub name: Option<String>,
    /// Bytes that the archive may have.
    #[serde(default)]
    pub most: Option<u64>,
}

/// `?path=&most=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderQuery {
    /// Relative to the kernel's work folder.
    pub path: String,
    /// Entries that are listed; 0: only what the path itself is. None: as many as there can be.
    #[serde(default)]
    pub most: Option<usize>,
}

/// What came of files that were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilesLine {
    /// It came to nothing, or not to its end.
    Failed {
        /// Why.
        error: ErrorBody,
    },
    /// They are there.
    Received(Received),
}

impl FileQuery {
    fn default_mode() -> u32 {
        0o644
    }
}

/// Why a request was refused or failed; one line and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// Stable, e.g. `no-such-kernel`.
    pub code: String,
    /// One line.
    pub message: String,
    /// The next step.
    #[serde(default)]
    pub hint: Option<String>,
}

impl ErrorBody {
    /// An error without a hint.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: None }
    }

    /// The same with the next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The HTTP status that fits the code best.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.code.as_str() {
            "not-allowed" | "mount-not-allowed" | "read-only" | "permission-denied" => StatusCode::FORBIDDEN,
            "busy" | "stopping" | "draining" | "engine-unreachable" | "registry-unreachable" => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            "engine-deadline" => StatusCode::GATEWAY_TIMEOUT,
            "upgrade-required" => StatusCode::UPGRADE_REQUIRED,
            "no-such-kernel" | "no-such-path" | "no-such-policy" | "no-such-file" => StatusCode::NOT_FOUND,
            "not-a-component"
            | "precompiled"
            | "malformed-module"
            | "forbidden-import"
            | "no-world"
            | "other-interface-version"
            | "does-not-compile"
            | "compiler-limit"
            | "compiler-failed"
            | "does-not-instantiate"
            | "describe-failed"
            | "not-granted"
            | "does-not-fit"
            | "manifest-mismatch"
            | "unknown-need"
            | "unsigned"
            | "unknown-signer"
            | "ambiguous-digest"
            | "which-link" => StatusCode::BAD_REQUEST,
            "outside-work-folder" | "link-in-path" | "out-of-reach" => StatusCode::BAD_REQUEST,
            "module-too-large" | "too-large" => StatusCode::PAYLOAD_TOO_LARGE,
            "builtins-only" | "no-history" | "decisions-differ" | "fixtures-failed" | "builtin-settings"
            | "no-shadow" | "not-set" | "overtaken" => StatusCode::CONFLICT,
            "wrong-method" => StatusCode::METHOD_NOT_ALLOWED,
            "name-taken" | "kernel-exists" | "run-exists" | "not-running" | "still-running"
            | "not-enough-free" | "more-than-offered" | "image-in-use" => StatusCode::CONFLICT,
            code if ["bad-", "no-such-", "mount-", "invalid-", "wrong-"]
                .iter()
                .any(|p| code.starts_with(p)) =>
            {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<KernelError> for ErrorBody {
    fn from(error: KernelError) -> Self {
        Self { code: error.code, message: error.message, hint: error.hint }
    }
}

impl From<EngineError> for ErrorBody {
    fn from(error: EngineError) -> Self {
        KernelError::from(error).into()
    }
}

impl From<StoreError> for ErrorBody {
    fn from(error: StoreError) -> Self {
        KernelError::from(error).into()
    }
}

impl From<RouteError> for ErrorBody {
    fn from(error: RouteError) -> Self {
        KernelError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_fitting_http_status() {
        for (code, status) in [
            ("no-such-kernel", 404),
            ("no-such-image", 400),
            ("name-taken", 409),
            ("not-enough-free", 409),
            ("mount-not-allowed", 403),
            ("mount-source-missing", 400),
            ("engine-unreachable", 503),
            ("no-such-policy", 404),
            ("no-such-file", 404),
            ("link-in-path", 400),
            ("read-only", 403),
            ("no-such-link", 400),
            ("wrong-settings", 400),
            ("module-too-large", 413),
            ("unsigned", 400),
            ("bad-signature", 400),
            ("fixtures-failed", 409),
            ("something-new", 500),
        ] {
            assert_eq!(ErrorBody::new(code, "x").status().as_u16(), status, "{code}");
        }
    }

    #[test]
    fn a_body_needs_only_the_ids() {
        let id = KernelId::random();
        let body: CreateBody =
            serde_json::from_str(&format!(r#"{{"kernel": "{id}", "session": "{id}"}}"#)).unwrap();
        assert_eq!((body.kernel, body.leased, body.wait_ms), (id, false, None));
        let name = format!(r#"{{"kernel": "{id}", "session": "{id}", "name": "--x"}}"#);
        let problem = serde_json::from_str::<CreateBody>(&name).unwrap_err().to_string();
        assert!(problem.contains("would read as a flag"), "{problem}");
    }
}
