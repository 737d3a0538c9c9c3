//! `berth policy keygen`, `sign`, `verify`: who vouches for a policy. They need no agent.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::cli::output::{self, Output};
use crate::config::{self, Overrides};
use crate::policy::trust::{PrivateKey, PublicKey, Signer, Trust};
use crate::policy::{self, Problem};

/// Make a key that signs policies; needs no agent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy keygen ops.key                  the private key into a file of yours alone
  berth policy keygen --name alice alice.key

What it prints is the public key: put it into agent.toml of the nodes that are to trust it,
  [policy.trust]
  required = true
  keys = [\"ops:...\"]")]
pub(super) struct Keygen {
    /// What the key is called [default: the file's name without its ending]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the private key goes; an existing file is not replaced
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Keygen {
    pub(super) fn run(self) -> Result<(), CliError> {
        let stem =
            || self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut random = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .map_err(|error| CliError::new(format!("there are no random numbers here: {error}")))?;
        let key = PrivateKey::new(&self.name.clone().unwrap_or_else(stem), random)
            .map_err(|problem| CliError::new(problem).with_hint("say another one with --name"))?;
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.file)
            .and_then(|mut file| file.write_all(key.file().as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| {
            CliError::new(format!("{} cannot be written: {error}", self.file.display()))
                .with_hint("name a file that is not there yet")
        })?;
        output::print(&format!("{}\n", key.public()))
    }
}

/// Sign a policy's module, so that nodes which trust the key take it; needs no agent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy sign last-core.wasm --key ops.key
  berth policy sign last-core.wasm --key ops.key -o signed.wasm

The signature becomes the last section of the module, which stays one file that any tool reads. Sign
last: what is appended afterwards breaks it. Signing again replaces it.")]
pub(super) struct Sign {
    /// The private key, as `berth policy keygen` made it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the signed module goes [default: it replaces the module]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Sign {
    pub(super) fn run(self) -> Result<(), CliError> {
        let key = std::fs::read_to_string(&self.key)
            .map_err(|error| error.to_string())
            .and_then(|text| PrivateKey::read(&text))
            .map_err(|problem| {
                CliError::new(format!("{}: {problem}", self.key.display()))
                    .with_hint("`berth policy keygen FILE` makes a private key")
            })?;
        let module = read(&self.file)?;
        let signed = key.sign(&module).map_err(|problem| wrong(&self.file, &problem))?;
        let to = self.output.as_ref().unwrap_or(&self.file);
        replace(to, &signed)
            .map_err(|error| CliError::new(format!("{} cannot be written: {error}", to.display())))?;
        output::print(&format!("{} is signed by {}\n", to.display(), key.public()))
    }
}

/// Whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".signed-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    // As readable as it was.
    let mode = match std::fs::metadata(path) {
        Ok(found) => found.permissions(),
        Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
    };
    file.as_file().set_permissions(mode)?;
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

/// Say who signed a module, and whether that holds; needs no agent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy verify last-core.wasm                    by the keys of agent.toml, as `berth serve` would
  berth policy verify last-core.wasm --keys ops:6mK0…   by these keys

Exits 1 when it is not signed, not by one of the keys, or not any more what was signed.")]
pub(super) struct Verify {
    /// A key to trust, NAME:BASE64; may be repeated [default: those of agent.toml]
    #[arg(long, value_name = "KEY")]
    keys: Vec<String>,
    /// Read the keys of this agent.toml
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    config: Option<PathBuf>,
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Verify {
    pub(super) fn run(self) -> Result<(), CliError> {
        let named = !self.keys.is_empty();
        let keys = if self.keys.is_empty() {
            let overrides = Overrides { config: self.config, ..Overrides::default() };
            let config = config::load(&overrides).map_err(|error| {
                CliError::new(error.to_string())
                    .with_code("bad-config")
                    .with_hint("or name the keys with --keys")
            })?;
            config.policy.trust.keys
        } else {
            let keys = self.keys.into_iter().map(PublicKey::try_from).collect::<Result<_, _>>();
            keys.map_err(CliError::usage)?
        };
        let module = read(&self.file)?;
        let none = keys.is_empty();
        let signer = Trust { required: true, keys }.judge(&module).map_err(|problem| match problem {
            // What the problems say is for nodes, which have keys in agent.toml.
            Problem::Unsigned if named => not_by_these(&self.file, "it is not signed by anybody", &problem)
                .with_hint("`berth policy sign FILE --key KEY` signs it, with the key of one of --keys"),
            Problem::UnknownSigner(ref key) if named => {
                let what = format!("it is signed by {key}, which is none of --keys");
                not_by_these(&self.file, &what, &problem)
                    .with_hint(format!("if you trust that key, --keys NAME:{key}"))
            }
            Problem::UnknownSigner(_) if none => wrong(&self.file, &problem)
                .with_hint("there are no keys in [policy.trust]: name them with --keys"),
            problem => wrong(&self.file, &problem),
        })?;
        // Required, so there is one.
        let signer: Vec<Signer> = signer.into_iter().collect();
        self.output.print(&signer, |signer| {
            signer.iter().map(|signer| format!("signed by {signer}\n")).collect::<String>()
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CliError> {
    policy::read_module(file).map_err(|problem| wrong(file, &problem))
}

fn not_by_these(file: &Path, what: &str, problem: &Problem) -> CliError {
    CliError::new(format!("{}: {what}", file.display())).with_code(problem.code())
}

fn wrong(file: &Path, problem: &Problem) -> CliError {
    CliError::new(format!("{}: {problem}", file.display()))
        .with_code(problem.code())
        .with_hint("`berth policy sign FILE --key KEY` signs a module")
}
