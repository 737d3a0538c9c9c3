//! What tasks see: variables, and where a program is found by its name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sys::{self, Before};

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Added to the runner's own value, so that the out-of-memory killer takes a task first.
const OOM_MORE: i32 = 500;

/// The variables of tasks.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    work: PathBuf,
    oom_score_adj: Option<String>,
}

/// Why a program cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing of that name; shells say 127.
    NotFound,
    /// It is there, but nothing that can be executed; shells say 126.
    NotExecutable,
}

impl Environment {
    /// The runner's own variables, those of `<config>/environ.txt` over them, and what a program may
    /// rely on.
    pub fn new(work: &Path, config: &Path, user: &str) -> Self {
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        variables.insert("HOME".into(), work.into());
        variables.insert("USER".into(), user.into());
        variables.insert("LOGNAME".into(), user.into());
        if let Some(shell) =
            ["/bin/bash", "/bin/ash", "/bin/sh"].into_iter().find(|path| Path::new(path).is_file())
        {
            variables.insert("SHELL".into(), shell.into());
        }
        for (name, default) in [("LANG", "C.UTF-8"), ("TERM", "xterm"), ("PATH", PATH_DEFAULT)] {
            variables.entry(name.into()).or_insert_with(|| default.into());
        }
        if let Ok(text) = std::fs::read(config.join("environ.txt")) {
            variables.extend(parse_environ(&text));
        }
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        let own = own.and_then(|text| text.trim().parse::<i32>().ok());
        let oom_score_adj = own.map(|own| (own + OOM_MORE).min(1000).to_string());
        Self { variables, work: work.to_owned(), oom_score_adj }
    }

    /// The work directory.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The program that a word means: with a slash the file itself, else the first in `PATH`.
    ///
    /// # Errors
    /// When there is none that can be executed.
    pub fn find(&self, word: &OsStr) -> Result<PathBuf, Missing> {
        if word.as_bytes().contains(&b'/') {
            return executable(&self.work.join(word));
        }
        let path = self.variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let mut missing = Missing::NotFound;
        if word.is_empty() {
            return Err(missing);
        }
        for directory in std::env::split_paths(&path) {
            match executable(&self.work.join(directory).join(word)) {
                Ok(path) => return Ok(path),
                Err(Missing::NotExecutable) => missing = Missing::NotExecutable,
                Err(Missing::NotFound) => {}
            }
        }
        Err(missing)
    }

    /// A command with these variables in the work directory, in a session of its own.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.variables);
        // Without it the child starts where the runner is, which is there unless it was taken away.
        if self.work.is_dir() {
            command.current_dir(&self.work);
        }
        sys::prepare(&mut command, Before { oom_score_adj: self.oom_score_adj.clone(), ..Before::default() });
        command
    }
}

/// A standard input that has ended, also where there is no `/dev/null`.
///
/// # Errors
/// When the system has no room for a pipe.
pub fn no_input() -> io::Result<Stdio> {
    match std::fs::File::open("/dev/null") {
        Ok(file) => Ok(file.into()),
        Err(_) => Ok(io::pipe()?.0.into()),
    }
}

fn executable(path: &Path) -> Result<PathBuf, Missing> {
    let Ok(metadata) = std::fs::metadata(path) else { return Err(Missing::NotFound) };
    // Who may execute it is for the system to say when it is tried.
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        Ok(path.to_owned())
    } else {
        Err(Missing::NotExecutable)
    }
}

/// Lines `K=V`; empty ones and comments are left out. The value is taken as it stands.
fn parse_environ(text: &[u8]) -> impl Iterator<Item = (OsString, OsString)> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let at = line.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (line.get(..at)?.trim_ascii(), line.get(at + 1..)?);
        let usable = !name.is_empty() && !name.starts_with(b"#") && !line.contains(&0);
        usable.then(|| (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environ_lines_are_taken_as_they_stand() {
        let text = b"A=1\n# B=2\n\nC = x=y \nD=\nnoise\n=v\nE=\0\n";
        let read: Vec<(OsString, OsString)> = parse_environ(text).collect();
        let expected = [("A", "1"), ("C", " x=y "), ("D", "")];
        assert_eq!(read, expected.map(|(k, v)| (k.into(), v.into())));
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for directory in [&one, &two] {
            std::fs::create_dir(directory).unwrap();
        }
        let make = |path: &Path, mode| {
            std::fs::write(path, "").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        make(&one.join("tool"), 0o644);
        make(&two.join("tool"), 0o755);
        make(&one.join("plain"), 0o644);
        let mut environment = Environment::new(dir.path(), dir.path(), "work");
        environment.variables.insert("PATH".into(), std::env::join_paths([&one, &two]).unwrap());

        let find = |word: &str| environment.find(OsStr::new(word));
        assert_eq!(find("tool"), Ok(two.join("tool")));
        assert_eq!(find("plain"), Err(Missing::NotExecutable));
        assert_eq!(find("none"), Err(Missing::NotFound));
        assert_eq!(find(""), Err(Missing::NotFound));
        assert_eq!(find("one/tool"), Err(Missing::NotExecutable));
        assert_eq!(find("./two/tool"), Ok(dir.path().join("./two/tool")));
        assert_eq!(find("two"), Err(Missing::NotFound));
    }
}
