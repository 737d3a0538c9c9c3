//! What of a kernel is on disk (design §8): enough to adopt it, or to undo it, after any kill.

use serde::{Deserialize, Serialize};

use super::{CreateRequest, KernelView};
use crate::store::Record;

/// A kernel's row. The phase in its view is the intent: everything a later phase would have made is looked
/// for by label, name and folder when the agent comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// The kernel as people see it, at the last save.
    pub view: KernelView,
    /// As it was asked for.
    pub request: CreateRequest,
    /// The image's id as the engine knows it, once chosen.
    pub image_id: Option<String>,
    /// Whether it is to be removed once it has ended.
    pub remove: bool,
}

impl Record for KernelRecord {
    const TABLE: &'static str = "kernels";
    const VERSION: u32 = 1;

    fn upgrade(version: u32, _value: serde_json::Value) -> Result<Self, String> {
        Err(format!("version {version} never existed"))
    }

    fn key(&self) -> String {
        self.view.id.to_string()
    }
}
