//! Replacing policies while kernels run, as one transaction (design §6):
//!
//! ```text
//!  push:      size, magic ─> compile, instantiate, describe, its fixtures, grants (policy-load) ─> file ─> row
//!  activate:  verify ─> compile, instantiate ─> settings, grants                       (thread policy-load)
//!             ─> the last decisions again (thread policy-replay) ─> nothing differs, or that is accepted
//!             ─> row on disk ─> one pointer ─> probation ─> (failures) ─> what was before
//!  set:       the same module with other settings, from the second line on
//!  reload:    what agent.toml says now, the same way
//!  roll back: row on disk ─> one pointer (the last good one is compiled)
//! ```
//! [`Swap`] owns what the store knows of the policies; changes are made one after another. A decision takes a
//! slot's pointer once, so calls in flight end on what they began with. What was active and works becomes the
//! last good one, which is asked when the active one fails. Until the pointer is moved nothing has changed, and a
//! client that hangs up before that has wanted nothing.
//!
//! [`Swap::guard`] is the task that writes demotions down (they stay until an operator acts), and that rolls back
//! what fails on probation.
//!
//! Files: this one (push, roll back, what is there), `activate` (the transaction), `replaying`, `shadowing`,
//! `reload`, `guard`, `show`, `error`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::error::Problem;
use super::load::{self, Policy};
use super::replay::Report;
use super::rows::{Act, Choice, Chosen, Event, ModuleRow, SlotRow};
use super::shelf::Shelf;
use super::slot::{self, Line, Member, Slot};
use super::{Config, Handle, Kept, Workshop, WorldKind, fixture, journal, probation};
use crate::ids::Digest;
use crate::store::{self, StoreError};

mod activate;
mod error;
mod guard;
mod reload;
mod replaying;
mod shadowing;
mod show;

pub use activate::{Activation, Outcome, SettingsChange, Step, Steps};
pub use error::SwapError;
pub use replaying::{Asked, ReplayOrder};
pub use show::{SettingShown, Shown};

/// The size of a module that is refused.
pub const MODULE_BYTES: u64 = super::header::MAX_MODULE_BYTES;
/// Modules kept; the oldest that no slot needs goes first.
const MODULES: usize = 32;
/// Fewer digits of a digest are not looked up.
const LEAST_DIGITS: usize = 6;

/// What to activate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// What `[policy]` says for this world.
    Configured(WorldKind),
    /// A pushed module, by its digest, the beginning of it, or its name (the one pushed last).
    Pushed(String),
}

/// Who wants it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The caller's uid; none: the agent.
    pub uid: Option<u32>,
    /// In their words.
    pub reason: Option<String>,
}

/// A module that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// What is known of it.
    pub module: ModuleRow,
    /// It was there already.
    pub already: bool,
    /// Why it cannot be activated with the settings that its world's section has.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swapped {
    /// The world.
    pub world: WorldKind,
    /// The member of its chain.
    pub link: usize,
    /// Who decides from now on.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its digest; none for the built-in.
    pub digest: Option<Digest>,
    /// Who is asked when it fails; none: the built-in.
    pub last_good: Option<String>,
    /// False: it was active already.
    pub changed: bool,
    /// What it would have decided otherwise; none: nothing was replayed.
    #[serde(default)]
    pub diff: Option<Report>,
}

/// A clonable way to change the set of policies.
#[derive(Debug, Clone)]
pub struct Swap {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    policy: Handle,
    shelf: Shelf,
    store: store::Handle,
    books: Mutex<Books>,
    /// Held while a module is loaded: the sandbox has room for one such call beside the policy threads, and
    /// decisions must never be short of it.
    loading: Arc<Mutex<()>>,
    /// The same for decisions that are made again: replays and shadows take turns.
    replaying: Arc<Mutex<()>>,
    /// Held while `agent.toml` is taken over.
    reloading: Mutex<()>,
    terms: RwLock<Terms>,
}

/// What `[policy]` says about swapping; read again by [`Swap::reload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    replay_last: u64,
    replay_sec: u64,
    probation: probation::Terms,
}

impl Terms {
    fn of(config: &Config) -> Self {
        Self {
            replay_last: config.replay_last,
            replay_sec: config.replay_sec,
            probation: probation::Terms::of(config),
        }
    }
}

/// What is on disk.
#[derive(Debug)]
struct Books {
    rows: Vec<SlotRow>,
    modules: Vec<ModuleRow>,
}

impl Books {
    fn row(&self, world: WorldKind, link: usize) -> SlotRow {
        let found = self.rows.iter().find(|row| row.world == world && row.link == link);
        found.cloned().unwrap_or_else(|| SlotRow::untouched(world, link))
    }

    fn keep(&mut self, row: SlotRow) {
        self.rows.retain(|known| known.world != row.world || known.link != row.link);
        self.rows.push(row);
    }
}

/// Where pushed modules and the journal lie in a state directory.
fn folders(state_dir: &Path) -> (PathBuf, PathBuf) {
    (state_dir.join("policies"), state_dir.join("journal"))
}

/// Where compiled code lies.
fn cache_folder(state_dir: &Path) -> PathBuf {
    state_dir.join("policy-cache")
}

impl Kept {
    /// What an earlier agent process left; call it before [`super::start_kept`]. Rows that cannot be read are
    /// told by [`Handle::problems`], and are no more than that.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub async fn load(store: &store::Handle, state_dir: &Path) -> Result<Self, StoreError> {
        let (modules, journal) = folders(state_dir);
        let (rows, aside) = store.load::<SlotRow>().await?;
        let (pushed, aside_modules) = store.load::<ModuleRow>().await?;
        let told = |row: store::SetAside| {
            tracing::warn!(table = row.table, key = row.key, "a row was passed over: {}", row.problem);
            format!("what the state directory says of policy {} cannot be read: {}", row.key, row.problem)
        };
        let problems = aside.into_iter().chain(aside_modules).map(told).collect();
        let workshop = Workshop { cache: Some(cache_folder(state_dir)), program: None };
        Ok(Self { rows, pushed, modules, journal, workshop, problems })
    }
}

impl Swap {
    /// Over the policies that were started with `config` and `kept`.
    #[must_use]
    pub fn new(policy: Handle, store: store::Handle, kept: Kept, config: &Config) -> Self {
        let books = Mutex::new(Books { rows: kept.rows, modules: kept.pushed });
        let (loading, replaying) = (Arc::default(), Arc::default());
        let terms = RwLock::new(Terms::of(config));
        let shelf = Shelf::new(kept.modules);
        let reloading = Mutex::default();
        let inner = Inner { policy, shelf, store, books, loading, replaying, reloading, terms };
        Self { inner: Arc::new(inner) }
    }

    fn terms(&self) -> Terms {
        *self.inner.terms.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a module in, without making it active: its own world decides where it belongs. It must load, and what
    /// it needs must be granted in its slot; settings that do not fit are told and can be given when it is
    /// activated. Takes as long as compiling does.
    ///
    /// # Errors
    /// What is wrong with it, or that it cannot be kept.
    pub async fn push(&self, bytes: Vec<u8>, link: Option<usize>, uid: u32) -> Result<Pushed, SwapError> {
        if bytes.len() as u64 > MODULE_BYTES {
            return Err(Problem::TooLarge { bytes: bytes.len() as u64, limit: MODULE_BYTES }.into());
        }
        let (policy, shelf) = (self.inner.policy.clone(), self.inner.shelf.clone());
        let (module, was_there, problem) = self
            .off_thread(move || {
                let wasm = policy.host.wasm.as_ref().ok_or(Problem::BuiltinsOnly)?;
                let module = load::module(&wasm.sandbox, &bytes)?;
                let world = module.world;
                let link = member_of_chain(&policy, world, link)?;
                let failed = fixture::problems(&wasm.sandbox, &module);
                if !failed.is_empty() {
                    return Err(Problem::Fixtures(failed).into());
                }
                let config = slot::as_pushed(&slot_of(&policy, world, link)?.line().config);
                let row = ModuleRow {
                    digest: module.digest,
                    world,
                    link,
                    name: module.about.name.clone(),
                    version: module.about.version.clone(),
                    summary: module.about.summary.clone(),
                    bytes: bytes.len() as u64,
                    pushed_at_ms: journal::now_ms(),
                    uid,
                };
                let problem = match module.configure(&wasm.sandbox, &config, slot::PUSHED.to_owned()) {
                    Ok(_) => None,
                    Err(problem @ Problem::Settings(_)) => Some(problem.to_string()),
                    Err(problem) => return Err(problem.into()),
                };
                let was_there = shelf.put(&bytes).map_err(SwapError::keeping)?;
                Ok((row, was_there, problem))
            })
            .await?;
        let mut books = self.inner.books.lock().await;
        let known = books.modules.iter().any(|known| known.digest == module.digest);
        self.inner.store.put(&module).await?;
        books.modules.retain(|other| other.digest != module.digest);
        books.modules.push(module.clone());
        self.remove_oldest(&mut books).await;
        tracing::info!(policy = module.name, digest = module.digest.short(), uid, "a policy was pushed");
        Ok(Pushed { module, already: known && was_there, problem })
    }

    /// Modules that nobody needs do not fill the disk.
    async fn remove_oldest(&self, books: &mut Books) {
        let needed = |books: &Books, digest| books.rows.iter().any(|row| row.needs(digest));
        while books.modules.len() > MODULES {
            let last = books.modules.len() - 1;
            let Some(at) = (0..last).find(|at| !needed(books, books.modules[*at].digest)) else { return };
            let digest = books.modules[at].digest;
            // The row first: a file without a row is only a file.
            if let Err(error) = self.inner.store.delete::<ModuleRow>(&digest.to_string()).await {
                tracing::warn!(%error, "an old policy could not be forgotten");
                return;
            }
            books.modules.remove(at);
            if let Err(error) = self.inner.shelf.remove(digest) {
                tracing::warn!(%error, digest = digest.short(), "an old policy's file could not be removed");
            }
        }
    }

    /// Makes active what was so before.
    ///
    /// # Errors
    /// When nothing was, or it does not load any more: nothing has changed then.
    pub async fn roll_back(
        &self,
        world: WorldKind,
        link: Option<usize>,
        order: Order,
    ) -> Result<Swapped, SwapError> {
        let link = member_of_chain(&self.inner.policy, world, link)?;
        let slot = slot_of(&self.inner.policy, world, link)?;
        let mut books = self.inner.books.lock().await;
        self.roll_back_slot(slot, &mut books, order).await
    }

    async fn roll_back_slot(
        &self,
        slot: &Slot,
        books: &mut MutexGuard<'_, Books>,
        order: Order,
    ) -> Result<Swapped, SwapError> {
        let (world, link) = (slot.world, slot.link);
        let (line, mut row) = (slot.line(), books.row(world, link));
        let member = match &line.last_good {
            // What agent.toml said before it was read again.
            Some(last_good) if last_good.chosen == line.active.chosen => last_good.clone(),
            last_good => {
                let chosen = row.roll_back().ok_or(SwapError::NoHistory(world))?;
                match last_good {
                    Some(last_good) if last_good.chosen == chosen => last_good.clone(),
                    _ => self.member(world, link, chosen).await?,
                }
            }
        };
        row.note(event(Act::RolledBack, &member, order));
        self.inner.store.put(&row).await?;
        if let Some(policy) = &member.policy {
            policy.record.pardon();
        }
        slot.swap(Line { active: member.clone(), last_good: None, ..(*line).clone() });
        slot.on_probation(None);
        slot.decided();
        // The second rung again, now that the first one stands.
        if let Some(chosen) = row.last_good() {
            match self.member(world, link, chosen).await {
                Ok(last_good) => {
                    slot.swap(Line { active: member, last_good: Some(last_good), ..(*slot.line()).clone() })
                }
                Err(error) => tracing::warn!(%world, link, "the policy before it does not load: {error}"),
            }
        }
        books.keep(row);
        Ok(told(swapped(slot, true, None)))
    }

    /// The modules that were pushed, oldest first.
    pub async fn modules(&self) -> Vec<ModuleRow> {
        self.inner.books.lock().await.modules.clone()
    }

    /// A pushed module's bytes, by its digest, the beginning of it, or its name.
    ///
    /// # Errors
    /// When there is none, or its file is damaged.
    pub async fn module(&self, text: &str) -> Result<Vec<u8>, SwapError> {
        let (digest, shelf) = (self.find(text).await?.digest, self.inner.shelf.clone());
        self.off_thread(move || Ok(shelf.get(digest)?)).await
    }

    async fn resolve(
        &self,
        target: &Target,
        link: Option<usize>,
    ) -> Result<(WorldKind, usize, Choice), SwapError> {
        match target {
            Target::Configured(world) => {
                Ok((*world, member_of_chain(&self.inner.policy, *world, link)?, Choice::Configured))
            }
            Target::Pushed(text) => {
                let module = self.find(text).await?;
                let link = member_of_chain(&self.inner.policy, module.world, link.or(Some(module.link)))?;
                Ok((module.world, link, Choice::Pushed(module.digest)))
            }
        }
    }

    /// The pushed module that `text` means.
    async fn find(&self, text: &str) -> Result<ModuleRow, SwapError> {
        let books = self.inner.books.lock().await;
        let lower = text.to_ascii_lowercase();
        let is_digest = lower.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest && lower.len() >= LEAST_DIGITS {
            let found: Vec<&ModuleRow> =
                books.modules.iter().filter(|module| module.digest.to_string().starts_with(&lower)).collect();
            match found[..] {
                [] => {}
                [only] => return Ok(only.clone()),
                _ => {
                    let found = found.iter().map(|module| module.digest.short()).collect();
                    return Err(SwapError::Ambiguous { text: text.to_owned(), found });
                }
            }
        }
        let named = books.modules.iter().rev().find(|module| module.name == text);
        named.cloned().ok_or_else(|| {
            let short = is_digest && lower.len() < LEAST_DIGITS;
            SwapError::NoSuchPolicy { text: text.to_owned(), short }
        })
    }

    /// Compiles what was chosen, or takes the configured one, which is compiled.
    async fn member(&self, world: WorldKind, link: usize, chosen: Chosen) -> Result<Member, SwapError> {
        let line = slot_of(&self.inner.policy, world, link)?.line();
        if chosen == Chosen::CONFIGURED {
            return Ok(line.configured.clone());
        }
        let (policy, shelf) = (self.inner.policy.clone(), self.inner.shelf.clone());
        self.off_thread(move || {
            let wasm = policy.host.wasm.as_ref().ok_or(Problem::BuiltinsOnly)?;
            Ok(slot::load_chosen(&wasm.sandbox, world, &line.config, chosen, &shelf)?)
        })
        .await
    }
}

impl Swap {
    /// Runs `work`, which may run WebAssembly and read files, on a thread of its own (invariant 2).
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SwapError> + Send + 'static,
    ) -> Result<T, SwapError> {
        self.on_a_thread("policy-load", &self.inner.loading, work).await
    }

    /// The same on a thread of that name, when it is its `turn`.
    async fn on_a_thread<T: Send + 'static>(
        &self,
        name: &str,
        turn: &Arc<Mutex<()>>,
        work: impl FnOnce() -> Result<T, SwapError> + Send + 'static,
    ) -> Result<T, SwapError> {
        let failed = |problem: &str| SwapError::from(Problem::Sandbox(problem.to_owned()));
        // Goes with the thread, which works on when nobody waits for it any more.
        let turn = Arc::clone(turn).lock_owned().await;
        let (reply, answer) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let done = work();
                drop(turn);
                // Whoever asked may have gone.
                let _ = reply.send(done);
            })
            .map_err(|error| failed(&format!("no thread to load on: {error}")))?;
        answer.await.map_err(|_| failed("loading panicked, which is a bug of berth"))?
    }
}

fn slot_of(policy: &Handle, world: WorldKind, link: usize) -> Result<&Slot, SwapError> {
    let mut chain = policy.host.chain(world);
    chain.nth(link).ok_or_else(|| SwapError::NoSuchLink {
        world,
        link,
        length: policy.host.chain(world).count(),
    })
}

/// Which member is meant; without a number the only one.
fn member_of_chain(policy: &Handle, world: WorldKind, link: Option<usize>) -> Result<usize, SwapError> {
    let length = policy.host.chain(world).count();
    match link {
        Some(link) if link < length => Ok(link),
        Some(link) => Err(SwapError::NoSuchLink { world, link, length }),
        None if length == 1 => Ok(0),
        None => Err(SwapError::WhichLink { world, length }),
    }
}

fn event(act: Act, member: &Member, order: Order) -> Event {
    Event {
        at_ms: journal::now_ms(),
        uid: order.uid,
        act,
        choice: member.chosen.choice,
        name: member.name(),
        version: member.version(),
        digest: member.digest(),
        reason: order.reason,
    }
}

fn swapped(slot: &Slot, changed: bool, diff: Option<Report>) -> Swapped {
    let line = slot.line();
    Swapped {
        world: slot.world,
        link: slot.link,
        name: line.active.name(),
        version: line.active.version(),
        digest: line.active.digest(),
        last_good: line.last_good.as_ref().map(Member::name),
        changed,
        diff,
    }
}

fn told(swapped: Swapped) -> Swapped {
    let digest = swapped.digest.map(|digest| digest.short());
    tracing::info!(
        world = %swapped.world, link = swapped.link, policy = swapped.name, digest,
        "decides from now on"
    );
    swapped
}
