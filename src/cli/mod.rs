//! The command line: one file per subcommand (design §9).
//!
//! `serve` is the agent; every other command speaks to a running one through the control API and to no
//! other room. Errors are one line on standard error and a hint; exit codes are in `berth --help`.
//!
//! * `cp`: files in and out; `what`: what `run` and `exec` run; `wishes`: what `run` and `create` want of a kernel
//! * `client`: HTTP over the agent's socket; `stream`: one run with its input, output and signals
//! * `private`: the agent that `run` starts for itself; `output`: tables and JSON

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

mod away;
mod client;
mod completions;
mod config;
mod cp;
mod create;
mod creation;
mod doctor;
mod drain;
mod error;
mod events;
mod exec;
mod image;
mod inspect;
mod interrupt;
mod layers;
mod live;
mod logging;
mod logs;
mod media;
mod output;
mod pipes;
mod policy;
mod private;
mod progress;
mod ps;
mod rm;
mod run;
mod serve;
mod signals;
mod slots;
mod status;
mod stop;
mod stream;
#[cfg(test)]
mod tests;
mod version;
mod what;
mod why;
mod wishes;

use client::Agent;
use error::CliError;

const AFTER_HELP: &str = "\
Examples:
  berth run --code 'print(6*7)'       run Python in a fresh kernel; needs no agent
  berth serve                         start this node's agent
  berth create --name k1              make a kernel that stays
  berth exec k1 -- python3 --version  run a command in it
  berth cp data.csv k1:               copy a file into it
  berth slots                         what the node offers, and who holds it

Exit codes:
  `run` and `exec` exit with the program's own status, 128+N when signal N killed it, and
    124  it took longer than --timeout
    125  the agent refused or failed
    126  the command could not be executed
    127  the command was not found
    130  stopped by Ctrl-C (`cp` too)
  Every other command exits 0 when done and 1 when not; all of them exit 2 on wrong usage.

`berth COMMAND --help` has examples for each command.";

/// Heading of the options that every command has.
const GLOBAL: &str = "Every command";

/// Runs code in kernels on this node: the worker-node agent of a Backend.AI cluster, whose decisions are
/// WebAssembly policies.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    disable_version_flag = true,
    after_help = AFTER_HELP,
    max_term_width = 100,
    subcommand_required = false,
    arg_required_else_help = true,
)]
pub struct Args {
    /// The agent's socket [default: berth.sock in /run/berth as root, else in $XDG_RUNTIME_DIR/berth, else in
    /// /tmp/berth-UID]
    #[arg(long, global = true, env = "BERTH_SOCKET", hide_env_values = true, value_name = "PATH",
          help_heading = GLOBAL, display_order = 100)]
    socket: Option<PathBuf>,

    /// Say more of what is going on, on standard error
    #[arg(short, long, global = true, help_heading = GLOBAL, display_order = 101)]
    verbose: bool,

    /// Print the version; with -v also that of the WebAssembly runtime and the policy interface
    #[arg(short = 'V', long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Run(run::Run),
    Create(create::Create),
    Exec(exec::Exec),
    Cp(cp::Cp),
    Ps(ps::Ps),
    Inspect(inspect::Inspect),
    Why(why::Why),
    Interrupt(interrupt::Interrupt),
    Stop(stop::Stop),
    Rm(rm::Rm),
    Logs(logs::Logs),
    Slots(slots::Slots),
    Status(status::Status),
    Events(events::Events),
    Doctor(doctor::Doctor),
    Drain(drain::Drain),
    Undrain(drain::Undrain),
    Image(image::Image),
    Policy(policy::Policy),
    Config(config::Config),
    Completions(completions::Completions),
}

/// What every command needs to know.
#[derive(Debug)]
struct Context {
    agent: Agent,
    /// The socket, when it was named.
    socket: Option<PathBuf>,
    verbose: bool,
}

/// Reads the command line; on wrong usage, and for `--help`, prints what is to be said and returns how to exit.
///
/// # Errors
/// The status to exit with.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    Args::try_parse_from(&words).map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        ) {
            // Nobody to tell when the help cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        ExitCode::from(wrong_usage(&words, &error).report(2))
    })
}

/// clap's first paragraph as our one line; its tip, or where to read on, as the hint.
fn wrong_usage(words: &[OsString], error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let message = line.strip_prefix("error: ").unwrap_or(&line);

    let known = Args::command();
    let command =
        words.iter().skip(1).find_map(|word| known.find_subcommand(word)).map(clap::Command::get_name);
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let runs = matches!(command, Some("run" | "exec"));
    let hint = match (tip, command) {
        (Some(tip), _) => tip.to_owned(),
        (None, _) if runs && error.kind() == ErrorKind::UnknownArgument => {
            "words for the program go after `--`".to_owned()
        }
        (None, Some(command)) => format!("`berth {command} --help` has examples"),
        (None, None) => "`berth --help` lists the commands".to_owned(),
    };
    CliError::usage(message).with_hint(hint)
}

impl Args {
    /// Runs the command and returns how to exit.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { socket, verbose, version, command } = self;
        let socket = socket.filter(|path| !path.as_os_str().is_empty());
        // Where docker(1) and env(1) have 125: the command that was to be run has not been run.
        let on_failure = if matches!(command, Some(Command::Run(_) | Command::Exec(_))) { 125 } else { 1 };
        let done = match command {
            _ if version => version::print(verbose).map(|()| 0),
            Some(Command::Serve(serve)) => serve.run(socket, verbose).map(|()| 0),
            Some(Command::Config(config)) => config.run(socket),
            Some(Command::Completions(completions)) => completions.run().map(|()| 0),
            Some(Command::Policy(policy)) if policy.is_tool() => policy.run_tool(socket).map(|()| 0),
            Some(command) => Context::new(socket, verbose).and_then(|context| command.run(&context)),
            None => {
                let _ = Self::command().print_help();
                Ok(2)
            }
        };
        ExitCode::from(done.unwrap_or_else(|error| error.report(on_failure)))
    }
}

impl Context {
    fn new(socket: Option<PathBuf>, verbose: bool) -> Result<Self, CliError> {
        Ok(Self { agent: Agent::at(socket.clone())?, socket, verbose })
    }
}

impl Command {
    /// An online command: all it does is talk.
    fn run(self, context: &Context) -> Result<u8, CliError> {
        talk(async {
            match self {
                Self::Run(command) => command.run(context).await,
                Self::Exec(command) => command.run(context).await,
                Self::Cp(command) => command.run(context).await,
                Self::Create(command) => command.run(context).await.map(|()| 0),
                Self::Ps(command) => command.run(context).await.map(|()| 0),
                Self::Inspect(command) => command.run(context).await.map(|()| 0),
                Self::Why(command) => command.run(context).await.map(|()| 0),
                Self::Interrupt(command) => command.run(context).await.map(|()| 0),
                Self::Stop(command) => command.run(context).await.map(|()| 0),
                Self::Rm(command) => command.run(context).await.map(|()| 0),
                Self::Logs(command) => command.run(context).await.map(|()| 0),
                Self::Slots(command) => command.run(context).await.map(|()| 0),
                Self::Status(command) => command.run(context).await,
                Self::Events(command) => command.run(context).await.map(|()| 0),
                Self::Doctor(command) => command.run(context).await,
                Self::Drain(command) => command.run(context).await.map(|()| 0),
                Self::Undrain(command) => command.run(context).await.map(|()| 0),
                Self::Image(command) => command.run(context).await.map(|()| 0),
                Self::Policy(command) => command.run(context).await,
                // Dispatched before there is a runtime: they need none, or build their own.
                Self::Serve(_) | Self::Config(_) | Self::Completions(_) => Ok(0),
            }
        })
    }
}

/// Talks to an agent: one thread is enough.
fn talk<T>(talk: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(format!("this process cannot run: {error}")))?;
    let said = runtime.block_on(talk);
    // A thread may be waiting for standard input; it ends with the process.
    runtime.shutdown_background();
    said
}
