//! `berth-runner supervise`: around a kernel of the process engine (design §4).
//!
//! An adopted process's exit status would be lost with the agent that started it, so this process,
//! which outlives the agent, writes it to a file:
//!
//! * its own session and subreaper; the child's output goes into a bounded log file;
//! * SIGTERM, SIGINT and SIGHUP are forwarded to the child; SIGQUIT kills everything at once;
//! * when the child has ended, what is left of its descendants is killed, and only then the exit file
//!   appears: `{"exit_code": N|null, "signal": N|null, "oom": false, "ended_at_ms": N}`.
//!
//! The child gets SIGTERM when this process is killed.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, Rlimit, Signal};
use serde::Serialize;

use crate::children::{Children, end_all, signal};
use crate::sys::{self, Before};
use crate::{Failure, complain, number, value};

/// Bound of the log file where none is given.
const LOG_MAX: u64 = 10 * 1024 * 1024;

#[derive(Debug)]
struct Options {
    exit_file: PathBuf,
    log_file: PathBuf,
    log_max: u64,
    pid_file: Option<PathBuf>,
    limits: Vec<(Resource, Rlimit)>,
    command: Vec<OsString>,
}

#[derive(Debug, Serialize)]
struct Exit {
    exit_code: Option<i32>,
    signal: Option<i32>,
    oom: bool,
    ended_at_ms: u64,
}

/// The subcommand.
pub fn main(words: Vec<OsString>) -> Result<ExitCode, Failure> {
    let options = Options::parse(words)?;
    // Fails when we lead a group already (a shell's job); then the caller made the session.
    let _led_already = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Failure::system("become the parent of orphans", error))?;
    let signals = sys::take_signals().map_err(|error| Failure::system("take signals", error))?;
    let log = Log::open(&options.log_file, options.log_max)
        .map_err(|error| Failure::system(format!("open {}", options.log_file.display()), error))?;
    if let Some(path) = &options.pid_file {
        write_whole(path, format!("{}\n", std::process::id()).as_bytes())
            .map_err(|error| Failure::system(format!("write {}", path.display()), error))?;
    }
    let exit = run(&options, &signals, log)?;
    let text = serde_json::to_vec(&exit).map_err(|error| Failure::system("write the exit file", error))?;
    write_whole(&options.exit_file, &text)
        .map_err(|error| Failure::system(format!("write {}", options.exit_file.display()), error))?;
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Options, signals: &std::os::fd::OwnedFd, mut log: Log) -> Result<Exit, Failure> {
    let Some((program, words)) = options.command.split_first() else {
        return Err(Failure::Usage("supervise needs a command after --".into()));
    };
    let pipe = || Failure::system("make a pipe", io::Error::last_os_error());
    let (reader, writer) = io::pipe().map_err(|_| pipe())?;
    let twin = writer.try_clone().map_err(|_| pipe())?;
    let mut command = Command::new(program);
    command.args(words).arg0(program).stdin(Stdio::null()).stdout(twin).stderr(writer);
    let before =
        Before { death_signal: Some(Signal::TERM), limits: options.limits.clone(), ..Before::default() };
    sys::prepare(&mut command, before);

    let children = Children::default();
    let ended = Arc::new(OnceLock::new());
    let end = Arc::clone(&ended);
    let started = children.start(&mut command, Box::new(move |code| _ = end.set(code)));
    // The command holds the pipe's writing ends: without this the log would never see its end.
    drop(command);
    let pid = match started {
        Ok(pid) => pid,
        Err(error) => {
            log.write(format!("berth-runner: {}: {error}\n", program.display()).as_bytes());
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            return Ok(exit(code));
        }
    };
    let logging = thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || log.copy(reader))
        .map_err(|error| Failure::system("start a thread", error))?;

    let code = loop {
        match sys::next_signal(signals).map_err(|error| Failure::system("read signals", error))? {
            libc::SIGCHLD => children.reap(),
            libc::SIGQUIT => end_all(&children, Duration::ZERO),
            other => {
                if let Some(number) = Signal::from_named_raw(other) {
                    signal(pid, number);
                }
            }
        }
        if let Some(code) = ended.get() {
            break *code;
        }
    };
    end_all(&children, Duration::ZERO);
    // All writers are dead, so this ends.
    let _panicked = logging.join();
    Ok(exit(code))
}

fn exit(code: i32) -> Exit {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Exit {
        exit_code: (code >= 0).then_some(code),
        signal: (code < 0).then_some(-code),
        oom: false,
        ended_at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    }
}

impl Options {
    fn parse(words: Vec<OsString>) -> Result<Self, Failure> {
        let mut words = words.into_iter();
        let (mut exit_file, mut log_file, mut pid_file) = (None, None, None);
        let mut log_max = LOG_MAX;
        let mut limits = Vec::new();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--exit-file") => exit_file = Some(value("--exit-file", &mut words)?.into()),
                Some("--log-file") => log_file = Some(value("--log-file", &mut words)?.into()),
                Some("--pid-file") => pid_file = Some(value("--pid-file", &mut words)?.into()),
                Some("--log-max") => log_max = number("--log-max", &value("--log-max", &mut words)?)?,
                Some("--rlimit") => limits.push(limit(&value("--rlimit", &mut words)?)?),
                Some("--") => break,
                _ => return Err(Failure::Usage(format!("supervise has no option `{}`", word.display()))),
            }
        }
        let needed = |option: &str| Failure::Usage(format!("supervise needs {option}"));
        Ok(Self {
            exit_file: exit_file.ok_or_else(|| needed("--exit-file"))?,
            log_file: log_file.ok_or_else(|| needed("--log-file"))?,
            log_max,
            pid_file,
            limits,
            command: words.collect(),
        })
    }
}

/// Reads `NAME=SOFT:HARD`; `-1` and `unlimited` are no limit.
fn limit(text: &OsString) -> Result<(Resource, Rlimit), Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--rlimit needs NAME=SOFT:HARD with a name of nofile, nproc, as, core, fsize, memlock, cpu; not `{}`",
            text.display()
        ))
    };
    let bound = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        number => number.parse().map(Some).map_err(|_| wrong()),
    };
    let (name, values) = text.to_str().and_then(|text| text.split_once('=')).ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').ok_or_else(wrong)?;
    let resource = match name {
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "as" => Resource::As,
        "core" => Resource::Core,
        "fsize" => Resource::Fsize,
        "memlock" => Resource::Memlock,
        "cpu" => Resource::Cpu,
        _ => return Err(wrong()),
    };
    Ok((resource, Rlimit { current: bound(soft)?, maximum: bound(hard)? }))
}

/// The child's output on disk: one file of at most `max` bytes and the one before it, `.1`.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    written: u64,
    max: u64,
}

impl Log {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written, max: max.max(4096) })
    }

    fn copy(mut self, mut reader: PipeReader) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.write(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// A full disk must not stop the child: what cannot be written is left out.
    fn write(&mut self, bytes: &[u8]) {
        if self.written > 0
            && self.written + bytes.len() as u64 > self.max
            && let Err(error) = self.rotate()
        {
            complain(format_args!("could not rotate the log: {error}"));
            return;
        }
        if self.file.write_all(bytes).is_ok() {
            self.written += bytes.len() as u64;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.written = 0;
        Ok(())
    }
}

/// Writes a file so that a reader sees it whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_mistakes_refused() {
        let read = |text: &str| limit(&text.into()).ok();
        assert!(matches!(
            read("nofile=64:128"),
            Some((Resource::Nofile, Rlimit { current: Some(64), maximum: Some(128) }))
        ));
        assert!(matches!(
            read("memlock=-1:unlimited"),
            Some((Resource::Memlock, Rlimit { current: None, maximum: None }))
        ));
        for wrong in ["nofile", "nofile=1", "stack=1:1", "nofile=a:b", "nofile=-2:1"] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_log_keeps_its_bound_and_the_part_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, 4096).unwrap();
        for letter in [b'a', b'b', b'c'] {
            log.write(&[letter; 3000]);
        }
        assert_eq!(std::fs::read(&path).unwrap(), [b'c'; 3000]);
        assert_eq!(std::fs::read(dir.path().join("log.1")).unwrap(), [b'b'; 3000]);
    }
}
