//! `[container]` and `[container-logs]`: where kernels keep their files, and how much they may log.

use std::path::PathBuf;

use crate::amount;

use super::reader::Reader;

/// `[container]`
#[derive(Debug, Clone)]
pub struct ContainerSection {
    /// `scratch-root`, when it was named. A named one must exist and belong to the agent's user; the
    /// default lies in the state directory and is made.
    pub scratch_root: Option<PathBuf>,
    /// `kernel-uid`; none: by the caller (design §9).
    pub kernel_uid: Option<u32>,
    /// `kernel-gid`; none: by the caller.
    pub kernel_gid: Option<u32>,
    /// `[container-logs] max-length`, bytes.
    pub log_max_bytes: u64,
}

impl ContainerSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let id = |reader: &mut Reader, key: &str| {
            // The reference's -1 means "as the agent decides".
            reader.optional::<i64>(key).filter(|id| *id >= 0).and_then(|id| match u32::try_from(id) {
                Ok(id) => Some(id),
                Err(_) => {
                    reader.mistake(key, "is no user or group id");
                    None
                }
            })
        };
        Self {
            scratch_root: reader.optional("container.scratch-root"),
            kernel_uid: id(reader, "container.kernel-uid"),
            kernel_gid: id(reader, "container.kernel-gid"),
            log_max_bytes: reader.parsed("container-logs.max-length", amount::parse_bytes, (10 << 20, "10m")),
        }
    }
}
