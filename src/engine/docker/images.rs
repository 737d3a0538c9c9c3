//! Pull, import and removal of images: what the engine says on the way, as steps of ours.
//!
//! Each transfer is a task that ends with the transfer, or when nobody listens any more: that closes the
//! connection, which makes the engine give up. It has no deadline in all, since images are large, but one
//! for silence: of the engine, and of whoever feeds the archive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{BuildInfo, CreateImageInfo, ProgressDetail};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Docker;
use super::error::{self, About, clean};
use crate::engine::transfer::split_reference;
use crate::engine::{Archive, ArchiveKind, EngineError, ImageStep, ImageSteps, Import, Login};

/// What the engine says of a layer that has come all the way.
const LOADED: &str = "Loaded image: ";
const LOADED_ID: &str = "Loaded image ID: ";

/// What was heard on the way that the end depends on.
#[derive(Debug, Default)]
struct Heard {
    /// Images that were loaded, by name or id.
    loaded: Vec<String>,
    /// The id of what was made of a root file system.
    made: Option<String>,
}

/// One message of the engine.
enum Message {
    Create(CreateImageInfo),
    Load(BuildInfo),
}

type Messages = BoxStream<'static, Result<Message, Error>>;

pub(super) async fn pull(
    docker: &Docker,
    reference: &str,
    login: Option<&Login>,
) -> Result<ImageSteps, EngineError> {
    let session = docker.session("pull", docker.client.deadlines.info).await?;
    let (name, tag) = split_reference(reference);
    let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
    let messages = session.docker.create_image(Some(options), None, login.map(credentials));
    let transfer = Transfer::new(docker, "pull", messages.map(|said| said.map(Message::Create)).boxed());
    let reference = reference.to_owned();
    Ok(transfer.run(|docker, _| async move { Ok(vec![docker.there(&reference).await?]) }, Some(name)))
}

/// As the engine hands them to the registry.
fn credentials(login: &Login) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.user.clone()),
        password: Some(login.password.clone()),
        ..DockerCredentials::default()
    }
}

pub(super) async fn import(
    docker: &Docker,
    import: Import,
    archive: Archive,
) -> Result<ImageSteps, EngineError> {
    let session = docker.session("import", docker.client.deadlines.info).await?;
    let heard_from = Activity::default();
    let fed = heard_from.clone();
    let archive = archive.inspect(move |_| fed.touch());
    let messages: Messages = match import.kind {
        ArchiveKind::Saved => session
            .docker
            .import_image_stream(ImportImageOptionsBuilder::default().build(), archive, None)
            .map(|said| said.map(Message::Load))
            .boxed(),
        ArchiveKind::Root => {
            let name = import.name.as_deref().unwrap_or_default();
            let (repository, tag) = split_reference(name);
            let changes = import.labels.iter().map(|(key, value)| format!("LABEL {key}={value}")).collect();
            let options = CreateImageOptionsBuilder::default()
                .from_src("-")
                .repo(repository)
                .tag(tag)
                .changes(changes)
                .build();
            session
                .docker
                .create_image(Some(options), Some(bollard::body_try_stream(archive)), None)
                .map(|said| said.map(Message::Create))
                .boxed()
        }
    };
    let transfer = Transfer { heard_from, ..Transfer::new(docker, "import", messages) };
    let finish = move |docker: Docker, heard: Heard| async move {
        let mut there = heard.loaded;
        if import.kind == ArchiveKind::Root {
            there = heard.made.into_iter().collect();
        } else if let Some(name) = &import.name {
            let [loaded] = there.as_slice() else {
                let message = format!("the archive holds {} images, and one name was given", there.len());
                return Err(EngineError::Refused { call: "import", message });
            };
            docker.tag(loaded, name).await?;
            there = vec![name.clone()];
        }
        let mut images = Vec::new();
        for reference in there {
            images.push(docker.there(&reference).await?);
        }
        Ok(images)
    };
    Ok(transfer.run(finish, None))
}

pub(super) async fn remove(
    docker: &Docker,
    reference: &str,
    force: bool,
) -> Result<Vec<String>, EngineError> {
    let done = docker
        .client
        .call("remove image", docker.client.deadlines.remove, About::Image(reference), |session| async move {
            let options = RemoveImageOptionsBuilder::default().force(force).build();
            session.docker.remove_image(reference, Some(options), None).await
        })
        .await?;
    Ok(done.into_iter().filter_map(|item| item.untagged.or(item.deleted)).collect())
}

impl Docker {
    async fn tag(&self, reference: &str, name: &str) -> Result<(), EngineError> {
        let (repository, tag) = split_reference(name);
        self.client
            .call("tag", self.client.deadlines.image, About::Image(reference), |session| async move {
                let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
                session.docker.tag_image(reference, Some(options)).await
            })
            .await
    }

    async fn there(&self, reference: &str) -> Result<crate::engine::ImageView, EngineError> {
        let found = self.look_at_image(reference).await?;
        found.ok_or_else(|| EngineError::NoSuchImage(reference.to_owned()))
    }
}

/// When something last moved.
#[derive(Debug, Clone)]
struct Activity(Arc<Mutex<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Activity {
    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer under way.
struct Transfer {
    docker: Docker,
    call: &'static str,
    messages: Messages,
    heard_from: Activity,
    silence: Duration,
}

impl Transfer {
    fn new(docker: &Docker, call: &'static str, messages: Messages) -> Self {
        let silence = docker.client.deadlines.transfer;
        Self { docker: docker.clone(), call, messages, heard_from: Activity::default(), silence }
    }

    /// Spawns the task; `finish` says what there is now. `pulled`: from a registry, which may be to blame.
    fn run<F>(
        mut self,
        finish: impl FnOnce(Docker, Heard) -> F + Send + 'static,
        pulled: Option<&str>,
    ) -> ImageSteps
    where
        F: Future<Output = Result<Vec<crate::engine::ImageView>, EngineError>> + Send + 'static,
    {
        let (sender, steps) = mpsc::channel(16);
        let pulled = pulled.map(str::to_owned);
        tokio::spawn(async move {
            let work = async {
                let heard = self.listen(&sender, pulled.as_deref()).await?;
                Ok(ImageStep::Done { images: finish(self.docker.clone(), heard).await? })
            };
            let end = tokio::select! {
                () = sender.closed() => return,
                end = work => end,
            };
            // Nobody listens any more, or hears it.
            let _ = sender.send(end).await;
        });
        steps
    }

    /// Hands on what the engine says, to the end.
    async fn listen(
        &mut self,
        sender: &mpsc::Sender<Result<ImageStep, EngineError>>,
        pulled: Option<&str>,
    ) -> Result<Heard, EngineError> {
        let mut heard = Heard::default();
        loop {
            let until = self.heard_from.last() + self.silence;
            let said = match tokio::time::timeout_at(until, self.messages.next()).await {
                Ok(Some(said)) => said,
                Ok(None) => return Ok(heard),
                // The archive is still being fed.
                Err(_) if self.heard_from.last() + self.silence > Instant::now() => continue,
                Err(_) => return Err(EngineError::Deadline { call: self.call, deadline: self.silence }),
            };
            self.heard_from.touch();
            let message = said.map_err(|error| self.translate(&error, pulled))?;
            if let Some(step) = heard.take(message) {
                // A listener that is gone ends the task elsewhere.
                let _ = sender.send(Ok(step)).await;
            }
        }
    }

    fn translate(&self, error: &Error, pulled: Option<&str>) -> EngineError {
        self.docker.client.learn(error);
        let said = match error {
            Error::DockerStreamError { error } => Some(error),
            Error::DockerResponseServerError { message, .. } => Some(message),
            _ => None,
        };
        if let (Some(said), Some(image)) = (said, pulled)
            && let Some(blamed) = registry(image, said)
        {
            return blamed;
        }
        match error {
            Error::DockerStreamError { error } => {
                EngineError::Failed { call: self.call, message: clean(error) }
            }
            other => error::translate(self.call, self.docker.client.endpoint(), About::Engine, other),
        }
    }
}

/// What a failed pull says of the registry, in the words of the engine's many versions.
fn registry(image: &str, said: &str) -> Option<EngineError> {
    const OUT_OF_REACH: [&str; 10] = [
        "dial tcp",
        "no such host",
        "connection refused",
        "i/o timeout",
        "client.timeout",
        "unreachable",
        "tls handshake",
        "proxyconnect",
        "request canceled while waiting",
        ": eof",
    ];
    const REFUSES: [&str; 6] =
        ["manifest unknown", "not found", "does not exist", "access denied", "unauthorized", "denied:"];
    let lower = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let (image, problem) = (image.to_owned(), clean(said));
    if says(&OUT_OF_REACH) {
        return Some(EngineError::RegistryUnreachable { image, problem });
    }
    says(&REFUSES).then_some(EngineError::NotInRegistry { image, problem })
}

impl Heard {
    /// What a message means; none when it is for the end only.
    fn take(&mut self, message: Message) -> Option<ImageStep> {
        let (id, text, detail) = match message {
            Message::Create(said) => (said.id, said.status, said.progress_detail),
            Message::Load(said) => (said.id, said.stream.or(said.status), said.progress_detail),
        };
        let text = clean(&text?);
        if let Some(image) = text.strip_prefix(LOADED).or_else(|| text.strip_prefix(LOADED_ID)) {
            self.loaded.push(image.trim().to_owned());
        }
        if text.starts_with("sha256:") {
            self.made = Some(text);
            return None;
        }
        Some(match id {
            Some(id) => {
                let count = |bytes: fn(&ProgressDetail) -> Option<i64>| {
                    detail.as_ref().and_then(bytes).and_then(|bytes| u64::try_from(bytes).ok())
                };
                let total = count(|detail| detail.total).filter(|total| *total > 0);
                ImageStep::Layer { id, status: text, current: count(|detail| detail.current), total }
            }
            None => ImageStep::Note { text },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_registry(said: &str, code: Option<&str>) {
        assert_eq!(registry("python", said).map(|error| error.code()), code, "{said}");
    }

    #[test]
    fn a_registry_out_of_reach_is_told_from_one_that_does_not_have_it() {
        check_registry(
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: \
             no such host",
            Some("registry-unreachable"),
        );
        check_registry(
            "Get \"https://r/v2/\": net/http: request canceled while waiting for connection (Client.Timeout \
             exceeded while awaiting headers)",
            Some("registry-unreachable"),
        );
        check_registry("manifest for python:0 not found: manifest unknown", Some("not-in-registry"));
        check_registry("pull access denied for x, repository does not exist", Some("not-in-registry"));
        check_registry("no space left on device", None);
    }

    #[test]
    fn messages_become_steps_and_what_was_loaded_is_remembered() {
        let mut heard = Heard::default();
        let load =
            |text: &str| Message::Load(BuildInfo { stream: Some(text.to_owned()), ..BuildInfo::default() });
        let note = heard.take(load("Loaded image: a/b:1\n"));
        assert_eq!(note, Some(ImageStep::Note { text: "Loaded image: a/b:1".to_owned() }));
        heard.take(load("Loaded image ID: sha256:12\n"));
        assert_eq!(heard.loaded, ["a/b:1", "sha256:12"]);
        let layer = Message::Create(CreateImageInfo {
            id: Some("abc".to_owned()),
            status: Some("Downloading".to_owned()),
            progress_detail: Some(ProgressDetail { current: Some(5), total: Some(10) }),
            ..CreateImageInfo::default()
        });
        let (id, status) = ("abc".to_owned(), "Downloading".to_owned());
        let step = ImageStep::Layer { id, status, current: Some(5), total: Some(10) };
        assert_eq!(heard.take(layer), Some(step));
        let made =
            Message::Create(CreateImageInfo { status: Some("sha256:34".into()), ..Default::default() });
        assert_eq!((heard.take(made), heard.made.as_deref()), (None, Some("sha256:34")));
    }

    /// Tells when it is dropped.
    struct Told(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.take().map(|told| told.send(()));
        }
    }

    fn docker(silence: Duration) -> Docker {
        let deadlines = crate::engine::Deadlines { transfer: silence, ..Default::default() };
        Docker::new(super::super::Config { host: None, deadlines }).unwrap()
    }

    #[tokio::test]
    async fn a_transfer_that_nobody_listens_to_hangs_up() {
        let (told, gone) = tokio::sync::oneshot::channel();
        let guard = Told(Some(told));
        let messages = futures_util::stream::pending().map(move |said| {
            let _guard = &guard;
            said
        });
        let transfer = Transfer::new(&docker(Duration::from_secs(300)), "pull", messages.boxed());
        let steps = transfer.run(|_, _| async { Ok(Vec::new()) }, None);
        drop(steps);
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn silence_ends_a_transfer() {
        let messages = futures_util::stream::pending().boxed();
        let transfer = Transfer::new(&docker(Duration::ZERO), "import", messages);
        let mut steps = transfer.run(|_, _| async { Ok(Vec::new()) }, None);
        assert_eq!(steps.recv().await.unwrap().unwrap_err().code(), "engine-deadline");
        assert!(steps.recv().await.is_none());
    }
}
