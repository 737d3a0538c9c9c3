//! What is kept on disk of each container, and what state it tells.
//!
//! ```text
//! DIR/ID/spec.json     written by `create`: the container exists
//!        start.json    written by `start`: who its supervisor is
//!        lock          held by the supervisor, and by `start` until there is one
//!        pid           written by the supervisor: its pid, for an agent killed within `start`
//!        exit.json     written by the supervisor at the end
//!        console.log   and console.log.1, written by the supervisor
//!        supervisor.log  the supervisor's own complaints
//! ```
//! Files appear whole (written beside, then renamed), and so does the folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cgroup::Limits;
use super::identity::{self, Identity};
use crate::engine::{ContainerSpec, ContainerState, ContainerView};
use crate::ids::ContainerId;

/// A folder that is being made, or being removed, begins so; no id does.
const UNFINISHED: &str = ".part-";

/// What `start` did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    /// The supervisor.
    pub(super) supervisor: Identity,
    /// Whether bubblewrap stands between the supervisor and the kernel.
    pub(super) sandboxed: bool,
}

/// What the supervisor wrote at the end.
#[derive(Debug, Clone, Deserialize)]
struct Exit {
    exit_code: Option<i32>,
    signal: Option<i32>,
    #[serde(default)]
    oom: bool,
}

/// The folder of all containers.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Opens the folder, making it when it is missing; what an earlier agent left unfinished is removed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let folder = Self { dir: fs::canonicalize(dir)? };
        for entry in fs::read_dir(&folder.dir)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    pub(super) fn container(&self, id: &ContainerId) -> Container {
        Container { id: id.clone(), dir: self.dir.join(id.as_str()) }
    }

    /// All containers, in no order.
    pub(super) fn containers(&self) -> io::Result<Vec<Container>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
                found.push(self.container(&id));
            }
        }
        Ok(found)
    }

    /// Makes a container's folder with its spec in it.
    pub(super) fn add(
        &self,
        id: &ContainerId,
        spec: &ContainerSpec,
        limits: &Limits,
    ) -> io::Result<Container> {
        let part = self.dir.join(format!("{UNFINISHED}{id}"));
        fs::DirBuilder::new().mode(0o700).create(&part)?;
        write_json(&part.join("limits.json"), limits)?;
        write_json(&part.join("spec.json"), spec)?;
        let container = self.container(id);
        fs::rename(part, &container.dir)?;
        Ok(container)
    }

    /// Removes a container's folder. A missing one is no error.
    pub(super) fn forget(&self, container: &Container) -> io::Result<()> {
        let part = self.dir.join(format!("{UNFINISHED}{}", container.id));
        missing_is_fine(fs::rename(&container.dir, &part))?;
        missing_is_fine(fs::remove_dir_all(part))
    }
}

/// One container's folder, which may not exist.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    dir: PathBuf,
}

impl Container {
    pub(super) fn spec(&self) -> io::Result<Option<ContainerSpec>> {
        read_json(&self.dir.join("spec.json"))
    }

    pub(super) fn limits(&self) -> io::Result<Limits> {
        Ok(read_json(&self.dir.join("limits.json"))?.unwrap_or_default())
    }

    pub(super) fn exit_file(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    pub(super) fn older_log_file(&self) -> PathBuf {
        self.dir.join("console.log.1")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    pub(super) fn complaints(&self) -> io::Result<fs::File> {
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join("supervisor.log"))
    }

    /// The right to start it, which the supervisor inherits as its standard input and so holds from the
    /// moment it is forked until it has ended. None: somebody has it.
    pub(super) fn lock(&self) -> io::Result<Option<fs::File>> {
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).append(true).read(true).mode(0o600).open(self.dir.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether an agent was killed within `start` and left a supervisor that has not noted its pid yet.
    pub(super) fn is_being_started(&self) -> io::Result<bool> {
        if self.pid_file().exists() || !self.dir.join("lock").exists() {
            return Ok(false);
        }
        Ok(self.lock()?.is_none())
    }

    pub(super) fn started(&self, start: &Start) -> io::Result<()> {
        write_json(&self.dir.join("start.json"), start)
    }

    /// Who supervises it; none: never started, or nobody noted who it was before it ended.
    pub(super) fn start(&self) -> io::Result<Option<Start>> {
        if let Some(start) = read_json(&self.dir.join("start.json"))? {
            return Ok(Some(start));
        }
        // The agent was killed after the supervisor began and before it was noted.
        let Ok(pid) = fs::read_to_string(self.pid_file()) else { return Ok(None) };
        let Ok(pid) = pid.trim().parse() else { return Ok(None) };
        let Ok(supervisor) = Identity::of(pid) else { return Ok(None) };
        if !identity::was_started_with(pid, &self.exit_file()) {
            return Ok(None);
        }
        let start =
            Start { sandboxed: identity::was_started_with(pid, Path::new("--unshare-pid")), supervisor };
        self.started(&start)?;
        Ok(Some(start))
    }

    /// What it does; none when it does not exist.
    pub(super) fn view(&self) -> io::Result<Option<ContainerView>> {
        let Some(spec) = self.spec()? else { return Ok(None) };
        let (state, pid) = self.state()?;
        Ok(Some(ContainerView {
            id: self.id.clone(),
            name: spec.name,
            labels: spec.labels,
            image: spec.image,
            state,
            pid,
        }))
    }

    fn state(&self) -> io::Result<(ContainerState, Option<u32>)> {
        if let Some(exit) = self.exit()? {
            return Ok((exit, None));
        }
        match self.start()? {
            None if !self.pid_file().exists() => return Ok((ContainerState::Created, None)),
            Some(start) if start.supervisor.open()?.is_some() => {
                return Ok((ContainerState::Running, u32::try_from(start.supervisor.pid).ok()));
            }
            None | Some(_) => {}
        }
        // It ended between the two looks, or was killed and wrote nothing.
        let lost = || ContainerState::Exited { code: None, oom_killed: self.ran_out_of_memory() };
        Ok((self.exit()?.unwrap_or_else(lost), None))
    }

    fn exit(&self) -> io::Result<Option<ContainerState>> {
        let exit: Option<Exit> = read_json(&self.exit_file())?;
        Ok(exit.map(|exit| ContainerState::Exited {
            code: exit.exit_code.or_else(|| exit.signal.map(|signal| 128 + signal)),
            oom_killed: exit.oom || self.ran_out_of_memory(),
        }))
    }

    pub(super) fn ran_out_of_memory(&self) -> bool {
        self.limits().is_ok_and(|limits| limits.kills_for_memory() > 0)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, serde_json::to_vec(value)?)?;
    fs::File::open(&part)?.sync_all()?;
    fs::rename(part, path)
}

fn missing_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
