//! `[mounts]`: which host folders kernels may be given.

use std::path::PathBuf;

use super::reader::Reader;

/// `[mounts]`
#[derive(Debug, Clone)]
pub struct MountsSection {
    /// `allow`: mount sources must lie below one of these. Empty: what the caller's own uid owns.
    pub allow: Vec<PathBuf>,
}

impl MountsSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let allow: Vec<PathBuf> = reader.get("mounts.allow", Vec::new());
        for path in &allow {
            if !path.is_absolute() {
                reader.mistake("mounts.allow", &format!("{} is not an absolute path", path.display()));
            }
        }
        Self { allow }
    }
}
