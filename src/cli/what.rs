//! What `run` and `exec` run: a file, a piece of code, or a command.
//!
//! `FILE [-- ARG..]`, `--code TEXT`, or `-- CMD ARG..`. A file lies in the kernel's working directory and is
//! run by the interpreter that its suffix or its first line (`#!`) names, else by Python.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::error::CliError;
use crate::route::Task;

/// Suffixes and their interpreters.
const INTERPRETERS: &[(&str, &str)] = &[
    ("py", "python3"),
    ("sh", "sh"),
    ("bash", "bash"),
    ("js", "node"),
    ("mjs", "node"),
    ("cjs", "node"),
    ("rb", "ruby"),
    ("pl", "perl"),
    ("r", "Rscript"),
    ("jl", "julia"),
    ("lua", "lua"),
    ("php", "php"),
];

/// What is to be run, as it is written on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct What {
    /// File to run; its suffix or `#!` says by what, else Python
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Code to run in the kernel's language
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    code: Option<String>,
    /// Put this file into the working directory first (may be given more than once)
    #[arg(long, value_name = "FILE")]
    upload: Vec<PathBuf>,
    /// A command and its arguments, or the arguments of FILE
    #[arg(last = true, value_name = "CMD|ARG")]
    words: Vec<OsString>,
}

/// A file to be put into the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    /// Here.
    pub(super) from: PathBuf,
    /// There.
    pub(super) name: String,
    /// Permission bits.
    pub(super) mode: u32,
}

/// What is to be run, looked at: every file exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) task: Task,
    pub(super) uploads: Vec<Upload>,
}

impl What {
    #[cfg(test)]
    pub(super) fn parts(&self) -> (Option<&Path>, Option<&str>, &[PathBuf], &[OsString]) {
        (self.file.as_deref(), self.code.as_deref(), &self.upload, &self.words)
    }

    /// Looks at everything that can be wrong before a kernel is made.
    pub(super) fn prepare(self) -> Result<Prepared, CliError> {
        let words = self.words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut uploads = Vec::new();
        let task = match (self.file, self.code) {
            (Some(file), None) => {
                let script = upload(&file).map_err(|error| {
                    let command = std::iter::once(file.display().to_string()).chain(words.iter().cloned());
                    let command = command.collect::<Vec<_>>().join(" ");
                    match error.hint {
                        Some(_) => error,
                        None => error.with_hint(format!("a command goes after `--`: berth run -- {command}")),
                    }
                })?;
                let mut argv = interpreter(&file, &script.name)?;
                argv.push(as_argument(&script.name));
                argv.extend(words);
                uploads.push(script);
                Task::Argv(argv)
            }
            (None, Some(code)) if words.is_empty() => Task::Code(code),
            (None, None) if !words.is_empty() => Task::Argv(words),
            (None, None) => {
                return Err(
                    CliError::usage("nothing to run").with_hint("give a FILE, --code TEXT, or -- CMD ARG..")
                );
            }
            (Some(_), Some(_)) => return Err(CliError::usage("FILE and --code cannot both be run")),
            (None, Some(_)) => {
                return Err(CliError::usage("--code takes no words after `--`")
                    .with_hint("put them into the code, or pass them with --env"));
            }
        };
        for file in &self.upload {
            uploads.push(upload(file)?);
        }
        let mut names = BTreeSet::new();
        for one in &uploads {
            if !names.insert(&one.name) {
                return Err(CliError::usage(format!(
                    "two files would be {:?} in the working directory",
                    one.name
                )));
            }
        }
        Ok(Prepared { task, uploads })
    }
}

fn text(word: OsString) -> Result<String, CliError> {
    word.into_string().map_err(|word| CliError::usage(format!("the word {} is not UTF-8", word.display())))
}

/// A file that exists, by the name it will have.
fn upload(file: &Path) -> Result<Upload, CliError> {
    let shown = file.display();
    let found = fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => CliError::new(format!("there is no file {shown}")),
        _ => CliError::new(format!("{shown} cannot be read: {error}")),
    })?;
    if found.is_dir() {
        return Err(CliError::new(format!("{shown} is a folder, and only files are uploaded"))
            .with_hint(format!("mount it (--mount {shown}:/home/work/data:ro), or pack it with tar")));
    }
    // A pipe (`<(..)`) is opened once, when it is read.
    if found.is_file() {
        fs::File::open(file).map_err(|error| CliError::new(format!("{shown} cannot be read: {error}")))?;
    }
    let name = file.file_name().and_then(OsStr::to_str);
    let name = name.ok_or_else(|| CliError::new(format!("{shown} has no name that is UTF-8")))?;
    Ok(Upload { from: file.to_owned(), name: name.to_owned(), mode: found.permissions().mode() & 0o777 })
}

/// By suffix, else by `#!`, else Python.
fn interpreter(file: &Path, name: &str) -> Result<Vec<String>, CliError> {
    let suffix = Path::new(name).extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    if let Some((_, program)) = INTERPRETERS.iter().find(|(known, _)| Some(*known) == suffix.as_deref()) {
        return Ok(vec![(*program).to_owned()]);
    }
    // A pipe would lose what is read here: it is run as Python.
    let mut head = Vec::new();
    if fs::metadata(file).is_ok_and(|found| found.is_file()) {
        fs::File::open(file)
            .and_then(|file| file.take(256).read_to_end(&mut head))
            .map_err(|error| CliError::new(format!("{} cannot be read: {error}", file.display())))?;
    }
    Ok(hash_bang(&head).unwrap_or_else(|| vec!["python3".to_owned()]))
}

/// What `#!` says, as execve(2) reads it: a program and at most one argument; `env` is looked through.
fn hash_bang(head: &[u8]) -> Option<Vec<String>> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim();
    let (program, argument) = match line.split_once(char::is_whitespace) {
        Some((program, argument)) => (program, Some(argument.trim())),
        None => (line, None),
    };
    if program.is_empty() {
        return None;
    }
    if Path::new(program).file_name() == Some(OsStr::new("env")) {
        let words = argument?.split_whitespace().skip_while(|word| *word == "-S");
        return Some(words.map(str::to_owned).collect::<Vec<_>>()).filter(|words| !words.is_empty());
    }
    Some([Some(program), argument].into_iter().flatten().map(str::to_owned).collect())
}

/// A file name that is no option to the interpreter.
fn as_argument(name: &str) -> String {
    if name.starts_with('-') { format!("./{name}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(task: &Task) -> Vec<&str> {
        match task {
            Task::Argv(words) => words.iter().map(String::as_str).collect(),
            other => panic!("no command: {other:?}"),
        }
    }

    /// Which command a file of this name and content becomes.
    fn check_file(name: &str, content: &str, words: &[&str], expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        fs::write(&file, content).unwrap();
        let what = What {
            file: Some(file.clone()),
            words: words.iter().map(OsString::from).collect(),
            ..What::default()
        };
        let prepared = what.prepare().unwrap();
        assert_eq!(argv(&prepared.task), expected, "{name}: {content:?}");
        assert_eq!(prepared.uploads[0].name, name);
    }

    #[test]
    fn a_file_is_run_by_its_suffix_else_by_its_first_line_else_by_python() {
        check_file("a.py", "", &[], &["python3", "a.py"]);
        check_file("a.sh", "#!/usr/bin/python3", &["x", "-y"], &["sh", "a.sh", "x", "-y"]);
        check_file("a.JS", "", &[], &["node", "a.JS"]);
        check_file("a.R", "", &[], &["Rscript", "a.R"]);
        check_file("tool", "#!/bin/sh -e\nexit 0\n", &[], &["/bin/sh", "-e", "tool"]);
        check_file("tool", "#!/usr/bin/env perl\n", &["a b"], &["perl", "tool", "a b"]);
        check_file("tool", "#! /usr/bin/env -S python3 -u\r\n", &[], &["python3", "-u", "tool"]);
        check_file("tool", "print(1)", &[], &["python3", "tool"]);
        check_file("tool", "#!\n", &[], &["python3", "tool"]);
        check_file("-c.py", "", &[], &["python3", "./-c.py"]);
    }

    #[test]
    fn what_cannot_be_run_is_one_sentence_with_the_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let problem = |what: What| what.prepare().unwrap_err();
        let file = |path: PathBuf| What { file: Some(path), ..What::default() };
        let words = vec![OsString::from("x")];

        let missing = problem(What { words: words.clone(), ..file("no-such-file".into()) });
        assert_eq!(missing.message, "there is no file no-such-file");
        assert_eq!(missing.hint.unwrap(), "a command goes after `--`: berth run -- no-such-file x");
        assert!(problem(file(dir.path().to_owned())).hint.unwrap().contains("--mount"));
        assert_eq!(problem(What::default()).code, "usage");
        let code = What { code: Some("1".into()), words, ..What::default() };
        assert_eq!(problem(code).code, "usage");
    }

    #[test]
    fn two_uploads_of_one_name_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let files = [dir.path().join("a.csv"), dir.path().join("d/a.csv")];
        for file in &files {
            fs::write(file, "").unwrap();
        }
        let what = What { code: Some("1".into()), upload: files.to_vec(), ..What::default() };
        assert!(what.prepare().unwrap_err().message.contains("a.csv"));
    }

    #[test]
    fn an_upload_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        fs::write(&tool, "").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o750)).unwrap();
        let what = What { code: Some(String::new()), upload: vec![tool], ..What::default() };
        assert_eq!(what.prepare().unwrap().uploads[0].mode, 0o750);
    }
}
