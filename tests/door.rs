//! Calls as a manager makes them, against an agent with kernels: the execution path from the RPC port to the
//! language process and back.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers are part of the tests")]

#[path = "support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "support/rpc.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod rpc;
#[path = "support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use callosum::{Outcome, Value};
use engines::Engine;
use rpc::{Keys, Rpc, exit_code, status, texts};
use serde_json::{Value as Json, json};
use support::{Agent, until};

const LISTEN: &str = "[routing]\nrpc-listen = \"127.0.0.1:0\"\n";

/// An agent that listens for calls, and that many kernels.
struct Node {
    agent: Agent,
    kernels: Vec<String>,
}

impl Node {
    fn start(kernels: usize) -> Option<Self> {
        Self::with(kernels, LISTEN)
    }

    fn with(kernels: usize, config: &str) -> Option<Self> {
        engines::runner()?;
        let agent = Agent::started(Engine::Process, config, &["--policy", "builtin"]);
        let create = |number| {
            let name = format!("k{number}");
            agent.ok(&["create", "--name", &name]);
            agent.json(&["inspect", &name])["id"].as_str().unwrap().to_owned()
        };
        let kernels = (0..kernels).map(create).collect();
        Some(Self { agent, kernels })
    }

    fn endpoint(&self) -> String {
        self.agent.json(&["status"])["rpc"]["endpoint"].as_str().unwrap().to_owned()
    }

    fn client(&self) -> Rpc {
        Rpc::connect(&self.endpoint(), None)
    }
}

/// Key pairs of an agent and its manager, with the agent's files.
struct KeyFiles {
    agent: zmq::CurveKeyPair,
    manager: zmq::CurveKeyPair,
    agent_file: String,
    manager_file: String,
}

impl KeyFiles {
    /// As ZeroMQ's tools write them.
    fn make(dir: &Path) -> Self {
        let [agent, manager] = [(); 2].map(|()| zmq::CurveKeyPair::new().unwrap());
        let write = |name: &str, pair: &zmq::CurveKeyPair, secret: bool| {
            let z85 = |key: &[u8]| zmq::z85_encode(key).unwrap();
            let mut text =
                format!("#   a comment\n\nmetadata\ncurve\n    public-key = \"{}\"\n", z85(&pair.public_key));
            if secret {
                text += &format!("    secret-key = \"{}\"\n", z85(&pair.secret_key));
            }
            let path = dir.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let agent_file = write("agent.key_secret", &agent, true);
        let manager_file = write("manager.key", &manager, false);
        Self { agent, manager, agent_file, manager_file }
    }

    fn config(&self) -> String {
        let Self { agent_file, manager_file, .. } = self;
        format!(
            "{LISTEN}[agent]\nrpc-auth-agent-keypair = \"{agent_file}\"\nrpc-auth-manager-public-key = \"{manager_file}\"\n"
        )
    }
}

fn batch(clean: &str, build: &str, exec: &str) -> Value {
    Value::map([("clean", clean), ("build", build), ("exec", exec)])
}

fn failure(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Failure(failure) => (failure.name, failure.repr),
        other => panic!("{other:?}"),
    }
}

#[test]
fn code_runs_in_every_mode() {
    let Some(node) = Node::start(1) else { return };
    let (rpc, kernel) = (node.client(), &node.kernels[0]);
    assert_eq!(rpc.call("ping", vec!["hello".into()]), "hello".into());

    // Nil and empty run ids are made up, and told.
    for run in [Value::Nil, "".into()] {
        let result = rpc.execute(kernel, run, "query", "print('x' * 3)");
        assert_eq!((status(&result), exit_code(&result)), ("finished", Some(0)));
        assert_eq!(texts(&result), [("stdout".into(), "xxx\n".into())]);
        assert_eq!(result.get("runId").and_then(Value::as_str).unwrap().len(), 32);
    }
    let (result, console) = rpc.run(kernel, "fails", "query", "1/0", Value::Nil);
    assert_eq!(exit_code(&result), Some(1));
    assert!(console[0].0 == "stderr" && console[0].1.contains("ZeroDivisionError"), "{console:?}");

    let asks = rpc.execute(kernel, "asks", "query", "print('for ' + input('who? '))");
    assert_eq!(status(&asks), "waiting-input");
    assert_eq!(asks.get("options"), Some(&Value::map([("is_password", false)])));
    let mut answered = rpc.execute(kernel, "asks", "input", "you");
    let mut console = texts(&answered);
    while status(&answered) != "finished" {
        answered = rpc.execute(kernel, "asks", "continue", "");
        console.extend(texts(&answered));
    }
    let text: String = console.into_iter().map(|(_, text)| text).collect();
    assert_eq!(text, "for you\n");

    let (result, console) = rpc.run(kernel, "b", "batch", "", batch("", "echo building", "echo ran; exit 3"));
    assert_eq!(exit_code(&result), Some(3));
    let text: String = console.into_iter().map(|(_, text)| text).collect();
    assert_eq!(text, "building\nran\n");

    // The first version's result has a field for each kind.
    let mut turn = Rpc::turn(kernel, "old", "query", "print(1)", Value::Nil);
    turn[2] = 1.into();
    let old = rpc.call("execute", turn);
    assert_eq!(old.get("stdout"), Some(&"1\n".into()));
    assert_eq!(old.get("console"), None);

    let found =
        rpc.call("get_completions", vec![kernel.as_str().into(), "pri".into(), Value::Map(Vec::new())]);
    let found = found.get("result").unwrap();
    assert_eq!(found.get("status"), Some(&"finished".into()));
    let Some(Value::Array(suggestions)) = found.get("suggestions") else { panic!("{found:?}") };
    assert!(
        suggestions.iter().any(|word| word.as_str().is_some_and(|word| word.starts_with("print"))),
        "{found:?}"
    );

    let pinged = rpc.call("ping_kernel", vec![kernel.as_str().into()]);
    assert!(pinged.get("started_at").and_then(Value::as_f64).unwrap() > 0.0);
}

#[test]
fn an_interrupt_ends_what_runs() {
    let Some(node) = Node::start(1) else { return };
    let (rpc, kernel) = (node.client(), &node.kernels[0]);
    let code = "import time\nprint('sleeps', flush=True)\ntime.sleep(600)";
    let mut result = rpc.execute(kernel, "r", "query", code);
    while texts(&result).is_empty() {
        result = rpc.execute(kernel, "r", "continue", "");
    }
    let interrupted = rpc.call("interrupt_kernel", vec![kernel.as_str().into()]);
    assert_eq!(interrupted, Value::map([("status", "finished")]));
    let (result, console) = rpc.run(kernel, "r", "continue", "", Value::Nil);
    assert_eq!(exit_code(&result), Some(1));
    assert!(console.iter().any(|(_, text)| text.contains("KeyboardInterrupt")), "{console:?}");
}

#[test]
fn fast_batches_all_finish() {
    let Some(node) = Node::start(1) else { return };
    let (rpc, kernel) = (node.client(), &node.kernels[0]);
    for at in 0..1000 {
        let run = format!("run-{at}");
        let (result, console) = rpc.run(kernel, &run, "batch", "", batch("", "", "true"));
        assert_eq!((exit_code(&result), console.len()), (Some(0), 0), "{run}");
    }
}

#[test]
fn a_killed_language_process_ends_its_run_at_once_and_the_next_one_has_another() {
    let Some(node) = Node::start(1) else { return };
    let (rpc, kernel) = (node.client(), &node.kernels[0]);
    let (result, console) = rpc.run(
        kernel,
        "dies",
        "query",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        Value::Nil,
    );
    assert_ne!(exit_code(&result), Some(0));
    assert!(console.iter().any(|(kind, _)| kind == "stderr"), "it says why: {console:?}");
    let (result, console) = rpc.run(kernel, "lives", "query", "print('again')", Value::Nil);
    assert_eq!(exit_code(&result), Some(0));
    assert!(console.contains(&("stdout".into(), "again\n".into())), "{console:?}");
}

#[test]
fn runs_that_wait_while_their_kernel_ends_get_a_definite_end() {
    let Some(node) = Node::start(1) else { return };
    let (rpc, kernel) = (node.client(), &node.kernels[0]);
    let mut first =
        rpc.execute(kernel, "first", "query", "print('runs', flush=True)\nimport time\ntime.sleep(600)");
    while texts(&first).is_empty() {
        first = rpc.execute(kernel, "first", "continue", "");
    }
    let forever = |run: &str, mode: &str| {
        let mut turn = Rpc::turn(kernel, run, mode, "1", Value::Nil);
        turn[7] = Value::Nil;
        rpc.send("execute", turn)
    };
    let calls = [forever("first", "continue"), forever("second", "query"), forever("third", "query")];
    node.agent.ok(&["stop", "k0"]);
    let mut outcomes: Vec<_> = calls.iter().map(|_| rpc.receive().expect("a definite end")).collect();
    outcomes.sort_by_key(|(seq, _)| *seq);
    let Outcome::Result(first) = &outcomes[0].1 else { panic!("{outcomes:?}") };
    assert_eq!(status(first), "finished");
    for (_, waited) in &outcomes[1..] {
        let (name, repr) = failure(waited.clone());
        assert_eq!(name, "RuntimeError");
        assert!(repr.contains("was not carried out"), "{repr}");
    }
    let gone = failure(rpc.outcome("execute", Rpc::turn(kernel, "later", "query", "1", Value::Nil)));
    assert!(gone.1.contains("is not found!"), "{gone:?}");
}

#[test]
fn many_clients_and_kernels_lose_and_mix_up_nothing() {
    let Some(node) = Node::start(4) else { return };
    let endpoint = node.endpoint();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (endpoint, kernels) = (&endpoint, &node.kernels);
            scope.spawn(move || {
                let rpc = Rpc::connect(endpoint, None);
                for at in 0..50 {
                    let kernel = &kernels[(client + at) % kernels.len()];
                    let run = format!("{client}-{at}");
                    let (result, console) =
                        rpc.run(kernel, &run, "query", &format!("print('{run}')"), Value::Nil);
                    assert_eq!(exit_code(&result), Some(0));
                    assert_eq!(console, [("stdout".to_owned(), format!("{run}\n"))]);
                }
            });
        }
    });
}

#[test]
fn a_run_goes_on_while_its_agent_is_away() {
    let Some(mut node) = Node::start(1) else { return };
    let kernel = node.kernels[0].clone();
    let work = node.agent.json(&["inspect", "k0"])["work_dir"].as_str().unwrap().to_owned();
    let wait = "echo began; until [ -e go ]; do sleep 0.01; done; echo went on; exit 4";
    let rpc = node.client();
    let mut result = rpc.call("execute", Rpc::turn(&kernel, "r", "batch", "", batch("", "", wait)));
    while texts(&result).is_empty() {
        result = rpc.execute(&kernel, "r", "continue", "");
    }
    node.agent.kill();
    fs::write(format!("{work}/go"), "").unwrap();
    node.agent.start();
    let (result, console) = node.client().run(&kernel, "r", "continue", "", Value::Nil);
    assert_eq!(exit_code(&result), Some(4));
    assert!(console.contains(&("stdout".into(), "went on\n".into())), "{console:?}");
}

#[test]
fn garbage_on_the_port_disturbs_nobody() {
    let Some(node) = Node::start(0) else { return };
    let rpc = node.client();
    let address = node.endpoint().trim_start_matches("tcp://").to_owned();
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0; 64]] {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        // The agent may hang up while this is written.
        let _ = stream.write_all(bytes);
    }
    let context = zmq::Context::new();
    let socket = context.socket(zmq::DEALER).unwrap();
    socket.set_linger(1000).unwrap();
    socket.connect(&node.endpoint()).unwrap();
    for frames in
        [&[&b""[..]][..], &[b"UPPER", b"\xdf\xff\xff\xff\xff", b""], &[b"UPPER", b"", b"", b"", b"x"]]
    {
        socket.send_multipart(frames, 0).unwrap();
    }
    let nested = vec![0x91; 10_000_000];
    socket.send_multipart([&b"UPPER"[..], &nested, &nested], 0).unwrap();
    assert_eq!(failure(rpc.outcome("no_such_method", vec![])).0, "KeyError");
    assert_eq!(rpc.call("ping", vec![1.into()]), 1.into());
}

#[test]
fn with_keys_only_the_managers_key_is_let_in() {
    if zmq::has("curve") != Some(true) {
        println!("skipped: this libzmq has no CURVE");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = KeyFiles::make(dir.path());
    let Some(node) = Node::with(0, &files.config()) else { return };
    assert!(node.agent.json(&["status"])["rpc"]["encrypted"].as_bool().unwrap());
    let keys = |pair: &zmq::CurveKeyPair| Keys {
        server_public: files.agent.public_key.to_vec(),
        public: pair.public_key.to_vec(),
        secret: pair.secret_key.to_vec(),
    };
    let rpc = Rpc::connect(&node.endpoint(), Some(&keys(&files.manager)));
    assert_eq!(rpc.call("ping", vec!["a".into()]), "a".into());
    for keys in [Some(keys(&zmq::CurveKeyPair::new().unwrap())), None] {
        let turned_away = Rpc::connect(&node.endpoint(), keys.as_ref());
        turned_away.patience(500);
        turned_away.send("ping", vec!["b".into()]);
        assert_eq!(turned_away.receive(), None);
    }
    until("the stranger is in the log", || node.agent.log().contains("an unknown key was turned away"));
    assert_eq!(rpc.call("ping", vec!["c".into()]), "c".into());
}

/// Lines to the official client and its answers; none, and a word about it, where it is not installed.
fn official(node: &Node, keys: &[String], lines: &[Json]) -> Option<Vec<Json>> {
    let Some(python) = std::env::var_os("BERTH_PEERS") else {
        println!("skipped: no official client (scripts/test.sh installs it)");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/client.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(node.endpoint())
        .arg(&node.kernels[0])
        .args(keys)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for line in lines {
        writeln!(stdin, "{line}").unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answers = String::from_utf8(output.stdout).unwrap();
    Some(answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// What the official client gets, with and without keys.
fn official_client_calls(node: &Node, keys: &[String]) {
    let nothing = json!({});
    let batch = json!({"clean": null, "build": "", "exec": "echo ran"});
    let turn =
        |run: Json, mode: &str, code: &str, opts: &Json| json!(["execute", 9, run, mode, code, opts, 2.0]);
    let lines = [
        json!(["ping"]),
        turn(Json::Null, "query", "print(6 * 7)", &nothing),
        turn("b".into(), "batch", "", &batch),
        turn("b".into(), "continue", "", &nothing),
        turn("b".into(), "continue", "", &nothing),
        turn("i".into(), "query", "print(input())", &nothing),
        turn("i".into(), "input", "typed", &nothing),
        json!(["get_completions", "pri", {"row": 1, "col": 3, "line": "pri", "post": ""}]),
        json!(["ping_kernel"]),
        json!(["interrupt_kernel"]),
        json!(["call", "create_kernels"]),
        json!(["call", "nonsense", 1]),
        json!(["cancelled", 9, "c", "query", "import time; time.sleep(0.5)", {}, null]),
        json!(["execute", 9, "c", "continue", "", {}, null]),
        json!(["together", [9, "1", "query", "print(1)", {}, 9.0], [9, "2", "query", "print(2)", {}, 9.0]]),
    ];
    let Some(answers) = official(node, keys, &lines) else { return };
    let result = |run: &str, status: &str, code: Option<i32>, console: Json| {
        let options = if status == "waiting-input" { json!({"is_password": false}) } else { Json::Null };
        json!({
            "runId": run, "status": status, "exitCode": code, "options": options, "console": console, "files": [],
        })
    };
    let mut answers = answers.into_iter();
    let mut next = || answers.next().expect("an answer for each line");
    assert_eq!(next(), "ping");
    let made_up = next();
    assert_eq!(
        made_up,
        result(made_up["runId"].as_str().unwrap(), "finished", Some(0), json!([["stdout", "42\n"]]))
    );
    assert_eq!(next(), result("b", "clean-finished", Some(0), json!([])));
    assert_eq!(next(), result("b", "build-finished", Some(0), json!([])));
    assert_eq!(next(), result("b", "finished", Some(0), json!([["stdout", "ran\n"]])));
    assert_eq!(next(), result("i", "waiting-input", None, json!([])));
    assert_eq!(next(), result("i", "finished", Some(0), json!([["stdout", "typed\n"]])));
    let completed = next();
    assert_eq!(completed["result"]["status"], "finished");
    let suggestions = completed["result"]["suggestions"].as_array().unwrap();
    assert!(suggestions.iter().any(|word| word.as_str().unwrap().starts_with("print")), "{completed}");
    assert!(next()["started_at"].as_f64().unwrap() > 0.0);
    assert_eq!(next(), json!({"status": "finished"}));
    for expected in
        ["NotImplementedError('create_kernels is not built yet')", "KeyError('there is no method nonsense')"]
    {
        let refused = next();
        assert_eq!(refused["error"], "RPCUserError");
        assert!(refused["text"].as_str().unwrap().contains(expected), "{refused}");
    }
    assert_eq!(next(), "cancelled");
    assert_eq!(next(), result("c", "finished", Some(0), json!([])), "only the call was given up");
    let together = json!([
        result("1", "finished", Some(0), json!([["stdout", "1\n"]])),
        result("2", "finished", Some(0), json!([["stdout", "2\n"]])),
    ]);
    assert_eq!(next(), together);
}

#[test]
fn the_official_client_is_served() {
    let Some(node) = Node::start(1) else { return };
    official_client_calls(&node, &[]);
}

#[test]
fn the_official_client_is_served_with_keys() {
    if zmq::has("curve") != Some(true) {
        println!("skipped: this libzmq has no CURVE");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyFiles::make(dir.path());
    let Some(node) = Node::with(1, &keys.config()) else { return };
    let z85 = |key: &[u8]| zmq::z85_encode(key).unwrap();
    let official = [&keys.agent.public_key, &keys.manager.public_key, &keys.manager.secret_key];
    official_client_calls(&node, &official.map(|key| z85(key)));
}

#[test]
fn the_official_client_is_served_by_the_workers() {
    let Some(node) = Node::start(1) else { return };
    node.agent.ok(&[
        "exec",
        &node.kernels[0],
        "--",
        "sh",
        "-c",
        "echo logged; echo from within >here; mkdir folder",
    ]);
    let large = "x".repeat((1 << 20) + 1);
    let lines = [
        json!(["of_kernel", "check_running"]),
        json!(["upload_file", "folder/new.txt", "from outside"]),
        json!(["upload_file", "folder/empty", ""]),
        json!(["upload_file", "../out", "x"]),
        json!(["upload_file", "large", large]),
        json!(["of_kernel", "download_single", "here"]),
        json!(["of_kernel", "download_single", "folder/empty"]),
        json!(["of_kernel", "download_single", "large"]),
        json!(["of_kernel", "download_file", "folder"]),
        json!(["of_kernel", "download_file", "/etc/passwd"]),
        json!(["of_kernel", "list_files", "folder"]),
        json!(["of_kernel", "list_files", "nothing"]),
        json!(["of_kernel", "get_logs"]),
        json!(["of_agent", "gather_hwinfo"]),
        json!(["of_agent", "scan_gpu_alloc_map"]),
        json!(["of_agent", "get_local_config"]),
    ];
    let Some(answers) = official(&node, &[], &lines) else { return };
    let mut answers = answers.into_iter();
    let mut next = || answers.next().expect("an answer for each line");
    let refused = |answer: Json, with: &str| {
        assert!(answer["text"].as_str().is_some_and(|text| text.contains(with)), "{answer}");
    };
    assert_eq!(next(), true);
    assert_eq!((next(), next()), (Json::Null, Json::Null));
    refused(next(), "PermissionError");
    assert_eq!(next(), Json::Null, "what comes in has the size of a message");
    assert_eq!((next(), next()), ("from within\n".into(), "".into()));
    refused(next(), "ValueError");
    let archive = next();
    let archive: Vec<u8> =
        archive.as_str().unwrap().chars().map(|byte| u8::try_from(byte).unwrap()).collect();
    let mut archive = tar::Archive::new(&archive[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.iter().any(|name| name == "folder/new.txt"), "{names:?}");
    refused(next(), "PermissionError");
    let listing = next();
    let files: Json = serde_json::from_str(listing["files"].as_str().unwrap()).unwrap();
    let file =
        |at: usize| (files[at]["filename"].as_str(), files[at]["size"].as_u64(), files[at]["mode"].as_str());
    assert_eq!(file(0), (Some("empty"), Some(0), Some("-rw-r--r--")));
    assert_eq!(file(1), (Some("new.txt"), Some(12), Some("-rw-r--r--")));
    assert_eq!((&listing["errors"], &listing["abspath"]), (&json!(""), &json!("folder")));
    let listing = next();
    assert!(listing["files"] == "" && listing["errors"].as_str().unwrap().contains("nothing"), "{listing}");
    assert!(next()["logs"].as_str().unwrap().contains("logged"));
    assert_eq!(next(), json!({"devices": []}));
    assert_eq!(next(), json!({}));
    assert_eq!(next(), json!({"agent": {"abuse-report-path": ""}, "watcher": {}}));
}

#[test]
fn workers_know_no_kernel_that_is_not_there() {
    let Some(node) = Node::start(1) else { return };
    let client = node.client();
    let (here, nowhere) =
        (Value::from(node.kernels[0].as_str()), Value::from("00000000-0000-0000-0000-000000000005"));
    for method in ["check_running", "check_creating"] {
        assert_eq!(client.call(method, vec![here.clone()]), true.into());
        assert_eq!(client.call(method, vec![nowhere.clone()]), false.into());
    }
    let Outcome::Failure(failure) = client.outcome("get_logs", vec![nowhere]) else { panic!() };
    assert_eq!(failure.name, "KernelNotFoundError");
    for (args, name) in
        [(vec![], "TypeError"), (vec![5.into()], "ValueError"), (vec!["x".into()], "ValueError")]
    {
        let Outcome::Failure(failure) = client.outcome("list_files", args) else { panic!() };
        assert_eq!(failure.name, name);
    }
    node.agent.ok(&["stop", &node.kernels[0]]);
    assert_eq!(client.call("check_running", vec![here]), false.into(), "its log is kept, it does not run");
}
