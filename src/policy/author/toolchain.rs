//! Finding what builds policies: a rustc for `wasm32-unknown-unknown`, componentize-py.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::AuthorError;

/// No WASI: a policy that imports it is refused.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// A small stack and enough memory for a usual call: both are cleared for every fresh instance.
pub(super) const LINK: [&str; 2] = ["-Clink-arg=-zstack-size=65536", "-Clink-arg=--initial-memory=196608"];

/// A rustc that can build policies, and how it comes by the standard library.
#[derive(Debug)]
pub(super) struct Rust {
    pub cargo: OsString,
    pub rustc: PathBuf,
    /// It has no built library for the target but its own sources: `-Zbuild-std`.
    pub build_std: bool,
    pub linker: Option<PathBuf>,
}

/// The first rustc with a built library for the target, else the first with matching library sources, as it is
/// seen from the project's folder (a `rust-toolchain` file may choose).
pub(super) fn rust(dir: &Path) -> Result<Rust, AuthorError> {
    let missing = |what: String, remedy: &str| AuthorError::Missing { what, remedy: remedy.to_owned() };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    if output(Command::new(&cargo).arg("--version").current_dir(dir)).is_none() {
        return Err(missing(
            "there is no cargo here, which builds policies in Rust".to_owned(),
            "install Rust: https://rustup.rs",
        ));
    }
    let named = env::var_os("BERTH_GUEST_RUSTC").map(PathBuf::from);
    let candidates = named.into_iter().chain(["rustc", "/usr/bin/rustc"].map(PathBuf::from));
    let mut with_sources = None;
    for rustc in candidates {
        let ask = |words: &[&str]| output(Command::new(&rustc).args(words).current_dir(dir));
        let Some(sysroot) = ask(&["--print", "sysroot"]).map(PathBuf::from) else { continue };
        let library = ask(&["--print", "target-libdir", "--target", TARGET]);
        if library.is_some_and(|folder| has_std(Path::new(&folder))) {
            let linker = linker(&sysroot);
            return Ok(Rust { cargo, rustc, build_std: false, linker });
        }
        if with_sources.is_none() && sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml").is_file() {
            with_sources = Some((rustc, sysroot));
        }
    }
    with_sources
        .map(|(rustc, sysroot)| Rust { cargo, rustc, build_std: true, linker: linker(&sysroot) })
        .ok_or_else(|| {
            missing(
                format!("no rustc here builds for {TARGET}"),
                "`rustup target add wasm32-unknown-unknown`, or on Debian `apt-get install \
                 --no-install-recommends rustc-web rust-web-src`; BERTH_GUEST_RUSTC names a rustc to try first",
            )
        })
}

fn has_std(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// `rust-lld` of the sysroot, which Debian's does not have, else a system one; none: the toolchain's default.
fn linker(sysroot: &Path) -> Option<PathBuf> {
    let rustup = output(Command::new("rustc").args(["--print", "sysroot"])).map(PathBuf::from);
    let in_sysroot = [Some(sysroot.to_owned()), rustup].into_iter().flatten().flat_map(|sysroot| {
        let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
        hosts.map(|host| host.path().join("bin/rust-lld")).collect::<Vec<_>>()
    });
    let on_path = ["rust-lld", "wasm-ld-22", "wasm-ld"].into_iter().filter_map(on_path);
    in_sysroot.filter(|linker| linker.is_file()).chain(on_path).next()
}

/// componentize-py of the project's own environment, else of the caller's.
pub(super) fn componentize_py(dir: &Path) -> Result<PathBuf, AuthorError> {
    let named = env::var_os("BERTH_COMPONENTIZE_PY").map(PathBuf::from);
    let own = [".venv", "venv"].map(|venv| dir.join(venv).join("bin/componentize-py"));
    let own = own.into_iter().filter(|tool| tool.is_file()).find_map(|tool| tool.canonicalize().ok());
    named.or(own).or_else(|| on_path("componentize-py")).ok_or_else(|| AuthorError::Missing {
        what: "there is no componentize-py here, which builds policies in Python".to_owned(),
        remedy: "`pip install componentize-py==0.25.1`, or in the project `python3 -m venv .venv && .venv/bin/pip \
                 install componentize-py==0.25.1`"
            .to_owned(),
    })
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|tool| tool.is_file())
}

/// What a tool prints; none: it is not there, or failed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
