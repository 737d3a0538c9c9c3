//! The steps of a batch run, and what else an agent of a manager tells.

use std::fs;

use crate::peer::{Agent, Kernel, Run, kill};
use crate::python::no_python;

/// Everything until the answer of this kind.
fn step(agent: &Agent, op: &str, payload: &str) -> Run {
    agent.send(op, payload);
    let end = if op == "exec" { "finished".into() } else { format!("{op}-finished") };
    let mut run = Run::default();
    loop {
        let (kind, payload) = agent.receive();
        if kind == end {
            run.exit_code = berth_link::Finished::decode(&payload).unwrap().exit_code;
            return run;
        }
        run.take(&kind, payload);
    }
}

#[test]
fn every_step_is_answered_in_each_of_its_forms() {
    let (kernel, agent) = Kernel::start();
    for op in ["clean", "build", "exec"] {
        step(&agent, op, "").check("", "", 0);
        let failed = step(&agent, op, "echo \"out $_BACKEND_BATCH_MODE\"; echo err >&2; exit 3");
        failed.check(if op == "exec" { "out 1\n" } else { "out \n" }, "err\n", 3);
        if op == "build" {
            let gated = step(&agent, "exec", "");
            gated.check("", "berth-runner: the build before it has failed, so this is not run\n", 127);
        }
    }
    step(&agent, "clean", "*").check("", "", 0);
    step(&agent, "build", "*").check("", "", 0);
    step(&agent, "exec", "*").check("", "berth-runner: there is no main.py to run\n", 127);
    if !no_python() {
        let main = "import os; print(os.environ['_BACKEND_BATCH_MODE'], __name__); 'no notebook'";
        fs::write(kernel.work("main.py"), main).unwrap();
        step(&agent, "exec", "*").check("1 __main__\n", "", 0);
    }
    // A build that succeeds opens the gate for good.
    step(&agent, "build", "false").check("", "", 1);
    step(&agent, "build", "true").check("", "", 0);
    step(&agent, "exec", "echo runs").check("runs\n", "", 0);
}

#[test]
fn input_of_a_batch_task_asks_the_client() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    fs::write(
        kernel.work("main.py"),
        "import sys\nprint(input('who? '), flush=True)\ntry:\n    input('more? ')\nexcept KeyboardInterrupt:\n    print('enough')\n\
         print(repr(sys.stdin.read()), any('berth-input' in path for path in sys.path))\n",
    )
    .unwrap();
    agent.send("exec", "*");
    let mut run = Run::default();
    agent.until(&mut run, "who? ");
    assert_eq!(agent.receive(), ("waiting-input".into(), Vec::new()));
    agent.send("input", "Ann é");
    agent.until(&mut run, "more? ");
    assert_eq!(agent.receive(), ("waiting-input".into(), Vec::new()));
    agent.send("interrupt", "");
    let rest = agent.run();
    assert_eq!(run.out() + &rest.out(), "who? Ann é\nmore? enough\n'' False\n");
    assert_eq!((rest.err().as_str(), rest.exit_code), ("", Some(0)));

    // What a shell starts asks too, and a file that is read is read.
    fs::write(kernel.work("words"), "from a file\n").unwrap();
    agent.send("exec", "python3 -c 'print(input())' <words; python3 -c 'print(input())'");
    let mut run = Run::default();
    agent.until(&mut run, "from a file\n");
    assert_eq!(agent.receive(), ("waiting-input".into(), Vec::new()));
    agent.send("input", "");
    agent.run().check("\n", "", 0);

    // The image's own module of that name is read as well, and its mistakes are told.
    fs::create_dir(kernel.work("own")).unwrap();
    fs::write(kernel.work("own/sitecustomize.py"), "import builtins; builtins.own = 'own'\n").unwrap();
    agent.send("exec", "PYTHONPATH=$PYTHONPATH:own python3 -c 'import sitecustomize; print(own, sitecustomize.__file__[-20:])'");
    agent.run().check("own own/sitecustomize.py\n", "", 0);
    // One that outlives its task hears the end, and does not ask whoever comes after it.
    let asks =
        "import os, time\nopen('is-there', 'w')\nwhile not os.path.exists('ask'): time.sleep(0.01)\ninput()";
    fs::write(kernel.work("late.py"), asks).unwrap();
    agent.send(
        "exec",
        "python3 -c 'input()' 2>left & python3 late.py 2>late & until [ -e is-there ]; do sleep 0.01; done",
    );
    let run = agent.run();
    assert_eq!(run.exit_code, Some(0));
    agent
        .send("exec", "touch ask; until grep -q EOFError left && grep -q EOFError late; do sleep 0.01; done");
    agent.run().check("", "", 0);
    // Without a client to ask, as in a build, input has ended.
    let build = step(&agent, "build", "python3 -c 'input()'");
    assert!(build.err().ends_with("EOFError: EOF when reading a line\n"), "{}", build.err());
}

#[test]
fn memory_that_ran_out_is_said_with_who_is_gone() {
    let (_kernel, agent) = Kernel::start();
    // What the system would kill is the shell's child, of which nobody hears; the shell goes on.
    agent.send("exec", "while :; do sleep 987654 & echo $!; wait; done 2>/dev/null");
    agent.send("event", "{\"type\": \"oom\", \"data\": {}}");
    let (mut run, mut killed) = (Run::default(), Vec::new());
    // One that nobody saw before its end cannot be told: there is always another one.
    while !run.err().ends_with(")\n") {
        let (kind, payload) = agent.receive();
        if kind == "stdout" {
            for pid in String::from_utf8(payload).unwrap().lines() {
                kill(pid);
                // By its number alone: between fork and exec it is still called as the shell is.
                killed.push(format!(" (pid {pid})\n"));
            }
        } else {
            run.take(&kind, payload);
        }
    }
    let said = run.err();
    assert!(said.starts_with("berth-runner: the kernel ran out of memory; gone since then:\n"), "{said}");
    assert!(killed.iter().any(|line| said.contains(line)), "{said}");
}
