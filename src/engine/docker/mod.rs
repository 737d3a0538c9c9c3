//! Containers of a Docker Engine.
//!
//! [`Docker`] holds an address and what was agreed on with the engine there (`client`); the rest is
//! translation: a spec to a request (`request`), an answer to a view (`view`), an error to ours
//! (`error`), a transfer of an image to its steps (`images`). The one task is the watcher of events (`events`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut};
use tokio::sync::mpsc;

use self::address::Address;
use self::client::{Client, Session};
use self::error::About;
use super::deadlines::{Deadlines, within};
use super::{
    Archive, ContainerSpec, ContainerState, ContainerView, Engine, EngineError, EngineEvent, EngineInfo,
    EngineKind, ImageSteps, ImageView, Import, LABEL_INSTANCE, Layout, LogChunk, LogOptions, Login, ulimits,
};
use crate::ids::{ContainerId, InstanceId};

mod address;
mod client;
mod error;
mod events;
mod images;
mod request;
#[cfg(test)]
mod tests;
mod view;

pub use address::DEFAULT_SOCKET;

/// Images looked at side by side.
const IMAGES_AT_ONCE: usize = 8;

/// Where the engine is and how long it is waited for.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What `DOCKER_HOST` says; none or empty: [`DEFAULT_SOCKET`].
    pub host: Option<String>,
    /// How long each call may take.
    pub deadlines: Deadlines,
}

/// A Docker Engine.
#[derive(Debug, Clone)]
pub struct Docker {
    client: Arc<Client>,
    /// Architecture by image id: the list of images leaves it out, and an id never changes its content.
    architectures: Arc<Mutex<HashMap<String, String>>>,
}

impl Docker {
    /// Takes an engine as there, without asking it.
    ///
    /// # Errors
    /// When the host is not one that this agent can speak to.
    pub fn new(config: Config) -> Result<Self, EngineError> {
        let address = Address::parse(config.host.as_deref())?;
        Ok(Self { client: Arc::new(Client::new(address, config.deadlines)), architectures: Arc::default() })
    }

    /// Connects to an engine and agrees on an API version.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`] with remedies when it does not answer.
    pub async fn connect(config: Config) -> Result<Self, EngineError> {
        let docker = Self::new(config)?;
        docker.session("connect", docker.client.deadlines.info).await?;
        Ok(docker)
    }

    async fn session(&self, call: &'static str, deadline: Duration) -> Result<Session, EngineError> {
        self.client.call(call, deadline, About::Engine, |session| async { Ok(session) }).await
    }

    fn kept_architecture(&self, id: &str) -> Option<String> {
        self.architectures.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn keep_architecture(&self, image: &ImageView) {
        let mut kept = self.architectures.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(image.id.clone(), image.architecture.clone());
    }

    async fn look_at_image(&self, reference: &str) -> Result<Option<ImageView>, EngineError> {
        let looked = self
            .client
            .call("image", self.client.deadlines.image, About::Image(reference), |session| async move {
                session.docker.inspect_image(reference).await
            })
            .await;
        match looked {
            Ok(image) => {
                let image = view::image(image);
                if let Some(image) = &image {
                    self.keep_architecture(image);
                }
                Ok(image)
            }
            Err(EngineError::NoSuchImage(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create_within(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let deadline = self.client.deadlines.create;
        let Some(image) = self.look_at_image(&spec.image).await? else {
            return Err(EngineError::NoSuchImage(spec.image.clone()));
        };
        let wanted = self.session("create", deadline).await?.architecture;
        if !image.architecture.is_empty() && !wanted.is_empty() && image.architecture != wanted {
            return Err(EngineError::WrongArchitecture {
                image: spec.image.clone(),
                found: image.architecture,
                wanted,
            });
        }
        let about = About::New { name: &spec.name, image: &spec.image };
        let made = self
            .client
            .call("create", deadline, about, |session| async move {
                let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
                session.docker.create_container(Some(options), request::body(spec, ulimits::own_limit)).await
            })
            .await?;
        for warning in &made.warnings {
            tracing::warn!(container = %spec.name, warning = %error::clean(warning), "the engine warns");
        }
        made.id.parse().map_err(|error: crate::ids::ParseIdError| EngineError::Failed {
            call: "create",
            message: error.to_string(),
        })
    }

    /// Waits until a removal that somebody else began has ended.
    async fn gone(&self, id: &ContainerId) -> Result<(), EngineError> {
        while self.inspect(id).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Waits for the engine to say that a container changed; whatever it says, the caller looks again.
    async fn until_change(&self, id: &ContainerId, condition: &str) {
        let Ok(session) = self.client.session().await else { return };
        let options = WaitContainerOptionsBuilder::default().condition(condition).build();
        let stream = session.docker.wait_container(id.as_str(), Some(options));
        pin_mut!(stream);
        if let Some(Err(error)) = stream.next().await {
            self.client.learn(&error);
        }
    }
}

#[async_trait]
impl Engine for Docker {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    fn layout(&self) -> Layout {
        Layout::Container
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.client.forget();
        let (session, info) = self
            .client
            .call("info", self.client.deadlines.info, About::Engine, |session| async move {
                let info = session.docker.info().await?;
                Ok((session, info))
            })
            .await?;
        Ok(view::info(&session, self.client.endpoint(), info))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        within("create", self.client.deadlines.create, self.create_within(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        // 304, "already started", is success to the library.
        self.client
            .call("start", self.client.deadlines.start, About::Container(id), |session| async move {
                session.docker.start_container(id.as_str(), None).await
            })
            .await
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        // The engine counts whole seconds; a started one is given whole.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        let deadline = grace + self.client.deadlines.stop_beyond_grace;
        self.client
            .call("stop", deadline, About::Container(id), |session| async move {
                let options = StopContainerOptionsBuilder::default().t(seconds).build();
                match session.docker.stop_container(id.as_str(), Some(options)).await {
                    // "is not running": the end that was asked for.
                    Err(error) if error::status(&error) == Some(409) => Ok(()),
                    other => other,
                }
            })
            .await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), EngineError> {
        let deadline = self.client.deadlines.remove;
        within("remove", deadline, async {
            let begun_already = self
                .client
                .call("remove", deadline, About::Container(id), |session| async move {
                    // `v`: the anonymous volumes of an image's VOLUME go too.
                    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
                    match session.docker.remove_container(id.as_str(), Some(options)).await {
                        Ok(()) => Ok(false),
                        Err(error) => match error::status(&error) {
                            Some(404) => Ok(false),
                            Some(409) if error.to_string().contains("already in progress") => Ok(true),
                            _ => Err(error),
                        },
                    }
                })
                .await?;
            if begun_already { self.gone(id).await } else { Ok(()) }
        })
        .await
    }

    /// Lines of the list have no pid and do not tell whether memory ran out: [`Engine::inspect`] does.
    async fn list(&self, instance: InstanceId) -> Result<Vec<ContainerView>, EngineError> {
        let containers = self
            .client
            .call("list", self.client.deadlines.look, About::Engine, |session| async move {
                let filters = HashMap::from([("label", vec![format!("{LABEL_INSTANCE}={instance}")])]);
                let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
                session.docker.list_containers(Some(options)).await
            })
            .await?;
        Ok(containers.into_iter().filter_map(view::listed).collect())
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerView>, EngineError> {
        let looked = self
            .client
            .call("inspect", self.client.deadlines.look, About::Container(id), |session| async move {
                session.docker.inspect_container(id.as_str(), None).await
            })
            .await;
        match looked {
            Ok(container) => Ok(view::inspected(container)),
            Err(EngineError::NoSuchContainer(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn wait(&self, id: &ContainerId) -> Result<ContainerState, EngineError> {
        const SHORTEST: Duration = Duration::from_millis(20);
        const LONGEST: Duration = Duration::from_secs(2);
        let mut pause = SHORTEST;
        loop {
            match self.inspect(id).await {
                Ok(None) => return Err(EngineError::NoSuchContainer(id.clone())),
                Ok(Some(ContainerView { state: state @ ContainerState::Exited { .. }, .. })) => {
                    return Ok(state);
                }
                Ok(Some(ContainerView { state: ContainerState::Running, .. })) => {
                    self.until_change(id, "not-running").await;
                }
                Ok(Some(ContainerView { state: ContainerState::Created, .. })) => {
                    self.until_change(id, "next-exit").await;
                }
                // An engine that restarts: the container may well live on.
                Err(EngineError::Unreachable { .. } | EngineError::Deadline { .. }) => {}
                Err(error) => return Err(error),
            }
            // After an end this is the wait for the engine's books; after a restart, for the engine.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Begins with [`EngineEvent::Resync`] and sends it again after each reconnection.
    /// Must be called within a tokio runtime.
    fn events(&self, instance: InstanceId) -> mpsc::Receiver<EngineEvent> {
        let (sender, receiver) = mpsc::channel(256);
        // Ends when the receiver is dropped.
        tokio::spawn(events::watch(Arc::clone(&self.client), instance, sender));
        receiver
    }

    async fn logs(
        &self,
        id: &ContainerId,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Result<LogChunk, EngineError>>, EngineError> {
        let deadline = self.client.deadlines.look;
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let session = self.session("logs", deadline).await?;
        if options.follow && self.inspect(id).await?.is_none() {
            return Err(EngineError::NoSuchContainer(id.clone()));
        }
        let request = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .tail(&tail)
            .build();
        let mut pieces = session.docker.logs(id.as_str(), Some(request)).boxed();
        let client = Arc::clone(&self.client);
        let about = id.clone();
        let translate = move |error: bollard::errors::Error| {
            client.learn(&error);
            client.translate("logs", About::Container(&about), &error)
        };
        let (sender, receiver) = mpsc::channel(16);
        if options.follow {
            // A program may be silent for days: no deadline. Ends with the container, or when nobody listens.
            tokio::spawn(async move {
                loop {
                    // Cancel-safe: what a dropped read loses, nobody would hear.
                    let piece = tokio::select! {
                        () = sender.closed() => return,
                        piece = pieces.try_next() => piece.map_err(&translate),
                    };
                    let Some(piece) = piece.transpose() else { return };
                    let failed = piece.is_err();
                    if sender.send(piece.map(chunk)).await.is_err() || failed {
                        return;
                    }
                }
            });
            return Ok(receiver);
        }
        // A container that does not exist is told by the first piece.
        let mut next =
            within("logs", deadline, async { pieces.try_next().await.map_err(&translate) }).await?;
        // Ends with the log, or when the receiver is dropped.
        tokio::spawn(async move {
            while let Some(piece) = next {
                if sender.send(Ok(chunk(piece))).await.is_err() {
                    return;
                }
                let piece =
                    within("logs", deadline, async { pieces.try_next().await.map_err(&translate) }).await;
                next = match piece {
                    Ok(next) => next,
                    Err(error) => {
                        // Nobody listens any more, or hears it.
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
            }
        });
        Ok(receiver)
    }

    async fn images(&self) -> Result<Vec<ImageView>, EngineError> {
        let deadline = self.client.deadlines.image;
        within("images", deadline, async {
            let listed = self
                .client
                .call("images", deadline, About::Engine, |session| async move {
                    session.docker.list_images(Some(ListImagesOptionsBuilder::default().build())).await
                })
                .await?;
            let images = futures_util::stream::iter(listed)
                .map(|image| async move {
                    let architecture = match self.kept_architecture(&image.id) {
                        Some(kept) => kept,
                        None => match self.look_at_image(&image.id).await? {
                            Some(image) => image.architecture,
                            // Removed meanwhile.
                            None => return Ok(None),
                        },
                    };
                    Ok::<_, EngineError>(Some(ImageView {
                        tags: view::named(image.repo_tags),
                        labels: view::sorted(Some(image.labels)),
                        architecture,
                        size: u64::try_from(image.size).unwrap_or(0),
                        created: image.created,
                        id: image.id,
                    }))
                })
                .buffered(IMAGES_AT_ONCE)
                .try_collect::<Vec<_>>()
                .await?;
            Ok(images.into_iter().flatten().collect())
        })
        .await
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageView>, EngineError> {
        self.look_at_image(reference).await
    }

    async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<ImageSteps, EngineError> {
        images::pull(self, reference, login).await
    }

    async fn import(&self, import: Import, archive: Archive) -> Result<ImageSteps, EngineError> {
        images::import(self, import, archive).await
    }

    async fn remove_image(&self, reference: &str, force: bool) -> Result<Vec<String>, EngineError> {
        images::remove(self, reference, force).await
    }
}

fn chunk(piece: LogOutput) -> LogChunk {
    match piece {
        LogOutput::StdErr { message } => LogChunk::Stderr(message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            LogChunk::Stdout(message)
        }
    }
}
