//! `berth policy replay`: decisions of the journal made again.

use std::path::PathBuf;

use super::settings;
use super::steps::{self, Came, MOST};
use super::swap::{read, world_named};
use crate::cli::Context;
use crate::cli::client::{bytes, empty, escaped, lost};
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::cli::output::Output;
use crate::config::{self, Overrides};
use crate::ids::KernelRef;
use crate::policy::journal::Wanted;
use crate::policy::replay::offline::{self, Candidate, Offline};
use crate::policy::replay::{Report, diff};
use crate::policy::{Source, Workshop, WorldKind};

/// Make decisions of the journal again, by who made them or by another policy, and show what differs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy replay                                   are they the same, bit for bit?
  berth policy replay --module new.wasm --last 256      what a module would have decided otherwise
  berth policy replay --module builtin --world scheduler
  berth policy replay --module new.wasm --settings try.toml -o json
  berth policy replay --journal node7.jsonl             one that was exported; needs no agent

Nothing comes of it. A file or an exported journal is read here and not by the agent. Without --module
it exits 1 where a decision is not the same; the modules that decided are looked for in the state
directory and in --modules, and named where they are not there. With --module it exits 0 and shows
who would have got what, and why. Decisions that met a deadline, the memory limit, a busy machine or
the end of the stack are not made again.")]
pub(super) struct Replay {
    /// Who is to decide: a module's file, digest or name, or `builtin` [default: who decided then]
    #[arg(long, value_name = "FILE|DIGEST|NAME")]
    module: Option<String>,
    /// Settings for it, a TOML file [default: those of its world in agent.toml]
    #[arg(long, value_name = "FILE", requires = "module")]
    settings: Option<PathBuf>,
    /// A journal written by `berth policy journal --export` [default: the agent's]
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Folder with modules (.wasm) for --journal (may be given more than once)
    #[arg(long, value_name = "DIR", requires = "journal")]
    modules: Vec<PathBuf>,
    /// The agent.toml for --journal: settings, grants and budgets
    #[arg(long, value_name = "FILE", requires = "journal")]
    config: Option<PathBuf>,
    /// From the decision of this number on
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Up to the decision of this number
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// The last so many [default: all]
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Only decisions about this kernel: its name, or its id also when it was removed
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<KernelRef>,
    /// Only of this world: slot-reporter, scheduler or container-config
    #[arg(long, value_name = "WORLD", value_parser = world_named)]
    world: Option<WorldKind>,
    /// Only of this member of the container-config chain, from 0
    #[arg(long, value_name = "N")]
    link: Option<usize>,
    #[command(flatten)]
    output: Output,
}

impl Replay {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let (output, reproduces) = (self.output, self.module.is_none());
        let report = match self.journal.clone() {
            Some(journal) => self.offline(journal)?,
            None => self.asked_of(context).await?,
        };
        output.print(&report, |report| diff::text(report, MOST))?;
        Ok(u8::from(reproduces && !report.is_empty()))
    }

    async fn asked_of(self, context: &Context) -> Result<Report, CliError> {
        let settings = settings::of(self.settings.as_ref())?;
        let settings = settings.map(|settings| serde_json::to_string(&settings)).transpose();
        let settings = settings.map_err(|error| CliError::new(error.to_string()))?;
        let file = self.module.as_ref().filter(|module| offline::names_a_file(module)).map(PathBuf::from);
        let module = self.module.filter(|_| file.is_none());
        let numbers = [
            ("link", self.link.map(|link| link.to_string())),
            ("from", self.from.map(|from| from.to_string())),
            ("to", self.to.map(|to| to.to_string())),
            ("most", self.last.map(|last| last.to_string())),
            ("world", self.world.map(|world| world.to_string())),
            ("kernel", self.kernel.map(|kernel| kernel.to_string())),
            ("module", module),
            ("settings", settings),
        ];
        let query: Vec<String> = numbers
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", escaped(&value?))))
            .collect();
        let body = match &file {
            Some(file) => bytes(read(file)?),
            None => empty(),
        };
        let path = format!("/v1/policies/replay?{}", query.join("&"));
        let came = steps::ask(context, &path, body, self.output).await.map_err(|error| match &file {
            Some(file) => CliError { message: format!("{}: {}", file.display(), error.message), ..error },
            None => error,
        })?;
        match came {
            Came::Replayed(report) => Ok(*report),
            Came::Done(_) => Err(lost()),
        }
    }

    fn offline(self, journal: PathBuf) -> Result<Report, CliError> {
        let overrides = Overrides { config: self.config, private: true, ..Overrides::default() };
        let config = config::load(&overrides).map_err(|error| {
            CliError::new(error.to_string().replace('\n', "; ")).with_hint("`berth config check` shows them")
        })?;
        let kernel = match &self.kernel {
            None => None,
            Some(KernelRef::Id(id)) => Some(id.to_string()),
            Some(KernelRef::Name(name)) => {
                return Err(CliError::new(format!("an exported journal does not know the name {name}"))
                    .with_hint("give the kernel's id; `berth policy journal -o json` has it"));
            }
        };
        let candidate = match self.module.as_deref() {
            None => None,
            Some("builtin") => Some(Source::Builtin),
            Some(module) if offline::names_a_file(module) => Some(Source::File(module.into())),
            Some(module) => {
                return Err(CliError::new(format!(
                    "with --journal a module is a file, and {module:?} is none"
                ))
                .with_code("no-such-policy")
                .with_hint("give the .wasm file, or `builtin`"));
            }
        };
        let settings = settings::of(self.settings.as_ref())?;
        let mut modules = vec![config.standalone.state_dir.join("policies")];
        modules.extend(self.modules);
        let ask = Offline {
            journal,
            wanted: Wanted {
                kernel,
                world: self.world,
                link: self.link,
                from: self.from,
                to: self.to,
                most: self.last,
            },
            candidate: candidate.map(|source| Candidate { source, settings }),
            modules,
            config: config.policy,
            workshop: Workshop::of_user(),
        };
        let mut live = Live::new();
        let report = offline::replay(ask, move |done| {
            if done.is_multiple_of(64) {
                live.show(&format!("{done} decisions replayed"));
            }
        });
        report.map_err(|error| {
            CliError::new(error.to_string())
                .with_code(error.problem.code())
                .with_hint("`berth policy replay --help` has examples")
        })
    }
}
