//! The agent that `berth run` starts for itself where no agent is: with a folder of its own, gone afterwards.
//!
//! It ends when `run` does, however that ends: it reads our end of a pipe as its standard input and ends
//! with it (`serve --private`).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::client::Agent;
use super::error::{CliError, say};
use super::layers::Engine;
use crate::agent::NodeStatus;
use crate::engine::EngineKind;

/// Beginning of the folder's name, by which `serve --private` knows it again.
const PREFIX: &str = "berth-run-";
/// How long it may take to get ready: a cold compile of three policies on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Longest base folder, so that the socket's path stays below 107 bytes.
const BASE_MAX: usize = 60;

/// A running private agent. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub(super) struct PrivateAgent {
    child: Child,
    folder: PathBuf,
}

/// Starts one and waits until it is ready.
pub(super) async fn start(engine: Option<Engine>, verbose: bool) -> Result<(Agent, PrivateAgent), CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::new(format!("this program's own file cannot be found: {error}")))?;
    let folder = make_folder()?;
    let (socket, log) = (folder.join("berth.sock"), folder.join("agent.log"));
    let started = (|| {
        let mut command = Command::new(program);
        command.arg("serve").arg("--private").arg("--socket").arg(&socket);
        command.arg("--state-dir").arg(folder.join("state"));
        if let Some(engine) = engine {
            command.arg("--engine").arg(EngineKind::from(engine).as_str());
        }
        if verbose {
            command.arg("--debug");
        }
        let stderr = if verbose { Stdio::inherit() } else { File::create(&log)?.into() };
        // Opened now: an agent that does not start removes its folder when it ends.
        let log = if verbose { None } else { Some(File::open(&log)?) };
        // A process group of its own: Ctrl-C at the terminal is ours to handle.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr).process_group(0);
        Ok::<_, io::Error>((command.spawn()?, log))
    })();
    let (child, log) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = fs::remove_dir_all(&folder);
            return Err(CliError::new(format!("a private agent could not be started: {error}")));
        }
    };
    let mut private = PrivateAgent { child, folder };
    let agent = Agent::at(Some(socket))?;
    private.wait_until_ready(&agent, log).await?;
    Ok((agent, private))
}

impl PrivateAgent {
    async fn wait_until_ready(&mut self, agent: &Agent, mut log: Option<File>) -> Result<(), CliError> {
        let begun = Instant::now();
        loop {
            if let Ok(status) = agent.get::<NodeStatus>("/v1/status").await
                && matches!(status.state.as_str(), "ready" | "degraded")
            {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let Some(log) = &mut log else {
                    let message = format!("the private agent did not start ({status}); its log is above");
                    return Err(CliError::new(message));
                };
                let mut said = String::new();
                // What cannot be read is not told: the status is.
                let _ = log.read_to_string(&mut said);
                return Err(last_words(&said, status));
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(CliError::new("the private agent did not get ready within 60 s")
                    .with_hint("`berth run -v ..` shows its log"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for PrivateAgent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            if !self.ends_within(END_WITHIN) {
                say("the private agent did not end by itself and was killed");
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                say(&format!("{} could not be removed: {error}", self.folder.display()));
            }
            _ => {}
        }
    }
}

/// What an agent that ended said last: its error and hint, else where to look.
fn last_words(log: &str, status: ExitStatus) -> CliError {
    let last = |who: &str| log.lines().rev().find_map(|line| line.strip_prefix(who)).map(str::to_owned);
    match last("berth: ") {
        Some(message) => CliError { hint: last("hint: "), ..CliError::new(message) },
        None => CliError::new(format!("the private agent ended at once ({status})"))
            .with_hint("`berth run -v ..` shows its log"),
    }
}

/// A folder, 0700, on a file system that programs can be run from: the runner is mounted from there.
fn make_folder() -> Result<PathBuf, CliError> {
    // Not in $XDG_RUNTIME_DIR before the others: it is small, and emptied when its user logs out.
    let bases = [
        std::env::var_os("TMPDIR").map(PathBuf::from),
        Some(PathBuf::from("/var/tmp")),
        Some(PathBuf::from("/tmp")),
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
    ];
    let mut problems = Vec::new();
    for base in bases.into_iter().flatten() {
        match folder_in(&base) {
            Ok(folder) => return Ok(folder),
            Err(problem) => problems.push(format!("{}: {problem}", base.display())),
        }
    }
    Err(CliError::new(format!("there is no place for a private agent ({})", problems.join("; "))).with_hint(
        "set TMPDIR to a folder that you own, or start an agent with `berth serve --state-dir DIR`",
    ))
}

fn folder_in(base: &Path) -> Result<PathBuf, String> {
    if !base.is_absolute() || base.as_os_str().len() > BASE_MAX {
        return Err(format!("is no absolute path of at most {BASE_MAX} bytes"));
    }
    let mounted = rustix::fs::statvfs(base).map_err(|error| error.to_string())?;
    if mounted.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err("is mounted noexec".to_owned());
    }
    let folder = base.join(format!("{PREFIX}{}", &uuid::Uuid::new_v4().simple().to_string()[..12]));
    // create_dir fails on anything that is there already, links too: nobody can have prepared it.
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| error.to_string())?;
    // A umask may have taken away our own bits.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// The folder of a private agent with this state directory; none when it is not one that [`start`] made.
pub(super) fn folder_of(state_dir: &Path) -> Option<PathBuf> {
    let folder = state_dir.parent()?;
    let ours = folder.file_name()?.to_str()?.starts_with(PREFIX) && state_dir.file_name()? == "state";
    ours.then(|| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_folder_is_ours_alone_and_known_again() {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        let folder = folder_in(base.path()).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(folder_of(&folder.join("state")), Some(folder.clone()));
        assert!(folder.join("berth.sock").as_os_str().len() < 107);
        assert_eq!(folder_of(Path::new("/var/lib/berth/state")), None);
        assert_eq!(folder_of(&folder), None);
    }

    #[test]
    fn places_where_it_could_not_work_are_passed_over() {
        assert!(folder_in(Path::new("relative")).is_err());
        assert!(folder_in(Path::new("/no/such/place")).is_err());
        assert!(folder_in(&Path::new("/tmp").join("x".repeat(80))).is_err());
    }

    #[test]
    fn an_agent_that_did_not_start_says_why() {
        let status = ExitStatus::from_raw(256);
        let log = "INFO something\nberth: docker does not answer\nhint: start it\n";
        let error = last_words(log, status);
        assert_eq!(
            (error.message.as_str(), error.hint.as_deref()),
            ("docker does not answer", Some("start it"))
        );
        assert!(last_words("panicked", status).message.contains("exit status: 1"));
    }

    #[test]
    fn a_private_agent_is_ended_and_its_folder_removed() {
        let base = tempfile::tempdir_in("/tmp").unwrap();
        let folder = folder_in(base.path()).unwrap();
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        drop(PrivateAgent { child, folder: folder.clone() });
        assert!(!folder.exists());
    }
}
