//! Images on their way to the engine: what a pull or an import is fed, and what it says meanwhile.

use std::io;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{EngineError, ImageView};

/// The bytes of an archive, as they arrive. An error ends the import.
pub type Archive = BoxStream<'static, io::Result<Bytes>>;

/// What a pull or an import says; ends after [`ImageStep::Done`] or an error. Dropping it cancels.
pub type ImageSteps = mpsc::Receiver<Result<ImageStep, EngineError>>;

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveKind {
    /// Images with their names, as `docker save` writes them.
    Saved,
    /// The files of a root file system.
    Root,
}

/// How an archive becomes an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// What it holds.
    pub kind: ArchiveKind,
    /// `name:tag` of the image; a root file system needs one.
    pub name: Option<String>,
    /// Labels of the image (root file systems only).
    pub labels: Vec<(String, String)>,
}

/// Who asks a registry for an image.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password, which is not shown.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("password", &"***").finish()
    }
}

/// One step on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum ImageStep {
    /// A layer came further.
    Layer {
        /// Its id, or what else the engine calls it by.
        id: String,
        /// The engine's words, e.g. `Downloading`.
        status: String,
        /// Bytes so far, where they are counted.
        current: Option<u64>,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// Something worth knowing.
    Note {
        /// The engine's words.
        text: String,
    },
    /// It is there. Last.
    Done {
        /// What there is now.
        images: Vec<ImageView>,
    },
}

/// A reference as repository and tag (or digest); without a tag it means `latest`.
#[must_use]
pub fn split_reference(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, digest);
    }
    let last = reference.rfind('/').map_or(0, |slash| slash + 1);
    match reference.get(last..).and_then(|part| part.find(':')) {
        Some(colon) => {
            let (name, tag) = reference.split_at(last + colon);
            (name, tag.trim_start_matches(':'))
        }
        None => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_repository_and_a_tag() {
        for (reference, repository, tag) in [
            ("python", "python", "latest"),
            ("python:3.13", "python", "3.13"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b", "c"),
            ("a/b@sha256:0123", "a/b", "sha256:0123"),
        ] {
            assert_eq!(split_reference(reference), (repository, tag), "{reference}");
        }
    }
}
