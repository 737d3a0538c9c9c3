//! Why a policy was not taken in, activated or shown: one line, the next step, a stable code.

use std::io;

use super::{LEAST_DIGITS, StoreError, WorldKind};
use crate::policy::error::Problem;
use crate::policy::replay::{Report, diff};

/// See the module.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SwapError {
    /// The module is not what it should be, or not for this node.
    #[error(transparent)]
    Module(#[from] Problem),
    /// Nobody pushed it.
    #[error("no policy called {text:?} was pushed{}",
        if *short { format!(" (of a digest at least {LEAST_DIGITS} digits are needed)") } else { String::new() })]
    NoSuchPolicy {
        /// What was asked for.
        text: String,
        /// It may be meant for a digest and is too short for one.
        short: bool,
    },
    /// Several digests begin like that.
    #[error("{text} is the beginning of {} digests: {}", found.len(), found.join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What begins with it.
        found: Vec<String>,
    },
    /// The chain is shorter.
    #[error("{world} has {} here, there is no link {link}",
        if *length == 1 { "one policy".to_owned() } else { format!("a chain of {length}") })]
    NoSuchLink {
        /// The world.
        world: WorldKind,
        /// The link asked for.
        link: usize,
        /// Members of its chain.
        length: usize,
    },
    /// The chain has several members.
    #[error("{world} is a chain of {length} policies here, and none was named")]
    WhichLink {
        /// The world.
        world: WorldKind,
        /// Members of its chain.
        length: usize,
    },
    /// There is nothing to go back to.
    #[error("nothing was active for {0} before what is active now")]
    NoHistory(WorldKind),
    /// It would decide otherwise, and that was not accepted.
    #[error("it would decide otherwise: {}", diff::summary(.0))]
    Differ(Box<Report>),
    /// The built-in is not loaded, so it is not given settings by an operator.
    #[error("the built-in decides for {0}: its settings are those of agent.toml")]
    BuiltinSettings(WorldKind),
    /// A key that is to be taken away is not there.
    #[error("{} not given by anybody", if .0.len() == 1 { format!("the setting `{}` is", .0[0]) }
        else { format!("the settings {} are", .0.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")) })]
    NotSet(Vec<String>),
    /// No decisions are written down, so none can be decided again.
    #[error("this agent writes no journal of decisions")]
    NoJournal,
    /// The journal cannot be read.
    #[error("the journal of decisions cannot be read: {0}")]
    Journal(String),
    /// Nobody is asked beside the active one.
    #[error("no policy runs in the shadow of {0}")]
    NoShadow(String),
    /// Whoever asked has gone before anything was changed.
    #[error("the client went away; nothing was changed")]
    Gone,
    /// Somebody else changed the slot meanwhile.
    #[error("{0} was changed by somebody else meanwhile; nothing was changed by this request")]
    Overtaken(WorldKind),
    /// It could not be kept.
    #[error("the module cannot be kept in the state directory: {0}")]
    Keeping(String),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SwapError {
    pub(super) fn keeping(error: io::Error) -> Self {
        Self::Keeping(error.to_string())
    }

    /// What would be decided otherwise, where that is the error.
    #[must_use]
    pub fn diff(&self) -> Option<&Report> {
        match self {
            Self::Differ(report) => Some(report),
            _ => None,
        }
    }

    /// Stable, for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Module(problem) => problem.code(),
            Self::NoSuchPolicy { .. } => "no-such-policy",
            Self::Ambiguous { .. } => "ambiguous-digest",
            Self::NoSuchLink { .. } => "no-such-link",
            Self::WhichLink { .. } => "which-link",
            Self::NoHistory(_) => "no-history",
            Self::Differ(_) => "decisions-differ",
            Self::BuiltinSettings(_) => "builtin-settings",
            Self::NotSet(_) => "not-set",
            Self::NoJournal => "no-journal",
            Self::Journal(_) => "journal-unreadable",
            Self::NoShadow(_) => "no-shadow",
            Self::Gone => "client-gone",
            Self::Overtaken(_) => "overtaken",
            Self::Keeping(_) | Self::Store(_) => "store-failed",
        }
    }

    /// The next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Module(Problem::Settings(_)) => {
                "give it its own by `berth policy activate --settings FILE.toml`, or mend its world's section in \
                 agent.toml and send the agent SIGHUP"
            }
            Self::Module(Problem::NotGranted { .. }) => {
                "what is granted there holds for pushed policies too; send the agent SIGHUP, then try again"
            }
            Self::Module(Problem::Read(_) | Problem::Damaged) => "push the module again",
            Self::Module(Problem::TooLarge { .. } | Problem::ForbiddenImport { .. }) => {
                "`berth policy push` the module that the new build makes"
            }
            Self::Module(Problem::Unsigned | Problem::UnknownSigner(_) | Problem::BadSignature(_)) => {
                "`berth policy verify FILE` says who signed it; sign it last, after `berth policy pack`, and push again"
            }
            Self::Module(Problem::Fixtures(_)) => {
                "`berth policy test FILE` shows them all; mend the policy or its fixtures, and push again"
            }
            Self::Module(_) => "the policies that ship with berth are examples of how to build one",
            Self::NoSuchPolicy { .. } => {
                "`berth policy list` shows what was pushed; `berth policy push FILE` takes a module in"
            }
            Self::Ambiguous { .. } => "give more digits of it",
            Self::NoSuchLink { length: 1, .. } => "leave --link out",
            Self::NoSuchLink { length, .. } | Self::WhichLink { length, .. } => {
                return format!("give --link 0 to {}; `berth policy list` shows them", length - 1);
            }
            Self::NoHistory(world) => {
                return format!(
                    "`berth policy activate` another one; `berth policy activate --configured {world}` takes \
                     what agent.toml says"
                );
            }
            Self::Differ(_) => {
                "read the changes; --accept-diff activates it all the same, --shadow lets it watch first"
            }
            Self::BuiltinSettings(world) => {
                return format!(
                    "change [policy.{world}] there and send the agent SIGHUP, or activate a module first"
                );
            }
            Self::NotSet(_) => "`berth policy show` tells which are, and where they come from",
            Self::NoJournal | Self::Journal(_) => {
                "`berth status` says why; with `[policy] replay-last = 0` policies are activated without it"
            }
            Self::NoShadow(_) => "`berth policy activate --shadow DIGEST` starts one",
            Self::Gone => "ask again",
            Self::Overtaken(_) => "see `berth policy show`, then ask again",
            Self::Keeping(_) | Self::Store(_) => "see whether the disk of the state directory is full",
        }
        .to_owned()
    }
}
