//! Decisions made again: exported and in another process, by candidates, and before anything is activated.
//!
//! `tests/vectors/journal/node.jsonl` was recorded from a live agent by `records_the_vector` below: two cores, the
//! shipped policies with three settings of the slot reporter, dry runs and kernels of the process engine. To record
//! it again: `cargo test --workspace --test replay -- --ignored records_the_vector`, then
//! `INSTA_UPDATE=always cargo test --workspace --test replay`.
#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "support/engines.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod engines;
#[path = "../src/policy/tests/guests.rs"]
#[allow(dead_code, reason = "the policy host's own tests use all of it")]
mod guests;
#[path = "support/operator.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod operator;
#[path = "support/agent.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod support;

use engines::runner;
use operator::{Agent, last_core};

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/journal/node.jsonl");
const QUIET: &str = "[policy]\ndeadline-ms = 20000\nprobation-decisions = 0\n";

/// `berth policy replay` where no agent is.
fn offline(dir: &Path, words: &[&str]) -> Output {
    Command::new(BERTH)
        .args(["policy", "replay"])
        .args(words)
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("BACKEND_CONFIG_FILE")
        .env("BERTH_STATE_DIR", dir.join("state"))
        .env("BERTH_SOCKET", dir.join("no.sock"))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn shipped(world: &str) -> String {
    format!("{}/policies/dist/{world}.wasm", env!("CARGO_MANIFEST_DIR"))
}

/// A digest is that of a build: another build of the guests decides the same.
fn without_digests(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('(') {
        let (before, after) = rest.split_at(at + 1);
        told += before;
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        rest = after;
        if digits == 12 && after[digits..].starts_with(')') {
            told += "DIGEST";
            rest = &after[digits..];
        }
    }
    told + rest
}

/// The diff of the recorded journal on a candidate.
fn check_diff(name: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("reserve.toml"), "reserve-cpu = 1\n").unwrap();
    std::fs::write(dir.path().join("env.toml"), "thread-variables = false\n[env]\nTZ = \"UTC\"\n").unwrap();
    let grants = "[policy.container-config]\ngrants = [\"set-env\", \"add-mount\", \"set-pids-limit\", \"set-shm-size\", \
        \"set-oom-score\"]\n";
    std::fs::write(dir.path().join("agent.toml"), grants).unwrap();
    std::fs::write(dir.path().join("waits.wasm"), guests::scheduler(guests::WAIT)).unwrap();
    let output = offline(dir.path(), &[&["--journal", VECTOR][..], words].concat());
    insta::assert_snapshot!(name, without_digests(&said(&output)));
}

#[test]
fn the_diff_names_kernel_decision_both_answers_and_the_reason() {
    check_diff("diff-place-other-policy", &["--module", &last_core()]);
    check_diff("diff-order-and-failing-place", &["--module", "waits.wasm"]);
    check_diff(
        "diff-report-settings",
        &["--module", &shipped("slot-reporter"), "--settings", "reserve.toml"],
    );
    let adjust =
        ["--module", &shipped("container-config"), "--config", "agent.toml", "--settings", "env.toml"];
    check_diff("diff-adjust-settings", &adjust);
}

#[test]
fn the_recorded_journal_has_several_decisions_of_each_world() {
    let text = std::fs::read_to_string(VECTOR).unwrap();
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for function in ["report", "place", "order", "adjust"] {
        let mut answers: Vec<String> = entries
            .iter()
            .filter(|entry| entry["function"] == function)
            .map(|entry| format!("{} {} {}", entry["question"], entry["answer"], entry["refusal"]))
            .collect();
        answers.sort_unstable();
        answers.dedup();
        assert!(answers.len() >= 3, "{function}: {}", answers.len());
    }
}

#[test]
fn an_exported_journal_is_made_again_bit_for_bit_in_another_process() {
    let agent = Agent::with(QUIET);
    for _ in 0..2 {
        agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    }
    agent.ok(&["policy", "push", "--activate", "--accept-diff", &last_core()]);
    agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    let file = agent.path("node.jsonl");
    let file = file.to_str().unwrap();
    let exported = agent.ok(&["policy", "journal", "--export", file]);
    let all = std::fs::read_to_string(file).unwrap();
    assert_eq!(exported, format!("{} decisions are in {file}\n", all.lines().count()));
    let count = all.lines().count();
    let equal = format!("{count} decisions replayed: {count} the same\n");

    assert_eq!(agent.ok(&["policy", "replay"]), equal);
    assert_eq!(said(&offline(agent.path("").as_path(), &["--journal", file])), equal);
    let last = agent.json(&["policy", "replay", "--last", "1"]);
    assert_eq!((&last["replayed"], &last["same"]), (&1.into(), &1.into()), "{last}");

    // Elsewhere the pushed module is missing and is named; with its folder it is found by its digest.
    let elsewhere = tempfile::tempdir().unwrap();
    let gone = said(&offline(elsewhere.path(), &["--journal", file]));
    assert!(gone.contains("not here: last-core") && gone.contains("skipped (module not here)"), "{gone}");
    let folder = Path::new(&last_core()).parent().unwrap().to_owned();
    let modules = ["--journal", file, "--modules", folder.to_str().unwrap()];
    assert_eq!(said(&offline(elsewhere.path(), &modules)), equal);

    // One answer that is not what was answered.
    let forged = agent.path("forged.jsonl");
    let mut entries: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let place = entries.iter_mut().rfind(|entry| entry["function"] == "place").unwrap();
    place["answer"]["shares"] = Value::Array(Vec::new());
    let number = place["seq"].clone();
    let text: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    std::fs::write(&forged, text).unwrap();
    let output =
        offline(elsewhere.path(), &[&["--journal", forged.to_str().unwrap()], &modules[2..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains(&format!("number {number}")) && told.contains("1 differs"), "{told}");

    // What admission refuses by itself is in it, for `why`, and nobody is asked again.
    agent.output(&["create", "--dry-run", "--cpus", "5000"]);
    let journal = agent.ok(&["policy", "journal", "-n", "1", "-o", "json"]);
    let refused: Value = serde_json::from_str(&journal).unwrap();
    assert_eq!(
        (&refused["policy"], &refused["refusal"]["code"]),
        (&"admission".into(), &"not-enough-free".into())
    );
    let why = agent.ok(&["why", refused["kernels"][0].as_str().unwrap()]);
    assert!(
        why.contains("Without asking a policy, admission refused to place it: 5000 cores asked"),
        "{why}"
    );
    assert!(agent.ok(&["policy", "replay", "-n", "1"]).contains("1 skipped (no policy was asked)"));

    // What is no journal.
    std::fs::write(&forged, "{\"seq\": 1}\n").unwrap();
    let output = offline(elsewhere.path(), &["--journal", forged.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("line 1 is no record of a journal"), "{told}");
}

#[test]
fn settings_are_swapped_kept_and_rolled_back() {
    let mut agent = Agent::with(&format!("{QUIET}[policy.slot-reporter.settings]\nreserve-mem = 67108864\n"));
    let setting = |agent: &Agent, key: &str| {
        let shown = agent.json(&["policy", "show", "slot-reporter"]);
        let settings = shown[0]["settings"].as_array().unwrap().clone();
        let found = settings.into_iter().find(|setting| setting["key"] == key).unwrap();
        (found["value"].as_str().unwrap().to_owned(), found["origin"].as_str().unwrap().to_owned())
    };
    let mem = setting(&agent, "reserve-mem");
    assert_eq!(mem.1, "agent.toml");
    assert_eq!(setting(&agent, "reserve-cpu").1, "default");
    // All mistakes at once, and nothing changes.
    let wrong = ["policy", "set", "slot-reporter", "reserve-cpu=\"many\"", "colour=red"];
    agent.refuses(&wrong, &["`reserve-cpu` must be", "`colour` is unknown", "(wrong-settings)"]);
    agent.refuses(&["policy", "set", "slot-reporter", "--unset", "nothing"], &["`nothing`", "(not-set)"]);

    // What is offered would have been less.
    agent.refuses(&["policy", "set", "slot-reporter", "reserve-cpu=1"], &["(decisions-differ)"]);
    let refused = agent.output(&["policy", "set", "slot-reporter", "reserve-cpu=1"]);
    let diff = String::from_utf8(refused.stdout).unwrap();
    assert!(diff.contains("slot-reporter report") && diff.contains("setting reserve-cpu was "), "{diff}");
    let set = ["policy", "set", "slot-reporter", "reserve-cpu=1", "--accept-diff", "--reason", "night"];
    assert!(agent.ok(&set).contains("slot-reporter: slot-reporter"));
    assert_eq!(setting(&agent, "reserve-cpu"), ("1".into(), "set".into()));
    assert_eq!(setting(&agent, "reserve-mem").0, mem.0, "what was given stays");
    agent.ok(&["policy", "journal", "-n", "1"]);
    agent.kill();
    agent.start();
    assert_eq!(setting(&agent, "reserve-cpu"), ("1".into(), "set".into()));
    let shown = agent.ok(&["policy", "show", "slot-reporter"]);
    assert!(shown.contains("gave other settings to slot-reporter") && shown.contains(": night"), "{shown}");
    assert!(agent.ok(&["policy", "list"]).contains("shipped, settings set"));
    agent.ok(&["policy", "rollback", "slot-reporter"]);
    assert_eq!(setting(&agent, "reserve-cpu").1, "default");
    agent.refuses(&["policy", "rollback", "slot-reporter"], &["(no-history)"]);
}

#[test]
fn a_hang_up_takes_what_decides_the_same_and_holds_back_what_does_not() {
    let agent = Agent::with(QUIET);
    if agent.cores().len() < 2 {
        println!("skipped: with one core every policy gives the same one");
        return;
    }
    agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    let problems = |agent: &Agent| agent.json(&["status"])["problems"].to_string();
    let other = format!("{QUIET}[policy.scheduler]\nsource = {:?}\n", last_core());
    agent.configure(&other);
    agent.hang_up();
    agent.until(&["status"], |status| status["problems"].to_string().contains("1 differs"));
    assert!(problems(&agent).contains("berth policy activate --configured scheduler --accept-diff"));
    assert_eq!(agent.scheduler(), ("scheduler".into(), "shipped".into()));
    agent.refuses(&["policy", "activate", "--configured", "scheduler"], &["(decisions-differ)"]);
    let taken = agent.ok(&["policy", "activate", "--configured", "scheduler", "--accept-diff"]);
    assert!(taken.contains("scheduler: last-core"), "{taken}");
    assert_eq!(problems(&agent), "[]");
    // At once, and what was before is there without its file.
    agent.ok(&["policy", "rollback", "scheduler"]);
    assert_eq!(agent.scheduler(), ("scheduler".into(), "shipped".into()));

    let accepting = other.replace("deadline-ms", "accept-diff-on-reload = true\ndeadline-ms");
    agent.configure(&accepting);
    agent.hang_up();
    agent.until(&["policy", "list"], |list| list.to_string().contains("last-core"));
    let history = agent.ok(&["policy", "show", "scheduler"]);
    assert!(history.contains("the agent took from agent.toml last-core"), "{history}");

    agent.configure("[policy]\ndeadline-ms = \"soon\"\n");
    agent.hang_up();
    agent.until(&["status"], |status| status["problems"].to_string().contains("could not be read again"));
    agent.configure(&accepting.replace(&last_core(), "/nowhere/p.wasm"));
    agent.hang_up();
    agent.until(&["status"], |status| status["problems"].to_string().contains("it cannot be read"));
    assert_eq!(agent.active("scheduler")["name"], "last-core");
    agent.configure(&accepting.replace("20000", "19000"));
    agent.hang_up();
    agent.until(&["status"], |status| {
        status["problems"].to_string().contains("deadline-ms of [policy] is taken")
    });
}

#[test]
fn what_fails_on_probation_is_rolled_back_by_itself_and_says_so() {
    let agent = Agent::with("[policy]\ndeadline-ms = 20000\nprobation-failures = 2\n");
    agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    let file = agent.path("traps.wasm");
    std::fs::write(&file, guests::scheduler(guests::TRAP)).unwrap();
    let file = file.to_str().unwrap();
    // The last decisions say it before anything is activated.
    agent.refuses(&["policy", "push", "--activate", file], &["1 fails (trap)", "(decisions-differ)"]);
    let said = agent.ok(&["policy", "push", "--activate", "--accept-diff", file]);
    assert!(said.contains("now   fails (trap)"), "{said}");
    let probation = agent.active("scheduler")["probation"].clone();
    assert_eq!(
        (&probation["failures"], &probation["failures_allowed"]),
        (&0.into(), &2.into()),
        "{probation}"
    );
    for _ in 0..2 {
        agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    }
    let list = agent.until(&["policy", "list"], |list| !list.to_string().contains("faulty\",\"version"));
    assert!(list.to_string().contains("failed 2 times on probation"), "{list}");
    assert_eq!(agent.scheduler(), ("scheduler".into(), "shipped".into()));
    let status = agent.ok(&["status"]);
    assert!(status.contains("rolled back to scheduler"), "{status}");
    let shown = agent.ok(&["policy", "show", "scheduler"]);
    assert!(shown.contains("the agent rolled back to scheduler") && shown.contains("(trap)"), "{shown}");
    // Until an operator acts.
    agent.ok(&["policy", "push", "--activate", "--accept-diff", &last_core()]);
    assert_eq!(agent.json(&["status"])["problems"].to_string(), "[]");
}

#[test]
fn a_shadow_counts_how_it_agrees_over_a_restart_and_until_it_is_stopped() {
    let mut agent = Agent::with(QUIET);
    let several = agent.cores().len() > 1;
    agent.ok(&["policy", "push", &last_core()]);
    let said = agent.ok(&["policy", "activate", "--shadow", "last-core"]);
    assert!(
        said.contains("last-core") && said.contains("has watched for") && said.contains("0 seen"),
        "{said}"
    );
    assert_eq!(agent.scheduler().0, "scheduler", "it decides nothing");
    agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    let seen = |shadows: &Value| shadows[0]["seen"] == 1;
    let shadows = agent.until(&["policy", "shadow"], seen);
    let (agreed, differing) = if several { (0, 1) } else { (1, 0) };
    assert_eq!((&shadows[0]["agreed"], &shadows[0]["differing"]), (&agreed.into(), &differing.into()));
    if several {
        let text = agent.ok(&["policy", "shadow", "scheduler"]);
        assert!(text.contains("now   cpu: ") && text.contains("the last free cores"), "{text}");
    }
    assert!(agent.ok(&["policy", "list"]).contains("scheduler: last-core"));
    agent.ok(&["policy", "journal", "-n", "1"]);
    agent.kill();
    agent.start();
    agent.until(&["policy", "shadow"], |shadows| shadows[0]["who"]["policy"] == "last-core");
    agent.ok(&["create", "--dry-run", "--cpus", "1"]);
    agent.until(&["policy", "shadow"], seen);
    agent.ok(&["policy", "shadow", "--stop"]);
    assert_eq!(agent.ok(&["policy", "shadow"]), "nobody watches\n");
    agent.refuses(&["policy", "shadow", "--stop"], &["(no-shadow)"]);
    agent.ok(&["policy", "activate", "--shadow", "last-core"]);
    agent.ok(&["policy", "activate", "--accept-diff", "last-core"]);
    assert_eq!(agent.ok(&["policy", "shadow"]), "nobody watches\n", "it is active now");
}

#[test]
fn what_an_operator_can_do_wrong_is_one_line_with_the_next_step() {
    let agent = Agent::with(QUIET);
    let file = agent.path("s.toml");
    std::fs::write(&file, "strategy = 3\nx = 1\n").unwrap();
    let file = file.to_str().unwrap();
    agent.refuses(&["policy", "activate", "00000000"], &["no policy called", "(no-such-policy)"]);
    agent.refuses(&["policy", "rollback", "scheduler"], &["nothing was active", "(no-history)"]);
    agent.ok(&["policy", "push", &last_core()]);
    assert!(agent.ok(&["policy", "push", &last_core()]).contains("was there already"));
    let wrong = ["policy", "activate", "--settings", file, "last-core"];
    agent.refuses(&wrong, &["`strategy` is unknown", "`x` is unknown", "(wrong-settings)", "--settings"]);
    let reporter = shipped("slot-reporter");
    let world = ["policy", "replay", "--world", "scheduler", "--module", &reporter];
    agent.refuses(&world, &["it is a policy for `slot-reporter`, not for `scheduler`", "(wrong-world)"]);
    agent.refuses(&["policy", "replay", "--module", "nobody"], &["(no-such-policy)"]);
    agent.refuses(&["policy", "activate", "--settings", "/nowhere", "last-core"], &["cannot be read"]);
    // The built-in is not loaded.
    agent.ok(&["policy", "set", "scheduler", "strategy=spread", "--accept-diff"]);
    assert_eq!(agent.active("scheduler")["own_settings"], true);
    agent.ok(&["policy", "set", "scheduler", "--configured", "--accept-diff"]);
    assert_eq!(agent.active("scheduler")["own_settings"], false);
}

/// Not a test: makes the vector anew. See the top of the file.
#[test]
#[ignore = "it replaces a file of the source tree"]
fn records_the_vector() {
    let agent = Agent::with(QUIET);
    assert!(runner().is_some(), "cargo xtask build");
    for (key, value) in [("reserve-cpu", "1"), ("reserve-mem", "268435456"), ("reserve-cpu", "0")] {
        let setting = format!("{key}={value}");
        agent.ok(&["policy", "set", "slot-reporter", &setting, "--accept-diff"]);
        // What is offered is asked every 30 s.
        let reports = |agent: &Agent| {
            let journal = agent.ok(&["policy", "journal", "-n", "100", "-o", "json"]);
            journal.lines().filter(|line| line.contains("\"function\":\"report\"")).count()
        };
        let count = reports(&agent);
        while reports(&agent) == count {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    }
    for cores in ["1", "2", "5000"] {
        agent.output(&["create", "--dry-run", "--cpus", cores]);
    }
    agent.ok(&["create", "--name", "k1", "--cpus", "1"]);
    agent.ok(&["create", "--name", "k2", "--mem", "128m", "--env", "OMP_NUM_THREADS=3"]);
    agent.ok(&["create", "--name", "k3", "--cpus", "1", "--env", "LANG=C"]);
    let file = PathBuf::from(VECTOR);
    agent.ok(&["policy", "journal", "--export", file.to_str().unwrap()]);
    for kernel in ["k1", "k2", "k3"] {
        agent.ok(&["rm", "-f", kernel]);
    }
}
