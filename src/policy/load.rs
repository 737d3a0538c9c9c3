//! From a file's bytes to a policy that can be asked: header, compile, instantiate once, `describe`,
//! settings, grants (design §6 "Swap", its first half). Runs WebAssembly: never on a tokio worker.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bindings::types;
use super::config::{Budgets, PolicyConfig, Source};
use super::error::Problem;
use super::guest::{About, Guest, Pre, SettingInfo, Terms};
use super::header::{self, MAX_MODULE_BYTES};
use super::manifest::{self, Manifest};
use super::record::Record;
use super::sandbox::{Sandbox, Stage, State, classify, clean};
use super::settings;
use super::shipped;
use super::stage;
use super::trust::Signer;
use super::worlds::grants;
use super::{Fault, WorldKind};
use crate::ids::Digest;

/// For `describe` and for `check-settings` each; no kernel waits for them.
const ABOUT_TIME: Duration = Duration::from_secs(5);
const NAME_BYTES: usize = 64;
const SUMMARY_BYTES: usize = 400;

/// A policy that can be asked. Immutable but for its record.
pub(super) struct Policy {
    pub name: Arc<str>,
    pub version: String,
    pub summary: String,
    pub digest: Digest,
    /// A path, or `shipped`.
    pub source: String,
    /// Who signed it.
    pub signer: Option<Signer>,
    pub pre: Pre,
    pub settings: Vec<types::Setting>,
    /// The settings that it knows.
    pub known: Vec<SettingInfo>,
    /// Edits that it needs to be granted.
    pub needs: Vec<String>,
    pub terms: Terms,
    pub budgets: Budgets,
    pub record: Record,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// A component that compiles, links and describes itself.
#[derive(Clone)]
pub(super) struct Module {
    pub world: WorldKind,
    pub about: About,
    pub digest: Digest,
    /// What it carries beside its code; it says what `about` says.
    pub manifest: Option<Manifest>,
    /// Who signed it.
    pub signer: Option<Signer>,
    pre: Pre,
}

/// The bytes of a policy's file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let problem = |e: std::io::Error| Problem::Read(e.to_string());
    let file = File::open(path).map_err(problem)?;
    let metadata = file.metadata().map_err(problem)?;
    if !metadata.is_file() {
        return Err(Problem::Read("it is not a regular file".to_owned()));
    }
    // Before anything of it is read.
    if metadata.len() > MAX_MODULE_BYTES {
        return Err(Problem::TooLarge { bytes: metadata.len(), limit: MAX_MODULE_BYTES });
    }
    let mut bytes = Vec::new();
    file.take(MAX_MODULE_BYTES + 1).read_to_end(&mut bytes).map_err(problem)?;
    if bytes.len() as u64 > MAX_MODULE_BYTES {
        return Err(Problem::TooLarge {
            bytes: metadata.len().max(MAX_MODULE_BYTES + 1),
            limit: MAX_MODULE_BYTES,
        });
    }
    Ok(bytes)
}

/// Checks, compiles and instantiates a component once, and asks what it says of itself.
pub(super) fn module(sandbox: &Sandbox, bytes: &[u8]) -> Result<Module, Problem> {
    let at = sandbox.stages.begin(stage::Stage::Checking);
    let digest = Digest::of(bytes);
    // What comes with berth is as good as berth.
    let signer = if shipped::is_one(bytes) { None } else { sandbox.trust.judge(bytes)? };
    let world = header::read(bytes)?;
    let manifest = manifest::read(bytes)?;
    at.next(stage::Stage::Compiling);
    let component = sandbox.compiler.component(&sandbox.engine, digest, bytes)?;
    let link = |e: wasmtime::Error| Problem::Instantiate(clean(&format!("{e:#}"), 1 << 10));
    let pre =
        sandbox.linker.instantiate_pre(&component).and_then(|pre| Pre::new(world, pre)).map_err(link)?;
    at.next(stage::Stage::Describing);
    let about =
        once(sandbox, sandbox.budgets_at_most(), &pre, "describe", |guest, store| guest.describe(store))?;
    let about = presentable(about)?;
    if let Some(manifest) = &manifest {
        manifest.agrees(world, &about)?;
    }
    Ok(Module { world, about, digest, manifest, signer, pre })
}

impl Module {
    /// Gives it the operator's settings and grants.
    pub fn configure(
        self,
        sandbox: &Sandbox,
        config: &PolicyConfig,
        source: String,
    ) -> Result<Policy, Problem> {
        let _at = sandbox.stages.begin(stage::Stage::Configuring);
        let settings =
            settings::complete(&self.about.settings, &config.settings).map_err(Problem::Settings)?;
        // Instantiated once with what a call of it may use: what does not fit is found here, not by a kernel.
        let budgets = sandbox.budgets.with(config);
        let checked = once(sandbox, budgets, &self.pre, "check-settings", |guest, store| {
            guest.check_settings(store, &settings)
        })?;
        if let Err(problems) = checked {
            let problems = problems.iter().take(20).map(|problem| clean(problem, SUMMARY_BYTES)).collect();
            return Err(Problem::Settings(problems));
        }
        let grants = granted(&self.about.needs, config)?;
        Ok(Policy {
            name: self.about.name.into(),
            version: self.about.version,
            summary: self.about.summary,
            digest: self.digest,
            source,
            signer: self.signer,
            pre: self.pre,
            settings,
            known: self.about.settings,
            needs: self.about.needs,
            terms: Terms { grants: grants.into(), image_labels: self.about.image_labels },
            budgets,
            record: Record::default(),
        })
    }
}

impl Module {
    /// Without settings and grants, to be given those of records ([`Policy::given`]).
    pub fn bare(self, budgets: Budgets) -> Policy {
        Policy {
            name: self.about.name.into(),
            version: self.about.version,
            summary: self.about.summary,
            digest: self.digest,
            source: "recorded".to_owned(),
            signer: self.signer,
            pre: self.pre,
            settings: Vec::new(),
            known: self.about.settings,
            needs: self.about.needs,
            terms: Terms { grants: Arc::from([]), image_labels: self.about.image_labels },
            budgets,
            record: Record::default(),
        }
    }
}

impl Policy {
    /// The same module with other settings and grants, and a record of its own.
    pub fn given(&self, settings: Vec<types::Setting>, grants: Vec<String>) -> Self {
        Self {
            name: Arc::clone(&self.name),
            version: self.version.clone(),
            summary: self.summary.clone(),
            digest: self.digest,
            source: self.source.clone(),
            signer: self.signer.clone(),
            pre: self.pre.clone(),
            settings,
            known: self.known.clone(),
            needs: self.needs.clone(),
            terms: Terms { grants: grants.into(), image_labels: self.terms.image_labels.clone() },
            budgets: self.budgets,
            record: Record::default(),
        }
    }
}

/// One call of an instance of its own, with time enough.
fn once<T>(
    sandbox: &Sandbox,
    budgets: Budgets,
    pre: &Pre,
    function: &'static str,
    call: impl FnOnce(&Guest, &mut wasmtime::Store<State>) -> wasmtime::Result<T>,
) -> Result<T, Problem> {
    let _running = sandbox.clock.running();
    let mut store = sandbox.store(&"loading".into(), Instant::now() + ABOUT_TIME, budgets);
    let guest =
        pre.instantiate(&mut store).map_err(|e| match classify(Stage::Instantiate, &e, store.data()) {
            (Fault::Memory, message) => Problem::DoesNotFit(message),
            (_, message) => Problem::Instantiate(message),
        })?;
    call(&guest, &mut store).map_err(|e| match classify(Stage::Call, &e, store.data()) {
        (Fault::Memory, message) => Problem::DoesNotFit(message),
        (_, message) => Problem::About { function, message },
    })
}

/// What a policy says of itself ends up in tables and logs.
fn presentable(about: About) -> Result<About, Problem> {
    let name = clean(about.name.trim(), NAME_BYTES);
    if name.is_empty() || name == "builtin" {
        return Err(Problem::About {
            function: "describe",
            message: format!("the name {name:?} is not allowed"),
        });
    }
    Ok(About {
        name,
        version: clean(&about.version, NAME_BYTES),
        summary: clean(&about.summary, SUMMARY_BYTES),
        settings: about
            .settings
            .into_iter()
            .map(|setting| SettingInfo { help: clean(&setting.help, SUMMARY_BYTES), ..setting })
            .collect(),
        ..about
    })
}

/// Two-sided: the policy says which edits it needs, the operator grants them. Our own is granted its needs.
fn granted(needs: &[String], config: &PolicyConfig) -> Result<Vec<String>, Problem> {
    let unknown = grants::unknown(needs);
    if !unknown.is_empty() {
        return Err(Problem::UnknownNeeds(unknown));
    }
    if config.grants.is_empty() && config.source == Source::Shipped {
        return Ok(needs.to_vec());
    }
    let missing = grants::missing(needs, &config.grants);
    if missing.is_empty() {
        return Ok(grants::both(needs, &config.grants));
    }
    let all = config.grants.iter().chain(&missing).cloned().collect();
    Err(Problem::NotGranted { missing, all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_policy_gets_the_edits_it_needs_only_when_they_are_granted() {
        let needs = ["set-env".to_owned(), "add-mount".to_owned()];
        let mut config = PolicyConfig { source: Source::File("/p.wasm".into()), ..PolicyConfig::default() };
        config.grants = vec!["add-mount:/data/**".to_owned(), "set-label".to_owned()];
        let problem = granted(&needs, &config).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "it needs set-env, not granted: write grants = [\"add-mount:/data/**\", \"set-label\", \"set-env\"] for \
             it in [policy.container-config]"
        );
        config.grants.push("set-env".to_owned());
        // No more than it says it needs.
        let both = ["set-env".to_owned(), "add-mount:/data/**".to_owned()];
        assert_eq!(granted(&needs, &config).as_deref(), Ok(&both[..]));
        assert_eq!(granted(&needs, &PolicyConfig::default()), Ok(needs.to_vec()));
        let newer = ["set-colour".to_owned()];
        assert_eq!(granted(&newer, &config).unwrap_err().code(), "unknown-need");
    }

    #[test]
    fn files_that_cannot_be_read_say_why() {
        assert!(read(Path::new("/nonexistent/p.wasm")).unwrap_err().to_string().contains("No such file"));
        assert!(read(Path::new("/")).unwrap_err().to_string().contains("not a regular file"));
    }
}
