//! Why a policy was not taken in, activated or shown: one line, the next step, a stable code.

use std::io;

use super::{LEAST_DIGITS, StoreError, WorldKind};
use crate::policy::error::Problem;

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
            Self::Keeping(_) | Self::Store(_) => "store-failed",
        }
    }

    /// The next step.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Module(Problem::Settings(_)) => {
                "the policy gets the settings of its world's section in agent.toml: mend them and restart the agent"
            }
            Self::Module(Problem::NotGranted { .. }) => {
                "what is granted there holds for pushed policies too; restart the agent, then push again"
            }
            Self::Module(Problem::Read(_) | Problem::Damaged) => "push the module again",
            Self::Module(Problem::TooLarge { .. } | Problem::ForbiddenImport { .. }) => {
                "`berth policy push` the module that the new build makes"
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
            Self::Keeping(_) | Self::Store(_) => "see whether the disk of the state directory is full",
        }
        .to_owned()
    }
}
