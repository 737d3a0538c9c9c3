//! Facts about the node: what the system says of limits, folders and files. Effects only; `checks` judges.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::engine::EngineInfo;
use crate::kernel::KernelError;
use crate::policy::PolicyView;

/// Everything that is judged.
#[derive(Debug)]
pub(super) struct Facts {
    /// None: it could not be asked without a runner.
    pub(super) engine: Option<Result<EngineInfo, KernelError>>,
    /// The most open files that the agent may allow itself; none: no limit.
    pub(super) open_files: Option<u64>,
    /// None: there is no state yet.
    pub(super) state: Option<Result<StateFolder, String>>,
    /// The file, or why there is none.
    pub(super) runner: Result<Runner, String>,
    /// What was loaded, or why nothing was.
    pub(super) policies: Result<Vec<PolicyView>, String>,
    /// Unix time in milliseconds.
    pub(super) now_ms: u64,
    /// When the newest kernel was made.
    pub(super) newest_ms: Option<u64>,
}

/// The state directory.
#[derive(Debug)]
pub(super) struct StateFolder {
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) is_ours: bool,
    pub(super) free_bytes: u64,
}

/// The program inside kernels.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) path: PathBuf,
    /// None: it is no program of this system.
    pub(super) is_static: Option<bool>,
}

/// The hard limit, to which the agent raises its own.
pub(super) fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// Looks at the state directory and at the runner's file.
pub(super) async fn look_at_files(
    state_dir: Option<PathBuf>,
    runner: PathBuf,
) -> (Option<Result<StateFolder, String>>, Runner) {
    let path = runner.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let state =
            state_dir.map(|dir| look_at_folder(&dir).map_err(|error| format!("{}: {error}", dir.display())));
        (state, Runner { is_static: look_at_program(&runner), path: runner })
    });
    looked.await.unwrap_or_else(|error| (Some(Err(error.to_string())), Runner { path, is_static: None }))
}

fn look_at_folder(dir: &Path) -> std::io::Result<StateFolder> {
    let found = std::fs::metadata(dir)?;
    let system = rustix::fs::statvfs(dir)?;
    Ok(StateFolder {
        path: dir.to_owned(),
        mode: found.mode() & 0o7777,
        is_ours: found.uid() == rustix::process::geteuid().as_raw(),
        free_bytes: system.f_bavail.saturating_mul(system.f_frsize),
    })
}

fn look_at_program(path: &Path) -> Option<bool> {
    let mut head = Vec::new();
    std::fs::File::open(path).ok()?.take(64 * 1024).read_to_end(&mut head).ok()?;
    is_static(&head)
}

/// Whether a program needs no dynamic loader: it has no PT_INTERP (elf(5)). None: it is no 64-bit
/// little-endian ELF file.
fn is_static(elf: &[u8]) -> Option<bool> {
    const INTERPRETER: u64 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = elf.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // e_phoff, e_phentsize, e_phnum; p_type is the first word of each entry.
    let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for entry in 0..count {
        let at = usize::try_from(start.checked_add(entry.checked_mul(size)?)?).ok()?;
        if number(at, 4)? == INTERPRETER {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_program_has_no_interpreter() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&own), Some(false), "tests are linked dynamically");
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        elf[64] = 1;
        assert_eq!(is_static(&elf), Some(true));
        elf[64] = 3;
        assert_eq!(is_static(&elf), Some(false));
        assert_eq!(is_static(&elf[..70]), Some(false));
        assert_eq!(is_static(&elf[..60]), None, "cut off");
    }

    #[test]
    fn a_folder_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let found = look_at_folder(dir.path()).unwrap();
        assert!(found.is_ours && found.mode == 0o750 && found.free_bytes > 0, "{found:?}");
        assert!(look_at_folder(&dir.path().join("none")).is_err());
    }
}
