//! What of a kernel is on disk (design §8): enough to adopt it, or to undo it, after any kill.

use serde::{Deserialize, Serialize};

use super::steps::ChosenImage;
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
    /// The image, once chosen.
    pub image: Option<ChosenImage>,
    /// Whether it is to be removed once it has ended.
    pub remove: bool,
}

impl Record for KernelRecord {
    const TABLE: &'static str = "kernels";
    const VERSION: u32 = 2;

    fn upgrade(version: u32, mut value: serde_json::Value) -> Result<Self, String> {
        if version != 1 {
            return Err(format!("version {version} never existed"));
        }
        // Version 1 knew the image by its id only.
        let id = value["image_id"].take();
        if let Some(id) = id.as_str() {
            let reference = value["view"]["image"].clone();
            value["image"] = serde_json::json!({"reference": reference, "id": id, "labels": {}});
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn key(&self) -> String {
        self.view.id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as a berth of that version wrote it.
    fn read(row: &str) -> KernelRecord {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let version = u32::try_from(row["version"].as_u64().unwrap()).unwrap();
        KernelRecord::upgrade(version, row["value"].clone()).unwrap()
    }

    #[test]
    fn a_row_of_version_1_keeps_its_image() {
        let record = read(include_str!("../../tests/vectors/records/kernel-v1.json"));
        let image = record.image.unwrap();
        assert_eq!(
            (image.reference.as_str(), image.id.as_str()),
            ("berth/python:local", "sha256:462bc26f911b")
        );
        assert_eq!(record.view.name.as_str(), "k1");
        assert_eq!(record.view.allocations.len(), 2);
    }

    #[test]
    fn a_version_that_never_was_is_refused() {
        assert!(KernelRecord::upgrade(0, serde_json::json!({})).is_err());
    }
}
