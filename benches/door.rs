//! Calls through the callosum door, beside a bare echo of the same shape in the same run: a thread that waits as the
//! routing thread does and only passes frames on, ROUTER -> PUSH and PULL -> ROUTER, without the run machine, results
//! or a protocol.
//!
//! * `execute`: executions with one record of output, one in flight for each kernel (a kernel's runs happen one after
//!   another), answered by runners on threads;
//! * `ping`: RPC pings, 64 in flight, beside a ROUTER that sends back what it gets;
//! * `window`: records of one long run, polled, beside `zmq::proxy`;
//! * `busy-of-many`: executions of one kernel with 16 and 256 attached.
//!
//! The route and the door are the types that `serve` uses, with its defaults. Only the ratios mean anything on a shared
//! machine.

#![expect(clippy::unwrap_used, reason = "a bench may panic, and criterion's macro has no docs")]

use std::collections::HashMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth::ids::KernelId;
use berth::manager::door::CallosumDoor;
use berth::route::{self, Attach, Doorway, LinkAt};
use callosum::{Call, Outcome, Value, decode_reply, encode_call};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tokio::sync::mpsc;
use zmq::{DONTWAIT, SNDMORE, Socket};

mod peers;

use peers::{bound, connected, runner, send, socket};

const OKEY: &[u8] = b"\xc4\x00";
const IN_FLIGHT: usize = 64;

/// The route with a door and so many kernels, of which the first `busy` have a runner.
struct Routed {
    _runtime: tokio::runtime::Runtime,
    _handle: route::Handle,
    thread: Option<route::RouteThread>,
    kernels: Vec<KernelId>,
    endpoint: String,
    context: zmq::Context,
    runners: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
    _reports: mpsc::Receiver<route::Report>,
}

impl Routed {
    fn start(kernels: usize, busy: usize, bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, thread) = route::start(route::Config::default()).unwrap();
        let (dir, context) = (tempfile::tempdir().unwrap(), zmq::Context::new());
        let (reports, received) = mpsc::channel(16);
        let mut runners = Vec::new();
        let ids: Vec<_> = (0..kernels).map(|_| KernelId::random()).collect();
        for (at, kernel) in ids.iter().enumerate() {
            let link = dir.path().join(at.to_string());
            std::fs::create_dir(&link).unwrap();
            let attach =
                Attach { kernel: *kernel, at: LinkAt::Directory(link.clone()), reports: reports.clone() };
            runtime.block_on(handle.attach(attach)).unwrap();
            if at < busy {
                runners.push(runner(&context, &link, bytes));
            }
        }
        let door = Box::new(CallosumDoor::new("i-bench".parse().unwrap(), tokio::sync::mpsc::channel(1).0));
        let doorway = Doorway { listen: "tcp://127.0.0.1:0".into(), curve: None, door };
        let endpoint = runtime.block_on(handle.open_door(doorway)).unwrap();
        Self {
            _runtime: runtime,
            _handle: handle,
            thread: Some(thread),
            kernels: ids,
            endpoint,
            context,
            runners,
            _dir: dir,
            _reports: received,
        }
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        self.thread.take().unwrap().stop();
        self.context.destroy().unwrap();
        self.runners.drain(..).for_each(|runner| runner.join().unwrap());
    }
}

/// The same sockets, and a thread that passes frames on.
struct Bare {
    endpoint: String,
    context: zmq::Context,
    threads: Vec<JoinHandle<()>>,
    own: zmq::Context,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn start(kernels: usize, busy: usize, bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (own, context) = (zmq::Context::new(), zmq::Context::new());
        let router = socket(&own, zmq::ROUTER);
        router.bind("tcp://127.0.0.1:*").unwrap();
        let endpoint = router.get_last_endpoint().unwrap().unwrap();
        let mut pairs = Vec::new();
        let mut threads = Vec::new();
        for at in 0..kernels {
            let link = dir.path().join(at.to_string());
            std::fs::create_dir(&link).unwrap();
            pairs.push((bound(&own, zmq::PUSH, &link, "in"), bound(&own, zmq::PULL, &link, "out")));
            if at < busy {
                threads.push(runner(&context, &link, bytes));
            }
        }
        threads.push(std::thread::spawn(move || forward(&router, &pairs)));
        Self { endpoint, context, threads, own, _dir: dir }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The forwarder's sockets see its context end.
        let mut own = self.own.clone();
        let ending = std::thread::spawn(move || own.destroy().unwrap());
        self.context.destroy().unwrap();
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        ending.join().unwrap();
    }
}

/// `[peer, UPPER, header, code]` to the kernel that the header names by a number; its `finished` back.
fn forward(router: &Socket, pairs: &[(Socket, Socket)]) {
    let mut poll = Poll::new().unwrap();
    let all = std::iter::once(router).chain(pairs.iter().flat_map(|(push, pull)| [push, pull]));
    for (at, socket) in all.enumerate() {
        let fd = socket.get_fd().unwrap();
        poll.registry().register(&mut SourceFd(&fd), Token(at), Interest::READABLE).unwrap();
    }
    let mut events = Events::with_capacity(256);
    let mut waiting: HashMap<usize, std::collections::VecDeque<[Vec<u8>; 2]>> = HashMap::new();
    let mut listed: Vec<usize> = Vec::new();
    loop {
        for _ in 0..256 {
            let peer = match router.recv_bytes(DONTWAIT) {
                Ok(peer) => peer,
                Err(zmq::Error::EAGAIN) => break,
                Err(_) => return,
            };
            let _kind = router.recv_msg(DONTWAIT).unwrap();
            let header = router.recv_bytes(DONTWAIT).unwrap();
            let _body = router.recv_msg(DONTWAIT).unwrap();
            let at = usize::from(u16::from_le_bytes([header[0], header[1]]));
            // Waits for its runner to connect, which happens once.
            pairs[at].0.send("code", SNDMORE).unwrap();
            pairs[at].0.send("1", 0).unwrap();
            waiting.entry(at).or_default().push_back([peer, header]);
            listed.push(at);
        }
        let mut more = false;
        for at in std::mem::take(&mut listed) {
            let (push, pull) = &pairs[at];
            for left in (0..256).rev() {
                let Ok(kind) = pull.recv_msg(DONTWAIT) else { break };
                let payload = pull.recv_msg(DONTWAIT).unwrap();
                if &kind[..] == b"finished" {
                    let [peer, header] = waiting.get_mut(&at).unwrap().pop_front().unwrap();
                    for frame in [&peer[..], b"UPPER", &header] {
                        router.send(frame, SNDMORE | DONTWAIT).unwrap();
                    }
                    router.send(payload, DONTWAIT).unwrap();
                }
                if left == 0 {
                    listed.push(at);
                    more = true;
                }
            }
            let _ = push.get_events();
        }
        let Ok(state) = router.get_events() else { return };
        more |= state.contains(zmq::POLLIN);
        let wait = if more { Duration::ZERO } else { Duration::from_millis(100) };
        poll.poll(&mut events, Some(wait)).unwrap();
        listed
            .extend(events.iter().filter(|event| event.token().0 > 0).map(|event| (event.token().0 - 1) / 2));
        listed.sort_unstable();
        listed.dedup();
    }
}

/// Keeps calls in flight until so many are answered.
fn pipeline(
    client: &Socket,
    in_flight: usize,
    count: u64,
    mut call: impl FnMut(u32) -> [Vec<u8>; 2],
) -> Duration {
    let began = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < in_flight as u64 {
            let [header, body] = call(u32::try_from(sent % (1 << 31)).unwrap());
            client.send("UPPER", SNDMORE).unwrap();
            client.send(header, SNDMORE).unwrap();
            client.send(body, 0).unwrap();
            sent += 1;
        }
        let _kind = client.recv_msg(0).unwrap();
        let _header = client.recv_msg(0).unwrap();
        let _body = client.recv_msg(0).unwrap();
        answered += 1;
    }
    began.elapsed()
}

fn client(context: &zmq::Context, endpoint: &str) -> Socket {
    let client = socket(context, zmq::DEALER);
    client.set_rcvtimeo(60_000).unwrap();
    client.connect(endpoint).unwrap();
    client
}

/// `execute` of code that asks for so many records.
fn execute(kernel: &KernelId, run: Value, mode: &str, records: u64) -> Call {
    let kernel = kernel.to_string();
    let args = vec![
        "session".into(),
        kernel.into(),
        9.into(),
        run,
        mode.into(),
        records.to_string().into(),
        Value::Map(vec![]),
        Value::Nil,
    ];
    Call { args, ..Call::default() }
}

fn executions(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    kernels: usize,
    busy: usize,
    bytes: usize,
) {
    let context = zmq::Context::new();
    {
        let routed = Routed::start(kernels, busy, bytes);
        let client = client(&context, &routed.endpoint);
        let calls: Vec<Call> =
            routed.kernels[..busy].iter().map(|kernel| execute(kernel, Value::Nil, "query", 1)).collect();
        // Once, so that every kernel's runner is known.
        pipeline(&client, busy, busy as u64, |seq| {
            encode_call("execute", OKEY, seq, &calls[seq as usize % busy])
        });
        group.bench_function(BenchmarkId::new("door", name), |b| {
            b.iter_custom(|count| {
                pipeline(&client, busy, count, |seq| {
                    encode_call("execute", OKEY, seq, &calls[seq as usize % busy])
                })
            });
        });
    }
    let bare = Bare::start(kernels, busy, bytes);
    let client = client(&context, &bare.endpoint);
    let calls: Vec<Call> = (0..busy).map(|_| execute(&KernelId::random(), Value::Nil, "query", 1)).collect();
    // The same bytes; the number says which kernel, without a look into them.
    let call = |seq: u32| {
        let kernel = seq as usize % busy;
        let [header, body] = encode_call("execute", OKEY, seq, &calls[kernel]);
        [[&u16::try_from(kernel).unwrap().to_le_bytes()[..], &header].concat(), body]
    };
    pipeline(&client, busy, busy as u64, call);
    group.bench_function(BenchmarkId::new("bare-echo", name), |b| {
        b.iter_custom(|count| pipeline(&client, busy, count, call))
    });
}

fn door(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("execute");
    group.throughput(Throughput::Elements(1));
    for bytes in [64, 4096, 65_536] {
        executions(&mut group, &format!("1-kernel/{bytes}"), 1, 1, bytes);
    }
    executions(&mut group, "16-kernels/64", 16, 16, 64);
    executions(&mut group, "64-of-256-kernels/64", 256, 64, 64);
    group.finish();

    let mut group = criterion.benchmark_group("busy-of-many");
    group.throughput(Throughput::Elements(1));
    for kernels in [16, 256] {
        executions(&mut group, &kernels.to_string(), kernels, 1, 64);
    }
    group.finish();

    ping(criterion);
    window(criterion);
}

fn ping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ping");
    group.throughput(Throughput::Elements(1));
    let context = zmq::Context::new();
    let call = Call { args: vec!["ping".into()], ..Call::default() };
    let ping = |seq| encode_call("ping", OKEY, seq, &call);
    {
        let routed = Routed::start(0, 0, 0);
        let client = client(&context, &routed.endpoint);
        group.bench_function("door", |b| b.iter_custom(|count| pipeline(&client, IN_FLIGHT, count, ping)));
    }
    let own = zmq::Context::new();
    let router = socket(&own, zmq::ROUTER);
    router.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = router.get_last_endpoint().unwrap().unwrap();
    let echo = std::thread::spawn(move || {
        while let Ok(frame) = router.recv_msg(0) {
            let more = frame.get_more();
            router.send(frame, if more { SNDMORE } else { 0 }).unwrap();
        }
    });
    {
        let client = client(&context, &endpoint);
        group.bench_function("bare-echo", |b| {
            b.iter_custom(|count| pipeline(&client, IN_FLIGHT, count, ping))
        });
    }
    own.clone().destroy().unwrap();
    echo.join().unwrap();
    group.finish();
}

/// One run of many records, polled to its end.
fn polled(client: &Socket, kernel: &KernelId, records: u64, bytes: usize) -> Duration {
    let began = Instant::now();
    let (mut seen, mut mode) = (0, "query");
    for seq in 0.. {
        let [header, body] =
            encode_call("execute", OKEY, seq, &execute(kernel, "long".into(), mode, records));
        client.send_multipart([&b"UPPER"[..], &header, &body], 0).unwrap();
        let frames = client.recv_multipart(0).unwrap();
        let Outcome::Result(result) = decode_reply(&frames[1], &frames[2]).unwrap().outcome else { panic!() };
        if let Some(Value::Array(items)) = result.get("console") {
            for item in items {
                let Value::Array(pair) = item else { panic!() };
                seen += pair[1].as_str().unwrap().len();
            }
        }
        if result.get("status").and_then(Value::as_str) == Some("finished") {
            break;
        }
        mode = "continue";
    }
    assert_eq!(seen as u64, records * bytes as u64);
    began.elapsed()
}

fn window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernel-to-window");
    group.throughput(Throughput::Elements(1));
    let context = zmq::Context::new();
    for bytes in [64, 4096, 65_536] {
        {
            let routed = Routed::start(1, 1, bytes);
            let client = client(&context, &routed.endpoint);
            group.bench_function(BenchmarkId::new("window", bytes), |b| {
                b.iter_custom(|count| polled(&client, &routed.kernels[0], count, bytes));
            });
        }
        let proxied = Proxied::start(bytes);
        group.bench_function(BenchmarkId::new("zmq-proxy", bytes), |b| b.iter_custom(|n| proxied.records(n)));
    }
    group.finish();
}

/// A runner, `zmq::proxy`, and a PULL of our own.
struct Proxied {
    tasks: Option<Socket>,
    output: Option<Socket>,
    contexts: Vec<zmq::Context>,
    threads: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Proxied {
    fn start(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [own, middle, foreign] = [(); 3].map(|()| zmq::Context::new());
        let tasks = bound(&own, zmq::PUSH, dir.path(), "in");
        let front = bound(&middle, zmq::PULL, dir.path(), "out");
        let back = bound(&middle, zmq::PUSH, dir.path(), "back");
        let proxy = std::thread::spawn(move || assert_eq!(zmq::proxy(&front, &back), Err(zmq::Error::ETERM)));
        let output = connected(&own, zmq::PULL, dir.path(), "back");
        let threads = vec![proxy, runner(&foreign, dir.path(), bytes)];
        Self {
            tasks: Some(tasks),
            output: Some(output),
            contexts: vec![own, middle, foreign],
            threads,
            _dir: dir,
        }
    }

    fn records(&self, count: u64) -> Duration {
        let (tasks, output) = (self.tasks.as_ref().unwrap(), self.output.as_ref().unwrap());
        let began = Instant::now();
        send(tasks, "exec", count.to_string().as_bytes()).unwrap();
        let mut seen = 0;
        while &output.recv_msg(0).unwrap()[..] != b"finished" {
            let _payload = output.recv_msg(0).unwrap();
            seen += 1;
        }
        let _payload = output.recv_msg(0).unwrap();
        assert_eq!(seen, count);
        began.elapsed()
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        (self.tasks, self.output) = (None, None);
        self.contexts.iter_mut().for_each(|context| context.destroy().unwrap());
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1)).sample_size(10);
    targets = door
);
criterion_main!(benches);
