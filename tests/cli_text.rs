//! Every text of `--help`, as a user reads it. Changed on purpose? `cargo insta review`, or
//! `INSTA_UPDATE=always cargo test --test cli_text`.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::process::{Command, Output, Stdio};

fn berth(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(words)
        .env_remove("COLUMNS")
        .env_remove("BERTH_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn help(words: &[&str]) -> String {
    let output = berth(&[words, &["--help"]].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_teaches() {
    insta::assert_snapshot!("berth", help(&[]));
    for command in [
        "serve",
        "run",
        "create",
        "exec",
        "ps",
        "inspect",
        "why",
        "interrupt",
        "stop",
        "rm",
        "logs",
        "slots",
        "status",
    ] {
        insta::assert_snapshot!(format!("berth-{command}"), help(&[command]));
    }
    insta::assert_snapshot!("berth-policy", help(&["policy"]));
    for command in ["list", "show", "push", "activate", "rollback", "journal"] {
        insta::assert_snapshot!(format!("berth-policy-{command}"), help(&["policy", command]));
    }
}

#[test]
fn no_help_is_wider_than_a_hundred_columns() {
    let policy = ["list", "show", "push", "activate", "rollback", "journal"].map(|word| ["policy", word]);
    let commands: [&[&str]; 6] = [&["serve"], &["run"], &["create"], &["exec"], &["status"], &["why"]];
    for command in commands.into_iter().chain(policy.iter().map(|words| &words[..])) {
        let help = help(command);
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{command:?}: {widest}");
    }
}

#[test]
fn the_version_is_one_line_and_more_when_asked() {
    let short = berth(&["--version"]);
    assert_eq!(String::from_utf8(short.stdout).unwrap(), format!("berth {}\n", env!("CARGO_PKG_VERSION")));
    let long = String::from_utf8(berth(&["--version", "-v"]).stdout).unwrap();
    assert!(long.contains("\nwasmtime ") && long.contains("\npolicy interface berth:policy@"), "{long}");
}

/// What a command says, and how it exits.
fn check_error(words: &[&str], status: i32, stderr: &str) {
    let output = berth(words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.as_str()), (Some(status), stderr), "{words:?}");
    assert!(output.stdout.is_empty(), "{words:?}");
}

#[test]
fn errors_are_one_line_and_a_hint_with_a_documented_status() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("berth.sock");
    let socket = socket.to_str().unwrap();
    let no_agent = format!(
        "berth: no agent answers at {socket} (no-agent)\n\
         hint: start one with `berth serve`, or name its socket with --socket or BERTH_SOCKET\n"
    );
    check_error(&["--socket", socket, "ps"], 1, &no_agent);
    check_error(&["--socket", socket, "status"], 1, &no_agent);
    check_error(&["--socket", socket, "exec", "k1", "--", "true"], 125, &no_agent);
    check_error(
        &["run", "no-such-file.py"],
        125,
        "berth: there is no file no-such-file.py\nhint: a command goes after `--`: berth run -- no-such-file.py\n",
    );
    check_error(&["run"], 2, "berth: nothing to run\nhint: give a FILE, --code TEXT, or -- CMD ARG..\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
