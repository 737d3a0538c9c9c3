//! Records per second from a kernel to a `Stream`, and whole executions one after another (task out, a
//! record and the end back), beside a direct PUSH and PULL pair and `zmq::proxy` in the same run: 64 B,
//! 4 KiB and 64 KiB payloads over ipc, as our runner is reached, and over loopback TCP, as one that listens is.
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

use peers::{free_port, send, serve, socket};

const PAYLOADS: [usize; 3] = [64, 4096, 64 << 10];

/// How an agent and its runner reach each other.
#[derive(Clone, Copy)]
enum Wire {
    /// The agent binds sockets in a folder, the runner connects.
    Ipc,
    /// The runner binds loopback ports, the agent connects.
    Tcp,
}

impl Wire {
    const ALL: [Self; 2] = [Self::Ipc, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Tcp => "tcp",
        }
    }
}

/// The two ends of a link: `in` and `out`.
struct Ends {
    wire: Wire,
    dir: tempfile::TempDir,
    ports: [u16; 2],
}

impl Ends {
    fn new(wire: Wire) -> Self {
        Self { wire, dir: tempfile::tempdir().unwrap(), ports: [free_port(), free_port()] }
    }

    fn link(&self) -> LinkAt {
        match self.wire {
            Wire::Ipc => LinkAt::Directory(self.dir.path().to_owned()),
            Wire::Tcp => LinkAt::Loopback { port_in: self.ports[0], port_out: self.ports[1] },
        }
    }

    fn address(&self, end: &str) -> String {
        match (self.wire, end) {
            (Wire::Tcp, "in") => format!("tcp://127.0.0.1:{}", self.ports[0]),
            (Wire::Tcp, "out") => format!("tcp://127.0.0.1:{}", self.ports[1]),
            _ => format!("ipc://{}/{end}", self.dir.path().display()),
        }
    }

    /// The agent's socket of an end.
    fn agents(&self, context: &zmq::Context, kind: zmq::SocketType, end: &str) -> Socket {
        let socket = socket(context, kind);
        match self.wire {
            Wire::Ipc => socket.bind(&self.address(end)).unwrap(),
            Wire::Tcp => socket.connect(&self.address(end)).unwrap(),
        }
        socket
    }

    /// A runner, which sends records of so many bytes.
    fn runner(&self, context: &zmq::Context, bytes: usize) -> JoinHandle<()> {
        let [pull, push] = [(zmq::PULL, "in"), (zmq::PUSH, "out")].map(|(kind, end)| {
            let socket = socket(context, kind);
            match self.wire {
                Wire::Ipc => socket.connect(&self.address(end)).unwrap(),
                Wire::Tcp => socket.bind(&self.address(end)).unwrap(),
            }
            socket
        });
        serve(pull, push, bytes)
    }
}

/// Kernel -> route -> stream.
struct Routed {
    runtime: tokio::runtime::Runtime,
    handle: route::Handle,
    _thread: route::RouteThread,
    kernel: KernelId,
    context: zmq::Context,
    runner: Option<JoinHandle<()>>,
    _ends: Ends,
    _reports: mpsc::Receiver<route::Report>,
}

impl Routed {
    fn start(wire: Wire, bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, thread) = route::start(route::Config::default()).unwrap();
        let (kernel, ends) = (KernelId::random(), Ends::new(wire));
        let (reports, received) = mpsc::channel(16);
        let attach = Attach { kernel, at: ends.link(), reports };
        runtime.block_on(handle.attach(attach)).unwrap();
        let context = zmq::Context::new();
        let runner = Some(ends.runner(&context, bytes));
        Self { runtime, handle, _thread: thread, kernel, context, runner, _ends: ends, _reports: received }
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
    _ends: Ends,
}

impl Plain {
    fn start(wire: Wire, bytes: usize, proxied: bool) -> Self {
        let ends = Ends::new(wire);
        let (own, foreign) = (zmq::Context::new(), zmq::Context::new());
        let tasks = ends.agents(&own, zmq::PUSH, "in");
        let mut contexts = vec![own.clone(), foreign.clone()];
        let mut threads = Vec::new();
        let output = if proxied {
            let middle = zmq::Context::new();
            let front = ends.agents(&middle, zmq::PULL, "out");
            let back = socket(&middle, zmq::PUSH);
            back.bind(&ends.address("back")).unwrap();
            contexts.push(middle);
            threads.push(std::thread::spawn(move || {
                assert_eq!(zmq::proxy(&front, &back), Err(zmq::Error::ETERM));
            }));
            let pull = socket(&own, zmq::PULL);
            pull.connect(&ends.address("back")).unwrap();
            pull
        } else {
            ends.agents(&own, zmq::PULL, "out")
        };
        threads.push(ends.runner(&foreign, bytes));
        Self { tasks: Some(tasks), output: Some(output), contexts, threads, _ends: ends }
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

/// What is measured `n` times.
type Measured<'a> = &'a dyn Fn(Subject<'_>, u64) -> Duration;

/// Who is measured.
enum Subject<'a> {
    Plain(&'a Plain),
    Routed(&'a Routed),
}

fn routing(criterion: &mut Criterion) {
    let records: Measured = &|subject, n| match subject {
        // One task of many records per measurement: `n` records.
        Subject::Plain(plain) => plain.records(n),
        Subject::Routed(routed) => routed.records(n),
    };
    let round_trips: Measured = &|subject, n| match subject {
        Subject::Plain(plain) => plain.round_trips(n),
        Subject::Routed(routed) => routed.round_trips(n),
    };
    for (name, measured) in [("kernel-to-stream", records), ("execute-round-trip", round_trips)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for (wire, bytes) in Wire::ALL.into_iter().flat_map(|wire| PAYLOADS.map(|bytes| (wire, bytes))) {
            let id = |who: &str| BenchmarkId::new(format!("{who}-{}", wire.name()), bytes);
            for (who, proxied) in [("direct", false), ("zmq-proxy", true)] {
                let plain = Plain::start(wire, bytes, proxied);
                group.bench_function(id(who), |b| b.iter_custom(|n| measured(Subject::Plain(&plain), n)));
            }
            let routed = Routed::start(wire, bytes);
            group.bench_function(id("route"), |b| b.iter_custom(|n| measured(Subject::Routed(&routed), n)));
        }
        group.finish();
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = routing
);
criterion_main!(benches);
