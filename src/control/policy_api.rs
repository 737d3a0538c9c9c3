//! What the control API says in JSON about policies and their decisions; the table is in [`super::api`].

use serde::{Deserialize, Serialize};

use crate::ids::{KernelId, KernelName};
use crate::policy::WorldKind;
use crate::policy::journal::Entry;
use crate::policy::swap::{SwapError, Target};

use super::api::ErrorBody;

/// `?link=` of a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushQuery {
    /// Which member of the world's chain it is for; none: the only one.
    #[serde(default)]
    pub link: Option<usize>,
}

/// What to activate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivateBody {
    /// `{"pushed": "3fa1c2"}` or `{"configured": "scheduler"}`.
    pub target: Target,
    /// Which member of the chain; none: the one it was pushed for.
    #[serde(default)]
    pub link: Option<usize>,
    /// Kept in the history.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What to roll back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain; none: the only one.
    #[serde(default)]
    pub link: Option<usize>,
    /// Kept in the history.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `?of=&link=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowQuery {
    /// A world, or a pushed module by digest or name.
    pub of: String,
    /// Which member of the chain; none: all.
    #[serde(default)]
    pub link: Option<usize>,
}

/// `?kernel=&most=&follow=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionsQuery {
    /// Only about this kernel, by name, or by id also when it is gone.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The last so many; none: all.
    #[serde(default)]
    pub most: Option<usize>,
    /// Go on as decisions are made, until the client hangs up.
    #[serde(default)]
    pub follow: bool,
}

/// Why a kernel is as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyView {
    /// The kernel.
    pub kernel: KernelId,
    /// Its name; none when it is gone.
    pub name: Option<KernelName>,
    /// In plain sentences, in order.
    pub sentences: Vec<String>,
    /// The records that they are made of.
    pub decisions: Vec<Entry>,
}

impl From<SwapError> for ErrorBody {
    fn from(error: SwapError) -> Self {
        Self::new(error.code(), error.to_string()).with_hint(error.hint())
    }
}
