//! Which image a kernel gets.
//!
//! An image that was asked for must be on this node (`berth image pull` gets it there); when none was, the
//! configured default counts, and after it the newest image that says of itself that it can run kernels.
//! Whatever goes wrong, the error names what there is and the next step.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, EngineError, EngineKind, ImageView, node_architecture};

mod archive;

pub use archive::{HEAD, NotAnArchive, kind};

/// An image with this label set to `1` can run kernels (contracts: kernel §3.1).
pub const LABEL_KERNELSPEC: &str = "ai.backend.kernelspec";
/// An image with this label can run kernels and need know nothing of Backend.AI.
pub const LABEL_DEFAULT: &str = "ai.berth.default";

/// How many images an error names.
const NAMED: usize = 5;

/// Why there is no image for a kernel.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image asked for, or configured, is not on this node.
    #[error("there is no {}image {wanted:?} on this node{}", if *configured { "default " } else { "" }, there_are(candidates))]
    NoSuchImage {
        /// What was asked for.
        wanted: String,
        /// Whether it is the configured default.
        configured: bool,
        /// Images that are there, the most similar first; five at most.
        candidates: Vec<String>,
        /// Whether this engine can have other images at all.
        engine: EngineKind,
    },
    /// No image was asked for, and none can be chosen.
    #[error(
        "no image was named, and none on this node says that it can run kernels{}",
        there_are(candidates)
    )]
    NoneToChoose {
        /// Images that are there; five at most.
        candidates: Vec<String>,
    },
    /// The image cannot run here.
    #[error("image {image:?} is for {found}, this node is {wanted}")]
    WrongArchitecture {
        /// The image.
        image: String,
        /// Its architecture.
        found: String,
        /// This node's.
        wanted: String,
    },
    /// The engine could not be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ImageError {
    /// A stable code for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchImage { .. } | Self::NoneToChoose { .. } => "no-such-image",
            Self::WrongArchitecture { .. } => "wrong-architecture",
            Self::Engine(error) => error.code(),
        }
    }

    /// The next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchImage { engine: EngineKind::Process, .. } => {
                Some("the process engine has the one image \"host\": leave --image out".to_owned())
            }
            Self::NoSuchImage { wanted, configured, .. } => Some(match configured {
                true => format!("berth image pull {wanted}, or configure another default"),
                false => format!("berth image pull {wanted}, or name one that is there: --image NAME"),
            }),
            Self::NoneToChoose { candidates } => Some(match candidates.first() {
                Some(first) => format!("name one: --image {first}"),
                None => "get one first: berth image pull python:3.13-slim, then --image python:3.13-slim"
                    .to_owned(),
            }),
            Self::WrongArchitecture { image, wanted, .. } => {
                Some(format!("docker pull --platform linux/{wanted} {image}"))
            }
            Self::Engine(EngineError::Unreachable { remedies, .. }) => Some(remedies.join("; or ")),
            Self::Engine(_) => None,
        }
    }
}

/// Chooses the image of a kernel: the one asked for, else the configured default, else the newest that
/// can run kernels on this node.
///
/// # Errors
/// When there is no such image, it is for another architecture, or the engine does not answer.
pub async fn choose(
    engine: &dyn Engine,
    requested: Option<&str>,
    configured: Option<&str>,
) -> Result<ImageView, ImageError> {
    let named = requested.map(|name| (name, false)).or(configured.map(|name| (name, true)));
    if let Some((wanted, configured)) = named {
        if let Some(image) = engine.image(wanted).await? {
            return runs_here(image, wanted);
        }
        return Err(ImageError::NoSuchImage {
            wanted: wanted.to_owned(),
            configured,
            candidates: similar(wanted, &engine.images().await?),
            engine: engine.kind(),
        });
    }
    let images = engine.images().await?;
    newest_runnable(&images)
        .cloned()
        .ok_or_else(|| ImageError::NoneToChoose { candidates: similar("python", &images) })
}

fn runs_here(image: ImageView, wanted: &str) -> Result<ImageView, ImageError> {
    if image.architecture.is_empty() || image.architecture == node_architecture() {
        return Ok(image);
    }
    Err(ImageError::WrongArchitecture {
        image: wanted.to_owned(),
        found: image.architecture,
        wanted: node_architecture().to_owned(),
    })
}

/// Whether an image says that it can run kernels.
#[must_use]
pub fn is_runnable(image: &ImageView) -> bool {
    image.labels.get(LABEL_KERNELSPEC).is_some_and(|value| value == "1")
        || image.labels.contains_key(LABEL_DEFAULT)
}

/// How an image may be used by kernels of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// It says that it can run kernels: it may be chosen for those that name no image.
    Yes,
    /// It says nothing: it is used by kernels that name it.
    WhenNamed,
    /// It is for another architecture.
    No,
}

/// How an image may be used here.
#[must_use]
pub fn use_of(image: &ImageView) -> Use {
    match image.architecture.as_str() {
        here if here == node_architecture() && is_runnable(image) => Use::Yes,
        here if here.is_empty() || here == node_architecture() => Use::WhenNamed,
        _ => Use::No,
    }
}

/// Whether a text can be the name or the id of an image. It becomes part of a request's path.
///
/// # Errors
/// A sentence.
pub fn check_reference(reference: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let whole = reference.starts_with(|c: char| c.is_ascii_alphanumeric())
        && reference.len() <= 512
        && reference.chars().all(fine)
        && !reference.split('/').any(|part| part.is_empty() || part == "..");
    if whole { Ok(()) } else { Err(format!("{reference:?} is no name of an image")) }
}

fn newest_runnable(images: &[ImageView]) -> Option<&ImageView> {
    images
        .iter()
        .filter(|image| is_runnable(image) && image.architecture == node_architecture())
        // Of two made in one second the order of names decides, so that the choice is always the same.
        .max_by_key(|image| (image.created, Reverse(&image.tags), Reverse(&image.id)))
}

/// Names of local images that run here, the most similar to `wanted` first.
fn similar(wanted: &str, images: &[ImageView]) -> Vec<String> {
    let mut names: Vec<_> = images
        .iter()
        .filter(|image| image.architecture == node_architecture())
        .flat_map(|image| image.tags.iter().map(move |tag| (likeness(wanted, tag), is_runnable(image), tag)))
        .collect();
    names.sort_by_key(|(likeness, runnable, tag)| (Reverse(*likeness), Reverse(*runnable), *tag));
    names.into_iter().take(NAMED).map(|(_, _, tag)| tag.clone()).collect()
}

/// How much two references have in common: the last part of their names, then their tags.
fn likeness(wanted: &str, there: &str) -> usize {
    let ((name, tag), (other_name, other_tag)) = (parts(wanted), parts(there));
    let common = |a: &str, b: &str| a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let same = match name == other_name {
        true => 100,
        false if !name.is_empty() && other_name.contains(name) => 50,
        false => 0,
    };
    same + 2 * common(name, other_name) + if same > 0 { common(tag, other_tag) } else { 0 }
}

/// `registry/path/name:tag` as `name` and `tag`.
fn parts(reference: &str) -> (&str, &str) {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    last.split_once(':').unwrap_or((last, ""))
}

fn there_are(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        names => format!("; there are: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;
