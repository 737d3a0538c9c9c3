//! Policies replaced in a running agent, by `berth`'s own commands over its socket.
//!
//! The agent runs with the process engine and makes no kernel but in the last step, which is skipped where this
//! build has no static runner.
#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use serde_json::Value;

#[path = "../src/policy/tests/guests.rs"]
#[allow(dead_code, reason = "the policy host's own tests use all of it")]
mod guests;

#[path = "support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "support/operator.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod operator;
#[path = "support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use engines::{Engine, runner};
use operator::{Agent, last_core};

#[test]
fn a_pushed_policy_decides_without_a_restart_and_after_one() {
    let mut agent = Agent::new();
    let cores = agent.cores();
    let (first, last) = (vec![cores[0]], vec![*cores.last().unwrap()]);
    assert_eq!(agent.scheduler(), ("scheduler".into(), "shipped".into()));
    assert_eq!(agent.would_get(), Value::from(first.clone()));

    let digest = agent.json(&["policy", "push", &last_core()])["module"]["digest"].clone();
    let digest = digest.as_str().unwrap();
    assert!(agent.ok(&["policy", "list"]).contains("PUSHED FOR"));
    assert!(agent.ok(&["policy", "push", &last_core()]).contains("was there already"));
    if first != last {
        // A kernel would have got another core: that is shown, and nothing changes.
        let differs = ["policy", "activate", &digest[..6]];
        agent.refuses(&differs, &["1 differs", "(decisions-differ)", "--accept-diff"]);
        let shown = String::from_utf8(agent.output(&differs).stdout).unwrap();
        assert!(
            shown.contains("scheduler place: 1 change")
                && shown.contains("why   it says: the last free cores")
        );
        assert_eq!(agent.scheduler(), ("scheduler".into(), "shipped".into()));
    }
    let said = agent.ok(&["policy", "activate", &digest[..6], "--accept-diff", "--reason", "a test"]);
    assert!(said.contains("decides from now on; scheduler is asked when it fails"), "{said}");
    assert_eq!(agent.scheduler(), ("last-core".into(), "pushed".into()));
    assert_eq!(agent.would_get(), Value::from(last.clone()));

    // Reading the journal waits until it is written; a kill before that would cost its last record.
    agent.ok(&["policy", "journal", "-n", "1"]);
    agent.kill();
    agent.start();
    assert_eq!(agent.scheduler(), ("last-core".into(), "pushed".into()));
    assert_eq!(agent.would_get(), Value::from(last));
    let shown = agent.ok(&["policy", "show", "scheduler"]);
    assert!(shown.contains("activated last-core") && shown.contains(": a test"), "{shown}");
    assert!(agent.ok(&["policy", "rollback", "scheduler"]).contains("scheduler: scheduler"));
    assert_eq!(agent.would_get(), Value::from(first));
    agent.refuses(&["policy", "rollback", "scheduler"], &["nothing was active", "(no-history)"]);

    // Tried only: nothing is held, and the journal says so.
    let book = agent.json(&["slots"]);
    assert!(book["slots"].as_array().unwrap().iter().all(|slot| slot["held"] == 0), "{book}");
    assert!(agent.ok(&["ps", "-a"]).lines().count() <= 1);
    let journal = agent.ok(&["policy", "journal", "-o", "json"]);
    let records: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<&Value> = records.iter().filter(|record| record["function"] == "place").collect();
    assert!(places.len() == 4 && places.iter().all(|place| place["dry-run"] == true), "{journal}");
    let text = agent.ok(&["policy", "journal", "-n", "1"]);
    assert!(text.lines().count() == 1 && text.contains("(dry run)"), "{text}");
    let kernel = places[0]["kernels"][0].as_str().unwrap();
    let why = agent.ok(&["why", kernel]);
    assert!(why.contains("only tried by `berth create --dry-run`"), "{why}");
}

#[test]
fn mistakes_are_one_line_with_a_code_and_the_next_step() {
    let agent = Agent::new();
    let text = agent.path("policy.wasm");
    std::fs::write(&text, "(component)").unwrap();
    let text = text.to_str().unwrap();
    agent.refuses(&["policy", "push", text], &[text, "WebAssembly in text form", "(not-a-component)"]);
    let native = agent.path("native.wasm");
    std::fs::write(&native, b"\x7fELF\x02\x01\x01").unwrap();
    agent.refuses(&["policy", "push", native.to_str().unwrap()], &["native file", "(precompiled)"]);
    let large = agent.path("large.wasm");
    std::fs::File::create(&large).unwrap().set_len(200 << 20).unwrap();
    agent.refuses(&["policy", "push", large.to_str().unwrap()], &["209715200 bytes", "(module-too-large)"]);
    agent.refuses(&["policy", "push", "--link", "2", &last_core()], &["one policy", "(no-such-link)"]);
    agent.refuses(&["policy", "activate", "00000000"], &["\"00000000\" was pushed", "(no-such-policy)"]);
    agent.refuses(&["policy", "show", "nobody"], &["(no-such-policy)"]);
    agent.refuses(&["why", "k9"], &["(no-such-kernel)"]);
    agent.refuses(&["why", "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001"], &["knows nothing", "(no-such-kernel)"]);
    agent.refuses(&["create", "--dry-run", "--cpus", "5000"], &["5000 cores asked", "(not-enough-free)"]);
}

#[test]
fn a_kernel_lies_where_the_pushed_policy_puts_it_and_why_tells() {
    if runner().is_none() {
        println!("skipped: this build has no static runner (cargo xtask build)");
        return;
    }
    let agent = Agent::new();
    agent.ok(&["policy", "push", "--activate", "--accept-diff", &last_core()]);
    let kernel = agent.json(&["create", "--name", "k1", "--cpus", "1"]);
    assert_eq!(kernel["cpuset"], Value::from(vec![*agent.cores().last().unwrap()]));
    let why = agent.ok(&["why", "k1"]);
    assert!(why.contains("last-core 0.1.0") && why.contains("placed k1 on cpu:"), "{why}");
    assert!(why.contains("let k1 start") && why.contains("to its container."), "{why}");
    let id = kernel["id"].as_str().unwrap();
    agent.ok(&["rm", "-f", "k1"]);
    let why = agent.ok(&["why", id]);
    assert!(why.contains("is gone") && why.contains("last-core 0.1.0"), "{why}");
}

#[test]
fn kernels_start_whatever_a_policy_does_and_its_fault_is_told() {
    if runner().is_none() {
        println!("skipped: this build has no static runner (cargo xtask build)");
        return;
    }
    // Long enough for the shipped policies, short enough to loop for.
    let agent = Agent::with_deadline(2000);
    let before = agent.scheduler();
    // `place` traps in each of them; what `order` does is the fault in question.
    for (name, order, code) in [
        ("loops", guests::LOOP, "deadline"),
        ("traps", guests::TRAP, "trap"),
        ("grows", guests::GROW, "memory"),
        ("lies", guests::LIE, "invalid-answer"),
    ] {
        let file = agent.path(&format!("{name}.wasm"));
        std::fs::write(&file, guests::scheduler(order)).unwrap();
        agent.ok(&["policy", "push", "--activate", "--accept-diff", file.to_str().unwrap()]);
        let kernel = agent.json(&["create", "--name", name, "--cpus", "1"]);
        assert_eq!(kernel["phase"], "running", "{name}: {kernel}");
        let id = kernel["id"].as_str().unwrap();
        let decided: Vec<&Value> = kernel["decisions"].as_array().unwrap().iter().collect();
        let order = decided.iter().find(|decision| decision["function"] == "order").unwrap();
        assert_eq!(order["faults"][0]["fault"], code, "{name}: {order}");
        let list = agent.json(&["policy", "list"]);
        let active = list.as_array().unwrap().iter().find(|policy| policy["world"] == "scheduler").unwrap();
        assert_eq!(
            (&active["name"], active["fallbacks"].as_u64() >= Some(2)),
            (&"faulty".into(), true),
            "{active}"
        );
        let journal = agent.ok(&["policy", "journal", "--kernel", id, "-o", "json"]);
        assert!(journal.contains(code), "{name}: {journal}");
        agent.ok(&["rm", "-f", name]);
        agent.ok(&["policy", "rollback", "scheduler"]);
    }
    assert_eq!(agent.scheduler(), before, "after the rollbacks all is as before");
    let kernel = agent.json(&["create", "--name", "after", "--cpus", "1"]);
    for decision in kernel["decisions"].as_array().unwrap() {
        assert_eq!(decision["faults"].as_array().map(Vec::len), Some(0), "{decision}");
    }
    agent.ok(&["rm", "-f", "after"]);
    let file = agent.path("core.wasm");
    // A core module that imports WASI: no component, and nothing that this host would link.
    let wasi = "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32))))";
    std::fs::write(&file, wat::parse_str(wasi).unwrap()).unwrap();
    agent.refuses(&["policy", "push", file.to_str().unwrap()], &["component"]);
}

#[test]
fn a_module_that_fails_its_own_fixtures_is_refused_and_one_that_passes_can_be_looked_into() {
    let agent = Agent::new();
    let pack = |number: u32| {
        let case = format!(
            r#"{{"function": "place", "expect": {{"properties": {{"device": [{number}]}}}}, "question": {{
                "node": {{
                    "models": [{{"kind": "cpu", "family": "cpu", "capacity": 1000000}}],
                    "devices": [{{"number": 0}}, {{"number": 1}}],
                    "slots": [{{"name": "cpu", "quantum": 1000000}}]}},
                "request": {{"wants": [{{"slot": 0, "amount": 1000000}}]}},
                "choice": {{"stock": [
                    {{"device": 0, "slot": 0, "free": 1000000, "offered": 1000000}},
                    {{"device": 1, "slot": 0, "free": 1000000, "offered": 1000000}}]}}}}}}"#
        );
        let (fixtures, module) = (agent.path("fixtures"), agent.path(&format!("{number}.wasm")));
        std::fs::create_dir_all(&fixtures).unwrap();
        std::fs::write(fixtures.join("core.json"), case).unwrap();
        let (fixtures, module) = (fixtures.to_str().unwrap().to_owned(), module.to_str().unwrap().to_owned());
        agent.ok(&["policy", "pack", &last_core(), "--fixtures", &fixtures, "-o", &module]);
        module
    };
    agent.refuses(
        &["policy", "push", &pack(0)],
        &[
            "1 of its own fixtures fails: core.json: device: should be cpu 0, is cpu 1",
            "(fixtures-failed)",
            "`berth policy test FILE`",
        ],
    );
    assert_eq!(agent.json(&["policy", "inspect", &pack(0)])["cases"], 1);
    let pushed = agent.json(&["policy", "push", &pack(1)]);
    let digest = pushed["module"]["digest"].as_str().unwrap();
    for name in [&digest[..8], "last-core"] {
        let shown = agent.json(&["policy", "inspect", name]);
        assert_eq!((&shown["digest"], &shown["cases"]), (&pushed["module"]["digest"], &1.into()), "{shown}");
    }
    agent.refuses(&["policy", "inspect", "abcdef"], &["no policy called \"abcdef\"", "(no-such-policy)"]);
}

#[test]
fn two_policies_of_the_chain_that_contradict_each_other_are_named_everywhere() {
    let agent = Agent::with(
        "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n\
         [[policy.container-config]]\nsettings = { pids-limit = 100 }\n\
         [[policy.container-config]]\nsettings = { pids-limit = 200 }",
    );
    let conflict =
        "policies container-config (link 0) and container-config (link 1) both set pids-limit, differently";
    agent.refuses(&["create", "--dry-run", "--cpus", "1"], &[conflict, "(chain-conflict)"]);
    let status = agent.ok(&["status", "-o", "json"]);
    assert!(!status.contains("both set pids-limit"), "tried only: {status}");
    let journal = agent.ok(&["policy", "journal", "-o", "json"]);
    let records: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = records.iter().find(|record| record["refusal"]["code"] == "chain-conflict").unwrap();
    assert_eq!(
        (&told["link"], &told["replayable"], &told["dry-run"]),
        (&1.into(), &false.into(), &true.into())
    );
    if runner().is_none() {
        println!("the rest is skipped: this build has no static runner (cargo xtask build)");
        return;
    }
    let output = agent.output(&["create", "--name", "k1", "--cpus", "1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(conflict) && said.contains("chain-conflict"), "{said}");
    let output = agent.output(&["status", "-o", "json"]);
    let status = String::from_utf8(output.stdout).unwrap();
    assert!(status.contains(&format!("{conflict}: 1 kernel(s) were refused")), "{status}");
    let journal = agent.ok(&["policy", "journal", "-o", "json"]);
    let last: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!(last["refusal"]["code"], "chain-conflict", "{last}");
    let why = agent.ok(&["why", last["kernels"][0].as_str().unwrap()]);
    assert!(
        why.contains("Its container was not made: the container-config") && why.contains(conflict),
        "{why}"
    );
}

#[test]
fn two_policies_of_the_chain_that_say_the_same_are_fine() {
    let agent = Agent::with(
        "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n\
         [[policy.container-config]]\nsettings = { mounts = [\"/usr:/mnt/usr:ro\"] }\n\
         [[policy.container-config]]\nsettings = { mounts = [\"/usr:/mnt/usr:ro\"] }",
    );
    let plan = agent.json(&["create", "--dry-run", "--cpus", "1"]);
    let mounts = plan["mounts"].as_array().unwrap().iter();
    assert_eq!(mounts.filter(|mount| mount["target"] == "/mnt/usr").count(), 1, "{plan}");
    assert_eq!(plan["decisions"].as_array().unwrap().len(), 3, "{plan}");
}

#[test]
fn a_mount_that_leads_out_of_what_is_granted_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name).display().to_string();
    std::fs::create_dir(at("data")).unwrap();
    std::fs::create_dir(at("secret")).unwrap();
    std::os::unix::fs::symlink(at("secret"), at("data/out")).unwrap();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/container-config.wasm");
    let grants = format!(
        r#"["set-env", "set-pids-limit", "set-shm-size", "set-oom-score", "add-mount:{}/**"]"#,
        at("data")
    );
    let agent = Agent::with(&format!(
        "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n[policy.container-config]\nsource = {module:?}\ngrants = {grants}\n\
         settings = {{ mounts = [\"{}:/mnt/x:ro\"] }}",
        at("data/out")
    ));
    let plan = agent.json(&["create", "--dry-run", "--cpus", "1"]);
    let decision =
        plan["decisions"].as_array().unwrap().iter().find(|by| by["function"] == "adjust").unwrap();
    assert_eq!(
        (&decision["policy"], &decision["faults"][0]["fault"]),
        (&"builtin".into(), &"invalid-answer".into())
    );
    let told = decision["faults"][0]["message"].as_str().unwrap();
    assert!(told.contains(&format!("which is {} and not granted", at("secret"))), "{told}");
    let mounts = plan["mounts"].as_array().unwrap();
    assert!(mounts.iter().all(|mount| mount["target"] != "/mnt/x"), "{plan}");
}

/// A command that needs no agent.
fn berth(words: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(words)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_signed_module_is_verified_pushed_and_shown_with_its_signer() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::copy(last_core(), at("p.wasm")).unwrap();
    let (status, public, _) = berth(&["policy", "keygen", &at("ops.key")]);
    let public = public.trim();
    assert!(status == Some(0) && public.starts_with("ops:"), "{public}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(at("ops.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let (status, _, said) = berth(&["policy", "keygen", &at("ops.key")]);
    assert!(status == Some(1) && said.contains("not there yet"), "{said}");

    let verify = |keys: &str| berth(&["policy", "verify", &at("p.wasm"), "--keys", keys]);
    let (status, _, said) = verify(public);
    assert!(status == Some(1) && said.contains("it is not signed") && said.contains("(unsigned)"), "{said}");
    assert!(!said.contains("[policy.trust]"), "{said}");
    let agent = Agent::with(&format!(
        "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n[policy.trust]\nrequired = true\nkeys = [{public:?}]"
    ));
    agent.refuses(&["policy", "push", &at("p.wasm")], &["is not signed", "(unsigned)"]);
    let (status, said, _) = berth(&["policy", "sign", &at("p.wasm"), "--key", &at("ops.key")]);
    assert!(status == Some(0) && said.contains("is signed by ops:"), "{said}");
    let (status, said, _) = verify(public);
    assert!(status == Some(0) && said.contains("signed by ops ("), "{said}");
    agent.ok(&["policy", "push", "--activate", &at("p.wasm")]);
    let shown = agent.ok(&["policy", "show", "scheduler"]);
    assert!(shown.contains("signed by    ops ("), "{shown}");
    assert_eq!(agent.json(&["policy", "list"])[1]["signer"]["name"], "ops");

    // By somebody else, and changed after it was signed.
    let (_, other, _) = berth(&["policy", "keygen", "--name", "other", &at("o.key")]);
    let (status, _, said) = verify(other.trim());
    let key = public.strip_prefix("ops:").unwrap();
    assert!(status == Some(1) && said.contains("(unknown-signer)"), "{said}");
    assert!(said.contains(&format!("it is signed by {key}, which is none of --keys")), "{said}");
    assert!(said.contains(&format!("--keys NAME:{key}")) && !said.contains("[policy.trust]"), "{said}");
    let mut bytes = std::fs::read(at("p.wasm")).unwrap();
    let at_name = bytes.windows(9).position(|text| text == b"last-core").unwrap();
    bytes[at_name] = b'L';
    std::fs::write(at("p.wasm"), bytes).unwrap();
    let (status, _, said) = verify(public);
    assert!(status == Some(1) && said.contains("(bad-signature)"), "{said}");
    agent.refuses(&["policy", "push", &at("p.wasm")], &["(bad-signature)"]);
}

/// The whole answer to one request.
fn answer(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_tell_of_failures_by_code_of_who_answered_and_of_a_demotion() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let agent = Agent::with(&format!(
        "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n[control]\nmetrics-listen = \"{free}\""
    ));
    let file = agent.path("traps.wasm");
    std::fs::write(&file, guests::scheduler(guests::TRAP)).unwrap();
    let pushed = agent.json(&["policy", "push", file.to_str().unwrap()]);
    let digest = &pushed["module"]["digest"].as_str().unwrap()[..12];
    agent.ok(&["policy", "activate", digest, "--accept-diff"]);
    // The fifth failure demotes it, the sixth time it is not asked.
    for _ in 0..6 {
        agent.would_get();
    }
    let text = answer(UnixStream::connect(agent.socket()).unwrap(), "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("version=0.0.4"), "{text}");
    let of = format!("world=\"scheduler\",link=\"0\",policy=\"faulty\",digest=\"{digest}\"");
    for line in [
        format!("berth_policy_calls_total{{{of},code=\"trap\"}} 5"),
        format!("berth_policy_calls_total{{{of},code=\"demoted\"}} 1"),
        format!("berth_policy_demotions_total{{{of}}} 1"),
        format!("berth_policy_call_seconds_count{{{of}}} 5"),
        "berth_policy_demoted{world=\"scheduler\",link=\"0\"} 1".to_owned(),
        "berth_policy_decisions_total{world=\"scheduler\",link=\"0\",rung=\"active\"} 0".to_owned(),
        "berth_policy_decisions_total{world=\"scheduler\",link=\"0\",rung=\"last-good\"} 6".to_owned(),
        format!("berth_slot_free_units{{slot=\"cpu\"}} {}", agent.cores().len()),
        "berth_admission_start_limit_kernels 4".to_owned(),
        "berth_kernels{phase=\"running\"} 0".to_owned(),
        "berth_draining 0".to_owned(),
    ] {
        assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
    }
    // Over TCP the same, and nothing else.
    let over_tcp = answer(TcpStream::connect(free).unwrap(), "/metrics");
    let families = |text: &str| text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(families(&over_tcp), families(&text));
    for path in ["/v1/status", "/", "/metrics/"] {
        let refused = answer(TcpStream::connect(free).unwrap(), path);
        assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
    }
}

#[test]
fn a_compiler_that_hangs_or_wants_too_much_memory_is_ended_and_the_agent_lives() {
    for (limit, environment, told) in [
        (
            "compile-sec = 1",
            &[("BERTH_FAILPOINTS", "policy-compile=hang")][..],
            "the compiler needed more than 1 s: build it smaller (strip it, opt-level \"s\"), or raise compile-sec",
        ),
        (
            "compile-memory-bytes = 4194304",
            &[][..],
            "the compiler needed more than 4m of memory: build it smaller (strip it, opt-level \"s\"), or \
             raise compile-memory-bytes",
        ),
    ] {
        let config = operator::config(&format!("[policy]\ndeadline-ms = 20000\n{limit}\n"));
        let mut agent = support::Agent::new(Engine::Process, &config, &[]);
        agent.spawn(environment);
        agent.ready();
        let list = agent.json(&["policy", "list"]);
        for policy in list.as_array().unwrap() {
            assert_eq!(policy["name"], "builtin", "{policy}");
            let fault = policy["last_fault"]["message"].as_str().unwrap();
            assert!(fault.contains(told), "{fault}");
        }
    }
}

#[test]
fn what_a_child_has_compiled_is_loaded_by_the_agent() {
    let agent = Agent::new();
    let kept = std::fs::read_dir(agent.state().join("policy-cache")).unwrap();
    // One for each world, and the secret.
    assert_eq!(kept.count(), 4);
    assert!(!agent.log().contains("compiled in this process"), "{}", agent.log());
    // A module with which the compiler can do nothing is refused by what it says.
    let file = agent.path("wrong.wasm");
    let mut module = guests::scheduler(guests::NOTHING);
    // `(i32.const 64)` and the end of a body: i64.const, in a function of i32.
    let body = module.windows(4).position(|bytes| bytes == [0x41, 0xc0, 0x00, 0x0b]).unwrap();
    module[body] = 0x42;
    std::fs::write(&file, module).unwrap();
    agent
        .refuses(&["policy", "push", file.to_str().unwrap()], &["it does not compile", "(does-not-compile)"]);
}
