//! The language process.

use std::fs;
use std::process::{Command, Stdio};

use crate::peer::{Agent, Kernel, Run, is_alive, kill, wait_until};

/// True, with a message, where there is no Python.
pub fn no_python() -> bool {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        println!("skipped: no python3");
    }
    missing
}

#[test]
fn python_keeps_its_names_and_shows_tracebacks_as_a_script_does() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.code("print(6*7)").check("42\n", "", 0);
    agent.code("x = 41\nx + 1\ndef f():\n    return 1 / 0").check("", "", 0);
    agent.code("print(x + 1, __name__)").check("42 __main__\n", "", 0);
    let failed = agent.code("try:\n    f()\nexcept Exception as e:\n    raise ValueError('no') from e");
    assert_eq!(failed.exit_code, Some(1));
    let text = failed.err();
    assert!(text.starts_with("Traceback (most recent call last):\n  File \"<code 4>\", line 2"), "{text}");
    assert!(text.contains("    return 1 / 0") && text.ends_with("ValueError: no\n"), "{text}");
    assert!(!text.contains("berth"), "{text}");
    let wrong = agent.code("print('a'\n");
    assert_eq!((wrong.exit_code, wrong.out().as_str()), (Some(1), ""));
    assert!(wrong.err().contains("SyntaxError") && !wrong.err().contains("Traceback"), "{}", wrong.err());
    agent.code("import sys; sys.exit(3)").check("", "", 3);
    agent.code("raise SystemExit('bye')").check("", "bye\n", 1);
    agent.code("import os; os.system('echo child')").check("child\n0\n", "", 0);
    agent.code("import os\nif os.fork() == 0:\n    print('in child')\nelse:\n    os.wait()").check(
        "in child\n",
        "",
        0,
    );
    agent.code("if __name__ == '__main__': print(x)").check("41\n", "", 0);
}

#[test]
fn python_input_asks_the_client_or_reads_standard_input() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.send("code", "name = input('who? ')\nimport getpass\nprint(name, getpass.getpass('pw '))");
    let mut run = Run::default();
    agent.until(&mut run, "who? ");
    assert_eq!(agent.receive(), ("waiting-input".into(), br#"{"is_password": false}"#.to_vec()));
    agent.send("input", "Ann");
    agent.until(&mut run, "pw ");
    assert_eq!(agent.receive(), ("waiting-input".into(), br#"{"is_password": true}"#.to_vec()));
    agent.send("input", "s3\n");
    agent.run().check("Ann s3\n", "", 0);

    agent.send("stdin", "");
    agent.send("stdin", "Bob\nmore\nlines");
    agent.send("stdin-eof", "");
    let run = agent.code("import sys\nprint('hi', input())\nprint(sys.stdin.read().split())");
    run.check("hi Bob\n['more', 'lines']\n", "", 0);
    agent.code("import sys; print(repr(sys.stdin.read()))").check("''\n", "", 0);

    agent.send("code", "input('? ')");
    let mut run = Run::default();
    agent.until(&mut run, "? ");
    agent.send("interrupt", "");
    let run = agent.run();
    assert!(run.err().ends_with("KeyboardInterrupt\n"), "{}", run.err());
    agent.code("print('alive')").check("alive\n", "", 0);
}

#[test]
fn an_endless_loop_is_interrupted_and_python_lives_on() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.code("x = 1").check("", "", 0);
    agent.send("interrupt", "");
    agent.send("code", "print('go')\nwhile True: pass");
    let mut run = Run::default();
    agent.until(&mut run, "go\n");
    agent.send("interrupt", "");
    let run = agent.run();
    assert!(run.err().contains("Traceback") && run.err().ends_with("KeyboardInterrupt\n"), "{}", run.err());
    assert!(!run.err().contains("<berth>"), "frames of ours are shown: {}", run.err());
    assert_eq!(run.exit_code, Some(1));
    // Sent together, before the code can have begun.
    agent.send("code", "import time\nwhile True: time.sleep(1000)");
    agent.send("interrupt", "");
    assert_eq!(agent.run().exit_code, Some(1));
    agent.code("print(x + 1)").check("2\n", "", 0);
}

#[test]
fn a_python_that_ends_itself_ends_the_run_and_the_next_one_says_so() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    let ended = |how: &str| format!("berth-runner: Python was ended by {how}\n");
    let code = "import os; print('x', flush=True); os._exit(5)";
    agent.code(code).check("x\n", &ended("its own exit with code 5"), 5);
    let new = "berth-runner: a new Python is started: the names of earlier code are gone\n";
    agent.code("print('new')").check("new\n", new, 0);
    agent.code("print('once')").check("once\n", "", 0);
    let killed = ended("signal 9 (SIGKILL, as happens when memory runs out)");
    agent.code("import os; os.kill(os.getpid(), 9)").check("", &killed, -9);
    agent.code("").check("", new, 0);
    let crashed = agent.code("import ctypes\nctypes.string_at(0)");
    assert_eq!(crashed.exit_code, Some(-11));
    let text = crashed.err();
    assert!(text.contains("\"<code 2>\", line 2 in <module>"), "{text}");
    assert!(text.ends_with(&ended("signal 11 (SIGSEGV, a crash of code that is not Python)")), "{text}");
    // While nothing runs.
    agent.code("import os, threading, time; print(os.getpid())");
    let idle = agent.code("print(os.getpid())");
    kill(&idle.out());
    wait_until("it is gone", || !is_alive(&idle.out()));
    agent.status();
    let said = agent.code("1").err();
    assert!(said.starts_with("berth-runner: Python was ended by signal 9"), "{said}");
    assert!(
        said.ends_with("while nothing ran; a new one is started: the names of earlier code are gone\n"),
        "{said}"
    );
    // With a child that holds the pipes and the control socket.
    let forked = "import os, time\nif os.fork() == 0:\n    time.sleep(1000)\nos._exit(6)";
    assert_eq!(agent.code(forked).exit_code, Some(6));
    assert_eq!(agent.code("print(1)").out(), "1\n");
}

#[test]
fn python_survives_closed_streams_and_threads_that_outlive_their_run() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    agent.code("import sys, os; sys.stdout.close(); os.close(2)").check("", "", 0);
    agent.code("print('back'); import sys; print('err', file=sys.stderr)").check("back\n", "err\n", 0);
    let thread = "import threading, os, time\ndef late():\n    while not os.path.exists('go'): time.sleep(0.01)\n    \
                  print('late'); open('said', 'w')\nt = threading.Thread(target=late); t.start()";
    agent.code(thread).check("", "", 0);
    agent.send("code", "import os\nprint('second')\nt.join()");
    let mut run = Run::default();
    agent.until(&mut run, "second\n");
    fs::write(kernel.work("go"), "").unwrap();
    agent.until(&mut run, "late\n");
    agent.run().check("", "", 0);
}

fn complete(agent: &Agent, request: serde_json::Value) -> Vec<String> {
    agent.send("complete", request.to_string());
    let (kind, payload) = agent.receive();
    assert_eq!(kind, "completion");
    let reply: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    serde_json::from_value(reply["suggestions"].clone()).unwrap()
}

#[test]
fn completions_come_from_the_names_of_earlier_code() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.code("bananas = 1; bandana = 2").check("", "", 0);
    let line = "print(ban";
    let request = serde_json::json!({"code": line, "line": line, "row": 0, "col": 9, "post": ")"});
    assert_eq!(complete(&agent, request), ["bananas", "bandana"]);
    // The word at the cursor, not the last one.
    let whole = serde_json::json!({"code": "x = 1\nbanan\nprint(x)", "row": 1, "col": 5, "line": "banan", "post": ""});
    assert_eq!(complete(&agent, whole), ["bananas"]);
    let several = serde_json::json!({"code": "x = 1\nbananas.to_by", "row": 1, "col": 13, "post": "\nx"});
    assert_eq!(complete(&agent, several), ["bananas.to_bytes"]);
    assert_eq!(complete(&agent, serde_json::json!({"code": "nothing_of_that_name"})), [""; 0]);
    assert_eq!(complete(&agent, serde_json::json!([])), [""; 0]);

    agent.code("globals().update({'many%d' % i: i for i in range(1000)})").check("", "", 0);
    assert_eq!(complete(&agent, serde_json::json!({"code": "many"})).len(), 200);

    // What looking at names prints was not asked for.
    let noisy = "class Noisy:\n    def __dir__(self):\n        print('noise')\n        return ['quiet']\nnoisy = Noisy()";
    agent.code(noisy).check("", "", 0);
    assert_eq!(complete(&agent, serde_json::json!({"code": "noisy.q"})), ["noisy.quiet"]);
    agent.code("print('after')").check("after\n", "", 0);
}

#[test]
fn a_completion_without_end_is_given_up_and_holds_up_no_code() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    let endless =
        "class Endless:\n    def __dir__(self):\n        while True: pass\nendless = Endless(); x = 1";
    agent.code(endless).check("", "", 0);
    assert_eq!(complete(&agent, serde_json::json!({"code": "endless.a"})), [""; 0]);
    agent.code("print(x)").check("1\n", "", 0);
    assert_eq!(complete(&agent, serde_json::json!({"code": "endles"})), ["endless"]);
}

#[test]
fn jedi_completes_where_it_is_installed() {
    let found = Command::new("python3").args(["-c", "import jedi"]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: no jedi");
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.code("bananas = [1]").check("", "", 0);
    // Names of the code itself, which has never run.
    let code = "def pear():\n    return 'x'\npear().upp";
    let request = serde_json::json!({"code": code, "row": 2, "col": 10, "line": "pear().upp", "post": ""});
    assert_eq!(complete(&agent, request), [".upper"]);
    assert_eq!(complete(&agent, serde_json::json!({"code": "bananas.appe"})), ["bananas.append"]);
    agent.code("print('quiet')").check("quiet\n", "", 0);
}
