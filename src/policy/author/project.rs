//! `berth policy new`: a project that builds at once, with a policy that already does something small.
//!
//! The files are those in `template/`; the SDK in Rust is `policies/guest` as this program was built with it, so that
//! a project needs nothing but a toolchain and crates.io.

use std::fs;
use std::path::Path;

use super::AuthorError;
use crate::policy::WorldKind;

/// The language of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust, with the SDK.
    Rust,
    /// Python, by componentize-py.
    Python,
}

const WIT: &str = include_str!("../../../wit/policy.wit");

macro_rules! files {
    ($from:literal: $($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!($from, $file)))),*]
    };
}

/// Files by their path.
type Files = &'static [(&'static str, &'static str)];

/// The SDK. A test compares the list with what there is.
const SDK: Files = files!["../../../policies/guest/":
    "Cargo.toml",
    "src/about.rs",
    "src/arena.rs",
    "src/bindings.rs",
    "src/calendar.rs",
    "src/lib.rs",
    "src/settings.rs",
    "src/shorthand.rs",
    "src/testing.rs",
    "src/worlds.rs",
];
/// The versions that the SDK was tried with.
const LOCK: &str = include_str!("../../../policies/Cargo.lock");
const CARGO: &str = include_str!("template/rust/Cargo.toml.in");
const CARGO_CONFIG: &str = include_str!("template/rust/config.toml.in");
const PYTHON_PROJECT: &str = include_str!("template/python/policy.toml.in");
const README: &str = include_str!("template/README.md.in");

/// What belongs to a world.
struct World {
    rust: &'static str,
    python: &'static str,
    fixtures: Files,
    settings: &'static str,
    grants: &'static str,
}

fn world(world: WorldKind) -> World {
    match world {
        WorldKind::SlotReporter => World {
            rust: include_str!("template/rust/slot-reporter.rs"),
            python: include_str!("template/python/slot-reporter.py"),
            fixtures: files!["template/fixtures/slot-reporter/": "node.json", "degraded.json"],
            settings: "withhold-degraded = true",
            grants: "",
        },
        WorldKind::Scheduler => World {
            rust: include_str!("template/rust/scheduler.rs"),
            python: include_str!("template/python/scheduler.py"),
            fixtures: files!["template/fixtures/scheduler/": "node.json", "kinds.json"],
            settings: "spread = [\"batch\"]",
            grants: "",
        },
        WorldKind::ContainerConfig => World {
            rust: include_str!("template/rust/container-config.rs"),
            python: include_str!("template/python/container-config.py"),
            fixtures: files!["template/fixtures/container-config/": "plan.json", "proxy.json"],
            settings: "proxy = \"http://proxy.example.org:3128\"",
            grants: "\n\nIt makes edits, which the operator grants there, too:\n\n```toml\n\
                     [policy.container-config]\ngrants = [\"set-env\"]\n```",
        },
    }
}

const RUST_FILES: &str = "| `src/lib.rs` | the policy |\n| `berth-guest/` | the SDK: bindings, settings, an \
                          allocator, helpers for `cargo test` |\n| `.cargo/config.toml` | linker flags for small \
                          instances |";
const RUST: &str = "It needs `rustup target add wasm32-unknown-unknown`, once. `cargo test` runs the unit tests on \
                    this machine; the fixtures ask the module itself, as an agent would.";
const PYTHON_FILES: &str = "| `app.py` | the policy |\n| `policy.toml` | name, world and language, for `berth policy \
                            build` |";
const PYTHON: &str = "\
It needs componentize-py, once: `python3 -m venv .venv && .venv/bin/pip install componentize-py==0.25.1`. What `berth \
policy build` runs is

```sh
componentize-py -d wit -w {{world}} componentize --stub-wasi app -o policy.wasm
berth policy pack policy.wasm --fixtures fixtures -o {{name}}.wasm
```

`--stub-wasi` matters: a policy has no clock, no files and no network, and one that imports WASI is refused.";

/// A policy's name, which is also its crate's and its file's.
///
/// # Errors
/// What it must be.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if begins && name.len() <= 64 && name.bytes().all(fine) && !name.ends_with('-') {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name: a policy's name has up to 64 lower-case letters, digits and `-`, and begins with a letter"
    ))
}

/// Begins a project in a folder that does not exist yet. Returns its files, by path in it.
///
/// # Errors
/// A name that is none, a folder that is there, or files that cannot be written.
pub fn begin(dir: &Path, name: &str, of: WorldKind, language: Language) -> Result<Vec<String>, AuthorError> {
    check_name(name).map_err(AuthorError::Project)?;
    if name == "builtin" || name == "berth-guest" {
        return Err(AuthorError::Project(format!("a policy cannot be called {name}")));
    }
    let shown = dir.display();
    if dir.exists() {
        return Err(AuthorError::Project(format!("{shown} is there already: name another, or remove it")));
    }
    let files = files(name, of, language);
    for (path, text) in &files {
        let path = dir.join(path);
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text));
        written
            .map_err(|error| AuthorError::File(format!("{} cannot be written: {error}", path.display())))?;
    }
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

fn files(name: &str, of: WorldKind, language: Language) -> Vec<(String, String)> {
    let world = world(of);
    let interface = WIT.lines().find_map(|line| line.strip_prefix("package ")).unwrap_or_default();
    let (listed, how) = match language {
        Language::Rust => (RUST_FILES, RUST),
        Language::Python => (PYTHON_FILES, PYTHON),
    };
    let fill = |text: &str| {
        let known = [
            ("{{files}}", listed),
            ("{{language}}", how),
            ("{{settings}}", world.settings),
            ("{{grants}}", world.grants),
            ("{{interface}}", interface.trim_end_matches(';')),
            ("{{name}}", name),
            ("{{world}}", &of.to_string()),
        ];
        known.into_iter().fold(text.to_owned(), |text, (what, value)| text.replace(what, value))
    };
    let mut files = vec![
        ("README.md".to_owned(), fill(README)),
        (".gitignore".to_owned(), format!("/target\n/.venv\n/{name}.wasm\n")),
        ("wit/policy.wit".to_owned(), WIT.to_owned()),
    ];
    match language {
        Language::Rust => {
            files.push(("Cargo.toml".to_owned(), fill(CARGO)));
            files.push(("Cargo.lock".to_owned(), LOCK.to_owned()));
            files.push((".cargo/config.toml".to_owned(), CARGO_CONFIG.to_owned()));
            files.push(("src/lib.rs".to_owned(), world.rust.to_owned()));
            files.extend(SDK.iter().map(|(path, text)| (format!("berth-guest/{path}"), (*text).to_owned())));
            files.push(("berth-guest/wit/policy.wit".to_owned(), WIT.to_owned()));
        }
        Language::Python => {
            files.push(("app.py".to_owned(), fill(world.python)));
            files.push(("policy.toml".to_owned(), fill(PYTHON_PROJECT)));
        }
    }
    files.extend(world.fixtures.iter().map(|(file, text)| (format!("fixtures/{file}"), (*text).to_owned())));
    files
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_sdk_is_whole() {
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/guest");
        let sources = fs::read_dir(guest.join("src")).unwrap();
        let there: BTreeSet<String> = sources
            .map(|entry| format!("src/{}", entry.unwrap().file_name().to_string_lossy()))
            .chain(["Cargo.toml".to_owned()])
            .collect();
        let listed: BTreeSet<String> = SDK.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, there, "extend SDK in this file");
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for of in [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig] {
            for language in [Language::Rust, Language::Python] {
                for (path, text) in files("my-policy", of, language) {
                    let left =
                        text.contains("{{") && !path.starts_with("berth-guest/src") && path != "src/lib.rs";
                    assert!(!left, "{path}: {text}");
                }
            }
        }
    }

    #[test]
    fn names_are_checked_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |dir: &Path, name| begin(dir, name, WorldKind::Scheduler, Language::Python);
        for name in ["", "Mine", "a b", "-a", "a-", "../a", "1a", "builtin", "berth-guest"] {
            assert_eq!(begin(&dir.path().join("x"), name).unwrap_err().code(), "bad-project", "{name}");
        }
        assert!(!dir.path().join("x").exists());
        let error = begin(dir.path(), "mine").unwrap_err();
        assert!(error.to_string().contains("is there already"), "{error}");
        assert!(begin(&dir.path().join("mine"), "mine").unwrap().contains(&"fixtures/kinds.json".to_owned()));
    }
}
