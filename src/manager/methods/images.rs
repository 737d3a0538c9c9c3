//! Images for a manager: `check_and_pull` and `check_pulling` (contracts: manager §2.5, §3.6, kernel §5.6).
//!
//! A call is answered at once; how each image fared comes by an event, also when the image is here already, since
//! without that event no session of it starts. A manager asks again while a session waits: what is being brought is
//! not begun twice, and its end tells for both.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use callosum::{Call, Failure, ImageRef, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Methods, argument, invalid, text};
use crate::engine::{EngineError, ImageStep, ImageView, Login, SharedEngine, split_reference};
use crate::ids::AgentId;
use crate::manager::events::{ImageParts, ManagerEvent};
use crate::manager::messenger::Messenger;

/// Images that may wait to be looked at.
pub const QUEUE: usize = 256;
/// How long bringing one may take (`[api] pull-timeout` of the reference).
const PULL_TIMEOUT: Duration = Duration::from_secs(7200);
/// What the manager is told of an image that is here.
const THERE: &str = "Image already exists";

/// An image that a manager wants here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As the manager calls it.
    canonical: String,
    parts: ImageRef,
    /// The engine's id that it should have.
    digest: String,
    auto_pull: AutoPull,
    login: Option<Login>,
}

/// When an image is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AutoPull {
    /// When it is not here, or is another one.
    Digest,
    /// When it is not here.
    Tag,
    /// Never.
    Never,
}

/// What is to be done about a wanted image.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    There,
    Pull,
    Missing(String),
}

impl Wanted {
    /// Reads an `ImageConfig`.
    fn read(canonical: &str, config: &Value) -> Result<Self, Failure> {
        let get = |key: &str| config.get(key).and_then(Value::as_str);
        let of_registry = |key: &str| config.get("registry").and_then(|registry| registry.get(key)?.as_str());
        let registry = of_registry("name").unwrap_or_default();
        let Some(architecture) = get("architecture") else {
            return Err(invalid(&format!("the configuration of image {canonical} has no architecture")));
        };
        let auto_pull = match get("auto_pull") {
            Some("digest") | None => AutoPull::Digest,
            Some("tag") => AutoPull::Tag,
            Some("none") => AutoPull::Never,
            Some(other) => {
                return Err(invalid(&format!("auto_pull {other:?} is none of digest, tag and none")));
            }
        };
        let project = get("project").filter(|project| !project.is_empty());
        let below = |path: &str, part: &str| path.strip_prefix(part)?.strip_prefix('/').map(str::to_owned);
        let path = below(canonical, registry).unwrap_or_else(|| canonical.to_owned());
        let path = project.and_then(|project| below(&path, project)).unwrap_or(path);
        let (name, tag) = split_reference(&path);
        let login = of_registry("username").zip(of_registry("password"));
        Ok(Self {
            canonical: canonical.to_owned(),
            parts: ImageRef {
                name: name.to_owned(),
                project: project.map(str::to_owned),
                tag: tag.to_owned(),
                registry: registry.to_owned(),
                architecture: architecture.to_owned(),
                is_local: config.get("is_local").and_then(Value::as_bool).unwrap_or_default(),
            },
            digest: get("digest").unwrap_or_default().to_owned(),
            auto_pull,
            login: login
                .filter(|(user, _)| !user.is_empty())
                .map(|(user, password)| Login { user: user.to_owned(), password: password.to_owned() }),
        })
    }

    /// What the engine calls it: a local one has no registry in its name.
    fn reference(&self) -> String {
        if self.parts.is_local { self.parts.short() } else { self.canonical.clone() }
    }

    /// What is to be done when this is here under its name.
    fn verdict(&self, there: Option<&ImageView>) -> Verdict {
        match (there, self.auto_pull) {
            (Some(_), _) if self.parts.is_local => Verdict::There,
            (Some(image), AutoPull::Digest) if !self.digest.is_empty() && image.id != self.digest => {
                Verdict::Pull
            }
            (Some(_), _) => Verdict::There,
            (None, _) if self.parts.is_local => {
                let text = format!("{} is a local image, and not on this node", self.reference());
                Verdict::Missing(text)
            }
            (None, AutoPull::Never) => {
                let text = format!("{} is not on this node, and may not be pulled", self.canonical);
                Verdict::Missing(text)
            }
            (None, AutoPull::Digest | AutoPull::Tag) => Verdict::Pull,
        }
    }
}

impl Methods {
    /// `check_and_pull(image_configs)`.
    pub(super) fn check_and_pull(&self, call: &mut Call) -> Result<Value, Failure> {
        let Value::Map(configs) = argument(call, 0, "image_configs")? else {
            return Err(invalid("image_configs must be a map"));
        };
        // All are read before any is begun.
        let read = |(name, config): &(Value, Value)| {
            let name = name.as_str().ok_or_else(|| invalid("images go by their names"))?;
            Wanted::read(name, config)
        };
        let wanted = configs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut tasks = Vec::new();
        for image in wanted {
            tasks.push((image.canonical.clone(), Uuid::new_v4().simple().to_string()));
            if self.images.wanted.try_send(image).is_err() {
                return Err(Failure::new("RuntimeError", "too many images wait to be looked at; try again"));
            }
        }
        Ok(Value::map(tasks))
    }

    /// `check_pulling(image_name)`.
    pub(super) fn check_pulling(&self, call: &mut Call) -> Result<Value, Failure> {
        let name = text(call, 0, "image_name")?;
        Ok(locked(&self.images.pulling).contains(&name).into())
    }
}

/// The way to the task that brings images.
#[derive(Debug, Clone)]
pub struct Images {
    wanted: mpsc::Sender<Wanted>,
    pulling: Arc<Mutex<BTreeSet<String>>>,
}

/// The task that brings images.
#[derive(Debug)]
pub struct Bringer {
    wanted: mpsc::Receiver<Wanted>,
    pulling: Arc<Mutex<BTreeSet<String>>>,
    work: Work,
}

/// What bringing one image takes.
#[derive(Debug, Clone)]
struct Work {
    engine: SharedEngine,
    agent: AgentId,
    /// None: without a cluster nobody is told.
    messenger: Option<Messenger>,
}

/// A way to it, and the task, which has to be run.
#[must_use]
pub fn images(engine: SharedEngine, agent: AgentId, messenger: Option<Messenger>) -> (Images, Bringer) {
    let (sender, wanted) = mpsc::channel(QUEUE);
    let pulling = Arc::new(Mutex::default());
    let bringer = Bringer { wanted, pulling: Arc::clone(&pulling), work: Work { engine, agent, messenger } };
    (Images { wanted: sender, pulling }, bringer)
}

impl Bringer {
    /// Brings what is wanted, each image by itself; ends when nobody can ask any more.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        loop {
            // Cancel-safe: a receiver and JoinSet::join_next.
            tokio::select! {
                wanted = self.wanted.recv() => {
                    let Some(wanted) = wanted else { return };
                    let busy = Busy::begin(&self.pulling, &wanted.canonical);
                    let Some(busy) = busy else { continue };
                    let work = self.work.clone();
                    tasks.spawn(async move {
                        work.bring(&wanted).await;
                        drop(busy);
                    });
                }
                Some(ended) = tasks.join_next() => {
                    if let Err(failure) = ended {
                        tracing::error!(%failure, "bringing an image ended early");
                    }
                }
            }
        }
    }
}

/// Notes that an image is being looked at, as long as it lives.
struct Busy {
    pulling: Arc<Mutex<BTreeSet<String>>>,
    canonical: String,
}

impl Busy {
    /// None when it is being looked at already.
    fn begin(pulling: &Arc<Mutex<BTreeSet<String>>>, canonical: &str) -> Option<Self> {
        let is_new = locked(pulling).insert(canonical.to_owned());
        is_new.then(|| Self { pulling: Arc::clone(pulling), canonical: canonical.to_owned() })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        locked(&self.pulling).remove(&self.canonical);
    }
}

/// A set of names is consistent whatever panicked while it was held.
fn locked(pulling: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    pulling.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    async fn bring(&self, wanted: &Wanted) {
        let outcome = match self.engine.image(&wanted.reference()).await {
            Ok(there) => match wanted.verdict(there.as_ref()) {
                Verdict::There => Ok(Some(THERE)),
                Verdict::Missing(why) => Err(why),
                Verdict::Pull => self.pull(wanted).await.map(|()| None),
            },
            Err(error) => Err(error.to_string()),
        };
        let (image, agent_id) = (wanted.canonical.clone(), self.agent.to_string());
        let image_ref = ImageParts::from(&wanted.parts);
        self.tell(match outcome {
            Ok(msg) => ManagerEvent::ImagePullFinished { image, agent_id, timestamp: now(), msg, image_ref },
            Err(msg) => {
                tracing::warn!(image, "a wanted image is not here: {msg}");
                ManagerEvent::ImagePullFailed { image, agent_id, msg, image_ref }
            }
        });
    }

    async fn pull(&self, wanted: &Wanted) -> Result<(), String> {
        self.tell(ManagerEvent::ImagePullStarted {
            image: wanted.canonical.clone(),
            agent_id: self.agent.to_string(),
            timestamp: now(),
            image_ref: ImageParts::from(&wanted.parts),
        });
        tracing::info!(image = wanted.canonical, "pulling");
        let pulling = async {
            let mut steps = self.engine.pull(&wanted.reference(), wanted.login.as_ref()).await?;
            while let Some(step) = steps.recv().await {
                if let ImageStep::Done { .. } = step? {
                    return Ok(());
                }
            }
            Err(EngineError::Failed {
                call: "pull",
                message: "the engine said nothing of its end".to_owned(),
            })
        };
        match tokio::time::timeout(PULL_TIMEOUT, pulling).await {
            Ok(ended) => ended.map_err(|error: EngineError| error.to_string()),
            Err(_) => Err(format!("it was not here after {} s", PULL_TIMEOUT.as_secs())),
        }
    }

    fn tell(&self, event: ManagerEvent) {
        if let Some(messenger) = &self.messenger {
            messenger.tell(event);
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, Value)]) -> Value {
        let registry = Value::map([("name", Value::from("cr.backend.ai")), ("username", Value::Nil)]);
        let mut all = vec![
            ("architecture", Value::from("x86_64")),
            ("project", Value::from("stable")),
            ("digest", Value::from("sha256:1")),
            ("registry", registry),
        ];
        all.extend(pairs.iter().cloned());
        Value::map(all)
    }

    fn auto_pull(value: &str) -> (&'static str, Value) {
        ("auto_pull", Value::Enum { class: "AutoPullBehavior".to_owned(), value: value.to_owned() })
    }

    #[test]
    fn a_name_is_taken_apart_by_what_is_said_of_it() {
        let image = Wanted::read("cr.backend.ai/stable/python:3.9-ubuntu20.04", &config(&[])).unwrap();
        let parts = &image.parts;
        assert_eq!((parts.name.as_str(), parts.tag.as_str()), ("python", "3.9-ubuntu20.04"));
        assert_eq!((parts.project.as_deref(), parts.registry.as_str()), (Some("stable"), "cr.backend.ai"));
        assert_eq!(parts.canonical(), image.canonical);
        assert_eq!((image.reference(), image.login.clone()), (image.canonical.clone(), None));
        let local = [
            ("is_local", Value::from(true)),
            ("project", Value::from("lab")),
            ("registry", Value::map([("name", Value::from("local"))])),
        ];
        let image = Wanted::read("local/lab/python:3.11", &config(&local)).unwrap();
        assert_eq!(image.reference(), "lab/python:3.11");
        let registry =
            [("name", "r:5000"), ("username", "u"), ("password", "hush")].map(|(k, v)| (k, Value::from(v)));
        let deep = [("project", Value::Nil), ("registry", Value::map(registry))];
        let image = Wanted::read("r:5000/a/b", &config(&deep)).unwrap();
        assert_eq!((image.parts.name.as_str(), image.parts.tag.as_str()), ("a/b", "latest"));
        assert!(image.login.is_some() && !format!("{image:?}").contains("hush"));
        assert!(Wanted::read("a", &Value::Nil).is_err());
        assert!(Wanted::read("a", &config(&[auto_pull("sometimes")])).is_err());
    }

    #[test]
    fn an_image_is_brought_when_it_should_be() {
        let view = |id: &str| ImageView {
            id: id.to_owned(),
            tags: Vec::new(),
            labels: std::collections::BTreeMap::new(),
            architecture: "amd64".to_owned(),
            size: 1,
            created: 0,
        };
        let verdict = |pairs: &[(&str, Value)], there: Option<&str>| {
            Wanted::read("cr.backend.ai/stable/a:1", &config(pairs))
                .unwrap()
                .verdict(there.map(view).as_ref())
        };
        let missing = |verdict| matches!(verdict, Verdict::Missing(_));
        let local = ("is_local", Value::from(true));
        assert_eq!(verdict(&[auto_pull("digest")], Some("sha256:1")), Verdict::There);
        assert_eq!(verdict(&[auto_pull("digest")], Some("sha256:2")), Verdict::Pull);
        assert_eq!(verdict(&[auto_pull("digest")], None), Verdict::Pull);
        assert_eq!(verdict(&[auto_pull("tag")], Some("sha256:2")), Verdict::There);
        assert_eq!(verdict(&[auto_pull("tag")], None), Verdict::Pull);
        assert_eq!(verdict(&[auto_pull("none")], Some("sha256:2")), Verdict::There);
        assert!(missing(verdict(&[auto_pull("none")], None)));
        assert_eq!(verdict(&[auto_pull("digest"), local.clone()], Some("sha256:2")), Verdict::There);
        assert!(missing(verdict(&[auto_pull("digest"), local], None)));
    }

    #[test]
    fn what_is_being_brought_is_not_begun_twice() {
        let pulling = Arc::new(Mutex::default());
        let first = Busy::begin(&pulling, "a").unwrap();
        assert!(Busy::begin(&pulling, "a").is_none());
        assert!(Busy::begin(&pulling, "b").is_some());
        drop(first);
        assert!(Busy::begin(&pulling, "a").is_some());
    }
}
