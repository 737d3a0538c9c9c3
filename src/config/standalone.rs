//! `[standalone]`: a node without a manager.

use std::path::PathBuf;

use crate::amount;
use crate::engine::EngineKind;

use super::reader::Reader;

/// `[standalone]`
#[derive(Debug, Clone)]
pub struct StandaloneSection {
    /// `state-dir`, also `--state-dir`; default `/var/lib/berth` as root, else
    /// `${XDG_STATE_HOME:-~/.local/state}/berth` (design §8).
    pub state_dir: PathBuf,
    /// `engine`, also `--engine`.
    pub engine: EngineKind,
    /// `image`: for kernels that name none.
    pub image: Option<String>,
    /// `memory-limit`: bytes, for kernels that name none; not booked (design §4).
    pub memory_limit: u64,
}

impl StandaloneSection {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let engine = |text: &str| match text {
            "docker" => Ok(EngineKind::Docker),
            "process" => Ok(EngineKind::Process),
            other => Err(format!("{other:?} is no engine; there are docker and process")),
        };
        Self {
            state_dir: reader.get("standalone.state-dir", default_state_dir()),
            engine: reader.parsed("standalone.engine", engine, (EngineKind::Docker, "docker")),
            image: reader.optional("standalone.image"),
            memory_limit: reader.parsed("standalone.memory-limit", amount::parse_bytes, (1 << 30, "1g")),
        }
    }
}

fn default_state_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/berth");
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    base.map_or_else(
        || PathBuf::from(format!("/tmp/berth-{}/state", rustix::process::geteuid().as_raw())),
        |base| base.join("berth"),
    )
}
