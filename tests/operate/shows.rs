//! What `--code` shows: its last value, media that become files, and why it ended when its Python was killed.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::agent::{self, Agent};
use crate::engines::{docker_image, names};

/// An object for each kind of media; the image is no text.
const CLASSES: &str = "\
class Svg:
    def _repr_svg_(self): return '<svg>é</svg>'
class Png:
    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x00\\xff'
class Html:
    def _repr_html_(self): return '<b>é</b>'
";

/// The agent with a kernel k1; none, and a word about it, where kernels have no Python.
fn with_python(agent: Option<Agent>) -> Option<Agent> {
    let agent = agent?;
    agent.ok(&["create", "--name", "k1"]);
    if agent.output(&["exec", "k1", "--", "python3", "--version"]).status.success() {
        return Some(agent);
    }
    println!("skipped: no python3");
    None
}

#[track_caller]
fn check(output: &Output, stdout: &str, stderr: &str, exit_code: i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = (text(&output.stdout), text(&output.stderr), output.status.code());
    assert_eq!(seen, (stdout.to_owned(), stderr.to_owned(), Some(exit_code)));
}

#[test]
fn code_shows_its_last_value_and_a_script_does_not() {
    let Some(agent) = with_python(agent::on_process()) else { return };
    for (code, shown) in [
        ("1+1", "2\n"),
        ("print('a'); 'é'", "a\n'é'\n"),
        ("x = 1", ""),
        ("None", ""),
        ("1+1;", ""),
        // A word that looks like an option is code all the same.
        ("-1", "-1\n"),
    ] {
        check(&agent.output(&["run", "--code", code]), shown, "", 0);
    }
    check(&agent.output(&["exec", "k1", "--code", "1+1"]), "2\n", "", 0);
    check(&agent.output(&["exec", "k1", "--code", "_ * 21"]), "42\n", "", 0);
    let script = agent.path("script.py");
    fs::write(&script, "1+1\n").unwrap();
    check(&agent.output(&["run", script.to_str().unwrap()]), "", "", 0);
}

/// The files in `dir` by what follows the run's part of their names, which all of them must share.
fn saved(dir: &Path) -> (String, Vec<(String, Vec<u8>)>) {
    let names = names(dir);
    let run = names.first().unwrap()[..8].to_owned();
    assert!(run.chars().all(|c| c.is_ascii_hexdigit()), "{names:?}");
    let files = names.iter().map(|name| {
        let rest = name.strip_prefix(&run).unwrap_or_else(|| panic!("{names:?}")).to_owned();
        (rest, fs::read(dir.join(name)).unwrap())
    });
    let files = files.collect();
    (run, files)
}

fn media_become_files(agent: &Agent) {
    let code = format!("{CLASSES}print('a')\ndisplay(Svg(), Png())\nprint('b')\nHtml()");
    for (words, folder) in [(&["run"][..], "of-run"), (&["exec", "k1"], "of-exec")] {
        // In a folder that is still to be made.
        let dir = agent.path(folder).join("figures");
        let words = [words, &["--save-media", dir.to_str().unwrap(), "--code", &code]].concat();
        let output = agent.output(&words);
        let (run, files) = saved(&dir);
        let expected = [
            ("-001.svg", "<svg>é</svg>".as_bytes()),
            ("-002.png", b"\x89PNG\r\n\x00\xff"),
            ("-003.html", "<b>é</b>".as_bytes()),
        ];
        assert_eq!(files, expected.map(|(name, content)| (name.to_owned(), content.to_vec())));
        let path = |name: &str| dir.join(format!("{run}{name}")).display().to_string();
        let said = format!(
            "berth: saved image/svg+xml, 13 bytes: {}\n\
             berth: saved image/png, 8 bytes: {}\n\
             berth: saved text/html, 9 bytes: {}\n",
            path("-001.svg"),
            path("-002.png"),
            path("-003.html"),
        );
        check(&output, "a\nb\n", &said, 0);
    }
    let said = "berth: [image/svg+xml, 13 bytes; --save-media DIR keeps it]\n";
    check(&agent.output(&["run", "--code", &format!("{CLASSES}Svg()")]), "", said, 0);
}

#[test]
fn media_become_files_on_processes() {
    let Some(agent) = with_python(agent::on_process()) else { return };
    media_become_files(&agent);
}

#[test]
fn media_become_files_on_docker() {
    if docker_image().is_none() {
        return;
    }
    let Some(agent) = with_python(agent::on_docker()) else { return };
    media_become_files(&agent);
}

#[test]
fn media_are_said_where_they_were_shown() {
    let Some(agent) = with_python(agent::on_process()) else { return };
    // As on a terminal: both streams are one file.
    let said = fs::File::create(agent.path("said")).unwrap();
    let code = format!("{CLASSES}for i in range(500):\n    print(i)\n    display(Svg())");
    let status = agent
        .command(&["exec", "k1", "--code", &code])
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .status()
        .unwrap();
    assert!(status.success());
    let line = "berth: [image/svg+xml, 13 bytes; --save-media DIR keeps it]\n";
    let expected: String = (0..500).map(|i| format!("{i}\n{line}")).collect();
    assert_eq!(fs::read_to_string(agent.path("said")).unwrap(), expected);
}

fn a_killed_python_ends_its_run_and_says_why(agent: &Agent) {
    // What it started has its streams still, and far longer than anybody waits.
    let code = "import os, subprocess\n\
                left = subprocess.Popen(['sleep', '100000'])\n\
                print('before')\n\
                os.kill(os.getpid(), 9)\n\
                print('after')";
    let ended = "berth-runner: Python was ended by signal 9 (SIGKILL, as happens when memory runs out)\n";
    check(&agent.output(&["exec", "k1", "--code", code]), "before\n", ended, 137);
    // The kernel lives on, and what it has forgotten is said once.
    let new = "berth-runner: a new Python is started: the names of earlier code are gone\n";
    check(&agent.output(&["exec", "k1", "--code", "'left' in globals()"]), "False\n", new, 0);
    check(&agent.output(&["exec", "k1", "--code", "1+1"]), "2\n", "", 0);

    let advice = "berth: it was killed (signal 9), as happens out of memory (limit 256m); more with --mem\n";
    let output = agent.output(&["run", "--mem", "256m", "--code", code]);
    check(&output, "before\n", &format!("{ended}{advice}"), 137);
}

#[test]
fn a_killed_python_ends_its_run_and_says_why_on_processes() {
    let Some(agent) = with_python(agent::on_process()) else { return };
    a_killed_python_ends_its_run_and_says_why(&agent);
}

#[test]
fn a_killed_python_ends_its_run_and_says_why_on_docker() {
    if docker_image().is_none() {
        return;
    }
    let Some(agent) = with_python(agent::on_docker()) else { return };
    a_killed_python_ends_its_run_and_says_why(&agent);
}
