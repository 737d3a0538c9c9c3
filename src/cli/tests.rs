//! The grammar: what words become which command.

use super::*;
use crate::cli::what::What;

fn words(text: &[&str]) -> Vec<OsString> {
    std::iter::once("berth").chain(text.iter().copied()).map(OsString::from).collect()
}

fn command(text: &[&str]) -> Command {
    Args::try_parse_from(words(text)).unwrap_or_else(|error| panic!("{text:?}: {error}")).command.unwrap()
}

fn problem(text: &[&str]) -> CliError {
    let words = words(text);
    let error = Args::try_parse_from(&words).err().unwrap_or_else(|| panic!("{text:?} is no mistake"));
    wrong_usage(&words, &error)
}

/// What `berth run` (or `exec`) has understood of what it is to run.
fn check_what(text: &[&str], expected: &str) {
    let what = match command(text) {
        Command::Run(run) => run.what().clone(),
        Command::Exec(exec) => exec.what().clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(describe(&what), expected, "{text:?}");
}

fn describe(what: &What) -> String {
    let mut parts = Vec::new();
    let (file, code, upload, words) = what.parts();
    parts.extend(file.map(|file| format!("file {}", file.display())));
    parts.extend(code.map(|code| format!("code {code}")));
    parts.extend(upload.iter().map(|file| format!("upload {}", file.display())));
    parts.extend(words.iter().map(|word| format!("word <{}>", word.display())));
    parts.join(", ")
}

#[test]
fn the_definition_holds_together() {
    Args::command().debug_assert();
}

#[test]
fn a_file_its_options_and_its_arguments() {
    check_what(&["run", "script.py"], "file script.py");
    check_what(&["run", "script.py", "--upload", "data.csv"], "file script.py, upload data.csv");
    check_what(&["run", "--upload", "data.csv", "script.py"], "file script.py, upload data.csv");
    check_what(&["run", "--cpus", "1", "s.py", "--keep", "--", "-n", "3"], "file s.py, word <-n>, word <3>");
    check_what(&["run", "--wait", "s.py"], "file s.py");
    check_what(&["run", "--wait=5", "s.py"], "file s.py");
    check_what(&["run", "s.py", "--", "--", "--code"], "file s.py, word <-->, word <--code>");
}

#[test]
fn a_command_is_passed_word_for_word() {
    check_what(&["run", "--", "cat"], "word <cat>");
    check_what(
        &["run", "--upload", "big.bin", "--", "cat", "big.bin"],
        "upload big.bin, word <cat>, word <big.bin>",
    );
    check_what(
        &["run", "--", "printf", "%s\\n", "a  \"b\" $c"],
        "word <printf>, word <%s\\n>, word <a  \"b\" $c>",
    );
    check_what(&["run", "--", "sh", "-c", "exit 7"], "word <sh>, word <-c>, word <exit 7>");
    check_what(&["run", "--", "x", "--help", "", "-v"], "word <x>, word <--help>, word <>, word <-v>");
}

#[test]
fn code_may_look_like_anything() {
    check_what(&["run", "--code", "print(6*7)"], "code print(6*7)");
    check_what(&["run", "--code", "-1"], "code -1");
    check_what(&["run", "--code", "--keep"], "code --keep");
    check_what(&["run", "--code", ""], "code ");
}

#[test]
fn exec_names_its_kernel_first() {
    check_what(&["exec", "k1", "--code", "x=41"], "code x=41");
    check_what(&["exec", "k1", "script.py", "--", "a"], "file script.py, word <a>");
    check_what(&["exec", "k1", "--", "ls", "-l"], "word <ls>, word <-l>");
    check_what(&["exec", "--timeout", "3", "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10", "--", "ls"], "word <ls>");
}

#[test]
fn the_socket_may_be_named_before_and_after_the_command() {
    for text in [&["--socket", "/s", "ps"][..], &["ps", "--socket", "/s"]] {
        let args = Args::try_parse_from(words(text)).unwrap();
        assert_eq!(args.socket, Some(PathBuf::from("/s")), "{text:?}");
    }
}

#[test]
fn mistakes_are_one_line_with_the_next_step() {
    let lines: Vec<_> = [
        &["run", "--name", "--keep", "x.py"][..],
        &["run", "--name", "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10", "x.py"],
        &["run", "--cpus", "0.5", "x.py"],
        &["run", "--slot", "cuda.device", "x.py"],
        &["run", "--mount", "/data", "x.py"],
        &["run", "--env", "=1", "x.py"],
        &["run", "--timeout", "soon", "x.py"],
        &["run", "--kep", "x.py"],
        &["run", "x.py", "arg"],
        &["exec", "a b", "--", "ls"],
        &["stop"],
        &["frobnicate"],
    ]
    .into_iter()
    .map(|text| {
        let error = problem(text);
        assert_eq!(error.code, "usage");
        assert!(!error.message.contains('\n'), "{}", error.message);
        format!(
            "berth {}\n  berth: {}\n  hint: {}",
            text.join(" "),
            error.message,
            error.hint.unwrap_or_default()
        )
    })
    .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_malformed_size_is_refused_before_anything_is_asked() {
    assert!(
        problem(&["run", "--mem", "64q", "x.py"])
            .message
            .starts_with("invalid value '64q' for '--mem <SIZE>'")
    );
    assert!(
        problem(&["run", "--mem", "0", "x.py"]).message.starts_with("invalid value '0' for '--mem <SIZE>'")
    );
}
