//! Frames in, frames out.

use callosum::{Outcome, Reply, Value, decode_reply, encode_call};

use super::*;
use crate::ids::KernelId;
use crate::route::door::{Ask, Execute, Mode};
use crate::route::{ConsoleItem, RouteError, RunResult, RunStatus, Task};

const OKEY: &[u8] = b"\xc4\x00";

fn door() -> CallosumDoor {
    door_and_jobs().0
}

fn door_and_jobs() -> (CallosumDoor, mpsc::Receiver<Job>) {
    let (workers, jobs) = mpsc::channel(1);
    (CallosumDoor::new("i-here".parse().unwrap(), workers), jobs)
}

#[test]
fn what_the_workers_answer_is_handed_on_and_its_answer_finds_the_way_back() {
    let (mut door, mut jobs) = door_and_jobs();
    let kernel = Value::from(KernelId::random().to_string());
    assert_eq!(call(&mut door, "check_running", vec![kernel.clone()]), Asked::Nothing);
    let Ok(Job::Call { caller, method: Method::CheckRunning, call: handed }) = jobs.try_recv() else {
        panic!()
    };
    assert_eq!(handed.args, vec![kernel.clone()]);
    assert_eq!(door.open_calls(), 1);
    let mut body = Vec::new();
    callosum::encode_result(&true.into(), &mut body);
    let reply = answered(&mut door, caller, Answer::Written { body, is_failure: false });
    assert_eq!(reply.outcome, Outcome::Result(true.into()));
    assert_eq!(door.open_calls(), 0);

    // Given up.
    assert_eq!(
        call_as(&mut door, "get_logs", 9, Call { args: vec![kernel], ..Call::default() }),
        Asked::Nothing
    );
    let Ok(Job::Call { caller, .. }) = jobs.try_recv() else { panic!() };
    let mut header = Vec::new();
    Header { kind: MessageKind::Cancel, method: "get_logs", okey: OKEY, seq: 9, zip: false }
        .encode_into(&mut header);
    assert_eq!(ask(&mut door, &[b"peer", FRAME_UPPER, &header, b""]), Asked::Nothing);
    assert!(matches!(jobs.try_recv(), Ok(Job::Cancel(cancelled)) if cancelled == caller));
    assert_eq!(answered(&mut door, caller, Answer::Cancelled).outcome, Outcome::Cancelled);
}

#[test]
fn when_the_workers_take_no_more_a_call_is_told_so() {
    let (mut door, jobs) = door_and_jobs();
    assert_eq!(call(&mut door, "scan_gpu_alloc_map", Vec::new()), Asked::Nothing);
    let failure = refused(call(&mut door, "scan_gpu_alloc_map", Vec::new()));
    assert!(failure.repr.contains("too many calls"), "{failure:?}");
    drop(jobs);
    let failure = refused(call(&mut door, "scan_gpu_alloc_map", Vec::new()));
    assert!(failure.repr.contains("the agent is ending"), "{failure:?}");
    assert_eq!(door.open_calls(), 1);
    // Of another agent.
    let failure = refused(call(&mut door, "gather_hwinfo", vec!["i-there".into()]));
    assert_eq!(failure.name, "AgentIdNotFoundError");
}

fn ask(door: &mut CallosumDoor, frames: &[&[u8]]) -> Asked {
    let message: Vec<Message> = frames.iter().map(|frame| Message::from(&frame[..])).collect();
    door.read(&message)
}

fn call(door: &mut CallosumDoor, method: &str, args: Vec<Value>) -> Asked {
    call_as(door, method, 1, Call { args, ..Call::default() })
}

fn call_as(door: &mut CallosumDoor, method: &str, seq: u32, call: Call) -> Asked {
    let [header, body] = encode_call(method, OKEY, seq, &call);
    ask(door, &[b"peer", FRAME_UPPER, &header, &body])
}

fn reply(frames: &[Vec<u8>]) -> Reply {
    let [peer, kind, header, body] = frames else { panic!("{} frames", frames.len()) };
    assert_eq!((&peer[..], &kind[..]), (&b"peer"[..], FRAME_UPPER));
    decode_reply(header, body).unwrap()
}

fn refused(asked: Asked) -> Failure {
    let Asked::Now(frames) = asked else { panic!("{asked:?}") };
    match reply(&frames).outcome {
        Outcome::Failure(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn answered(door: &mut CallosumDoor, caller: Caller, answer: Answer) -> Reply {
    let Envelope { mut frames, seal } = door.close(caller).unwrap();
    seal(&mut frames, answer);
    assert!(door.close(caller).is_none(), "once");
    reply(&frames)
}

fn execute(kernel: &KernelId, run: Value, mode: &str, code: &str, opts: Value, flush: Value) -> Vec<Value> {
    let kernel = kernel.to_string();
    vec!["s".into(), kernel.into(), 9.into(), run, mode.into(), code.into(), opts, flush]
}

#[test]
fn a_transport_ping_comes_back_unchanged() {
    let pong = ask(&mut door(), &[b"peer", b"PING", b"a", b"b"]);
    assert_eq!(pong, Asked::Now([&b"peer"[..], b"PONG", b"a", b"b"].map(<[u8]>::to_vec).to_vec()));
    let long = [0; PING_MAX + 1];
    assert_eq!(ask(&mut door(), &[b"peer", b"PING", &long, b""]), Asked::Nothing);
}

#[test]
fn a_ping_is_answered_at_once_with_its_ordering_key_in_its_own_type() {
    for okey in [&b"\xc4\x00"[..], b"\xa0", b"\xa3abc", b"\xc4\x01x"] {
        let [header, body] =
            encode_call("ping", okey, 7, &Call { args: vec!["hello".into()], ..Call::default() });
        let Asked::Now(frames) = ask(&mut door(), &[b"peer", FRAME_UPPER, &header, &body]) else { panic!() };
        assert_eq!(reply(&frames).outcome, Outcome::Result("hello".into()));
        let echoed = Header::decode(&frames[2]).unwrap();
        assert_eq!((echoed.okey, echoed.seq, echoed.method), (okey, 7, "ping"));
    }
}

#[test]
fn garbage_is_dropped_and_what_can_be_answered_is() {
    let mut door = door();
    let [header, _] = encode_call("ping", OKEY, 1, &Call::default());
    for frames in [
        &[&b"peer"[..]][..],
        &[b"peer", b"UPPER", b"", b""],
        &[b"peer", b"OTHER", &header, b""],
        &[b"peer", b"UPPER", b"\xff\xff", b""],
        &[b"peer", b"1", b"2", b"3", b"4", b"5", b"UPPER", &header, b""],
    ] {
        assert_eq!(ask(&mut door, frames), Asked::Nothing);
    }
    let Asked::Now(frames) = ask(&mut door, &[b"peer", FRAME_UPPER, &header, b"\xc1"]) else { panic!() };
    assert!(matches!(reply(&frames).outcome, Outcome::Error(_)));
    assert_eq!(door.open_calls(), 0);
}

#[test]
fn methods_that_are_missing_say_so() {
    let mut door = door();
    assert_eq!(refused(call(&mut door, "create_kernels", vec![])).name, "NotImplementedError");
    assert_eq!(refused(call(&mut door, "no_such_thing", vec![])).name, "KeyError");
    let elsewhere = Call { kwargs: vec![("agent_id".into(), "i-there".into())], ..Call::default() };
    assert_eq!(refused(call_as(&mut door, "ping_kernel", 1, elsewhere)).name, "AgentIdNotFoundError");
    assert_eq!(refused(call(&mut door, "ping_kernel", vec![])).name, "TypeError");
    assert_eq!(refused(call(&mut door, "ping_kernel", vec!["no uuid".into()])).name, "ValueError");
}

#[test]
fn execute_is_read_in_every_form() {
    let (mut door, kernel) = (door(), KernelId::random());
    let mut check = |args, expected: Execute| match call(&mut door, "execute", args) {
        Asked::Call { kernel: of, what: Ask::Execute(what), .. } => {
            assert_eq!((of, what), (kernel, expected))
        }
        other => panic!("{other:?}"),
    };
    let turn = |mode| Execute { run: None, mode, api_version: 9, flush: None };
    let code = || Mode::Begin(Task::Code("1+1".into()));
    check(execute(&kernel, Value::Nil, "query", "1+1", Value::Nil, Value::Nil), turn(code()));
    let two_seconds = Some(std::time::Duration::from_secs(2));
    check(
        execute(&kernel, "".into(), "query", "1+1", Value::Map(vec![]), Value::Float(2.0)),
        Execute { flush: two_seconds, ..turn(code()) },
    );
    let run = Some("r1".parse().unwrap());
    check(
        execute(&kernel, "r1".into(), "continue", "", Value::Nil, 2.into()),
        Execute { run: run.clone(), flush: two_seconds, ..turn(Mode::Continue) },
    );
    check(
        execute(&kernel, "r1".into(), "input", "yes", Value::Nil, Value::Nil),
        Execute { run, ..turn(Mode::Input("yes".into())) },
    );
    let opts = Value::map([("exec", Value::from("true")), ("clean", Value::Nil)]);
    let batch = Task::Batch { clean: String::new(), build: String::new(), exec: "true".into() };
    check(execute(&kernel, Value::Nil, "batch", "", opts, Value::Nil), turn(Mode::Begin(batch)));
}

#[test]
fn execute_by_name_is_the_same_and_mistakes_are_named() {
    let (mut door, kernel) = (door(), KernelId::random());
    let names = ["session_id", "kernel_id", "api_version", "run_id", "mode", "code", "opts", "flush_timeout"];
    let args = execute(&kernel, "r".into(), "query", "x", Value::Nil, Value::Nil);
    let kwargs: Vec<_> = names.iter().map(ToString::to_string).zip(args).collect();
    let asked = call_as(&mut door, "execute", 1, Call { kwargs: kwargs.clone(), ..Call::default() });
    assert!(matches!(asked, Asked::Call { .. }));
    let mut check = |name: &str, value: Value, expected: &str| {
        let mut kwargs = kwargs.clone();
        kwargs.iter_mut().filter(|(key, _)| key == name).for_each(|(_, old)| *old = value.clone());
        let failure = refused(call_as(&mut door, "execute", 1, Call { kwargs, ..Call::default() }));
        assert_eq!(failure.name, expected, "{name} {value:?}");
    };
    check("api_version", 0.into(), "AssertionError");
    check("run_id", "a/b".into(), "ValueError");
    check("run_id", 5.into(), "ValueError");
    check("mode", "guess".into(), "ValueError");
    check("code", Value::Nil, "ValueError");
    check("flush_timeout", Value::Float(f64::NAN), "ValueError");
    check("flush_timeout", (-1).into(), "ValueError");
}

#[test]
fn results_have_the_shape_of_their_version() {
    let (mut door, kernel) = (door(), KernelId::random());
    let mut result = |api_version| {
        let args = execute(&kernel, Value::Nil, "query", "x", Value::Nil, Value::Nil);
        let Asked::Call { caller, .. } = call(&mut door, "execute", args) else { panic!() };
        let console = vec![
            ConsoleItem::Stdout("a".into()),
            ConsoleItem::Stderr("b".into()),
            ConsoleItem::Media { mime: "image/png".into(), data: "data:".into() },
            ConsoleItem::Html("<b>".into()),
            ConsoleItem::Log("l".into()),
        ];
        let run = "r".parse().unwrap();
        let answer = RunResult {
            run,
            api_version,
            status: RunStatus::WaitingInput,
            exit_code: None,
            asks: Some(Some(false)),
            console,
        };
        match answered(&mut door, caller, Answer::Result(answer)).outcome {
            Outcome::Result(value) => value,
            other => panic!("{other:?}"),
        }
    };
    let pair = |a: &str, b: Value| Value::Array(vec![a.into(), b]);
    let value = result(2);
    assert_eq!(value.get("runId"), Some(&"r".into()));
    assert_eq!(value.get("status"), Some(&"waiting-input".into()));
    assert_eq!(value.get("exitCode"), Some(&Value::Nil));
    assert_eq!(value.get("options"), Some(&Value::map([("is_password", false)])));
    assert_eq!(value.get("files"), Some(&Value::Array(vec![])));
    let console = vec![
        pair("stdout", "a".into()),
        pair("stderr", "b".into()),
        pair("media", pair("image/png", "data:".into())),
        pair("html", "<b>".into()),
        pair("log", "l".into()),
    ];
    assert_eq!(value.get("console"), Some(&Value::Array(console)));
    let value = result(1);
    assert_eq!(value.get("console"), None);
    assert_eq!(value.get("stdout"), Some(&"a".into()));
    assert_eq!(value.get("stderr"), Some(&"bl".into()));
    assert_eq!(value.get("media"), Some(&Value::Array(vec![pair("image/png", "data:".into())])));
    assert_eq!(value.get("html"), Some(&Value::Array(vec!["<b>".into()])));
}

#[test]
fn completions_pings_interrupts_and_failures_are_answered_as_the_contract_says() {
    let (mut door, kernel) = (door(), KernelId::random());
    let id = || Value::from(kernel.to_string());
    let opts = Value::map([("row", Value::from(3)), ("post", "x".into()), ("nested", Value::Array(vec![]))]);
    let Asked::Call { caller, what: Ask::Complete(payload), .. } =
        call(&mut door, "get_completions", vec![id(), "os.".into(), opts])
    else {
        panic!()
    };
    let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload, serde_json::json!({"code": "os.", "row": 3, "post": "x"}));
    let suggestions =
        answered(&mut door, caller, Answer::Completion(Ok(r#"{"suggestions": ["os.path"]}"#.into())));
    let inner = |status: &str, error: Value, found: Vec<Value>| {
        let result = [("status", status.into()), ("error", error), ("suggestions", Value::Array(found))];
        Outcome::Result(Value::map([("result", Value::map(result))]))
    };
    assert_eq!(suggestions.outcome, inner("finished", Value::Nil, vec!["os.path".into()]));

    let Asked::Call { caller, .. } = call(&mut door, "ping_kernel", vec![id()]) else { panic!() };
    let pinged = answered(&mut door, caller, Answer::Pinged(Some(1.5)));
    assert_eq!(pinged.outcome, Outcome::Result(Value::map([("started_at", Value::Float(1.5))])));

    let Asked::Call { caller, what: Ask::Interrupt, .. } = call(&mut door, "interrupt_kernel", vec![id()])
    else {
        panic!()
    };
    let interrupted = answered(&mut door, caller, Answer::Interrupted);
    assert_eq!(interrupted.outcome, Outcome::Result(Value::map([("status", "finished")])));

    let Asked::Call { caller, .. } = call(&mut door, "ping_kernel", vec![id()]) else { panic!() };
    let failed = answered(&mut door, caller, Answer::Failed(RouteError::NotAttached(kernel)));
    let Outcome::Failure(Failure { name, repr, .. }) = failed.outcome else { panic!() };
    assert_eq!(name, "RuntimeError");
    assert!(
        repr.starts_with(&format!("RuntimeError('The container for kernel {kernel} is not found!")),
        "{repr}"
    );
}

#[test]
fn a_cancel_finds_its_call_and_only_that() {
    let (mut door, kernel) = (door(), KernelId::random());
    let args = || execute(&kernel, Value::Nil, "query", "x", Value::Nil, Value::Nil);
    let Asked::Call { caller, .. } =
        call_as(&mut door, "execute", 5, Call { args: args(), ..Call::default() })
    else {
        panic!()
    };
    let cancel = |door: &mut CallosumDoor, peer: &[u8], seq| {
        let mut header = Vec::new();
        Header { kind: MessageKind::Cancel, method: "execute", okey: OKEY, seq, zip: false }
            .encode_into(&mut header);
        ask(door, &[peer, FRAME_UPPER, &header, b""])
    };
    assert_eq!(cancel(&mut door, b"peer", 6), Asked::Nothing);
    assert_eq!(cancel(&mut door, b"other", 5), Asked::Nothing);
    assert_eq!(cancel(&mut door, b"peer", 5), Asked::Cancel(caller));
    assert_eq!(answered(&mut door, caller, Answer::Cancelled).outcome, Outcome::Cancelled);
    assert_eq!(cancel(&mut door, b"peer", 5), Asked::Nothing);
}
