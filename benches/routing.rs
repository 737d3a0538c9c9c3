//! Records per second from a kernel to a `Stream`, and whole executions one after another (task out, a
//! record and the end back), beside a direct PUSH and PULL pair and `zmq::proxy` in the same run: 64 B and
//! 4 KiB payloads over ipc.
//!
//! The route is the one that `serve` uses, with its default limits; the runner is a thread with two
//! libzmq sockets. Only the ratio to the other two means anything on a shared machine.

#![expect(clippy::unwrap_used, reason = "a bench may panic, and criterion's macro has no docs")]

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth::ids::{KernelId, RunId};
use berth::route::{self, Attach, LinkAt, Output, RunRequest, Task};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::sync::mpsc;
use zmq::Socket;

mod peers;

use peers::{bound, connected, runner, send};

const PAYLOADS: [usize; 2] = [64, 4096];

/// Kernel -> route -> stream.
struct Routed {
    runtime: tokio::runtime::Runtime,
    handle: route::Handle,
    _thread: route::RouteThread,
    kernel: KernelId,
    context: zmq::Context,
    runner: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
    _reports: mpsc::Receiver<route::Report>,
}

impl Routed {
    fn start(bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, thread) = route::start(route::Config::default()).unwrap();
        let (kernel, dir) = (KernelId::random(), tempfile::tempdir().unwrap());
        let (reports, received) = mpsc::channel(16);
        let at = LinkAt::Directory(dir.path().to_owned());
        let attach = Attach { kernel, at, reports };
        runtime.block_on(handle.attach(attach)).unwrap();
        let context = zmq::Context::new();
        let runner = Some(runner(&context, dir.path(), bytes));
        Self { runtime, handle, _thread: thread, kernel, context, runner, _dir: dir, _reports: received }
    }

    fn records(&self, count: u64) -> Duration {
        self.runtime.block_on(async {
            let task = Task::Exec(count.to_string());
            let request = RunRequest { run: RunId::random(), task, stdin: false, timeout: None };
            let mut run = self.handle.run(self.kernel, request).await.unwrap();
            assert_eq!(run.output.recv().await, Some(Output::Started));
            let (began, mut seen) = (Instant::now(), 0);
            while let Some(output) = run.output.recv().await {
                seen += u64::from(matches!(output, Output::Stdout(_)));
            }
            assert_eq!(seen, count);
            began.elapsed()
        })
    }
}

impl Routed {
    /// Executions of one record each, one after another.
    fn round_trips(&self, count: u64) -> Duration {
        self.runtime.block_on(async {
            let began = Instant::now();
            for _ in 0..count {
                let task = Task::Exec("1".to_owned());
                let request = RunRequest { run: RunId::random(), task, stdin: false, timeout: None };
                let mut run = self.handle.run(self.kernel, request).await.unwrap();
                let mut seen = 0;
                while let Some(output) = run.output.recv().await {
                    seen += u64::from(matches!(output, Output::Stdout(_)));
                }
                assert_eq!(seen, 1);
            }
            began.elapsed()
        })
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        self.context.destroy().unwrap();
        self.runner.take().unwrap().join().unwrap();
    }
}

/// The same runner, and a PULL of our own; with `zmq::proxy` between them or without.
struct Plain {
    tasks: Option<Socket>,
    output: Option<Socket>,
    contexts: Vec<zmq::Context>,
    threads: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Plain {
    fn start(bytes: usize, proxied: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (own, foreign) = (zmq::Context::new(), zmq::Context::new());
        let tasks = bound(&own, zmq::PUSH, dir.path(), "in");
        let mut contexts = vec![own.clone(), foreign.clone()];
        let mut threads = Vec::new();
        let output = if proxied {
            let middle = zmq::Context::new();
            let front = bound(&middle, zmq::PULL, dir.path(), "out");
            let back = bound(&middle, zmq::PUSH, dir.path(), "back");
            contexts.push(middle);
            threads.push(std::thread::spawn(move || {
                assert_eq!(zmq::proxy(&front, &back), Err(zmq::Error::ETERM));
            }));
            connected(&own, zmq::PULL, dir.path(), "back")
        } else {
            bound(&own, zmq::PULL, dir.path(), "out")
        };
        threads.push(runner(&foreign, dir.path(), bytes));
        Self { tasks: Some(tasks), output: Some(output), contexts, threads, _dir: dir }
    }

    fn records(&self, count: u64) -> Duration {
        let (tasks, output) = (self.tasks.as_ref().unwrap(), self.output.as_ref().unwrap());
        send(tasks, "exec", count.to_string().as_bytes()).unwrap();
        let (began, mut seen) = (Instant::now(), 0);
        loop {
            let kind = output.recv_msg(0).unwrap();
            let _payload = output.recv_msg(0).unwrap();
            if &kind[..] == b"finished" {
                break;
            }
            seen += 1;
        }
        assert_eq!(seen, count);
        began.elapsed()
    }
}

impl Plain {
    /// The same without an agent: a task out, a record and the end back.
    fn round_trips(&self, count: u64) -> Duration {
        let began = Instant::now();
        for _ in 0..count {
            self.records(1);
        }
        began.elapsed()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        (self.tasks, self.output) = (None, None);
        for context in &mut self.contexts {
            context.destroy().unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernel-to-stream");
    group.throughput(Throughput::Elements(1));
    for bytes in PAYLOADS {
        // One task of many records per measurement: `iters` records.
        let direct = Plain::start(bytes, false);
        group.bench_function(BenchmarkId::new("direct", bytes), |b| b.iter_custom(|n| direct.records(n)));
        drop(direct);
        let proxied = Plain::start(bytes, true);
        group.bench_function(BenchmarkId::new("zmq-proxy", bytes), |b| b.iter_custom(|n| proxied.records(n)));
        drop(proxied);
        let routed = Routed::start(bytes);
        group.bench_function(BenchmarkId::new("route", bytes), |b| b.iter_custom(|n| routed.records(n)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("execute-round-trip");
    group.throughput(Throughput::Elements(1));
    for bytes in PAYLOADS {
        let direct = Plain::start(bytes, false);
        group.bench_function(BenchmarkId::new("direct", bytes), |b| b.iter_custom(|n| direct.round_trips(n)));
        drop(direct);
        let proxied = Plain::start(bytes, true);
        group.bench_function(BenchmarkId::new("zmq-proxy", bytes), |b| {
            b.iter_custom(|n| proxied.round_trips(n))
        });
        drop(proxied);
        let routed = Routed::start(bytes);
        group.bench_function(BenchmarkId::new("route", bytes), |b| b.iter_custom(|n| routed.round_trips(n)));
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).sample_size(20);
    targets = routing
);
criterion_main!(benches);
