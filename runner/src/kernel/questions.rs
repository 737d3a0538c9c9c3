//! `input()` of batch tasks asks the client (contracts: kernel §4.4).
//!
//! A folder with a module that every Python reads when it starts (`sitecustomize.py`) and a socket beside it,
//! made when the first task could need it. Who connects and sends the number of its task in a line asks; the
//! answer is a line, then the end. One that hears the end alone has no answer to expect: its task is over. The
//! number keeps what an earlier task left behind from asking the client of another one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use super::environment::Environment;
use super::pump::Owner;
use super::tasks::Event;

const HOOK: &str = include_str!("sitecustomize.py");
/// Questions at one time; more can only be meant to exhaust our descriptors.
const OPEN_MAX: usize = 32;
/// The number of the task, in the environment of its Pythons.
const TASK: &str = "_BERTH_TASK";
/// Digits of a number and a line feed.
const NUMBER_MAX: usize = 21;
/// Who asks has to send its number, and to take its answer, within that time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folder and its socket.
pub struct Questions {
    name: String,
    events: Sender<Event>,
    folder: OnceLock<Option<PathBuf>>,
}

impl Questions {
    /// Nothing is made yet. The name tells the folder from those of other runners.
    pub fn new(name: &str, events: Sender<Event>) -> Self {
        Self { name: format!("berth-input-{name}"), events, folder: OnceLock::new() }
    }

    /// Lets the Pythons of a command ask. False when no folder could be made; then they read the end of
    /// their standard input, as they would without us.
    pub fn hook(&self, command: &mut Command, task: Owner, environment: &Environment) -> bool {
        let Some(folder) = self.folder.get_or_init(|| self.open(environment.work())) else { return false };
        let mut path = OsString::from(folder);
        if let Some(others) = environment.variable("PYTHONPATH").filter(|others| !others.is_empty()) {
            path.push(":");
            path.push(others);
        }
        command.env("PYTHONPATH", path).env(TASK, task.0.to_string());
        true
    }

    /// Removes the folder: the program ends.
    pub fn remove(&self) {
        if let Some(Some(folder)) = self.folder.get() {
            // What is left lies among temporary files.
            let _left = fs::remove_dir_all(folder);
        }
    }

    fn open(&self, work: &Path) -> Option<PathBuf> {
        let places = [std::env::temp_dir(), "/dev/shm".into(), work.to_owned()];
        places.iter().find_map(|place| {
            let folder = place.join(&self.name);
            fs::DirBuilder::new().mode(0o700).create(&folder).ok()?;
            let listening = fs::write(folder.join("sitecustomize.py"), HOOK)
                .and_then(|()| UnixListener::bind(folder.join("input")))
                .and_then(|listener| self.listen(listener));
            if listening.is_err() {
                let _left = fs::remove_dir_all(&folder);
            }
            listening.is_ok().then_some(folder)
        })
    }

    fn listen(&self, listener: UnixListener) -> io::Result<()> {
        let events = self.events.clone();
        let open = Arc::new(AtomicUsize::new(0));
        let body = move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    // No descriptors left; they may come back.
                    thread::sleep(Duration::from_millis(100));
                    continue;
                };
                if open.fetch_add(1, Ordering::Relaxed) >= OPEN_MAX {
                    open.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let mut question = Question { stream, task: Owner(0), open: Arc::clone(&open) };
                if question.was_asked() && events.send(Event::Asked(question)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("questions".into()).stack_size(64 * 1024).spawn(body).map(drop)
    }
}

/// Somebody who waits for a line.
#[derive(Debug)]
pub struct Question {
    stream: UnixStream,
    task: Owner,
    open: Arc<AtomicUsize>,
}

impl Question {
    /// Whose question it is.
    pub fn task(&self) -> Owner {
        self.task
    }

    /// Reads whose question it is. Who dawdles keeps only others of the same kernel waiting.
    fn was_asked(&mut self) -> bool {
        let limits = self.stream.set_read_timeout(Some(PATIENCE));
        let limits = limits.and_then(|()| self.stream.set_write_timeout(Some(PATIENCE)));
        let mut line = Vec::new();
        let mut reader = BufReader::with_capacity(NUMBER_MAX, &self.stream).take(NUMBER_MAX as u64);
        if limits.is_err() || reader.read_until(b'\n', &mut line).is_err() {
            return false;
        }
        let number = str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n')?.parse().ok());
        self.task = Owner(number.unwrap_or_default());
        number.is_some()
    }

    /// Whether there is still somebody to hear the answer.
    fn is_waiting(&self) -> bool {
        !matches!(recv(&self.stream, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _)))
    }

    /// Gives the line, to one who may have gone away meanwhile.
    fn answer(&self, line: &[u8]) {
        let end: &[u8] = if line.ends_with(b"\n") { b"" } else { b"\n" };
        let _gone = (&self.stream).write_all(&[line, end].concat());
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Questions and answers of one task, in the order in which they came.
#[derive(Debug, Default)]
pub struct Talk {
    questions: VecDeque<Question>,
    answers: VecDeque<Vec<u8>>,
}

impl Talk {
    /// Somebody asks.
    pub fn ask(&mut self, question: Question) {
        self.questions.push_back(question);
        self.match_up();
    }

    /// The client answers, perhaps before it was asked.
    pub fn answer(&mut self, line: Vec<u8>) {
        self.answers.push_back(line);
        self.match_up();
    }

    fn match_up(&mut self) {
        self.questions.retain(Question::is_waiting);
        while !self.questions.is_empty()
            && let Some(line) = self.answers.pop_front()
        {
            if let Some(question) = self.questions.pop_front() {
                question.answer(&line);
            }
        }
    }
}
