//! What an agent adds to one execution, and whether many at once are kept apart: a real agent on the process engine, real
//! runners and language processes. Prints value and limit, and ends with 1 when a limit is not kept.
//!
//! * `added`: `1+1` by the door, alternating with the same code sent straight to a runner that has no agent;
//! * `beside`: the same by the door alone, beside a kernel that computes, and beside one that prints at full speed;
//! * `many`: 10,000 executions by 8 clients over 32 kernels, each of which must get its own output.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "it may panic")]
#![allow(missing_docs, reason = "a program")]

#[path = "../tests/support/engines.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod engines;
#[path = "../tests/runner/peer.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod peer;
#[path = "../tests/support/rpc.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod rpc;
#[path = "../tests/support/agent.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use callosum::Value;
use engines::Engine;
use rpc::{Rpc, exit_code, status};
use support::Agent;

const KERNELS: usize = 32;
const ROUNDS: usize = 3000;

fn main() -> ExitCode {
    // `cargo test` runs benches once, to see that they work.
    if !std::env::args().any(|word| word == "--bench") || engines::runner().is_none() {
        return ExitCode::SUCCESS;
    }
    let listen = "[routing]\nrpc-listen = \"127.0.0.1:0\"\n";
    let agent = Agent::started(Engine::Process, listen, &["--policy", "builtin"]);
    let create = |number: usize| {
        let name = format!("k{number}");
        agent.ok(&["create", "--name", &name]);
        agent.json(&["inspect", &name])["id"].as_str().unwrap().to_owned()
    };
    let kernels: Vec<String> = (0..KERNELS).map(create).collect();
    let endpoint = agent.json(&["status"])["rpc"]["endpoint"].as_str().unwrap().to_owned();
    let kept = [added(&endpoint, &kernels[0]), beside(&endpoint, &kernels), many(&endpoint, &kernels)];
    if kept.iter().all(|kept| *kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line; true when the value keeps to the limit.
fn check(what: &str, value: f64, unit: &str, limit: Option<f64>) -> bool {
    let kept = limit.is_none_or(|limit| value <= limit);
    let limit = limit.map_or("-".to_owned(), |limit| format!("{limit:.3} {unit}"));
    println!("{} {what:<64} {value:>10.3} {unit:<3} limit {limit}", if kept { "ok  " } else { "FAIL" });
    kept
}

/// In milliseconds: half of them took no longer, and all but one of a hundred.
fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    (at(50), at(99))
}

fn by_door(rpc: &Rpc, kernel: &str) -> Duration {
    let began = Instant::now();
    let result = rpc.execute(kernel, Value::Nil, "query", "1+1");
    assert_eq!((status(&result), exit_code(&result)), ("finished", Some(0)));
    began.elapsed()
}

fn added(endpoint: &str, kernel: &str) -> bool {
    let (_kernel, direct) = peer::Kernel::start();
    let rpc = Rpc::connect(endpoint, None);
    let straight = || {
        let began = Instant::now();
        direct.send("code", "1+1");
        while direct.receive().0 != "finished" {}
        began.elapsed()
    };
    for _ in 0..200 {
        by_door(&rpc, kernel);
        straight();
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(by_door(&rpc, kernel));
        theirs.push(straight());
    }
    let ((our_p50, our_p99), (p50, p99)) = (quantiles(ours), quantiles(theirs));
    check("execute(1+1) straight to a runner, p50", p50, "ms", None);
    check("execute(1+1) straight to a runner, p99", p99, "ms", None);
    let kept = check("what the agent adds, p50", our_p50 - p50, "ms", Some(0.2));
    check("what the agent adds, p99", our_p99 - p99, "ms", Some(2.0)) && kept
}

fn beside(endpoint: &str, kernels: &[String]) -> bool {
    let rpc = Rpc::connect(endpoint, None);
    let p99 = || quantiles((0..ROUNDS).map(|_| by_door(&rpc, &kernels[0])).collect()).1;
    let alone = p99();
    let other = &kernels[1];
    let batch = |exec: &str| Value::map([("exec", exec)]);
    // As many busy threads as what follows has: the program, its runner's two, the routing thread and libzmq's two, the
    // one that decodes, and the client. What is beyond this is the routing's own doing.
    let busy = "for i in 1 2 3 4 5 6 7; do timeout 30 sh -c 'while :; do :; done' & done; wait";
    rpc.call("execute", Rpc::turn(other, "computes", "batch", "", batch(busy)));
    let computing = p99();
    rpc.run(other, "computes", "continue", "", Value::Nil);
    // Something that prints, to a client that reads as fast as it can.
    let stop = AtomicBool::new(false);
    let printed = AtomicU64::new(0);
    let printing = std::thread::scope(|scope| {
        scope.spawn(|| {
            let rpc = Rpc::connect(endpoint, None);
            let mut result = rpc.call("execute", Rpc::turn(other, "prints", "batch", "", batch("yes")));
            while !stop.load(Ordering::Relaxed) {
                let bytes: usize = rpc::texts(&result).iter().map(|(_, text)| text.len()).sum();
                printed.fetch_add(bytes as u64, Ordering::Relaxed);
                result = rpc.execute(other, "prints", "continue", "");
            }
            rpc.call("interrupt_kernel", vec![other.as_str().into()]);
            rpc.run(other, "prints", "continue", "", Value::Nil);
        });
        let began = Instant::now();
        let printing = p99();
        stop.store(true, Ordering::Relaxed);
        let megabytes = printed.load(Ordering::Relaxed) as f64 / 1e6 / began.elapsed().as_secs_f64();
        check("another kernel's output meanwhile, MB/s", megabytes, "", None);
        printing
    });
    check("execute(1+1) by the door alone, p99", alone, "ms", None);
    check("the same beside a kernel that computes on seven threads, p99", computing, "ms", None);
    check(
        "the same beside a kernel that prints at full speed, p99",
        printing,
        "ms",
        Some(2.0 * alone.max(computing)),
    )
}

fn many(endpoint: &str, kernels: &[String]) -> bool {
    const CLIENTS: usize = 8;
    const EACH: usize = 1250;
    let began = Instant::now();
    let wrong = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let wrong = &wrong;
            scope.spawn(move || {
                let rpc = Rpc::connect(endpoint, None);
                for at in 0..EACH {
                    let kernel = &kernels[(client * 7 + at) % kernels.len()];
                    let run = format!("{client}-{at}");
                    let (result, console) =
                        rpc.run(kernel, &run, "query", &format!("print('{run}')"), Value::Nil);
                    let own = [("stdout".to_owned(), format!("{run}\n"))];
                    if exit_code(&result) != Some(0) || console != own {
                        println!("FAIL run {run}: {result:?}");
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let rate = (CLIENTS * EACH) as f64 / began.elapsed().as_secs_f64();
    check("executions/s of 8 clients over 32 kernels", rate, "", None);
    let wrong = wrong.load(Ordering::Relaxed);
    check("of 10,000 executions lost, or with another's output", wrong as f64, "", Some(0.0))
}
