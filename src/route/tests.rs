//! The room as its callers see it, with real sockets and a runner on a thread.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

mod fake;
mod polled;
mod resume;

use fake::FakeRunner;

/// Longest a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A routing thread with a place for link directories.
struct Node {
    handle: Handle,
    thread: RouteThread,
    links: TempDir,
}

impl Node {
    fn start(config: Config) -> Self {
        let (handle, thread) = start(config).unwrap();
        Self { handle, thread, links: tempfile::tempdir().unwrap() }
    }

    /// A kernel with its reports.
    async fn attach(&self) -> (Kernel, mpsc::Receiver<Report>) {
        let id = KernelId::random();
        let dir = self.links.path().join(id.to_string());
        std::fs::create_dir(&dir).unwrap();
        let kernel = Kernel { id, dir };
        let reports = attach(&self.handle, &kernel).await.unwrap();
        (kernel, reports)
    }
}

struct Kernel {
    id: KernelId,
    dir: PathBuf,
}

async fn attach(handle: &Handle, kernel: &Kernel) -> Result<mpsc::Receiver<Report>, RouteError> {
    let (sender, reports) = mpsc::channel(64);
    let at = LinkAt::Directory(kernel.dir.clone());
    let attach = Attach { kernel: kernel.id, at, reports: sender };
    handle.attach(attach).await.map(|()| reports)
}

fn fast_keepalive() -> Config {
    Config { keepalive: Duration::from_millis(20), ..Config::default() }
}

fn exec(command: &str) -> RunRequest {
    let task = Task::Exec(command.into());
    RunRequest { run: RunId::random(), task, stdin: false, timeout: None }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened by now")
}

async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Everything a run says until its end.
async fn all(mut run: StreamRun) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(output) = soon(run.output.recv()).await {
        outputs.push(output);
    }
    outputs
}

fn finished(exit_code: i32) -> Output {
    Output::Ended(RunEnd::Finished { exit_code })
}

fn out(text: &str) -> Output {
    Output::Stdout(Bytes::copy_from_slice(text.as_bytes()))
}

fn detached(reason: &str) -> Output {
    Output::Ended(RunEnd::Detached { reason: reason.into() })
}

async fn report(reports: &mut mpsc::Receiver<Report>, wanted: impl Fn(&Report) -> bool) -> Report {
    soon(async {
        loop {
            let report = reports.recv().await.expect("the route reports");
            if wanted(&report) {
                return report;
            }
        }
    })
    .await
}

#[tokio::test]
async fn runs_go_there_and_back() {
    let node = Node::start(Config::default());
    let (kernel, mut reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let run = node.handle.run(kernel.id, exec("echo hello")).await.unwrap();
    let id = run.control.run().clone();
    assert_eq!(all(run).await, [Output::Started, out("hello"), finished(0)]);
    assert!(matches!(soon(reports.recv()).await, Some(Report::Answered(_))));
    let end = RunEnd::Finished { exit_code: 0 };
    assert_eq!(soon(reports.recv()).await, Some(Report::RunEnded { run: id, end }));
    for (task, expected) in [
        (Task::Argv(vec!["a  \"b\"".into()]), r#"argv: ["a  \"b\""]"#),
        (Task::Code("x = 1\n".into()), "code: x = 1\n"),
    ] {
        let run = node.handle.run(kernel.id, RunRequest { task, ..exec("") }).await.unwrap();
        assert_eq!(all(run).await[1], out(expected));
    }
}

#[tokio::test]
async fn standard_input_and_answers_reach_the_run() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = RunRequest { stdin: true, ..exec("cat") };
    let StreamRun { mut output, control } = node.handle.run(kernel.id, request).await.unwrap();
    let too_much = Bytes::from(vec![0; berth_link::STDIN_WINDOW + 1]);
    assert_eq!(control.stdin(too_much).await, Err(RouteError::Busy));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut rest = Bytes::from(sent.clone());
    let (mut window, mut back) = (berth_link::STDIN_WINDOW, Vec::new());
    loop {
        while window > 0 && !rest.is_empty() {
            let part = rest.split_to(window.min(40_000).min(rest.len()));
            window -= part.len();
            control.stdin(part).await.unwrap();
            if rest.is_empty() {
                control.stdin_eof().await.unwrap();
            }
        }
        match soon(output.recv()).await.unwrap() {
            Output::Stdout(bytes) => back.extend_from_slice(&bytes),
            Output::StdinCredit(bytes) => window += usize::try_from(bytes).unwrap(),
            Output::Ended(_) => break,
            _ => {}
        }
    }
    assert_eq!(back, sent);
    let mut run = node.handle.run(kernel.id, exec("ask")).await.unwrap();
    while soon(run.output.recv()).await != Some(Output::WaitingInput { is_password: None }) {}
    run.control.input("Ann".into()).await.unwrap();
    assert_eq!(all(run).await, [out("Ann"), finished(0)]);
}

#[tokio::test]
async fn a_slow_reader_gets_a_hundred_megabytes_in_order_and_bounded() {
    const RECORDS: u64 = 1600;
    const BYTES: usize = 64 << 10;
    let node = Node::start(Config::default());
    let (slow, _slow_reports) = node.attach().await;
    let (quick, _quick_reports) = node.attach().await;
    let _runners = [FakeRunner::start(&slow.dir, "slow"), FakeRunner::start(&quick.dir, "quick")];
    let mut run = node.handle.run(slow.id, exec(&format!("count {RECORDS} {BYTES}"))).await.unwrap();
    until(|| node.handle.counters().pauses > 0).await;
    assert_eq!(
        node.handle.ping(slow.id, PATIENCE).await,
        Err(RouteError::Blocked(run.control.run().clone()))
    );
    let beside = node.handle.run(quick.id, exec("echo unharmed")).await.unwrap();
    assert_eq!(all(beside).await[1], out("unharmed"));
    assert_eq!(soon(run.output.recv()).await, Some(Output::Started));
    for at in 0..RECORDS {
        let Some(Output::Stdout(bytes)) = soon(run.output.recv()).await else { panic!("record {at}") };
        assert_eq!((&bytes[..8], bytes.len()), (&at.to_le_bytes()[..], BYTES));
    }
    assert_eq!(soon(run.output.recv()).await, Some(finished(0)));
    assert_eq!(soon(run.output.recv()).await, None);
    let counters = node.handle.counters();
    assert!(counters.peak_run_bytes >= 8 << 20, "{counters:?}");
    assert!(counters.peak_run_bytes <= (8 << 20) + BYTES as u64 + 256, "{counters:?}");
    assert_eq!(counters.node_bytes, 0);
}

#[tokio::test]
async fn many_stuck_readers_share_the_nodes_memory_and_leave_room() {
    let limits = Limits { run_bytes: 512 << 10, node_bytes: 1 << 20 };
    let node = Node::start(Config { limits, ..Config::default() });
    let mut stuck = Vec::new();
    for at in 0..8 {
        let (kernel, reports) = node.attach().await;
        let runner = FakeRunner::start(&kernel.dir, "stuck");
        let run = node.handle.run(kernel.id, exec("count 100 32768")).await.unwrap();
        until(|| node.handle.counters().pauses > at).await;
        stuck.push((run, runner, reports));
    }
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "free");
    let run = node.handle.run(kernel.id, exec("count 100 32768")).await.unwrap();
    assert_eq!(all(run).await.len(), 102);
    let counters = node.handle.counters();
    assert!(counters.peak_node_bytes <= (1 << 20) + 9 * (33 << 10), "{counters:?}");
    for (run, _runner, _reports) in stuck {
        assert_eq!(all(run).await.len(), 102);
    }
    assert_eq!(node.handle.counters().node_bytes, 0);
}

#[tokio::test]
async fn output_of_a_lost_client_is_kept_for_a_while_and_then_goes_on_unseen() {
    let node = Node::start(Config { lost_client: Duration::from_millis(200), ..Config::default() });
    let (kernel, mut reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let run = node.handle.run(kernel.id, exec("count 400 65536")).await.unwrap();
    until(|| node.handle.counters().pauses > 0).await;
    drop(run);
    let ended = report(&mut reports, |r| matches!(r, Report::RunEnded { .. })).await;
    assert!(matches!(ended, Report::RunEnded { end: RunEnd::Cancelled, .. }));
    until(|| node.handle.counters().node_bytes == 0).await;
    let run = node.handle.run(kernel.id, exec("echo next")).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, out("next"), finished(0)]);
    assert!(node.handle.counters().stray > 0);
}

#[tokio::test]
async fn waiting_runs_are_cancelled_and_the_rest_goes_on() {
    let node = Node::start(Config::default());
    let (kernel, mut reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let mut hang = node.handle.run(kernel.id, exec("hang")).await.unwrap();
    assert_eq!(soon(hang.output.recv()).await, Some(Output::Started));
    let dropped = node.handle.run(kernel.id, exec("echo b")).await.unwrap();
    let cancelled = node.handle.run(kernel.id, exec("echo c")).await.unwrap();
    let last = node.handle.run(kernel.id, exec("echo d")).await.unwrap();
    let same_id = RunRequest { run: hang.control.run().clone(), ..exec("echo e") };
    let exists = node.handle.run(kernel.id, same_id.clone()).await.unwrap_err();
    assert_eq!(exists, RouteError::RunExists(same_id.run));
    let dropped_id = dropped.control.run().clone();
    drop(dropped);
    cancelled.control.cancel().await.unwrap();
    assert_eq!(all(cancelled).await, [Output::Ended(RunEnd::Cancelled)]);
    let ended =
        |report: &Report| *report == Report::RunEnded { run: dropped_id.clone(), end: RunEnd::Cancelled };
    report(&mut reports, ended).await;
    hang.control.interrupt().await.unwrap();
    assert_eq!(all(hang).await, [finished(130)]);
    assert_eq!(all(last).await, [Output::Started, out("d"), finished(0)]);
}

#[tokio::test]
async fn a_run_given_up_leaks_nothing_into_the_next() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = RunRequest { stdin: true, ..exec("cat") };
    let cat = node.handle.run(kernel.id, request).await.unwrap();
    cat.control.stdin("not for you".into()).await.unwrap();
    cat.control.cancel().await.unwrap();
    cat.control.stdin("nor this".into()).await.unwrap();
    let next = node.handle.run(kernel.id, exec("echo mine")).await.unwrap();
    assert_eq!(all(cat).await.last(), Some(&Output::Ended(RunEnd::Cancelled)));
    assert_eq!(all(next).await, [Output::Started, out("mine"), finished(0)]);
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_interrupted() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = RunRequest { timeout: Some(Duration::from_millis(10)), ..exec("hang") };
    let run = node.handle.run(kernel.id, request).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, Output::Ended(RunEnd::TimedOut)]);
    let run = node.handle.run(kernel.id, exec("echo next")).await.unwrap();
    assert_eq!(all(run).await[1], out("next"));
}

#[tokio::test]
async fn a_runner_started_anew_ends_the_runs_and_serves_new_ones() {
    let node = Node::start(fast_keepalive());
    let (kernel, mut reports) = node.attach().await;
    let runner = FakeRunner::start(&kernel.dir, "one");
    let mut run = node.handle.run(kernel.id, exec("hang")).await.unwrap();
    let waiting = node.handle.run(kernel.id, exec("echo later")).await.unwrap();
    assert_eq!(soon(run.output.recv()).await, Some(Output::Started));
    let is_running = |r: &Report| matches!(r, Report::Answered(status) if status.running.is_some());
    report(&mut reports, is_running).await;
    drop(runner);
    report(&mut reports, |r| matches!(r, Report::Silent(_))).await;
    let _runner = FakeRunner::start(&kernel.dir, "two");
    assert_eq!(all(run).await, [Output::Ended(RunEnd::RunnerRestarted)]);
    assert_eq!(all(waiting).await, [Output::Ended(RunEnd::RunnerRestarted)]);
    let run = node.handle.run(kernel.id, exec("echo again")).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, out("again"), finished(0)]);
}

#[tokio::test]
async fn silence_is_reported_until_a_runner_answers() {
    let node = Node::start(fast_keepalive());
    let (kernel, mut reports) = node.attach().await;
    report(&mut reports, |r| matches!(r, Report::Silent(_))).await;
    let deadline = Duration::from_millis(1);
    let silent = RouteError::Silent { kernel: kernel.id, deadline };
    assert_eq!(node.handle.ping(kernel.id, deadline).await, Err(silent));
    let _runner = FakeRunner::start(&kernel.dir, "one");
    report(&mut reports, |r| matches!(r, Report::Answered(_))).await;
    let ping = || node.handle.ping(kernel.id, PATIENCE);
    let (one, two) = tokio::join!(ping(), ping());
    assert_eq!(one.unwrap().incarnation.as_deref(), Some("one"));
    assert!(two.is_ok());
}

#[tokio::test]
async fn an_agent_that_comes_back_waits_for_the_run_it_does_not_know() {
    let before = Node::start(Config::default());
    let (kernel, _reports) = before.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let mut unknown = before.handle.run(kernel.id, exec("hang")).await.unwrap();
    assert_eq!(soon(unknown.output.recv()).await, Some(Output::Started));
    // The first answers may have been asked for before the task was sent.
    soon(async {
        while before.handle.ping(kernel.id, PATIENCE).await.unwrap().running.as_deref() != Some("exec") {}
    })
    .await;
    let Node { handle, thread, links } = before;
    tokio::task::spawn_blocking(move || thread.stop()).await.unwrap();
    assert_eq!(all(unknown).await, [detached("agent-stopped")]);
    assert_eq!(handle.interrupt(kernel.id).await, Err(RouteError::Closed));
    // What a killed agent leaves.
    for name in ["in", "out"] {
        drop(UnixListener::bind(kernel.dir.join(name)).unwrap());
    }
    let (handle, _thread) = start(fast_keepalive()).unwrap();
    let mut reports = attach(&handle, &kernel).await.unwrap();
    let run = handle.run(kernel.id, exec("echo mine")).await.unwrap();
    report(&mut reports, |r| matches!(r, Report::Answered(_))).await;
    handle.interrupt(kernel.id).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, out("mine"), finished(0)]);
    drop(links);
}

#[tokio::test]
async fn detaching_ends_runs_and_removes_the_sockets() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    for name in ["in", "out"] {
        let mode = std::fs::metadata(kernel.dir.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
    }
    assert_eq!(attach(&node.handle, &kernel).await.unwrap_err(), RouteError::AlreadyAttached(kernel.id));
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let mut current = node.handle.run(kernel.id, exec("hang")).await.unwrap();
    let waiting = node.handle.run(kernel.id, exec("echo b")).await.unwrap();
    assert_eq!(soon(current.output.recv()).await, Some(Output::Started));
    node.handle.detach(kernel.id, "user-requested").await.unwrap();
    node.handle.detach(kernel.id, "user-requested").await.unwrap();
    assert_eq!(all(current).await, [detached("user-requested")]);
    assert_eq!(all(waiting).await, [detached("user-requested")]);
    assert_eq!(std::fs::read_dir(&kernel.dir).unwrap().count(), 0);
    let refused = node.handle.run(kernel.id, exec("echo c")).await.unwrap_err();
    assert_eq!(refused, RouteError::NotAttached(kernel.id));
    let mut reports = attach(&node.handle, &kernel).await.unwrap();
    node.handle.run(kernel.id, exec("echo d")).await.map(drop).unwrap();
    report(&mut reports, |r| matches!(r, Report::Answered(_))).await;
}

#[tokio::test]
async fn garbage_is_counted_and_survived() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let run = node.handle.run(kernel.id, exec("garbage")).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, finished(-1)]);
    until(|| node.handle.counters().stray == 7).await;
    let run = node.handle.run(kernel.id, exec("echo fine")).await.unwrap();
    assert_eq!(all(run).await, [Output::Started, out("fine"), finished(0)]);
}

#[tokio::test]
async fn large_records_pass_unharmed() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let run = node.handle.run(kernel.id, exec("count 3 1000000")).await.unwrap();
    let outputs = all(run).await;
    let lengths: Vec<_> = outputs
        .iter()
        .filter_map(|o| match o {
            Output::Stdout(b) => Some(b.len()),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [1_000_000; 3]);
}

#[tokio::test]
async fn the_link_directory_may_have_a_long_path_and_must_exist() {
    let node = Node::start(Config::default());
    let parent = node.links.path().join("p".repeat(120));
    std::fs::create_dir(&parent).unwrap();
    let (id, dir) = (KernelId::random(), parent.join("link"));
    let kernel = Kernel { id, dir };
    let refused = attach(&node.handle, &kernel).await.unwrap_err();
    assert!(refused.to_string().ends_with("No such file or directory (os error 2)"), "{refused}");
    std::fs::create_dir(&kernel.dir).unwrap();
    let mut reports = attach(&node.handle, &kernel).await.unwrap();
    // libzmq in the runner has the same limit; in a container the path is short.
    let short = node.links.path().join("s");
    std::os::unix::fs::symlink(&kernel.dir, &short).unwrap();
    let _runner = FakeRunner::start(&short, "one");
    report(&mut reports, |r| matches!(r, Report::Answered(_))).await;
}

#[tokio::test]
async fn a_thousand_sockets_are_not_the_limit() {
    let node = Node::start(Config { keepalive: Duration::from_secs(3600), ..Config::default() });
    let mut kernels = Vec::new();
    for _ in 0..520 {
        kernels.push(node.attach().await);
    }
    let (kernel, reports) = kernels.last_mut().unwrap();
    let _runner = FakeRunner::start(&kernel.dir, "last");
    report(reports, |r| matches!(r, Report::Answered(_))).await;
    for (kernel, _) in &kernels {
        node.handle.detach(kernel.id, "done").await.unwrap();
    }
    assert!(node.handle.beats() > 0);
}

#[tokio::test]
async fn the_threads_end_is_noticed() {
    let Node { handle, mut thread, links: _links } = Node::start(Config::default());
    handle.inbox_for_tests().push_always(inbox::Request::Stop);
    soon(thread.ended()).await;
    assert_eq!(handle.interrupt(KernelId::random()).await, Err(RouteError::Closed));
}

/// Two ports that nobody listens on.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap().port())
}

#[tokio::test]
async fn a_runner_that_listens_is_connected_to_whenever_it_does() {
    let node = Node::start(fast_keepalive());
    let (ports, kernel) = (free_ports(), KernelId::random());
    let (sender, mut reports) = mpsc::channel(64);
    let [port_in, port_out] = ports;
    let at = LinkAt::Loopback { port_in, port_out };
    node.handle.attach(Attach { kernel, at: at.clone(), reports: sender.clone() }).await.unwrap();
    let again = node.handle.attach(Attach { kernel, at, reports: sender }).await;
    assert_eq!(again, Err(RouteError::AlreadyAttached(kernel)));
    let run = node.handle.run(kernel, exec("echo early")).await.unwrap();
    let runner = FakeRunner::listen(ports, "one");
    assert_eq!(all(run).await, [Output::Started, out("early"), finished(0)]);
    // What the dead one was given is not given to the next.
    let lost = node.handle.run(kernel, exec("hang")).await.unwrap();
    drop(runner);
    let _runner = FakeRunner::listen(ports, "two");
    assert_eq!(all(lost).await.last(), Some(&Output::Ended(RunEnd::RunnerRestarted)));
    let run = node.handle.run(kernel, exec("count 2000 1000")).await.unwrap();
    assert_eq!(all(run).await.len(), 2002);
    report(&mut reports, |report| matches!(report, Report::Answered(status) if status.tasks_done > 0)).await;
    node.handle.detach(kernel, "user-requested").await.unwrap();
}
