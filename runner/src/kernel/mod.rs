//! `berth-runner kernel`: entrypoint and runner of a kernel in one (design §5).
//!
//! | thread | what it does | takes | gives |
//! |---|---|---|---|
//! | main | signals; reaps everything; ends all at SIGTERM | signalfd | [`tasks::Event::Ended`] |
//! | `in` | receives operations ([`dispatch`]); never waits | socket | [`tasks::Event`], replies |
//! | `tasks` | one task after the other ([`tasks`]) | channel of events | children, `finished` |
//! | `pump` | output pipes and standard input ([`pump`]) | pipes | [`outbox`], [`console`] |
//! | `out` | sends the [`outbox`] ([`transport`]) | outbox | socket |
//! | `log` | copies the [`console`] for the engine's log | ring | own stdout, stderr |
//! | `driver` | reads what the language process says ([`driver`]) | its socket | [`tasks::Event::Driver`], media |
//! | `questions` | `input()` of batch tasks ([`questions`]) | a socket | [`tasks::Event::Asked`] |
//! | `oom` | notes what runs, tells who is gone ([`oom`]) | `/proc` | [`outbox`], [`console`] |
//!
//! Only `pump`, `driver`, `oom` and `tasks` (while they have something for the user) and `log` ever wait for
//! somebody outside.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::children::{Children, end_all};
use crate::zmtp::SocketType;
use crate::{Failure, number, sys, value};

mod console;
mod dispatch;
mod driver;
mod driver_frame;
mod environment;
mod feed;
mod interrupt;
mod lobby;
mod oom;
mod outbox;
mod pump;
mod questions;
mod steps;
mod tasks;
mod transport;
mod user;

use console::Console;
use dispatch::Dispatch;
use environment::Environment;
use interrupt::Interrupt;
use lobby::Lobby;
use oom::Witness;
use outbox::Outbox;
use pump::Pump;
use questions::Questions;
use tasks::Tasks;
use transport::Endpoint;
use user::Identity;

/// User and group where nobody names one (contracts: kernel §2.7).
const ID_DEFAULT: u32 = 9001;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// For the last messages and log lines when all has ended.
const FAREWELL: Duration = Duration::from_millis(300);
/// Largest payload to an agent that connects by TCP. The reference has no limit but for console output, and that
/// one (contracts: kernel §1.5).
const MESSAGE_MAX_TCP: usize = 10 * 1024 * 1024;
/// Small, so that a kernel costs little; nothing here recurses.
const STACK: usize = 128 * 1024;

#[derive(Debug)]
struct Options {
    link: PathBuf,
    work: PathBuf,
    config: PathBuf,
    host: bool,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// The subcommand. `started` is when `main` began.
pub fn main(words: Vec<OsString>, started: Timespec) -> Result<ExitCode, Failure> {
    let options = Options::parse(words)?;
    let signals = sys::take_signals().map_err(|error| Failure::system("take signals", error))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Failure::system("become the parent of orphans", error))?;
    let _unnamed = rustix::thread::set_name(c"berth-runner");
    if !options.host {
        user::become_user(&options.identity(), &options.work)?;
    }
    let children = Arc::new(Children::default());
    start_threads(&options, seconds(started), &children)?.attend(&signals, &children)?;
    Ok(ExitCode::SUCCESS)
}

/// What the main thread needs to end in order.
struct Running {
    outbox: Arc<Outbox>,
    console: Arc<Console>,
    questions: Arc<Questions>,
}

impl Running {
    fn attend(&self, signals: &std::os::fd::OwnedFd, children: &Children) -> Result<(), Failure> {
        // Children of the image's hook that ended before anybody listened.
        children.reap();
        let grace = loop {
            match sys::next_signal(signals).map_err(|error| Failure::system("read signals", error))? {
                libc::SIGCHLD => children.reap(),
                libc::SIGTERM | libc::SIGINT => break GRACE,
                libc::SIGQUIT => break Duration::ZERO,
                // SIGHUP: a terminal that went away is no reason to end a kernel.
                _ => {}
            }
        };
        children.refuse();
        end_all(children, grace);
        self.questions.remove();
        self.outbox.wait_sent(FAREWELL);
        self.console.wait_written(FAREWELL);
        Ok(())
    }
}

fn start_threads(options: &Options, started: f64, children: &Arc<Children>) -> Result<Running, Failure> {
    let no_descriptor = |error| Failure::system("make an event descriptor", error);
    let name = options.user_name();
    let environment = Environment::new(&options.work, &options.config, &name);
    let incarnation = incarnation();
    let (incoming, outgoing, message_max) = options.endpoints()?;
    let outbox = Outbox::new(started, incarnation.clone(), message_max);
    let outbox = Arc::new(outbox.map_err(no_descriptor)?);
    let console = Arc::new(Console::default());
    let (pump, pumping) = Pump::new(Arc::clone(&outbox), Arc::clone(&console)).map_err(no_descriptor)?;
    let interrupt = Arc::new(Interrupt::new(Arc::clone(children)));
    let (sender, events) = channel();
    let witness = Arc::new(Witness::default());
    let questions = Arc::new(Questions::new(&incarnation, sender.clone()));

    let mut dispatch = Dispatch {
        outbox: Arc::clone(&outbox),
        console: Arc::clone(&console),
        pump: pump.clone(),
        interrupt: Arc::clone(&interrupt),
        witness: Arc::clone(&witness),
        tasks: sender.clone(),
        feed: None,
        announced: None,
        run: None,
    };
    let tasks = Tasks {
        outbox: Arc::clone(&outbox),
        console: Arc::clone(&console),
        pump,
        children: Arc::clone(children),
        interrupt,
        witness: Arc::clone(&witness),
        questions: Arc::clone(&questions),
        environment,
        events,
        sender,
        state: tasks::State::default(),
    };
    let (log, in_log, out_log) = (Arc::clone(&console), Arc::clone(&console), Arc::clone(&console));
    let (sending, note, answer) = (Arc::clone(&outbox), Arc::clone(&console), Arc::clone(&outbox));
    spawn("log", move || log.write())?;
    spawn("oom", move || witness.watch(&note, &answer))?;
    spawn("pump", pumping)?;
    spawn("tasks", move || tasks.run())?;
    spawn("out", move || transport::send(outgoing, &out_log, &sending))?;
    spawn("in", move || transport::receive(incoming, &in_log, |message| dispatch.handle(message)))?;
    Ok(Running { outbox, console, questions })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(body);
    thread.map(drop).map_err(|error| Failure::system("start a thread", error))
}

impl Options {
    fn parse(words: Vec<OsString>) -> Result<Self, Failure> {
        let mut options = Self {
            link: "/opt/kernel/link".into(),
            work: "/home/work".into(),
            config: "/home/config".into(),
            host: false,
            uid: id_of_variable("LOCAL_USER_ID"),
            gid: id_of_variable("LOCAL_GROUP_ID"),
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.to_str() {
                Some("--link") => options.link = value("--link", &mut words)?.into(),
                Some("--work") => options.work = value("--work", &mut words)?.into(),
                Some("--config") => options.config = value("--config", &mut words)?.into(),
                Some("--host") => options.host = true,
                Some("--uid") => options.uid = Some(number("--uid", &value("--uid", &mut words)?)?),
                Some("--gid") => options.gid = Some(number("--gid", &value("--gid", &mut words)?)?),
                _ => return Err(Failure::Usage(format!("kernel has no option `{}`", word.display()))),
            }
        }
        Ok(options)
    }

    fn identity(&self) -> Identity {
        let additional = std::env::var("ADDITIONAL_GIDS").unwrap_or_default();
        let additional: BTreeSet<u32> =
            additional.split(',').filter_map(|word| word.trim().parse().ok()).collect();
        Identity { uid: self.uid.unwrap_or(ID_DEFAULT), gid: self.gid.unwrap_or(ID_DEFAULT), additional }
    }

    /// Name of who tasks run as. No name service: a static program has none.
    fn user_name(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        let name = user::name_of(&passwd, uid).unwrap_or(user::USER);
        name.to_owned()
    }

    /// Where operations come from, where messages go, and how large those may be.
    fn endpoints(&self) -> Result<(Endpoint, Endpoint, usize), Failure> {
        if self.link.is_dir() {
            let ipc = |name| Endpoint::Ipc { directory: self.link.clone(), name };
            return Ok((ipc(berth_link::SOCKET_IN), ipc(berth_link::SOCKET_OUT), berth_link::MESSAGE_MAX));
        }
        let (port_in, port_out) = self.ports();
        let listen = |port, role| {
            let what = || format!("listen on TCP port {port} (intrinsic-ports.json may name another)");
            let lobby = Lobby::listen(port, role).map_err(|error| Failure::system(what(), error))?;
            Ok(Endpoint::Tcp(lobby))
        };
        Ok((listen(port_in, SocketType::Pull)?, listen(port_out, SocketType::Push)?, MESSAGE_MAX_TCP))
    }

    /// The contract's ports, or those the agent chose for a kernel in the host's network
    /// (contracts: kernel §1.1).
    fn ports(&self) -> (u16, u16) {
        let text = fs::read(self.config.join("intrinsic-ports.json")).unwrap_or_default();
        let ports: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let port = |name: &str, default| {
            let number = ports.get(name).and_then(serde_json::Value::as_u64);
            number
                .and_then(|number| u16::try_from(number).ok())
                .filter(|number| *number > 0)
                .unwrap_or(default)
        };
        (port("replin", berth_link::PORT_IN), port("replout", berth_link::PORT_OUT))
    }
}

fn id_of_variable(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.trim().parse().ok()
}

/// Random text of this process. Without a source of randomness time and process id must do.
fn incarnation() -> String {
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").map(|text| text.trim().replace('-', ""));
    random.unwrap_or_else(|_| {
        let now = clock_gettime(ClockId::Realtime);
        format!("{:x}-{:x}-{:x}", now.tv_sec, now.tv_nsec, std::process::id())
    })
}

/// CLOCK_MONOTONIC in seconds, as `status` tells times.
fn monotonic() -> f64 {
    seconds(clock_gettime(ClockId::Monotonic))
}

#[expect(clippy::cast_precision_loss, reason = "seconds since boot are far below 2^52")]
fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
