//! `cargo xtask build`: the runner as one static executable, where `berth` looks for it first.
//!
//! `crt-static` is given on the command line for the runner alone: in `.cargo/config.toml` it would hit
//! everything, and with the system's libzmq not link (design §5). That the result needs no dynamic
//! loader is checked, since a runner that does works here and fails in other images.
//!
//! It goes to `<target>/libexec/berth/`, as a package would install it beside `bin/`: plain `cargo build`
//! and `cargo test` put a dynamic one beside `berth` whenever they like.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const RUNNER: &str = "berth-runner";

/// Runs the subcommand.
///
/// # Errors
/// When an option is unknown, a build fails, or the runner is not static.
pub fn run(words: &[String]) -> Result<()> {
    let (mut release, mut runner_only) = (false, false);
    for word in words {
        match word.as_str() {
            "--release" => release = true,
            "--runner-only" => runner_only = true,
            other => bail!("build has no option `{other}`; there is: --release, --runner-only"),
        }
    }
    let runner = build_runner(release)?;
    println!("{}: static, {} KiB", runner.display(), fs::metadata(&runner)?.len() / 1024);
    if !runner_only {
        let mut command = cargo();
        // Of the whole workspace, as `cargo test` has it: with one package's features alone wasmtime would
        // be compiled once more for the tests.
        command.args(["build", "--workspace", "--bin", "berth"]);
        if release {
            command.arg("--release");
        }
        check(&mut command)?;
    }
    Ok(())
}

fn build_runner(release: bool) -> Result<PathBuf> {
    let triple = host_triple()?;
    let target = target_directory()?;
    let profile = if release { "release" } else { "debug" };
    let mut command = cargo();
    command.args(["build", "--package", RUNNER, "--target", &triple]);
    command
        .arg("--config")
        .arg(format!("target.{triple}.rustflags=[\"-Ctarget-feature=+crt-static\",\"-Cstrip=debuginfo\"]"));
    // The variable would win over --config.
    command.env_remove("RUSTFLAGS");
    if release {
        command.arg("--release");
    }
    check(&mut command)?;

    let built = target.join(&triple).join(profile).join(RUNNER);
    let bytes = fs::read(&built).with_context(|| format!("could not read {}", built.display()))?;
    let dynamic = needs_loader(&bytes).with_context(|| format!("{} is no ELF file", built.display()))?;
    ensure!(!dynamic, "{} needs a dynamic loader: crt-static had no effect", built.display());

    let directory = target.join("libexec/berth");
    fs::create_dir_all(&directory)?;
    let installed = directory.join(RUNNER);
    // By renaming: one that runs now can be replaced, but not written to.
    let new = directory.join(format!("{RUNNER}.{}", std::process::id()));
    fs::copy(&built, &new).with_context(|| format!("could not write {}", new.display()))?;
    fs::rename(&new, &installed).with_context(|| format!("could not replace {}", installed.display()))?;
    Ok(installed)
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn host_triple() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = output(Command::new(rustc).arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Where cargo puts what it builds: this program lies in `<target>/<profile>/`.
fn target_directory() -> Result<PathBuf> {
    if let Some(directory) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(directory.into());
    }
    let own = env::current_exe()?;
    let directory = own.parent().and_then(Path::parent);
    Ok(directory.context("this program lies in no target directory")?.to_owned())
}

/// Whether an ELF64 little-endian executable has a program header PT_INTERP (elf(5)).
fn needs_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let offset = usize::try_from(u64::from_le_bytes(*elf.get(32..)?.first_chunk()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(*elf.get(54..)?.first_chunk()?));
    let count = usize::from(u16::from_le_bytes(*elf.get(56..)?.first_chunk()?));
    let mut found = false;
    for index in 0..count {
        let kind = u32::from_le_bytes(*elf.get(offset + index * size..)?.first_chunk()?);
        found |= kind == PT_INTERP;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_noise() {
        // This test itself is linked dynamically.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert_eq!(needs_loader(&own), Some(true));
        assert_eq!(needs_loader(b"#!/bin/sh\n"), None);
        assert_eq!(needs_loader(&own[..100]), None);
    }
}
