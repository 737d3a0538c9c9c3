//! Every text of `--help`, as a user reads it. Changed on purpose? `cargo insta review`, or
//! `INSTA_UPDATE=always cargo test --test cli_text`.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::process::{Command, Output, Stdio};

/// What `berth policy` can do.
const POLICY: [&str; 13] = [
    "list", "show", "push", "activate", "rollback", "journal", "new", "build", "test", "bench", "dev",
    "pack", "inspect",
];

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
        "cp",
        "ps",
        "inspect",
        "why",
        "interrupt",
        "stop",
        "rm",
        "logs",
        "slots",
        "status",
        "events",
        "doctor",
        "drain",
        "undrain",
        "completions",
    ] {
        insta::assert_snapshot!(format!("berth-{command}"), help(&[command]));
    }
    insta::assert_snapshot!("berth-image", help(&["image"]));
    for command in ["list", "pull", "import", "rm"] {
        insta::assert_snapshot!(format!("berth-image-{command}"), help(&["image", command]));
    }
    insta::assert_snapshot!("berth-config", help(&["config"]));
    for command in ["check", "show"] {
        insta::assert_snapshot!(format!("berth-config-{command}"), help(&["config", command]));
    }
    insta::assert_snapshot!("berth-policy", help(&["policy"]));
    for command in POLICY {
        insta::assert_snapshot!(format!("berth-policy-{command}"), help(&["policy", command]));
    }
}

#[test]
fn no_help_is_wider_than_a_hundred_columns() {
    let policy = POLICY.map(|word| ["policy", word]);
    let commands: [&[&str]; 11] = [
        &["serve"],
        &["run"],
        &["create"],
        &["exec"],
        &["cp"],
        &["status"],
        &["why"],
        &["events"],
        &["drain"],
        &["doctor"],
        &["completions"],
    ];
    for command in commands.into_iter().chain(policy.iter().map(|words| &words[..])) {
        let help = help(command);
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{command:?}: {widest}");
    }
}

#[test]
fn every_shell_gets_completions_that_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = berth(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("undrain") && script.contains("interrupt"), "{shell}");
    }
}

#[test]
fn the_version_is_one_line_and_more_when_asked() {
    let short = berth(&["--version"]);
    assert_eq!(String::from_utf8(short.stdout).unwrap(), format!("berth {}\n", env!("CARGO_PKG_VERSION")));
    let long = String::from_utf8(berth(&["--version", "-v"]).stdout).unwrap();
    assert!(
        long.contains("\nwasmtime ") && long.contains("(takes policies for berth:policy@0.2.x)"),
        "{long}"
    );
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

/// What `berth config` prints about a file, the folder's name left out.
fn check_config(words: &[&str], text: &str, status: i32, expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let words: Vec<String> = words.iter().map(|word| word.replace("FILE", file.to_str().unwrap())).collect();
    let output = berth(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said.replace(&format!("{}/", dir.path().display()), "");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{words:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains(expected), "{words:?}: {said}");
}

#[test]
fn a_configuration_is_checked_without_an_agent() {
    check_config(&["config", "check", "FILE"], "[lifecycle]\nlease-sec = 5\n", 0, "agent.toml is fine\n");
    check_config(
        &["config", "check", "FILE"],
        "[lifecycle]\nlease-sec = 0\nstart-limt = 3\n[agent]\nid = \"a b\"\nregion = \"x\"\n",
        1,
        "mistake: agent.toml:2: lifecycle.lease-sec: should be from 1 to 86400 seconds\n\
         mistake: agent.toml:5: agent.id: ",
    );
    check_config(
        &["config", "check", "FILE"],
        "[lifecycle]\nstart-limt = 3\n[agent]\nregion = \"x\"\n",
        0,
        "warning: agent.toml:2: lifecycle.start-limt is not known; did you mean lifecycle.start-limit?\n\
         warning: agent.toml:4: agent.region has no effect here\n\
         0 mistakes, 2 warnings\n",
    );
    check_config(&["config", "check", "FILE"], "[agent\n", 1, "mistake: agent.toml:1: this is no TOML: ");
    check_config(
        &["config", "check", "FILE"],
        "\n[etcd]\naddr = \"x\"\n",
        1,
        "mistake: agent.toml:3: etcd.addr: ",
    );
    let show = ["config", "show", "--origin", "--config", "FILE", "--engine", "process"];
    let text = "[lifecycle]\nlease-sec = 5\n";
    check_config(&show, text, 0, "agent.toml:2\n");
    check_config(&show, text, 0, "--engine\n");
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
