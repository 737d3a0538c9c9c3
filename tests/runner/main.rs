//! The real runner against real libzmq peers that bind, as the agent does (design §5, contracts: kernel §1).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail where it stands"
)]

use std::fs;
use std::io::Write as _;
use std::process::Command;

use berth_link::STDIN_WINDOW;
use rustix::process::{Pid, Signal, kill_process};

use peer::{Agent, Kernel, Run, is_alive, listening, listening_at, runner, wait_until};

mod batch;
mod display;
mod image;
mod peer;
mod python;
mod resume;

#[test]
fn status_tells_who_runs_and_what_was_done() {
    let (_kernel, agent) = Kernel::start();
    let first = agent.status();
    assert_eq!(first.protocol, Some(berth_link::PROTOCOL));
    assert_eq!((first.running, first.tasks_done, first.last, first.dropped_bytes), (None, 0, None, 0));
    assert!(first.replied_at.unwrap() >= first.started_at);
    assert!(first.runner_version.is_some());

    agent.argv(&["cat", "/dev/null"]);
    agent.run();
    agent.send("stdin", "");
    agent.argv(&["cat"]);
    let second = agent.status();
    assert_eq!(second.incarnation, first.incarnation);
    assert_eq!(second.running.as_deref(), Some("argv"));
    let last = second.last.unwrap();
    assert_eq!((second.tasks_done, last.op.as_str(), last.exit_code), (1, "argv", 0));
    agent.send("stdin-eof", "");
    agent.run().check("", "", 0);
}

#[test]
fn streams_are_kept_apart_and_exit_codes_told() {
    let (_kernel, agent) = Kernel::start();
    let exec = |command: &str| {
        agent.send("exec", command);
        agent.run()
    };
    exec("echo out; echo err >&2; exit 7").check("out\n", "err\n", 7);
    exec("kill -9 $$").check("", "", -9);
    exec("").check("", "", 0);
    exec("printf %s \"$_BACKEND_BATCH_MODE\"").check("1", "", 0);
    exec("cat; test -n \"$HOME\" && cd \"$HOME\" && test \"$(pwd)\" = \"$OLDPWD\"").check("", "", 0);
    assert_eq!(exec("*").exit_code, Some(127));
}

#[test]
fn words_arrive_exactly_and_missing_programs_have_their_codes() {
    let (kernel, agent) = Kernel::start();
    let argv = |words: &[&str]| {
        agent.argv(words);
        agent.run()
    };
    argv(&["printf", "%s|", "a  \"b\" $c", "", "*"]).check("a  \"b\" $c||*|", "", 0);
    argv(&["no-such-program"]).check("", "berth-runner: no-such-program: not found\n", 127);
    fs::write(kernel.work("plain"), "x").unwrap();
    argv(&["./plain"]).check("", "berth-runner: ./plain: not executable\n", 126);
    argv(&["sh", "-c", "exit 300"]).check("", "", 44);
    for payload in ["", "[]", "{}", "[1]"] {
        agent.send("argv", payload);
        assert_eq!(agent.run().exit_code, Some(127), "{payload}");
    }
}

#[test]
fn a_batch_run_answers_every_step_and_a_failed_build_gates_the_next_exec() {
    let (_kernel, agent) = Kernel::start();
    for (op, command) in [("clean", ""), ("build", "exit 2"), ("exec", "echo no"), ("exec", "echo yes")] {
        agent.send(op, command);
    }
    let first = agent.run();
    first.check("", "berth-runner: the build before it has failed, so this is not run\n", 127);
    let steps = [("clean-finished", "{\"exitCode\": 0}"), ("build-finished", "{\"exitCode\": 2}")];
    assert_eq!(first.others, steps.map(|(kind, payload)| (kind.into(), payload.into())));
    agent.run().check("yes\n", "", 0);
}

#[test]
fn binary_standard_input_flows_with_credit() {
    let (_kernel, agent) = Kernel::start();
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    agent.send("stdin", "");
    agent.argv(&["cat"]);
    let mut run = Run::default();
    let mut sent = 0;
    for part in bytes.chunks(50_000) {
        while sent + part.len() > run.credit as usize + STDIN_WINDOW {
            let (kind, payload) = agent.receive();
            run.take(&kind, payload);
        }
        agent.send("stdin", part);
        sent += part.len();
    }
    agent.send("stdin-eof", "");
    while run.exit_code.is_none() {
        let (kind, payload) = agent.receive();
        run.take(&kind, payload);
    }
    assert_eq!((run.exit_code, run.credit), (Some(0), bytes.len() as u64));
    assert!(run.stdout == bytes);
}

#[test]
fn standard_input_that_nobody_reads_is_acknowledged() {
    let (_kernel, agent) = Kernel::start();
    agent.send("stdin", "");
    agent.argv(&["true"]);
    agent.send("stdin", vec![0; 200_000]);
    let mut run = agent.run();
    agent.send("stdin", vec![0; 1000]);
    while run.credit < 201_000 {
        let (kind, payload) = agent.receive();
        run.take(&kind, payload);
    }
    assert_eq!(run.credit, 201_000);
}

#[test]
fn twenty_megabytes_come_in_order() {
    let (_kernel, agent) = Kernel::start();
    agent.send("exec", "seq 1 2700000");
    let run = agent.run();
    let expected: String = (1..=2_700_000).map(|i| format!("{i}\n")).collect();
    assert_eq!(run.exit_code, Some(0));
    assert!(run.stdout == expected.into_bytes());
}

#[test]
fn output_written_before_the_end_comes_before_finished_and_leftovers_do_not_hold_it_up() {
    let (_kernel, agent) = Kernel::start();
    agent.send("exec", "sleep 1000 & echo $!");
    let first = agent.run();
    assert_eq!(first.exit_code, Some(0));
    assert!(is_alive(&first.out()));
    // It is in a group of its own and hears nothing of a later interrupt.
    agent.send("interrupt", "");
    agent.send("exec", "yes | head -c 300000; (sleep 0.01; echo late) & exit 4");
    let second = agent.run();
    assert_eq!(second.exit_code, Some(4));
    assert!(second.stdout.len() >= 300_000);
    assert!(is_alive(&first.out()));
}

#[test]
fn an_agent_may_go_away_and_come_back() {
    let (kernel, agent) = Kernel::start();
    agent.send("exec", "echo one; until [ -e go ]; do sleep 0.01; done; seq 1 30000; touch done; exit 5");
    let mut run = Run::default();
    agent.until(&mut run, "one\n");
    drop(agent);
    fs::write(kernel.work("go"), "").unwrap();
    wait_until("the task has ended", || kernel.work("done").exists());

    let agent = kernel.agent();
    let rest = agent.run();
    let expected: String = (1..=30_000).map(|i| format!("{i}\n")).collect();
    assert!(rest.out() == expected);
    assert_eq!(rest.exit_code, Some(5));
    let status = agent.status();
    assert_eq!((status.tasks_done, status.dropped_bytes), (1, 0));
}

#[test]
fn without_an_agent_the_task_waits_and_nothing_is_lost() {
    let (kernel, agent) = Kernel::start();
    agent.send("exec", "until [ -e go ]; do sleep 0.01; done; seq 1 2000000; touch done");
    wait_until("the task runs", || agent.status().running.is_some());
    drop(agent);
    fs::write(kernel.work("go"), "").unwrap();
    let agent = kernel.agent();
    // Nobody reads its output, and still the runner answers.
    agent.send("interrupt-nothing", "");
    assert!(!kernel.work("done").exists());
    let run = agent.run();
    let expected: String = (1..=2_000_000).map(|i| format!("{i}\n")).collect();
    assert!(run.out() == expected);
    assert!(kernel.work("done").exists());
}

#[test]
fn an_interrupt_reaches_the_whole_group_and_one_that_comes_early_is_kept() {
    let (_kernel, agent) = Kernel::start();
    // `cat` speaks when it runs and the shell waits for it: a shell between two commands may take a SIGINT
    // for itself (dash does, and forgets it over an exec).
    agent.send("stdin", "");
    agent.send("exec", "cat; echo never");
    agent.send("stdin", "go\n");
    let mut run = Run::default();
    agent.until(&mut run, "go\n");
    agent.send("interrupt", "");
    agent.run().check("", "", -2);
    // Sent together, before the task can have begun.
    agent.argv(&["sleep", "1000"]);
    agent.send("interrupt", "");
    agent.run().check("", "", -2);
    agent.argv(&["echo", "fine"]);
    agent.run().check("fine\n", "", 0);
}

#[test]
fn what_is_not_known_is_ignored_and_what_is_not_there_is_answered() {
    let (_kernel, agent) = Kernel::start();
    agent.send("teleport", "");
    agent.push.send_multipart(["status"], 0).unwrap();
    agent.push.send_multipart(["status", "", ""], 0).unwrap();
    agent.send("event", "{\"type\": \"oom\"}");
    agent.send("get-apps", "");
    agent.send("start-service", "{\"name\": \"jupyter\"}");
    agent.send("complete", "{\"code\": \"pri\"}");
    assert_eq!(agent.receive(), ("apps-result".into(), br#"{"status": "done", "data": []}"#.to_vec()));
    let (kind, payload) = agent.receive();
    assert_eq!(kind, "service-result");
    let result: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(result, serde_json::json!({"status": "failed", "error": "unsupported service: jupyter"}));
    assert_eq!(agent.receive(), ("completion".into(), br#"{"suggestions": []}"#.to_vec()));
}

#[test]
fn without_a_link_directory_the_runner_listens_and_the_latest_peer_wins() {
    let (_kernel, connect) = listening();
    let first = connect();
    let incarnation = first.status().incarnation;
    drop(first);
    let second = connect();
    assert_eq!(second.status().incarnation, incarnation);
    second.argv(&["echo", "tcp"]);
    second.run().check("tcp\n", "", 0);
    // One that is still there when another comes.
    let third = connect();
    assert_eq!(third.status().incarnation, incarnation);
    third.argv(&["echo", "again"]);
    third.run().check("again\n", "", 0);
}

#[test]
fn strangers_at_the_ports_disturb_no_run() {
    let (kernel, ports) = listening_at();
    let agent = Agent::sockets();
    for (socket, port) in [(&agent.push, ports[0]), (&agent.pull, ports[1])] {
        // A connection that is lost is lost for good: what replaced this agent's would show.
        socket.set_reconnect_ivl(-1).unwrap();
        wait_until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        socket.connect(&format!("tcp://127.0.0.1:{port}")).unwrap();
    }
    agent.send("exec", "until [ -e go ]; do sleep 0.01; done; seq 1 100000; cat");
    wait_until("it runs", || agent.status().running.is_some());
    let greeting = [&b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL"[..], &[0; 48]].concat();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        for port in ports {
            for bytes in [&b""[..], b"GET / HTTP/1.0\r\n\r\n", &greeting, &[0xff; 4096]] {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
                let _refused = stream.write_all(bytes);
                strangers.push(stream);
            }
        }
    }
    fs::write(kernel.work("go"), "").unwrap();
    let expected: String = (1..=100_000).map(|i| format!("{i}\n")).collect();
    agent.run().check(&expected, "", 0);
    assert_eq!(agent.status().tasks_done, 1);
}

#[test]
fn sigterm_ends_everything_that_was_started() {
    let (mut kernel, agent) = Kernel::start();
    agent.send("exec", "trap '' TERM; (setsid sleep 1000 & echo $!); echo $$; sleep 1000");
    let mut run = Run::default();
    while run.out().lines().count() < 2 {
        let (kind, payload) = agent.receive();
        run.take(&kind, payload);
    }
    kernel.signal(Signal::TERM);
    assert!(kernel.child.wait().unwrap().success());
    for pid in run.out().lines() {
        assert!(!is_alive(pid));
    }
}

#[test]
fn variables_come_from_the_config_folder() {
    let directory = tempfile::tempdir().unwrap();
    for folder in ["work", "config", "link"] {
        fs::create_dir(directory.path().join(folder)).unwrap();
    }
    fs::write(directory.path().join("config/environ.txt"), "A=x y\nB=\n").unwrap();
    let kernel = Kernel::start_in(directory);
    let agent = kernel.agent();
    agent.send("exec", "printf '%s|%s|%s' \"$A\" \"${B-unset}\" \"$HOME\"");
    let home = kernel.work("").display().to_string();
    agent.run().check(&format!("x y||{}", home.trim_end_matches('/')), "", 0);
}

#[test]
fn the_supervisor_tells_how_its_command_ended_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let supervise = |words: &[&str]| {
        let _old = fs::remove_file(path("exit.json"));
        Command::new(runner())
            .arg("supervise")
            .args(["--exit-file".as_ref(), path("exit.json").as_os_str()])
            .args(["--log-file".as_ref(), path("log").as_os_str()])
            .args(["--pid-file".as_ref(), path("pid").as_os_str()])
            .args(["--rlimit", "nofile=64:64", "--"])
            .args(words)
            .spawn()
            .unwrap()
    };
    let exit = || -> (serde_json::Value, serde_json::Value) {
        let exit: serde_json::Value = serde_json::from_slice(&fs::read(path("exit.json")).unwrap()).unwrap();
        assert!(exit["ended_at_ms"].as_u64().unwrap() > 0 && exit["oom"] == false);
        (exit["exit_code"].clone(), exit["signal"].clone())
    };
    let left = "setsid sleep 1000 & echo $! >left; echo out; ulimit -n; echo err >&2; exit 3";
    let left = left.replace("left;", &format!("{};", path("left").display()));
    assert!(supervise(&["sh", "-c", &left]).wait().unwrap().success());
    assert_eq!(exit(), (3.into(), serde_json::Value::Null));
    assert_eq!(fs::read_to_string(path("log")).unwrap(), "out\n64\nerr\n");
    assert!(!is_alive(&fs::read_to_string(path("left")).unwrap()));

    let mut child = supervise(&["sleep", "1000"]);
    wait_until("the pid is told", || {
        fs::read_to_string(path("pid")).is_ok_and(|pid| pid == format!("{}\n", child.id()))
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(exit(), (serde_json::Value::Null, 15.into()));

    // At once, also what will not end.
    let mut child = supervise(&["sh", "-c", "trap '' TERM; echo ready; sleep 1000"]);
    wait_until("it ignores SIGTERM", || fs::read_to_string(path("log")).unwrap().ends_with("ready\n"));
    kill_process(Pid::from_child(&child), Signal::QUIT).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(exit(), (serde_json::Value::Null, 9.into()));

    assert!(supervise(&["no-such-program"]).wait().unwrap().success());
    assert_eq!(exit(), (127.into(), serde_json::Value::Null));
}
