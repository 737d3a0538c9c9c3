//! The language process.

use std::fs;
use std::process::{Command, Stdio};

use crate::peer::{Kernel, Run};

/// True, with a message, where there is no Python.
fn no_python() -> bool {
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
    agent.code("import os; os.system('echo child')").check("child\n", "", 0);
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
    agent.code("import os; print('x', flush=True); os._exit(5)").check("x\n", "", 5);
    let next = agent.code("print('new')");
    let note = "berth-runner: Python was ended by exit code 5; a new one starts, earlier names are gone\n";
    next.check("new\n", note, 0);
    agent.code("import os; os.kill(os.getpid(), 9)").check("", "", -9);
    assert!(agent.code("").err().contains("signal 9"));
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

#[test]
fn completions_come_from_the_names_of_earlier_code() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    agent.code("bananas = 1; bandana = 2").check("", "", 0);
    agent.send("complete", "{\"code\": \"print(ban\", \"line\": \"print(ban\"}");
    let (kind, payload) = agent.receive();
    let reply: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(kind, "completion");
    assert_eq!(reply, serde_json::json!({"suggestions": ["bananas", "bandana"]}));
}
