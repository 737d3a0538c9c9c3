//! Why a policy was not loaded: one sentence per problem, with what to do.

use super::WorldKind;

/// Why a policy, or the host, could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {problem}")]
pub struct PolicyError {
    /// The policy's path, `shipped`, or `policy` for the host itself.
    pub subject: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a policy's module, its settings or the host's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A value out of range.
    #[error("{0}")]
    Config(String),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// The file is too large.
    #[error(
        "it has {bytes} bytes, more than the {limit} a policy may have: strip it, or build it with opt-level \"s\""
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Not a component at all.
    #[error("it is {found}; a policy is a WebAssembly component (.wasm): {remedy}")]
    NotAComponent {
        /// What it looks like.
        found: &'static str,
        /// How to get one.
        remedy: &'static str,
    },
    /// Its sections cannot be read.
    #[error("it is not valid WebAssembly: {0}")]
    Malformed(String),
    /// It imports what policies do not get.
    #[error(
        "it imports {}, which policies do not get (only berth:policy/host, a log): \
         build it for wasm32-unknown-unknown, in Python with componentize-py --stub-wasi",
        names.join(", ")
    )]
    ForbiddenImport {
        /// The names.
        names: Vec<String>,
    },
    /// It speaks another version of the interface.
    #[error(
        "it speaks {found}, this agent speaks berth:policy@{window}: rebuild it with this agent's wit/policy.wit, or use an agent of its version"
    )]
    Version {
        /// What it imports or exports.
        found: String,
        /// What is spoken here.
        window: &'static str,
    },
    /// It exports none of the worlds.
    #[error(
        "it exports none of berth:policy/reporting, scheduling and configuring, so it decides nothing: build it for a world of wit/policy.wit"
    )]
    NoWorld,
    /// It is of another world than the one it is configured for.
    #[error("it is a policy for `{found}`, not for `{wanted}`: name it under [policy.{found}]")]
    OtherWorld {
        /// What it is.
        found: WorldKind,
        /// What it was to be.
        wanted: WorldKind,
    },
    /// This build has no shipped module for the world.
    #[error("this build comes without a module for `{0}`: build the guests with `cargo xtask guests`")]
    NotShipped(WorldKind),
    /// It does not compile.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// Its compilation was ended.
    #[error(
        "the compiler needed more than {what}: build it smaller (strip it, opt-level \"s\"), or raise {key} in [policy]"
    )]
    CompilerLimit {
        /// How much of what.
        what: String,
        /// The key that bounds it.
        key: &'static str,
    },
    /// The compiler failed on it.
    #[error("the compiler failed on it ({how}{}): build it otherwise, and report this", if last_words.is_empty() { String::new() } else { format!("; its last words: {last_words}") })]
    CompilerFailed {
        /// How its process ended.
        how: String,
        /// What it said last.
        last_words: String,
    },
    /// Its types do not fit, or it fails while it starts.
    #[error("it cannot be instantiated: {0}")]
    Instantiate(String),
    /// `describe` or `check-settings` failed, or said something impossible.
    #[error("its `{function}` failed: {message}")]
    About {
        /// Which function.
        function: &'static str,
        /// How.
        message: String,
    },
    /// Its manifest cannot be read.
    #[error(
        "its manifest (custom section `berth:policy-manifest`) is wrong: {0}; `berth policy pack` writes a right one"
    )]
    BadManifest(String),
    /// Its manifest says something else than the module.
    #[error(
        "its manifest says {what} {manifest}, the module itself {module}: `berth policy pack` it again after every build"
    )]
    ManifestMismatch {
        /// The field.
        what: String,
        /// In the manifest.
        manifest: String,
        /// By `describe`.
        module: String,
    },
    /// It does not decide what its own fixtures expect; what failed.
    #[error("{} of its own fixtures {}: {}", .0.len(), if .0.len() == 1 { "fails" } else { "fail" }, .0.join("; "))]
    Fixtures(Vec<String>),
    /// Its settings are wrong, every mistake.
    #[error("its settings are wrong: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// It wants to make edits that the operator did not grant.
    #[error("it needs {}, not granted: write grants = {all:?} for it in [policy.container-config]", missing.join(", "))]
    NotGranted {
        /// What is missing.
        missing: Vec<String>,
        /// What there is and what is missing.
        all: Vec<String>,
    },
    /// It wants to make edits that this agent does not know.
    #[error("it needs {}, which this agent cannot do: mend its `needs`, or use the agent that it was made for", .0.join(", "))]
    UnknownNeeds(Vec<String>),
    /// A call of it would need more than there is.
    #[error(
        "a call of it does not fit into what it may use: {0}; raise memory-bytes in its section of [policy], or build it smaller"
    )]
    DoesNotFit(String),
    /// Nobody signed it.
    #[error(
        "it is not signed by anybody, and that is required: `berth policy sign FILE --key KEY`, with a key that [policy.trust] lists"
    )]
    Unsigned,
    /// Somebody signed it whom this node does not know.
    #[error(
        "it is signed by a key that is not in [policy.trust] of this node ({0}): add it there as NAME:{0}, or have it signed by one that is"
    )]
    UnknownSigner(String),
    /// Its signature does not hold.
    #[error("its signature does not hold: {0}; get it again from who signed it, or sign it again")]
    BadSignature(&'static str),
    /// Its file changed after it was pushed.
    #[error("its file in the state directory is not what was pushed: push it again")]
    Damaged,
    /// There is no WebAssembly here.
    #[error("this agent runs with its built-ins only: start it without `--policy builtin`")]
    BuiltinsOnly,
    /// The sandbox or its threads could not be set up.
    #[error("the sandbox cannot be set up: {0}")]
    Sandbox(String),
}

impl Problem {
    /// Stable, for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "bad-configuration",
            Self::Read(_) => "not-readable",
            Self::TooLarge { .. } => "module-too-large",
            Self::NotAComponent { found, .. } if found.starts_with("a precompiled") => "precompiled",
            Self::NotAComponent { .. } => "not-a-component",
            Self::Malformed(_) => "malformed-module",
            Self::ForbiddenImport { .. } => "forbidden-import",
            Self::Version { .. } => "other-interface-version",
            Self::NoWorld => "no-world",
            Self::OtherWorld { .. } => "wrong-world",
            Self::NotShipped(_) => "not-shipped",
            Self::Compile(_) => "does-not-compile",
            Self::CompilerLimit { .. } => "compiler-limit",
            Self::CompilerFailed { .. } => "compiler-failed",
            Self::Instantiate(_) => "does-not-instantiate",
            Self::About { .. } => "describe-failed",
            Self::BadManifest(_) => "bad-manifest",
            Self::ManifestMismatch { .. } => "manifest-mismatch",
            Self::Fixtures(_) => "fixtures-failed",
            Self::Settings(_) => "wrong-settings",
            Self::NotGranted { .. } => "not-granted",
            Self::UnknownNeeds(_) => "unknown-need",
            Self::DoesNotFit(_) => "does-not-fit",
            Self::Unsigned => "unsigned",
            Self::UnknownSigner(_) => "unknown-signer",
            Self::BadSignature(_) => "bad-signature",
            Self::Damaged => "damaged-module",
            Self::BuiltinsOnly => "builtins-only",
            Self::Sandbox(_) => "no-sandbox",
        }
    }

    pub(super) fn of(self, subject: impl Into<String>) -> PolicyError {
        PolicyError { subject: subject.into(), problem: self }
    }
}

impl std::fmt::Display for WorldKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SlotReporter => "slot-reporter",
            Self::Scheduler => "scheduler",
            Self::ContainerConfig => "container-config",
        })
    }
}
