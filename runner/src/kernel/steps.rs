//! What a step of a batch run starts: the three forms of clean, build and exec (contracts: kernel §1.3, §4.2).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_link::Op;

use super::environment::Environment;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, and that is well.
    Skip,
    /// Nothing, because something is missing; a word to the user.
    Missing(&'static str),
    /// This program with these words, in the work directory.
    Run(PathBuf, Vec<OsString>),
}

/// The interpreter, if there is one.
pub fn interpreter(environment: &Environment) -> Option<PathBuf> {
    ["python3", "python"].iter().find_map(|name| environment.find(OsStr::new(name)).ok())
}

/// Reads a step: empty skips it, `*` guesses by the files that are there, all else is for the shell.
pub fn step(op: Op, payload: &[u8], environment: &Environment) -> Step {
    let has = |name: &str| environment.work().join(name).is_file();
    match (op, payload) {
        (_, b"") => Step::Skip,
        (Op::Exec, b"*") if has("main.py") => python(environment, &["main.py"]),
        (Op::Exec, b"*") => Step::Missing("there is no main.py to run"),
        (Op::Build, b"*") if has("Makefile") => shell(b"make"),
        (Op::Build, b"*") if has("setup.py") => {
            python(environment, &["-m", "pip", "install", "--user", "-e", "."])
        }
        (_, b"*") => Step::Skip,
        (_, text) => shell(text),
    }
}

fn python(environment: &Environment, words: &[&str]) -> Step {
    match interpreter(environment) {
        Some(python) => Step::Run(python, words.iter().map(Into::into).collect()),
        None => Step::Missing("no Python in this image, and `*` needs one here"),
    }
}

fn shell(text: &[u8]) -> Step {
    let shell = "/bin/sh";
    if !Path::new(shell).exists() {
        return Step::Missing("no /bin/sh in this image: only exact words (`argv`) can be run");
    }
    Step::Run(shell.into(), vec!["-c".into(), OsStr::from_bytes(text).to_owned()])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_star_is_read_from_the_files_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(dir.path().join(name), "").unwrap();
        let environment = || {
            fs::write(dir.path().join("environ.txt"), format!("PATH={}\n", dir.path().display())).unwrap();
            Environment::new(dir.path(), dir.path(), "work")
        };
        let star = |op| match step(op, b"*", &environment()) {
            Step::Run(program, words) => {
                format!("{} {}", program.display(), words.join(OsStr::new(" ")).display())
            }
            other => format!("{other:?}"),
        };
        assert_eq!(star(Op::Clean), "Skip");
        assert_eq!(star(Op::Build), "Skip");
        assert_eq!(star(Op::Exec), "Missing(\"there is no main.py to run\")");
        touch("main.py");
        touch("setup.py");
        assert!(star(Op::Exec).starts_with("Missing(\"no Python"));
        touch("python3");
        fs::set_permissions(dir.path().join("python3"), fs::Permissions::from_mode(0o755)).unwrap();
        let python = dir.path().join("python3").display().to_string();
        assert_eq!(star(Op::Exec), format!("{python} main.py"));
        assert_eq!(star(Op::Build), format!("{python} -m pip install --user -e ."));
        touch("Makefile");
        assert_eq!(star(Op::Build), "/bin/sh -c make");
        assert_eq!(star(Op::Clean), "Skip");
        assert_eq!(step(Op::Exec, b"", &environment()), Step::Skip);
        assert_eq!(step(Op::Clean, b"rm x", &environment()), shell(b"rm x"));
    }
}
