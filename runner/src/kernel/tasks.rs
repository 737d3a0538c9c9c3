//! The task thread: one FIFO queue, one task at a time (contracts: kernel §1.3).
//!
//! Everything that happens to a task comes through one channel of [`Event`]s: its end, what the language
//! process says, input. `finished` is queued only after all output that the task wrote before its end.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use berth_link::{MessageType, Op};
use rustix::process::Signal;

use super::console::Console;
use super::driver::{Driver, Outlets};
use super::driver_frame::Frame;
use super::environment::{Environment, Missing, no_input};
use super::feed::Feed;
use super::interrupt::Interrupt;
use super::oom::Witness;
use super::outbox::Outbox;
use super::pump::{Owner, Patience, Pump};
use super::questions::{Question, Questions, Talk};
use super::steps::{self, Step, interpreter};
use crate::children::Children;

/// Exit codes as shells and the contract use them (kernel §1.4).
const NOTHING_TO_RUN: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// How long a completion may take.
const COMPLETION: Duration = Duration::from_secs(3);
const NO_SUGGESTIONS: &[u8] = br#"{"suggestions": []}"#;

/// A task from the agent.
#[derive(Debug)]
pub struct Task {
    /// One of clean, build, exec, code, argv.
    pub op: Op,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its standard input, when one was announced.
    pub feed: Option<Arc<Feed>>,
}

/// What the task thread is told.
#[derive(Debug)]
pub enum Event {
    /// A task to be queued.
    Task(Task),
    /// A child has ended.
    Ended {
        /// Which.
        owner: Owner,
        /// Its exit code.
        code: i32,
    },
    /// A language process speaks.
    Driver {
        /// Which.
        owner: Owner,
        /// What it says.
        frame: Frame,
    },
    /// The answer to `waiting-input`.
    Input(Vec<u8>),
    /// A completion request.
    Complete(Vec<u8>),
    /// A batch task wants a line of input.
    Asked(Question),
}

/// The thread's state.
pub struct Tasks {
    /// Replies and output.
    pub outbox: Arc<Outbox>,
    /// Log.
    pub console: Arc<Console>,
    /// Output of children.
    pub pump: Pump,
    /// Starts and reaps.
    pub children: Arc<Children>,
    /// Told what can be interrupted.
    pub interrupt: Arc<Interrupt>,
    /// Told when something runs.
    pub witness: Arc<Witness>,
    /// Lets batch tasks ask.
    pub questions: Arc<Questions>,
    /// What tasks see.
    pub environment: Environment,
    /// The channel of events.
    pub events: Receiver<Event>,
    /// Its other end, for children.
    pub sender: Sender<Event>,
    /// The state proper.
    pub state: State,
}

/// What the thread remembers from task to task.
#[derive(Default)]
pub struct State {
    waiting: VecDeque<Task>,
    driver: Option<Driver>,
    /// What the next code is told of the end of the driver before it.
    driver_lost: Option<String>,
    last_owner: u64,
    last_completion: u32,
    build_failed: bool,
}

impl Tasks {
    /// Runs tasks for ever.
    pub fn run(mut self) {
        loop {
            let task = match self.state.waiting.pop_front() {
                Some(task) => task,
                None => match self.events.recv() {
                    Ok(Event::Task(task)) => task,
                    Ok(Event::Complete(request)) => {
                        self.complete(&request);
                        continue;
                    }
                    Ok(event) => {
                        self.aside(event);
                        continue;
                    }
                    // We hold a sender ourselves.
                    Err(_) => return,
                },
            };
            self.run_task(task);
        }
    }

    fn run_task(&mut self, task: Task) {
        let Task { op, payload, feed } = task;
        self.outbox.begin();
        self.interrupt.begin();
        self.witness.begin();
        let code = match op {
            Op::Code => self.run_code(&payload, feed.as_ref()),
            Op::Argv => self.run_argv(&payload, feed.as_ref()),
            Op::Exec if std::mem::take(&mut self.state.build_failed) => {
                self.say("the build before it has failed, so this is not run");
                NOTHING_TO_RUN
            }
            _ => self.run_step(op, &payload, feed.as_ref()),
        };
        if op == Op::Build {
            self.state.build_failed = code != 0;
        }
        if let Some(feed) = feed {
            self.outbox.credit(feed.close());
            self.pump.wake();
        }
        self.interrupt.over();
        self.witness.over();
        self.outbox.finish(code);
    }

    /// The three forms of clean, build and exec.
    fn run_step(&mut self, op: Op, payload: &[u8], feed: Option<&Arc<Feed>>) -> i32 {
        let (program, words) = match steps::step(op, payload, &self.environment) {
            Step::Skip => return 0,
            Step::Missing(what) => {
                self.say(what);
                return NOTHING_TO_RUN;
            }
            Step::Run(program, words) => (program, words),
        };
        let mut command = self.environment.command(&program);
        command.args(words);
        let owner = self.next_owner();
        if op == Op::Exec {
            command.env("_BACKEND_BATCH_MODE", "1");
            // Without a standard input of its own it may ask for lines.
            if feed.is_none()
                && interpreter(&self.environment).is_some()
                && !self.questions.hook(&mut command, owner, &self.environment)
            {
                self.console.note("no folder for the socket of `input()` could be made: tasks cannot ask");
            }
        }
        self.run_command(owner, command, OsStr::new("the task"), feed)
    }

    fn run_argv(&mut self, payload: &[u8], feed: Option<&Arc<Feed>>) -> i32 {
        let words: Vec<String> = match serde_json::from_slice(payload) {
            Ok(words) => words,
            Err(error) => {
                self.say(format_args!("the operation argv needs a JSON list of words: {error}"));
                return NOTHING_TO_RUN;
            }
        };
        let words: Vec<OsString> =
            words.into_iter().map(|word| OsString::from_vec(word.into_bytes())).collect();
        let Some((program, rest)) = words.split_first() else {
            self.say("the operation argv needs at least one word");
            return NOTHING_TO_RUN;
        };
        match self.environment.find(program) {
            Ok(path) => {
                let mut command = self.environment.command(&path);
                command.arg0(program).args(rest);
                let owner = self.next_owner();
                self.run_command(owner, command, program, feed)
            }
            Err(Missing::NotFound) => {
                self.say(format_args!("{}: not found", program.display()));
                NOTHING_TO_RUN
            }
            Err(Missing::NotExecutable) => {
                self.say(format_args!("{}: not executable", program.display()));
                NOT_EXECUTABLE
            }
        }
    }

    fn run_command(
        &mut self,
        owner: Owner,
        mut command: Command,
        name: &OsStr,
        feed: Option<&Arc<Feed>>,
    ) -> i32 {
        match self.start(&mut command, owner, feed) {
            Ok(()) => {}
            Err(error) => {
                self.say(format_args!("{}: {error}", name.display()));
                return NOT_EXECUTABLE;
            }
        }
        // The command holds the pipes' other ends.
        drop(command);
        let mut talk = Talk::default();
        let code = loop {
            match self.events.recv() {
                Ok(Event::Ended { owner: ended, code }) if ended == owner => break code,
                Ok(Event::Asked(question)) if question.task() == owner => {
                    // What was printed before the question comes before the question.
                    self.pump.settle(owner, Patience::None);
                    self.outbox.reply(MessageType::WaitingInput, "");
                    talk.ask(question);
                }
                Ok(Event::Input(line)) => talk.answer(line),
                Ok(event) => self.aside(event),
                Err(_) => break -1,
            }
        };
        self.pump.settle(owner, Patience::Quiet);
        code
    }

    fn start(&self, command: &mut Command, owner: Owner, feed: Option<&Arc<Feed>>) -> io::Result<()> {
        let (stdout, stdout_theirs) = io::pipe()?;
        let (stderr, stderr_theirs) = io::pipe()?;
        command.stdout(stdout_theirs).stderr(stderr_theirs);
        let stdin = match feed {
            Some(feed) => {
                let (reader, writer) = feed_pipe()?;
                command.stdin(reader);
                Some((writer, Arc::clone(feed)))
            }
            None => {
                command.stdin(no_input()?);
                None
            }
        };
        let ended = self.sender.clone();
        let on_end = Box::new(move |code| drop(ended.send(Event::Ended { owner, code })));
        let pid = self.children.start(command, on_end)?;
        self.pump.watch(owner, MessageType::Stdout, stdout.into());
        self.pump.watch(owner, MessageType::Stderr, stderr.into());
        if let Some((writer, feed)) = stdin {
            self.pump.feed(writer, feed);
        }
        self.interrupt.ready(pid);
        Ok(())
    }

    fn run_code(&mut self, source: &[u8], feed: Option<&Arc<Feed>>) -> i32 {
        if let Some(lost) = self.state.driver_lost.take() {
            self.say(lost);
        }
        let mut driver = match self.state.driver.take() {
            Some(driver) => driver,
            None => {
                let Some(python) = interpreter(&self.environment) else {
                    self.say("no Python in this image: neither python3 nor python is in PATH");
                    return NOTHING_TO_RUN;
                };
                let owner = self.next_owner();
                let outlets = Outlets {
                    children: &self.children,
                    pump: &self.pump,
                    outbox: &self.outbox,
                    events: &self.sender,
                };
                match Driver::start(&python, owner, &self.environment, &outlets) {
                    Ok(driver) => driver,
                    Err(error) => {
                        self.say(format_args!("{}: {error}", python.display()));
                        return NOT_EXECUTABLE;
                    }
                }
            }
        };
        match self.hand_over(&mut driver, source, feed) {
            Ok(()) => {}
            // Its end comes as an event, or it does not read and has to be ended.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                self.say(format_args!("Python does not take code ({error}) and is ended"));
                self.children.signal_group(driver.pid, Signal::KILL);
            }
        }
        let end = self.attend(&mut driver);
        match end {
            End::Done(code) => {
                self.pump.settle(driver.owner, Patience::None);
                self.state.driver = Some(driver);
                code
            }
            End::Lost(code) => {
                self.pump.settle(driver.owner, Patience::Quiet);
                let done = self.last_word(driver);
                self.say(format_args!("Python was ended by {}", how(code)));
                self.state.driver_lost =
                    Some("a new Python is started: the names of earlier code are gone".to_owned());
                done.unwrap_or(code)
            }
        }
    }

    fn hand_over(&self, driver: &mut Driver, source: &[u8], feed: Option<&Arc<Feed>>) -> io::Result<()> {
        match feed {
            Some(feed) => {
                let (reader, writer) = feed_pipe()?;
                self.pump.feed(writer, Arc::clone(feed));
                driver.run(source, Some(reader.as_fd()))
            }
            None => driver.run(source, None),
        }
    }

    /// Until the code, or the driver, has ended.
    fn attend(&mut self, driver: &mut Driver) -> End {
        let mut asks = false;
        let mut answers: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            match self.events.recv() {
                Ok(Event::Driver { owner, frame }) if owner == driver.owner => match frame {
                    Frame::Begun => self.interrupt.ready(driver.pid),
                    Frame::Done(code) => return End::Done(code),
                    Frame::Waiting { is_password } => {
                        // What was printed before the question comes before the question.
                        self.pump.settle(driver.owner, Patience::None);
                        let payload = format!("{{\"is_password\": {is_password}}}");
                        self.outbox.reply(MessageType::WaitingInput, payload);
                        asks = true;
                    }
                    Frame::Suggestions { .. } | Frame::Media { .. } => {}
                },
                Ok(Event::Ended { owner, code }) if owner == driver.owner => return End::Lost(code),
                Ok(Event::Input(line)) => answers.push_back(line),
                Ok(event) => self.aside(event),
                Err(_) => return End::Lost(-1),
            }
            if asks && let Some(line) = answers.pop_front() {
                asks = false;
                // When it fails the driver has ended, and that is told.
                let _ended = driver.answer(&line);
            }
        }
    }

    /// Takes leave of a driver that has ended; the exit code, when it had finished its code before.
    fn last_word(&mut self, driver: Driver) -> Option<i32> {
        let own = driver.owner;
        driver.finish();
        let mut done = None;
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Driver { owner, frame: Frame::Done(code) } if owner == own => done = Some(code),
                event => self.aside(event),
            }
        }
        done
    }

    /// What does not concern the task that runs.
    fn aside(&mut self, event: Event) {
        match event {
            Event::Task(task) => self.state.waiting.push_back(task),
            Event::Ended { owner, code } => {
                if let Some(driver) = self.state.driver.take_if(|driver| driver.owner == owner) {
                    let lost = format!("Python was ended by {} while nothing ran", how(code));
                    self.console.note(&lost);
                    self.state.driver_lost =
                        Some(format!("{lost}; a new one is started: the names of earlier code are gone"));
                    self.last_word(driver);
                }
            }
            Event::Complete(_) => self.outbox.reply(MessageType::Completion, NO_SUGGESTIONS),
            // Nobody asked, or a task did that is over: it hears the end.
            Event::Input(_) | Event::Driver { .. } | Event::Asked(_) => {}
        }
    }

    fn complete(&mut self, request: &[u8]) {
        self.state.last_completion = self.state.last_completion.wrapping_add(1);
        let number = self.state.last_completion;
        let suggestions = self.suggestions(number, request);
        let suggestions = suggestions.unwrap_or_else(|| NO_SUGGESTIONS.to_vec());
        self.outbox.reply(MessageType::Completion, suggestions);
    }

    fn suggestions(&mut self, number: u32, request: &[u8]) -> Option<Vec<u8>> {
        self.state.driver.as_mut()?.complete(number, request).ok()?;
        let deadline = Instant::now() + COMPLETION;
        let pid = self.state.driver.as_ref()?.pid;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Driver { frame: Frame::Suggestions { number: answered, json }, .. })
                    if answered == number =>
                {
                    return Some(json);
                }
                Ok(event) => self.aside(event),
                Err(RecvTimeoutError::Timeout) => {
                    // Else the next code would wait for it as well.
                    self.children.signal_one(pid, Signal::INT);
                    return None;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            self.state.driver.as_ref()?;
        }
    }

    /// Tells the user of the task that runs.
    fn say(&self, text: impl std::fmt::Display) {
        let line = format!("berth-runner: {text}\n");
        self.console.copy(MessageType::Stderr, line.as_bytes());
        self.outbox.console(MessageType::Stderr, line.as_bytes());
    }

    fn next_owner(&mut self) -> Owner {
        self.state.last_owner += 1;
        Owner(self.state.last_owner)
    }
}

enum End {
    Done(i32),
    Lost(i32),
}

/// How the language process was ended.
fn how(code: i32) -> String {
    let what = match Signal::from_named_raw(code.saturating_neg()) {
        Some(Signal::KILL) => "SIGKILL, as happens when memory runs out",
        Some(Signal::SEGV) => "SIGSEGV, a crash of code that is not Python",
        Some(Signal::ABORT) => "SIGABRT, a crash of code that is not Python",
        Some(Signal::BUS) => "SIGBUS, a crash of code that is not Python",
        _ => "",
    };
    match (code, what) {
        (0.., _) => format!("its own exit with code {code}"),
        (_, "") => format!("signal {}", code.saturating_neg()),
        (_, what) => format!("signal {} ({what})", code.saturating_neg()),
    }
}

/// A pipe whose writing end does not block.
fn feed_pipe() -> io::Result<(io::PipeReader, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    Ok((reader, writer.into()))
}
