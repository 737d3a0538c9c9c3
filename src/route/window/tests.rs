//! The window by itself.

use super::*;
use crate::route::Step;
use crate::route::results::{ConsoleItem, RunStatus};

fn inbox(limits: Limits) -> Arc<Inbox> {
    let poll = mio::Poll::new().unwrap();
    let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
    Arc::new(Inbox::new(waker, limits))
}

fn window(inbox: &Arc<Inbox>) -> Window {
    let mut window = Window::new(inbox, "r".parse().unwrap());
    window.push(Output::Started);
    window
}

fn out(data: impl AsRef<[u8]>) -> Output {
    Output::Stdout(data.as_ref().to_vec().into())
}

fn text(window: &mut Window) -> String {
    let console = window.take(2).0.build().console;
    console
        .iter()
        .map(|item| match item {
            ConsoleItem::Stdout(text) | ConsoleItem::Stderr(text) => text.as_str(),
            _ => "?",
        })
        .collect()
}

#[test]
fn a_step_a_question_and_the_end_stop_one_result_each() {
    let mut window = window(&inbox(Limits::default()));
    assert!(!window.is_ready());
    window.push(Output::StepEnded { step: Step::Clean, exit_code: 0 });
    window.push(out("building"));
    window.push(Output::StepEnded { step: Step::Build, exit_code: 2 });
    window.push(Output::WaitingInput { is_password: Some(true) });
    window.push(out("last"));
    window.push(Output::Ended(RunEnd::Finished { exit_code: 5 }));
    let mut seen = Vec::new();
    for last in [false, false, false, true] {
        assert!(window.is_ready());
        let (batch, was_last) = window.take(2);
        assert_eq!(was_last, last);
        let result = batch.build();
        seen.push((result.status, result.exit_code, result.asks, result.console.len()));
    }
    let expected = [
        (RunStatus::CleanFinished, Some(0), None, 0),
        (RunStatus::BuildFinished, Some(2), None, 1),
        (RunStatus::WaitingInput, None, Some(Some(true)), 0),
        (RunStatus::Finished, Some(5), None, 1),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_character_that_a_result_would_cut_comes_whole_with_the_next() {
    let mut window = window(&inbox(Limits::default()));
    let smile = "\u{1f642}".as_bytes();
    window.push(out([b"a", &smile[..1]].concat()));
    assert_eq!(text(&mut window), "a");
    window.push(Output::Stderr("e".into()));
    window.push(out(&smile[1..2]));
    assert_eq!(text(&mut window), "e");
    assert_eq!(text(&mut window), "");
    window.push(out(&smile[2..3]));
    window.push(Output::Stderr("f".into()));
    window.push(out([&smile[3..], b"b"].concat()));
    assert_eq!(text(&mut window), "f\u{1f642}b");
}

#[test]
fn what_the_end_cuts_stays_cut_and_does_not_reach_the_next_step() {
    let mut window = window(&inbox(Limits::default()));
    window.push(out(b"a\xe2\x82"));
    window.push(Output::StepEnded { step: Step::Build, exit_code: 0 });
    window.push(out(b"\xacb"));
    assert_eq!(text(&mut window), "a");
    assert_eq!(text(&mut window), "\u{fffd}b");
}

#[test]
fn a_full_window_makes_the_kernel_wait_until_it_is_read() {
    let inbox = inbox(Limits { run_bytes: 1000, node_bytes: 10_000 });
    let mut window = window(&inbox);
    window.push(out([b'x'; 999]));
    assert!(!window.has_room());
    assert!(window.is_ready(), "a call is answered at once, whatever its patience");
    assert_eq!(text(&mut window).len(), 999);
    assert!(window.has_room());
    assert_eq!(inbox.node_buffered(), 0);
}

#[test]
fn a_window_that_nobody_polls_lets_its_oldest_output_go_and_says_so() {
    let inbox = inbox(Limits { run_bytes: 4000, node_bytes: 10_000 });
    let mut window = window(&inbox);
    window.abandon();
    for at in 0..100 {
        assert!(window.has_room());
        let data = [at; 100];
        window.push(if at % 2 == 0 {
            Output::Stdout(data.to_vec().into())
        } else {
            Output::Stderr(data.to_vec().into())
        });
    }
    let (batch, _) = window.take(2);
    let kept: usize = batch.items.iter().map(Item::bytes).sum();
    let Some(Item::Lost(lost)) = batch.items.first() else { panic!("{:?}", batch.items.first()) };
    assert_eq!(*lost as usize + kept, 100 * 100);
    assert!(kept >= 800, "{kept}");
    // Polled again, it keeps everything again.
    window.push(out([b'x'; 4000]));
    assert!(!window.has_room());
    drop(window);
    assert_eq!(inbox.node_buffered(), 0);
}

#[test]
fn a_record_beyond_the_contracts_limit_is_cut() {
    let inbox = inbox(Limits { run_bytes: 64 << 20, node_bytes: 64 << 20 });
    let mut window = window(&inbox);
    window.push(out(vec![b'x'; RECORD_MAX + 1]));
    assert_eq!(text(&mut window).len(), RECORD_MAX);
}

#[test]
fn much_output_comes_in_several_results_and_the_end_with_the_last() {
    let mut window = window(&inbox(Limits::default()));
    for _ in 0..5 {
        window.push(out(vec![b'x'; 1 << 20]));
        window.push(Output::Stderr("e".into()));
    }
    window.push(Output::Ended(RunEnd::Finished { exit_code: 0 }));
    let mut bytes = Vec::new();
    loop {
        let (batch, last) = window.take(2);
        bytes.push(batch.bytes());
        let status = batch.build().status;
        assert_eq!(status == RunStatus::Finished, last);
        if last {
            break;
        }
    }
    assert_eq!(bytes.iter().sum::<usize>(), 5 * ((1 << 20) + 1));
    assert!(bytes.iter().all(|bytes| *bytes <= RESULT_BYTES + (1 << 20)), "{bytes:?}");
    assert_eq!(bytes.len(), 3);
}
