//! What the control API says in JSON about policies and their decisions; the table is in [`super::api`].

use serde::{Deserialize, Serialize};

use crate::ids::{KernelId, KernelName};
use crate::policy::journal::Entry;
use crate::policy::replay::Report;
use crate::policy::swap::{Outcome, Step, SwapError, Target};
use crate::policy::{Settings, WorldKind};

use super::api::ErrorBody;

/// `?link=` of a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushQuery {
    /// Which member of the world's chain it is for; none: the only one.
    #[serde(default)]
    pub link: Option<usize>,
}

/// What to activate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Its settings, in place of those of `agent.toml`.
    #[serde(default)]
    pub settings: Option<Settings>,
    /// Although it would decide otherwise.
    #[serde(default)]
    pub accept_diff: bool,
    /// Only let it watch.
    #[serde(default)]
    pub shadow: bool,
}

/// Other settings for who is active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBody {
    /// The world.
    pub world: WorldKind,
    /// Which member of its chain; none: the only one.
    #[serde(default)]
    pub link: Option<usize>,
    /// New values by key.
    #[serde(default)]
    pub set: Settings,
    /// Keys that are not given any more.
    #[serde(default)]
    pub unset: Vec<String>,
    /// Begin with those of `agent.toml`.
    #[serde(default)]
    pub from_configured: bool,
    /// Although it would decide otherwise.
    #[serde(default)]
    pub accept_diff: bool,
    /// Kept in the history.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A line of an activation, of new settings, or of a replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwapLine {
    /// Where it is.
    Step(Step),
    /// The last line of an activation.
    Done(Box<Outcome>),
    /// The last line of a replay.
    Replayed(Box<Report>),
    /// The last line when it came to nothing.
    Failed {
        /// Why.
        error: ErrorBody,
        /// What would be decided otherwise, where that is why.
        diff: Option<Box<Report>>,
    },
}

/// `?module=&world=&link=&kernel=&from=&to=&most=&settings=`; a module that is not known here is the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayQuery {
    /// A pushed module by digest or name, or `builtin`; none: the body, or without one those who decided.
    #[serde(default)]
    pub module: Option<String>,
    /// Only decisions of this world.
    #[serde(default)]
    pub world: Option<WorldKind>,
    /// Only of this member of its chain.
    #[serde(default)]
    pub link: Option<usize>,
    /// Only about this kernel, by name, or by id also when it is gone.
    #[serde(default)]
    pub kernel: Option<String>,
    /// Only from this number on.
    #[serde(default)]
    pub from: Option<u64>,
    /// Only up to this number.
    #[serde(default)]
    pub to: Option<u64>,
    /// The last so many.
    #[serde(default)]
    pub most: Option<usize>,
    /// Settings of the candidate as a JSON object; none: those of its world's section.
    #[serde(default)]
    pub settings: Option<String>,
}

/// Who is not to watch any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndShadowBody {
    /// None: everybody.
    #[serde(default)]
    pub world: Option<WorldKind>,
    /// Which member of its chain; none: all.
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

impl From<SwapError> for SwapLine {
    fn from(error: SwapError) -> Self {
        let diff = error.diff().cloned().map(Box::new);
        Self::Failed { error: error.into(), diff }
    }
}
