//! `cargo xtask guests [--check]`: builds the policies of `policies/` into `policies/dist/`, those of
//! `policies/examples/` into `policies/dist/examples/`.
//!
//! The modules are checked in, so that neither the agent nor its tests need a guest toolchain. With
//! `--check` nothing is written: with the very rustc that `policies/BUILD.toml` names the bytes must be
//! equal, with another one the behaviour on the fixtures of `tests/guests.rs`. Where no guest toolchain
//! is found `--check` says so and succeeds.
//!
//! The target is `wasm32-unknown-unknown`: the component imports the WIT and nothing else, no WASI. Each is packed
//! by `berth policy pack`, which berth is built for: its manifest and its `fixtures/` are in the module then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const TARGET: &str = "wasm32-unknown-unknown";

/// A small stack and enough memory for a usual call: both are cleared for every fresh instance
/// (`policies/guest/src/lib.rs` has the reason).
const LINK: &str = "-Clink-arg=-zstack-size=65536 -Clink-arg=--initial-memory=196608";

/// `policies/BUILD.toml`: what the checked-in modules were made with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Build {
    /// The line of `rustc --version`.
    rustc: String,
    wit_bindgen: String,
    wit_component: String,
    module: Vec<Module>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Module {
    file: String,
    sha256: String,
    bytes: usize,
}

/// What was built, by its file below `policies/dist/`.
type Components = BTreeMap<String, Vec<u8>>;

/// A rustc that can build guests, and how it comes by the standard library.
struct Toolchain {
    rustc: PathBuf,
    sysroot: PathBuf,
    version: String,
    /// The sysroot holds its own library sources instead of a built one: `-Zbuild-std`.
    build_std: bool,
}

/// Builds the guests, or with `--check` compares a build with what is checked in.
pub fn run(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("usage: cargo xtask guests [--check]"),
    };
    let root = workspace_root()?;
    let Some(toolchain) = find_toolchain()? else {
        let remedy = format!(
            "`rustup target add {TARGET}`, or on Debian `apt-get install --no-install-recommends \
             rustc-web rust-web-src`; BERTH_GUEST_RUSTC names a rustc to try first"
        );
        if check {
            println!("skipped: no guest toolchain: {remedy}");
            return Ok(());
        }
        bail!("no guest toolchain: {remedy}");
    };
    let how = if toolchain.build_std { "its own library sources" } else { "its built library" };
    println!("guests: {} with {how}", toolchain.version);
    let guests = find_guests(&root.join("policies"))?;
    let cores = build(&root, &toolchain, &guests)?;
    let packer = Packer::build(&root)?;
    let mut components = BTreeMap::new();
    for (guest, core) in guests.iter().zip(cores) {
        let component = componentize(&core).with_context(|| format!("cannot componentize {}", guest.name))?;
        components.insert(guest.file(), packer.pack(guest, component)?);
    }
    let made = describe(&root, &toolchain, &components)?;
    if check { compare(&root, &made, &components) } else { write(&root, &made, &components) }
}

fn workspace_root() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask has no parent folder")?.to_owned())
}

/// A policy among the sources.
struct Guest {
    /// Of its folder and its crate.
    name: String,
    /// It lies in `policies/examples/`: it does not come with the agent.
    example: bool,
}

impl Guest {
    fn folder(&self, policies: &Path) -> PathBuf {
        if self.example { policies.join("examples").join(&self.name) } else { policies.join(&self.name) }
    }

    /// Where its module lies below `policies/dist/`.
    fn file(&self) -> String {
        let folder = if self.example { "examples/" } else { "" };
        format!("{folder}{}.wasm", self.name)
    }
}

/// Every folder with a crate that makes a module, in order of their names, the examples last.
fn find_guests(policies: &Path) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for (folder, example) in [(policies.to_owned(), false), (policies.join("examples"), true)] {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let Ok(manifest) = fs::read_to_string(entry.path().join("Cargo.toml")) else { continue };
            // The SDK is a library.
            if manifest.contains("\"cdylib\"") {
                guests.push(Guest { name: entry.file_name().to_string_lossy().into_owned(), example });
            }
        }
    }
    guests.sort_by(|one, other| (one.example, &one.name).cmp(&(other.example, &other.name)));
    Ok(guests)
}

/// The first rustc with a built library for the target, else the first with matching library sources.
fn find_toolchain() -> Result<Option<Toolchain>> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    candidates.extend(std::env::var_os("BERTH_GUEST_RUSTC").map(PathBuf::from));
    candidates.extend([PathBuf::from("rustc"), PathBuf::from("/usr/bin/rustc")]);
    // cargo sets RUSTUP_TOOLCHAIN and RUSTC for what it runs; a plain `rustc` is then still rustup's.
    let mut found = Vec::new();
    for rustc in candidates {
        let Ok(sysroot) = output(Command::new(&rustc).args(["--print", "sysroot"])) else { continue };
        let Ok(version) = output(Command::new(&rustc).arg("--version")) else { continue };
        let library = output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]));
        let sysroot = PathBuf::from(sysroot);
        let built = library.is_ok_and(|folder| has_std(Path::new(&folder)));
        let sources = sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml").is_file();
        found.push((Toolchain { rustc, sysroot, version, build_std: !built }, built, sources));
    }
    let best = found.iter().position(|(_, built, _)| *built);
    let best = best.or_else(|| found.iter().position(|(_, _, sources)| *sources));
    Ok(best.map(|index| found.swap_remove(index).0))
}

fn has_std(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// Builds the core modules, one for each guest.
fn build(root: &Path, toolchain: &Toolchain, guests: &[Guest]) -> Result<Vec<Vec<u8>>> {
    let policies = root.join("policies");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = root.join(target).join("guests");
    let cargo_home = cargo_home()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The folders of the registry's sources have names that depend on the registry: they must exist
    // before the flags that map them are written.
    let fetched = Command::new(&cargo).args(["fetch", "--locked"]).current_dir(&policies).status()?;
    ensure!(fetched.success(), "cargo fetch failed in policies/");

    let mut flags = String::from(LINK);
    // No build path in the module: panics carry the names of source files. The last match wins.
    for (from, to) in path_map(root, &toolchain.sysroot, &cargo_home)? {
        flags += &format!(" --remap-path-prefix={}={to}", from.display());
    }
    let mut command = Command::new(&cargo);
    // cargo reads `.cargo/config.toml` by working directory.
    command.current_dir(&policies);
    command.args(["build", "--release", "--locked", "--target", TARGET]);
    for guest in guests {
        command.args(["--package", &guest.name]);
    }
    if toolchain.build_std {
        command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
    }
    command.env("RUSTC", &toolchain.rustc);
    command.env("CARGO_TARGET_DIR", &target);
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags);
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(inherited);
    }
    if let Some(linker) = find_linker(&toolchain.sysroot) {
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    ensure!(command.status()?.success(), "the guests do not build: see above");
    let folder = target.join(TARGET).join("release");
    let read = |guest: &Guest| {
        let path = folder.join(guest.name.replace('-', "_")).with_extension("wasm");
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    guests.iter().map(read).collect()
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

fn path_map(root: &Path, sysroot: &Path, cargo_home: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut map = vec![(cargo_home.to_owned(), "/cargo"), (root.to_owned(), "/src")];
    for sources in [sysroot.join("lib/rustlib/src/rust"), sysroot.join("lib/rustlib/src/rust/library")] {
        let to = if sources.ends_with("library") { "/rustc/library" } else { "/rustc" };
        // Debian links them from elsewhere, and cargo may pass either name.
        if let Ok(real) = sources.canonicalize() {
            map.push((real, to));
        }
        map.push((sources, to));
    }
    let registries = cargo_home.join("registry/src");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(&registries).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    folders.sort();
    map.extend(folders.into_iter().map(|folder| (folder, "/cargo/registry")));
    Ok(map)
}

/// `rust-lld` of the toolchain's sysroot or of rustup's, else a system one; none: the toolchain's default.
fn find_linker(sysroot: &Path) -> Option<PathBuf> {
    let rustup = output(Command::new("rustc").args(["--print", "sysroot"])).ok().map(PathBuf::from);
    let in_sysroot = [Some(sysroot.to_owned()), rustup].into_iter().flatten().flat_map(|sysroot| {
        let hosts = fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
        hosts.map(|host| host.path().join("bin/rust-lld")).collect::<Vec<_>>()
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = ["rust-lld", "wasm-ld-22", "wasm-ld"].into_iter().flat_map(|name| {
        std::env::split_paths(&path).map(move |folder| folder.join(name)).collect::<Vec<_>>()
    });
    in_sysroot.chain(on_path).find(|linker| linker.is_file())
}

/// `berth policy pack`: puts what a module says of itself, and its fixtures, into the module.
struct Packer {
    berth: PathBuf,
    policies: PathBuf,
    /// For the modules on their way.
    folder: tempfile::TempDir,
}

impl Packer {
    /// Builds berth, as every other command does.
    fn build(root: &Path) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status =
            Command::new(cargo).args(["build", "--quiet", "--workspace"]).current_dir(root).status()?;
        ensure!(status.success(), "berth does not build, which packs the guests: see above");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let berth = root.join(target).join("debug/berth");
        let folder = tempfile::Builder::new().prefix("berth-guests-").tempdir()?;
        Ok(Self { berth, policies: root.join("policies"), folder })
    }

    fn pack(&self, guest: &Guest, component: Vec<u8>) -> Result<Vec<u8>> {
        let [bare, packed] = ["bare.wasm", "packed.wasm"].map(|name| self.folder.path().join(name));
        fs::write(&bare, component)?;
        let mut command = Command::new(&self.berth);
        command.args(["policy", "pack"]).arg(&bare).arg("-o").arg(&packed);
        let fixtures = guest.folder(&self.policies).join("fixtures");
        if fixtures.is_dir() {
            command.arg("--fixtures").arg(fixtures);
        }
        output(&mut command).with_context(|| format!("cannot pack {}", guest.name))?;
        Ok(fs::read(&packed)?)
    }
}

fn componentize(core: &[u8]) -> Result<Vec<u8>> {
    let encoder = wit_component::ComponentEncoder::default().validate(true);
    encoder.module(core)?.encode()
}

fn describe(root: &Path, toolchain: &Toolchain, components: &Components) -> Result<Build> {
    let module = |(file, bytes): (&String, &Vec<u8>)| Module {
        file: file.clone(),
        sha256: hex(&Sha256::digest(bytes)),
        bytes: bytes.len(),
    };
    let module = components.iter().map(module).collect();
    Ok(Build {
        rustc: toolchain.version.clone(),
        wit_bindgen: locked_version(&root.join("policies/Cargo.lock"), "wit-bindgen")?,
        wit_component: locked_version(&root.join("Cargo.lock"), "wit-component")?,
        module,
    })
}

/// The version of a package in a lock file: the newest where there are several.
fn locked_version(lock: &Path, package: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let text = fs::read_to_string(lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let lock: Lock = toml::from_str(&text)?;
    let mut versions = lock.package.into_iter().filter(|entry| entry.name == package);
    versions.next_back().map(|entry| entry.version).with_context(|| format!("{package} is in no lock file"))
}

fn write(root: &Path, made: &Build, components: &Components) -> Result<()> {
    let dist = root.join("policies/dist");
    fs::create_dir_all(dist.join("examples"))?;
    for module in &made.module {
        println!("guests: {} {} bytes, sha256 {}", module.file, module.bytes, module.sha256);
    }
    for (file, bytes) in components {
        fs::write(dist.join(file), bytes)?;
    }
    let head = "# Written by `cargo xtask guests`: what the modules in dist/ were made with.\n";
    fs::write(root.join("policies/BUILD.toml"), format!("{head}{}", toml::to_string(made)?))?;
    Ok(())
}

fn compare(root: &Path, made: &Build, components: &Components) -> Result<()> {
    let path = root.join("policies/BUILD.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let recorded: Build = toml::from_str(&text).context("policies/BUILD.toml")?;
    for module in &recorded.module {
        let bytes = fs::read(root.join("policies/dist").join(&module.file))?;
        ensure!(
            hex(&Sha256::digest(&bytes)) == module.sha256 && bytes.len() == module.bytes,
            "policies/dist/{} is not what policies/BUILD.toml says: run `cargo xtask guests`",
            module.file
        );
    }
    if made == &recorded {
        println!("guests: equal, byte for byte");
        return Ok(());
    }
    ensure!(
        (&made.rustc, &made.wit_bindgen, &made.wit_component)
            != (&recorded.rustc, &recorded.wit_bindgen, &recorded.wit_component),
        "the guests differ from policies/dist/ although the tools are the same: run `cargo xtask guests`"
    );
    println!("guests: built with other tools than recorded ({}), comparing behaviour", recorded.rustc);
    let folder = tempfile::Builder::new().prefix("berth-guests-").tempdir()?;
    fs::create_dir(folder.path().join("examples"))?;
    behave(root, folder.path(), components)
}

/// Compares the rebuilt modules with the built-in, and asks them their fixtures.
fn behave(root: &Path, folder: &Path, components: &Components) -> Result<()> {
    for (file, bytes) in components {
        fs::write(folder.join(file), bytes)?;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .args(["test", "--workspace", "--test", "guests"])
        .env("BERTH_GUESTS_DIR", folder)
        .status()?;
    ensure!(status.success(), "the rebuilt guests decide otherwise than the built-in: see above");
    println!("guests: equal in behaviour on the fixtures");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", told.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
