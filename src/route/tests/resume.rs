//! Clients that come back, to the same routing thread or to one that was started anew on the same sockets.

use super::*;

/// The routing thread ends as it does with its agent; the runner stays.
async fn end(node: Node) -> TempDir {
    let Node { thread, links, .. } = node;
    tokio::task::spawn_blocking(move || thread.stop()).await.unwrap();
    links
}

/// Another one takes the kernel over.
async fn again(links: TempDir, kernel: &Kernel) -> (Node, mpsc::Receiver<Report>) {
    let (handle, thread) = start(Config::default()).unwrap();
    let reports = attach(&handle, kernel).await.unwrap();
    (Node { handle, thread, links }, reports)
}

fn cat() -> RunRequest {
    RunRequest { stdin: true, ..exec("cat") }
}

fn resume(received_bytes: u64) -> Resume {
    Resume { received_bytes, incarnation: Some("one".into()), ..Resume::default() }
}

async fn next(run: &mut StreamRun) -> Output {
    soon(run.output.recv()).await.expect("the run goes on")
}

#[tokio::test]
async fn a_run_survives_its_agent_with_its_input_and_output() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = cat();
    let mut run = node.handle.run(kernel.id, request.clone()).await.unwrap();
    assert_eq!(next(&mut run).await, Output::Started);
    assert_eq!(run.output.incarnation(), Some("one"));
    run.control.stdin("abcde".into()).await.unwrap();
    assert_eq!(next(&mut run).await, out("abcde"));
    let links = end(node).await;
    assert_eq!(all(run).await.last(), Some(&detached("agent-stopped")));

    let (node, mut reports) = again(links, &kernel).await;
    let Rejoined { mut run, stdin_bytes, stdin_room, started } =
        soon(node.handle.rejoin(kernel.id, request.clone(), resume(3))).await.unwrap();
    assert_eq!((stdin_bytes, stdin_room, started), (5, berth_link::STDIN_WINDOW, true));
    assert_eq!(next(&mut run).await, Output::Lost(2));
    report(&mut reports, |r| matches!(r, Report::OutputLost { bytes: 2, .. })).await;
    let busy = node.handle.rejoin(kernel.id, request.clone(), resume(3)).await.unwrap_err();
    assert_eq!(busy, RouteError::RunExists(request.run.clone()), "one client at a time");
    run.control.stdin("fg".into()).await.unwrap();
    assert_eq!(next(&mut run).await, out("fg"));
    run.control.stdin_eof().await.unwrap();
    assert_eq!(all(run).await.last(), Some(&finished(0)));
}

#[tokio::test]
async fn what_a_runner_wrote_without_an_agent_comes_whole_or_marked() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = exec("count 400 65536");
    let mut run = node.handle.run(kernel.id, request.clone()).await.unwrap();
    assert_eq!(next(&mut run).await, Output::Started);
    let mut received = 0;
    for _ in 0..3 {
        received += next(&mut run).await.console_bytes();
    }
    let links = end(node).await;
    drop(run);
    let (node, _reports) = again(links, &kernel).await;
    let Rejoined { run, .. } = soon(node.handle.rejoin(kernel.id, request, resume(received))).await.unwrap();
    let outputs = all(run).await;
    let Output::Lost(lost) = outputs[0] else { panic!("what its agent had taken is lost: {:?}", outputs[0]) };
    assert!(lost > 0);
    // After the gap nothing is missing: records carry their number.
    let mut at = (received + lost) / 65536;
    for output in &outputs[1..outputs.len() - 1] {
        let Output::Stdout(data) = output else { panic!("{output:?}") };
        assert_eq!(data[..8], at.to_le_bytes());
        at += 1;
    }
    assert_eq!((at, outputs.last()), (400, Some(&finished(0))));
}

#[tokio::test]
async fn an_end_that_came_without_an_agent_is_told_whenever_its_client_comes() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = exec("echo hello");
    let run = node.handle.run(kernel.id, request.clone()).await.unwrap();
    all(run).await;
    let links = end(node).await;
    let (node, _reports) = again(links, &kernel).await;
    for received in [5, 5, 2] {
        let Rejoined { run, .. } =
            soon(node.handle.rejoin(kernel.id, request.clone(), resume(received))).await.unwrap();
        let lost = Some(5 - received).filter(|lost| *lost > 0).map(Output::Lost);
        assert_eq!(all(run).await, lost.into_iter().chain([finished(0)]).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_client_that_was_lost_finds_its_output_where_it_left_it() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let request = cat();
    let mut run = node.handle.run(kernel.id, request.clone()).await.unwrap();
    let control = run.control.clone();
    assert_eq!(next(&mut run).await, Output::Started);
    control.stdin("one".into()).await.unwrap();
    assert_eq!(next(&mut run).await, out("one"));
    drop(run);
    control.stdin("two".into()).await.unwrap();
    let rejoin = || soon(node.handle.rejoin(kernel.id, request.clone(), resume(3)));
    let mut run = rejoin().await.unwrap().run;
    while next(&mut run).await != out("two") {}
    drop(run);
    control.stdin_eof().await.unwrap();
    // The run may end before or after its client is back: both get the end, and once.
    assert_eq!(all(rejoin().await.unwrap().run).await.last(), Some(&finished(0)));
    assert_eq!(all(rejoin().await.unwrap().run).await.last(), Some(&finished(0)));
}

#[tokio::test]
async fn a_run_that_was_never_sent_is_begun_and_one_of_another_runner_is_not() {
    let node = Node::start(Config::default());
    let (kernel, _reports) = node.attach().await;
    let request = exec("echo once");
    let resume = |incarnation: &str| Resume { incarnation: Some(incarnation.into()), ..Resume::default() };
    // Asked before the runner has ever answered.
    let early = tokio::spawn({
        let (handle, request, resume) = (node.handle.clone(), request.clone(), resume("one"));
        let id = kernel.id;
        async move { handle.rejoin(id, request, resume).await }
    });
    let _runner = FakeRunner::start(&kernel.dir, "one");
    let Rejoined { run, stdin_bytes, started, .. } = soon(early).await.unwrap().unwrap();
    assert_eq!((stdin_bytes, started), (0, false));
    assert_eq!(all(run).await, [Output::Started, out("once"), finished(0)]);
    let Rejoined { run, .. } =
        node.handle.rejoin(kernel.id, exec("echo never"), resume("another")).await.unwrap();
    assert_eq!(all(run).await, [Output::Ended(RunEnd::RunnerRestarted)]);
    let stranger = exec("echo never");
    let wrote = Resume { received_bytes: 1, ..resume("one") };
    let refused = node.handle.rejoin(kernel.id, stranger.clone(), wrote).await.unwrap_err();
    assert_eq!(refused, RouteError::RunForgotten(stranger.run));
}
