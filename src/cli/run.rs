//! `berth run`: one program in a fresh kernel, which is gone afterwards.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::away::{self, Patience};
use super::client::Agent;
use super::error::{CliError, say};
use super::layers::Engine;
use super::media::Media;
use super::private::{self, PrivateAgent};
use super::signals::Signals;
use super::stream::{self, Ending};
use super::what::{Prepared, Upload, What};
use super::wishes::{self, Wishes};
use super::{Context, creation, output};
use crate::agent::NodeStatus;
use crate::amount;
use crate::control::api::{CreateBody, StopBody};
use crate::engine::EngineKind;
use crate::ids::{KernelId, KernelRef, RunId};
use crate::kernel::{KernelView, Phase};
use crate::route::RunRequest;

/// A creation says what it waits for when that takes longer.
const SAY_AFTER: Duration = Duration::from_secs(2);
/// How long the reason of a kernel's end is waited for.
const REASON_WITHIN: Duration = Duration::from_secs(2);

/// Run a file, a piece of code or a command in a fresh kernel
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "berth run [OPTIONS] FILE [OPTIONS] [-- ARG..]\n       \
                      berth run [OPTIONS] -- CMD [ARG..]\n       \
                      berth run [OPTIONS] --code TEXT",
    after_help = "\
Examples:
  berth run script.py                     its suffix or #! says by what, else Python
  berth run a.py --upload b.csv -- -n 3   with a file beside it, and arguments
  berth run --code 'print(6*7)'           run a piece of code
  cat words | berth run -- sort -u        run a command; standard input is passed on
  berth run --cpus 2 --mem 4g train.py    with two cores and 4 GiB of its own
  berth run --wait=60 --cpus 8 job.sh     wait a minute for eight cores
  berth run --mount ./data:/home/work/data:ro script.py
  berth run --save-media figures plot.py  pictures that it shows become files

Ctrl-C interrupts the program, a second one stops the kernel. The exit code is the program's own;
125 means that berth could not run it (see `berth --help`). Where no agent answers, a private one
is started for this one run."
)]
pub(super) struct Run {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    wishes: Wishes,
    /// Interrupt it after that many seconds; exits 124
    #[arg(long, value_name = "S", value_parser = wishes::seconds)]
    timeout: Option<Duration>,
    /// Keep pictures, html and the like that the program shows as files in this folder
    #[arg(long, value_name = "DIR")]
    save_media: Option<PathBuf>,
    /// Keep the kernel when the program has ended
    #[arg(long)]
    keep: bool,
    /// Engine of the private agent that is started where no agent answers
    #[arg(long, value_enum)]
    engine: Option<Engine>,
}

impl Run {
    #[cfg(test)]
    pub(super) fn what(&self) -> &What {
        &self.what
    }

    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        // Everything that can be wrong here is looked at before anything is started.
        let Prepared { task, uploads } = self.what.prepare()?;
        let body = self.wishes.into_body(!self.keep)?;
        let request = RunRequest { run: RunId::random(), task, stdin: true, timeout: self.timeout };
        let media = Media::new(self.save_media, &request.run)?;

        let mut signals = Signals::listen()?;
        let found = tokio::select! {
            biased;
            exit = signals.stop() => return Ok(exit),
            found = find_agent(context, self.engine, self.keep) => found?,
        };
        let (agent, private) = found;
        // A private agent ends with this command, and its kernels with it: there is nothing to wait for.
        let patience = if private.is_some() { Patience::None } else { away::LEASE };
        let job = Job { agent: &agent, kernel: body.kernel, keep: self.keep, patience };
        let status = job.run(&body, &uploads, (request, media), &mut signals).await;
        // Ends the private agent and waits for it, whatever has happened.
        drop(private);
        status
    }
}

/// The agent that answers, else a private one.
async fn find_agent(
    context: &Context,
    engine: Option<Engine>,
    keep: bool,
) -> Result<(Agent, Option<PrivateAgent>), CliError> {
    let at = context.agent.socket().display();
    match context.agent.get::<NodeStatus>("/v1/status").await {
        Ok(status) => {
            let asked = engine.map(EngineKind::from);
            let has = status.engine.map(|engine| engine.kind);
            if let (Some(asked), Some(has)) = (asked, has)
                && asked != has
            {
                let message =
                    format!("the agent at {at} uses the engine {}, not {}", has.as_str(), asked.as_str());
                return Err(CliError::new(message).with_hint(
                    "leave --engine out, or name a socket where no agent is (--socket) to get a private one",
                ));
            }
            Ok((context.agent.clone(), None))
        }
        Err(error) if error.code == "no-agent" => {
            if keep {
                return Err(CliError::new(format!(
                    "{}, and a private one would not keep the kernel",
                    error.message
                ))
                .with_hint("start an agent with `berth serve`, or leave --keep out"));
            }
            say(&format!("no agent at {at}, using a private one"));
            let (agent, private) = private::start(engine, context.verbose).await?;
            Ok((agent, Some(private)))
        }
        Err(error) => Err(error),
    }
}

/// A kernel for one run.
struct Job<'a> {
    agent: &'a Agent,
    kernel: KernelId,
    keep: bool,
    patience: Patience,
}

impl Job<'_> {
    async fn run(
        &self,
        body: &CreateBody,
        uploads: &[Upload],
        (request, media): (RunRequest, Media),
        signals: &mut Signals,
    ) -> Result<u8, CliError> {
        let made = tokio::select! {
            biased;
            exit = signals.stop() => Err(exit),
            made = self.make(body, uploads) => Ok(made),
        };
        let (ending, name) = match made {
            Ok(Ok(kernel)) => {
                let whose = KernelRef::Id(self.kernel);
                let run = stream::run(self.agent, &whose, request, media, signals, self.patience).await;
                (run, Some(kernel.name))
            }
            Ok(Err(error)) => (Err(error), None),
            Err(exit) => (Ok(Ending::Stopped { exit }), None),
        };
        let killed = match &ending {
            Ok(ending) if ending.was_killed() => self.why_killed().await,
            _ => None,
        };
        match name {
            Some(name) if self.keep => {
                if matches!(ending, Ok(Ending::Stopped { .. })) {
                    self.stop().await;
                }
                say(&format!("the kernel {name} stays; `berth rm -f {name}` removes it"));
            }
            _ => self.remove(signals).await,
        }
        match killed {
            Some(reason) => {
                say(&reason);
                Ok(137)
            }
            None => ending?.status(),
        }
    }

    /// Makes the kernel and brings the files.
    async fn make(&self, body: &CreateBody, uploads: &[Upload]) -> Result<KernelView, CliError> {
        let kernel = make(self.agent, body, self.patience).await?;
        for file in uploads {
            self.agent.upload(kernel.id, file).await?;
        }
        Ok(kernel)
    }

    /// Whether the program was killed for memory, as far as can be known.
    async fn why_killed(&self) -> Option<String> {
        let view = tokio::time::timeout(REASON_WITHIN, async {
            loop {
                let view = self.agent.kernel(&KernelRef::Id(self.kernel)).await.ok()?;
                if view.termination.is_some() || view.phase == Phase::Running {
                    return Some(view);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        explain_kill(&view.await.ok()??)
    }

    /// Ended by the user, but to be kept.
    async fn stop(&self) {
        let path = format!("/v1/kernels/{}/stop", self.kernel);
        if let Err(error) = self.agent.post::<KernelView>(&path, Some(&StopBody { grace_ms: 1000 })).await {
            say(&format!("the kernel could not be stopped: {}", error.message));
        }
    }

    /// Removes the kernel. It ends by its lease as well, so a user who does not want to wait need not.
    async fn remove(&self, signals: &mut Signals) {
        let removed = tokio::select! {
            removed = self.agent.remove_by_force(self.kernel) => removed,
            _ = signals.stop() => {
                say("the kernel is still being removed");
                return;
            }
        };
        if let Err(error) = removed {
            let kernel = self.kernel;
            say(&format!("the kernel could not be removed: {}; try `berth rm -f {kernel}`", error.message));
        }
    }
}

/// A sentence when a kernel's memory, or what looks like it, was the reason.
fn explain_kill(view: &KernelView) -> Option<String> {
    let limit = view.memory_limit.map(amount::format_bytes);
    match (&view.termination, limit) {
        (Some(end), Some(limit)) if end.oom => {
            Some(format!("it ran out of memory and was killed (limit {limit}); more with --mem"))
        }
        (Some(end), None) if end.oom => Some("it ran out of memory and was killed".to_owned()),
        (None, Some(limit)) => Some(format!(
            "it was killed (signal 9), as happens out of memory (limit {limit}); more with --mem"
        )),
        _ => None,
    }
}

/// Makes a kernel and says what it waits for, when it waits for long.
pub(super) async fn make(
    agent: &Agent,
    body: &CreateBody,
    patience: Patience,
) -> Result<KernelView, CliError> {
    let (heard, mut notes) = mpsc::unbounded_channel();
    let note = |_, note: Option<&str>| drop(heard.send(note.map(str::to_owned)));
    let create = creation::create(agent, body, note, patience);
    tokio::pin!(create);
    let mut note: Option<String> = None;
    let mut since = Instant::now();
    loop {
        // Cancel-safe: a future that stays, a channel receive and a timer.
        tokio::select! {
            biased;
            made = &mut create => return made,
            Some(next) = notes.recv() => (note, since) = (next, Instant::now()),
            () = tokio::time::sleep_until(since + SAY_AFTER), if note.is_some() => {
                say(&note.take().unwrap_or_default());
            }
        }
    }
}

/// What a kept or created kernel is called by.
pub(super) fn print_name(kernel: &KernelView) -> Result<(), CliError> {
    output::print(&format!("{}\n", kernel.name))
}
