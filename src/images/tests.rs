use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::engine::{
    ContainerSpec, ContainerState, ContainerView, EngineEvent, EngineInfo, Layout, LogChunk, LogOptions,
};
use crate::ids::{ContainerId, InstanceId};

/// An engine that has images and nothing else.
#[derive(Debug)]
struct Shelf(Vec<ImageView>);

fn image(tag: &str, labels: &[(&str, &str)], created: i64) -> ImageView {
    ImageView {
        id: format!("sha256:{tag}"),
        tags: vec![tag.to_owned()],
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        architecture: node_architecture().to_owned(),
        size: 1,
        created,
    }
}

async fn check(shelf: &[ImageView], requested: Option<&str>, configured: Option<&str>, expected: &str) {
    let told = match choose(&Shelf(shelf.to_vec()), requested, configured).await {
        Ok(image) => image.tags.join(" "),
        Err(error) => format!("{}: {error} -> {}", error.code(), error.hint().unwrap_or_default()),
    };
    assert_eq!(told, expected, "{requested:?} {configured:?}");
}

#[tokio::test]
async fn the_asked_for_comes_before_the_configured_before_the_newest() {
    let shelf = [
        image("old:1", &[(LABEL_KERNELSPEC, "1")], 10),
        image("new:1", &[(LABEL_DEFAULT, "yes")], 20),
        image("other:1", &[(LABEL_KERNELSPEC, "0")], 30),
    ];
    check(&shelf, Some("other:1"), Some("old:1"), "other:1").await;
    check(&shelf, None, Some("old:1"), "old:1").await;
    check(&shelf, None, None, "new:1").await;
    check(&shelf[..1], None, None, "old:1").await;
}

#[tokio::test]
async fn what_is_missing_is_told_with_what_is_there() {
    let shelf = [
        image("busybox:1", &[], 1),
        image("example/python:3.12", &[], 2),
        image("example/python:3.13-slim", &[], 3),
        image("python-cuda:1", &[], 4),
        image("zsh:1", &[], 5),
        image("zzz:1", &[], 5),
    ];
    check(
        &shelf,
        Some("python:3.13"),
        None,
        "no-such-image: there is no image \"python:3.13\" on this node; there are: example/python:3.13-slim, \
         example/python:3.12, python-cuda:1, busybox:1, zsh:1 -> berth image pull python:3.13, or name one that is \
         there: --image NAME",
    )
    .await;
    check(
        &shelf[..1],
        None,
        Some("python:3"),
        "no-such-image: there is no default image \"python:3\" on this node; there are: busybox:1 -> berth image pull \
         python:3, or configure another default",
    )
    .await;
    check(
        &shelf[..2],
        None,
        None,
        "no-such-image: no image was named, and none on this node says that it can run kernels; there are: \
         example/python:3.12, busybox:1 -> name one: --image example/python:3.12",
    )
    .await;
    check(
        &[],
        None,
        None,
        "no-such-image: no image was named, and none on this node says that it can run kernels -> get one first: \
         berth image pull python:3.13-slim, then --image python:3.13-slim",
    )
    .await;
}

#[tokio::test]
async fn an_image_of_another_architecture_is_neither_taken_nor_proposed() {
    let mut foreign = image("py:1", &[(LABEL_DEFAULT, "1")], 1);
    foreign.architecture = "s390x".to_owned();
    let here = node_architecture();
    check(
        std::slice::from_ref(&foreign),
        Some("py:1"),
        None,
        &format!(
            "wrong-architecture: image \"py:1\" is for s390x, this node is {here} -> docker pull --platform \
             linux/{here} py:1"
        ),
    )
    .await;
    check(
        &[foreign],
        None,
        None,
        "no-such-image: no image was named, and none on this node says that it can run kernels -> get one first: \
         berth image pull python:3.13-slim, then --image python:3.13-slim",
    )
    .await;
}

fn nothing<T>() -> Result<T, EngineError> {
    Err(EngineError::Unsupported { engine: "shelf", what: "run anything" })
}

#[async_trait]
impl Engine for Shelf {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }
    fn layout(&self) -> Layout {
        Layout::Container
    }
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        nothing()
    }
    async fn create(&self, _: &ContainerSpec) -> Result<ContainerId, EngineError> {
        nothing()
    }
    async fn start(&self, _: &ContainerId) -> Result<(), EngineError> {
        nothing()
    }
    async fn stop(&self, _: &ContainerId, _: Duration) -> Result<(), EngineError> {
        nothing()
    }
    async fn remove(&self, _: &ContainerId) -> Result<(), EngineError> {
        nothing()
    }
    async fn list(&self, _: InstanceId) -> Result<Vec<ContainerView>, EngineError> {
        nothing()
    }
    async fn inspect(&self, _: &ContainerId) -> Result<Option<ContainerView>, EngineError> {
        nothing()
    }
    async fn wait(&self, _: &ContainerId) -> Result<ContainerState, EngineError> {
        nothing()
    }
    fn events(&self, _: InstanceId) -> mpsc::Receiver<EngineEvent> {
        mpsc::channel(1).1
    }
    async fn logs(
        &self,
        _: &ContainerId,
        _: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogChunk, EngineError>>, EngineError> {
        nothing()
    }
    async fn images(&self) -> Result<Vec<ImageView>, EngineError> {
        Ok(self.0.clone())
    }
    async fn image(&self, reference: &str) -> Result<Option<ImageView>, EngineError> {
        Ok(self.0.iter().find(|image| image.tags.iter().any(|tag| tag == reference)).cloned())
    }
}
