//! The tools of those who write policies: `new`, `build`, `test`, `bench`, `dev`, `pack`, `inspect`. None needs an
//! agent; `inspect` and `dev` speak to one where there is one.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::error::{CliError, say};
use crate::cli::output::{self, world};
use crate::policy::author::{self, AuthorError, Language, Questions};
use crate::policy::{Workshop, WorldKind};

impl From<AuthorError> for CliError {
    fn from(error: AuthorError) -> Self {
        Self::new(error.to_string()).with_code(error.code()).with_hint(error.hint())
    }
}

/// What a policy's project is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    Rust,
    Python,
}

/// Begin a policy: a project that builds at once, with a small policy, fixtures and a README
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy new gpu-quota --world scheduler
  berth policy new withhold --world slot-reporter --lang python
  cd gpu-quota && berth policy build && berth policy test

Rust needs `rustup target add wasm32-unknown-unknown`, Python `pip install componentize-py`. Policies
in C and JavaScript are shown in docs/policies.md.")]
pub(super) struct New {
    /// slot-reporter (what the node offers), scheduler (who gets what and when) or container-config
    #[arg(long, value_name = "WORLD", value_parser = super::swap::world_named)]
    world: WorldKind,
    /// Written in
    #[arg(long, value_enum, default_value = "rust", value_name = "LANG")]
    lang: Lang,
    /// Where [default: a folder of that name]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Its name: lower-case letters, digits and `-`
    #[arg(value_name = "NAME")]
    name: String,
}

impl New {
    pub(super) fn run(self) -> Result<(), CliError> {
        let dir = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        let language = match self.lang {
            Lang::Rust => Language::Rust,
            Lang::Python => Language::Python,
        };
        let files = author::begin(&dir, &self.name, self.world, language)?;
        let policy = files.iter().find(|file| matches!(file.as_str(), "src/lib.rs" | "app.py"));
        let policy = dir.join(policy.map_or("", String::as_str));
        let dir = dir.display();
        output::print(&format!(
            "{dir}: a policy of the world {} in {} files; it is {}\n\
             Build it: berth policy build {dir}\nTest it:  berth policy test {dir}\n",
            world(self.world),
            files.len(),
            policy.display(),
        ))
    }
}

/// Build a policy's project into one module, with its fixtures in it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy build                     the project in this folder
  berth policy build gpu-quota
  berth policy build -o /tmp/p.wasm gpu-quota

A folder with a Cargo.toml is built by cargo for wasm32-unknown-unknown and made a component; one
whose policy.toml says `lang = \"python\"` by componentize-py; one whose policy.toml has a `command` and
its `output` by that. The fixtures in fixtures/ go into the module's manifest.")]
pub(super) struct Build {
    /// The module [default: NAME.wasm in the project's folder]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

impl Build {
    pub(super) fn run(self) -> Result<(), CliError> {
        let built = author::build(&self.dir, self.out.as_deref(), &Workshop::of_user())?;
        output::print(&told(&built))
    }
}

/// One line of what was built.
pub(super) fn told(built: &author::Built) -> String {
    let policy = &built.policy;
    format!(
        "{}: {} {} for {}, {}, {} of fixtures, sha256 {}\n",
        built.file.display(),
        policy.name,
        policy.version,
        world(policy.world),
        output::size(policy.bytes),
        count(policy.cases, "case"),
        policy.digest.short(),
    )
}

/// `1 case`, `2 cases`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A size in memory: `531 B`, `192 KiB`, `12.3 MiB`.
pub(super) fn binary(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

/// Write into a module what it says of itself, and its fixtures
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy pack policy.wasm --fixtures fixtures
  berth policy pack --fixtures fixtures -o packed.wasm policy.wasm

`berth policy build` does this. For modules that were built in another way: the module is asked what it
is (`describe`), and the answer is appended as the custom section `berth:policy-manifest` with the
fixtures of the folder, in place of an earlier one. An agent refuses a module whose manifest
contradicts it, or that fails its own fixtures.")]
pub(super) struct Pack {
    /// Folder of fixtures (*.json) [default: those that it has]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Where to write it [default: the module itself]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The module: a component (.wasm)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Pack {
    pub(super) fn run(self) -> Result<(), CliError> {
        let subject = self.file.display().to_string();
        let workshop = Workshop::of_user();
        let packed = author::pack(&subject, author::read(&self.file)?, self.fixtures.as_deref(), &workshop)?;
        let file = self.out.unwrap_or(self.file);
        author::write(&file, &packed)?;
        let policy =
            author::inspect(file.display().to_string(), packed, &workshop).map_err(AuthorError::from)?;
        output::print(&told(&author::Built { policy, file }))
    }
}

/// A module, and where its questions come from: what the operator named, else the project's folder, else the module's
/// own manifest.
pub(super) fn module_and_fixtures(
    path: &Path,
    fixtures: Option<PathBuf>,
) -> Result<(PathBuf, Questions), CliError> {
    if !path.is_dir() {
        return Ok((path.to_owned(), fixtures.map_or(Questions::Manifest, Questions::Folder)));
    }
    let module = author::output_of(path)?;
    if !module.is_file() {
        let dir = path.display();
        return Err(CliError::new(format!("{dir} has not been built: there is no {}", module.display()))
            .with_hint(format!("`berth policy build {dir}`")));
    }
    // The sources hold, not what was packed when it was built.
    let fixtures = fixtures.or_else(|| Some(path.join("fixtures")).filter(|dir| dir.is_dir()));
    Ok((module, fixtures.map_or(Questions::Manifest, Questions::Folder)))
}

/// What is odd about a folder of fixtures, on standard error.
pub(super) fn say_idle(idle: &[String]) {
    if !idle.is_empty() {
        say(&format!("{}: no `expect`, and nobody's base: not asked", idle.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::binary;

    #[test]
    fn sizes_have_the_digits_that_matter() {
        let sizes = [531, 196_608, 12_910_592, 32 << 20].map(binary);
        assert_eq!(sizes, ["531 B", "192 KiB", "12.3 MiB", "32.0 MiB"]);
    }
}
