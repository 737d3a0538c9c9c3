//! Starting the supervisor of a kernel.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::oneshot;

use super::cgroup::{ENTER, Limits};
use super::folder::Container;
use super::identity::Identity;
use super::sandbox::Bubblewrap;
use crate::engine::ulimits::{OwnLimit, clamp};
use crate::engine::{ContainerSpec, EngineError};

/// Marks the processes of a container in their environment.
pub(super) const MARK: &str = "BERTH_CONTAINER";

/// As in a container whose image names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Resource limits that the supervisor can set.
const LIMITS: [&str; 7] = ["nofile", "nproc", "as", "core", "fsize", "memlock", "cpu"];

/// The words of a supervisor and the kernel under it.
pub(super) fn words(
    runner: &Path,
    container: &Container,
    spec: &ContainerSpec,
    sandbox: Option<&Bubblewrap>,
    own: OwnLimit,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![runner.into(), "supervise".into()];
    let mut option = |name: &str, value: &OsStr| words.extend([name.into(), value.to_owned()]);
    option("--exit-file", container.exit_file().as_os_str());
    option("--log-file", container.log_file().as_os_str());
    // It keeps two files of this size.
    option("--log-max", OsStr::new(&(spec.log_max_bytes / 2).to_string()));
    option("--pid-file", container.pid_file().as_os_str());
    for limit in spec.ulimits.iter().filter(|limit| LIMITS.contains(&limit.name.as_str())) {
        let limit = clamp(limit, own);
        option("--rlimit", OsStr::new(&format!("{}={}:{}", limit.name, limit.soft, limit.hard)));
    }
    words.push("--".into());
    words.extend(sandbox.map(|sandbox| sandbox.words(spec)).unwrap_or_default());
    words.extend(spec.entrypoint.iter().chain(&spec.command).map(OsString::from));
    words
}

/// Starts `words` within the groups of `limits` and on the cores of `spec`; it outlives the agent.
/// A thread of its own reaps it when it ends while the agent lives. It holds `lock` as long as it lives.
pub(super) async fn spawn(
    words: Vec<OsString>,
    container: &Container,
    spec: &ContainerSpec,
    limits: &Limits,
    sandboxed: bool,
    lock: File,
) -> Result<Identity, EngineError> {
    let failed = |error: io::Error| EngineError::Failed { call: "start", message: error.to_string() };
    let mut command = command(words, limits).map_err(failed)?;
    command
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .env("HOSTNAME", &spec.hostname)
        .envs(&spec.env)
        .env(MARK, container.id.as_str())
        // Within a sandbox it may lie where this host has nothing.
        .current_dir(if sandboxed { "/" } else { spec.working_dir.as_str() })
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(container.complaints().map_err(failed)?);
    let cores = cores(&spec.cpuset)?;
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("reaper".into())
        .stack_size(256 * 1024)
        .spawn(move || reap(command, cores, sender))
        .map_err(failed)?;
    match receiver.await {
        Ok(Ok(identity)) => Ok(identity),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(io::Error::other("its thread ended early"))),
    }
}

/// Affinity is inherited, so this thread takes it on before it makes the child.
fn reap(mut command: Command, cores: Option<CpuSet>, started: oneshot::Sender<io::Result<Identity>>) {
    let begin = |command: &mut Command| -> io::Result<_> {
        if let Some(cores) = cores {
            sched_setaffinity(None, &cores)
                .map_err(|error| io::Error::other(format!("its cores cannot be used: {error}")))?;
        }
        command.spawn().map_err(|error| {
            let program = Path::new(command.get_program()).display();
            io::Error::new(error.kind(), format!("{program}: {error}"))
        })
    };
    let begun = begin(&mut command);
    // It holds the lock too: from here on only the supervisor does.
    drop(command);
    match begun {
        Ok(mut child) => {
            // Read before it can be reaped: the pid is its own.
            let identity = i32::try_from(child.id()).map_err(io::Error::other).and_then(Identity::of);
            // A caller that has given up finds the supervisor by its pid file.
            let _ = started.send(identity);
            if let Err(error) = child.wait() {
                tracing::warn!(%error, "a supervisor could not be reaped");
            }
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

fn command(words: Vec<OsString>, limits: &Limits) -> io::Result<Command> {
    let entrances = limits.entrances();
    let mut words = words.into_iter();
    let program = words.next().ok_or_else(|| io::Error::other("there is nothing to start"))?;
    if entrances.is_empty() {
        let mut command = Command::new(program);
        command.args(words);
        return Ok(command);
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", ENTER, "berth"]).args(entrances).arg("--").arg(program).args(words);
    Ok(command)
}

fn cores(numbers: &[u32]) -> Result<Option<CpuSet>, EngineError> {
    if numbers.is_empty() {
        return Ok(None);
    }
    let mut cores = CpuSet::new();
    for number in numbers {
        let at = usize::try_from(*number).unwrap_or(usize::MAX);
        if at >= CpuSet::MAX_CPU {
            return Err(EngineError::Refused {
                call: "start",
                message: format!("there is no core {number}"),
            });
        }
        cores.set(at);
    }
    Ok(Some(cores))
}
