//! The task with a scheduler of the tests' own: a runtime of one thread, so that a reply to `books`
//! means that everything sent before it has been looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::*;
use crate::amount::ONE;
use crate::policy::bindings::{scheduling, types};

mod node;

use node::{AT_ONCE, GIB, LONG, Node, by, decision, offer, refusal, request, said};

#[tokio::test]
async fn a_place_is_taken_and_given_back_when_its_share_is_dropped() {
    let node = Node::new(2);
    let placed = node.placed("k1", &[("mem", GIB), ("cpu", 2 * ONE)]).await;
    let shown: Vec<_> =
        placed.share.allocations().iter().map(|a| (a.slot.as_str(), a.device.as_str(), a.amount)).collect();
    assert_eq!(shown, [("cpu", "0", ONE), ("cpu", "1", ONE), ("mem", "root", GIB)]);
    assert_eq!(placed.by.function, "place");
    assert_eq!(node.held().await, BTreeMap::from([("cpu".into(), 2 * ONE), ("mem".into(), GIB)]));
    drop(placed);
    assert_eq!(node.held().await, BTreeMap::new());
}

#[tokio::test]
async fn what_the_node_can_never_give_is_refused_with_what_is_there() {
    let node = Node::new(2);
    let check = async |wants: &[(&str, u64)], expected: (String, String, String)| {
        assert_eq!(node.refused(wants, LONG).await, expected);
    };
    check(
        &[("cpu", 1000 * ONE)],
        said("not-enough-free", "1000 cores asked, 2 offered", "ask for at most 2"),
    )
    .await;
    check(
        &[("mem", 64 * GIB)],
        said("not-enough-free", "64g of memory asked, 4g offered", "ask for at most 4g"),
    )
    .await;
    check(
        &[("cpu", ONE + ONE / 2)],
        said("not-a-multiple", "1.5 cores asked, but cpu goes in steps of 1", "ask for 1 or 2"),
    )
    .await;
    check(
        &[("cpu", ONE / 2)],
        said("not-a-multiple", "0.5 cores asked, but cpu goes in steps of 1", "ask for 1"),
    )
    .await;
    check(
        &[("tpu.device", ONE)],
        said(
            "no-such-slot",
            "this node has no slot tpu.device; it offers cpu, mem, cuda.device, cuda.shares",
            "`berth slots` shows what there is",
        ),
    )
    .await;
    check(
        &[("cuda.device", 2 * ONE)],
        said("unique-slot", "2 cuda.device asked, but a kernel can have only one", "ask for 1"),
    )
    .await;
    check(
        &[("cuda.device", ONE), ("cuda.shares", ONE)],
        said("exclusive-slots", "cuda.device and cuda.shares exclude each other", "ask for one of them"),
    )
    .await;
    check(&[("cpu", ONE), ("cpu", ONE)], said("slot-twice", "cpu is asked for twice", "ask for it once"))
        .await;
    check(&[("cpu", 0)], said("invalid-amount", "0 cores asked", "ask for more than 0, or leave cpu out"))
        .await;
    assert_eq!(node.questions(), 0, "nobody was asked");
    let recorded = node.script.recorded.lock().unwrap().clone();
    assert_eq!((recorded.len(), recorded[0].as_str()), (9, "not-enough-free"), "and the journal has it");
}

#[tokio::test]
async fn a_refusal_counts_and_names_who_holds_it() {
    let node = Node::new(2);
    let _k1 = node.placed("k1", &[("cpu", ONE), ("mem", 3 * GIB)]).await;
    assert_eq!(
        node.refused(&[("cpu", 2 * ONE)], AT_ONCE).await,
        said(
            "not-enough-free",
            "2 cores asked, 1 free; k1 holds 1",
            "`berth stop k1`, or wait with `--wait`"
        )
    );
    let _k2 = node.placed("k2", &[("mem", GIB / 2)]).await;
    assert_eq!(
        node.refused(&[("mem", GIB), ("cpu", 2 * ONE)], AT_ONCE).await.1,
        "1g of memory asked, 512m free; k1 holds 3g, k2 holds 512m; and 2 cores asked, 1 free; k1 holds 1"
    );
    assert_eq!(node.refused(&[("mem", GIB)], AT_ONCE).await.2, "`berth stop k2`, or wait with `--wait`");
}

#[tokio::test]
async fn whoever_waits_gets_room_when_it_comes_back() {
    let node = Node::new(2);
    let k1 = node.placed("k1", &[("cpu", 2 * ONE)]).await;
    let waiting = node.waits("k2", &[("cpu", ONE)], LONG).await;
    drop(k1);
    let k2 = waiting.await.unwrap();
    assert_eq!(k2.share.allocations().len(), 1);
}

#[tokio::test]
async fn a_drained_node_takes_no_new_kernels_and_leaves_the_others_alone() {
    let node = Node::new(2);
    let k1 = node.placed("k1", &[("cpu", 2 * ONE)]).await;
    let waiting = node.waits("k2", &[("cpu", ONE)], LONG).await;
    node.handle.set_draining(true);
    let refused = waiting.await.unwrap_err();
    assert_eq!(refused.refusal.code, "draining");
    assert!(refused.hint.unwrap().starts_with("`berth undrain`"));
    assert_eq!(node.refused(&[], AT_ONCE).await.0, "draining");
    assert_eq!(node.held().await.len(), 1, "k1 keeps what it has");
    node.handle.set_draining(false);
    drop(k1);
    node.placed("k3", &[("cpu", 2 * ONE)]).await;
}

#[tokio::test]
async fn nobody_overtakes_whoever_waits_for_the_same_slot() {
    let node = Node::new(2);
    let k1 = node.placed("k1", &[("cpu", ONE)]).await;
    let head = node.waits("head", &[("cpu", 2 * ONE)], LONG).await;
    let second = node.waits("second", &[("cpu", ONE)], LONG).await;
    assert_eq!(
        node.refused(&[("cpu", ONE)], AT_ONCE).await,
        said(
            "not-enough-free",
            "1 core asked, 1 free, but head came first and waits for 2",
            "wait in line with `--wait`"
        )
    );
    // These want nothing that the others wait for.
    let _mem = node.placed("m", &[("mem", GIB)]).await;
    let _none = node.placed("n", &[]).await;
    drop(k1);
    let head = head.await.unwrap();
    let second_in_line = node.waits("third", &[("cpu", ONE)], LONG).await;
    drop(head);
    let second = second.await.unwrap();
    drop(second_in_line.await.unwrap());
    drop(second);
    assert_eq!(node.held().await, BTreeMap::from([("mem".to_owned(), GIB)]));
}

#[tokio::test]
async fn a_waiter_that_gives_up_makes_way() {
    let node = Node::new(2);
    let _k1 = node.placed("k1", &[("cpu", ONE)]).await;
    let head = node.waits("head", &[("cpu", 2 * ONE)], LONG).await;
    let second = node.waits("second", &[("cpu", ONE)], LONG).await;
    drop(head);
    second.await.unwrap();
}

#[tokio::test]
async fn waiting_ends_with_the_time() {
    let node = Node::new(2);
    let _k1 = node.placed("k1", &[("cpu", ONE)]).await;
    assert_eq!(
        node.refused(&[("cpu", 2 * ONE)], Some(Duration::from_millis(1))).await,
        said(
            "wait-timeout",
            "waited 1ms for room; 2 cores asked, 1 free; k1 holds 1",
            "`berth stop k1`, or wait longer"
        )
    );
    // No time to wait, but room: it is placed.
    node.handle.place(request("k2", &[("cpu", ONE)]), Some(Duration::ZERO)).await.unwrap();
    // A time beyond any clock.
    let endless = node.waits("k3", &[("cpu", 2 * ONE)], Some(Duration::MAX)).await;
    drop(endless);
}

#[tokio::test]
async fn nothing_is_placed_before_there_is_an_offer() {
    let soon = Config { ready_within: Duration::from_millis(1), ..Config::default() };
    let node = Node::with(soon, None);
    assert_eq!(
        node.refused(&[], AT_ONCE).await,
        said(
            "not-ready",
            "the node does not know yet what it offers",
            "try again in a moment; `berth status` says what is wrong"
        )
    );
    let waiting = node.waits("k1", &[("cpu", ONE)], LONG).await;
    node.offers.send_replace(Some(offer(1)));
    let _k1 = waiting.await.unwrap();
    let patient = Node::with(Config::default(), None);
    let waiting = patient.waits("k1", &[("cpu", ONE)], AT_ONCE).await;
    patient.offers.send_replace(Some(offer(1)));
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_policy_may_refuse_even_what_books_nothing() {
    let node = Node::new(1);
    node.script.say.lock().unwrap().push(Err(refusal("image-not-allowed", false)));
    let refused = node.handle.place(request("k1", &[]), LONG).await.unwrap_err();
    assert_eq!(refused.refusal, refusal("image-not-allowed", false));
    assert_eq!(refused.by, Some(Box::new(by("place"))));
    let question = node.script.placed.lock().unwrap()[0].clone();
    assert_eq!((question.choice.stock.len(), question.request.wants.len()), (0, 0));
}

#[tokio::test]
async fn a_policy_that_says_later_is_asked_again_when_something_changes() {
    let node = Node::new(4);
    let k1 = node.placed("k1", &[("cpu", ONE)]).await;
    node.script.say.lock().unwrap().push(Err(refusal("not-on-one-numa-node", true)));
    let waiting = node.waits("k2", &[("cpu", 2 * ONE)], LONG).await;
    node.handle.books().await;
    assert_eq!(node.questions(), 2, "not asked again while nothing changed");
    drop(k1);
    waiting.await.unwrap();
    assert_eq!(node.questions(), 3);
    // Without `wait` it is a refusal.
    node.script.say.lock().unwrap().push(Err(refusal("not-on-one-numa-node", true)));
    assert_eq!(node.refused(&[("cpu", ONE)], AT_ONCE).await.0, "not-on-one-numa-node");
    // It is asked again after a while too: it may go by the time of day.
    let often = Config { ask_again_every: Duration::from_millis(1), ..Config::default() };
    let node = Node::with(often, Some(offer(1)));
    node.script.say.lock().unwrap().push(Err(refusal("at-night-only", true)));
    node.handle.place(request("k3", &[("cpu", ONE)]), LONG).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_cannot_be_booked_books_nothing() {
    let node = Node::new(2);
    let share = |device, slot, amount| types::Share { device, slot, amount };
    let lies = [
        (vec![], "its shares are not what was asked for"),
        (vec![share(0, 0, 2 * ONE)], "its shares are not what was asked for"),
        (vec![share(0, 0, ONE), share(2, 1, 1)], "it gives a slot that was not asked for"),
        (vec![share(99, 0, ONE)], "it names a device that does not exist"),
        (vec![share(0, 99, ONE)], "it names a slot that does not exist"),
        (vec![share(2, 0, ONE)], "1000000 of cpu on device root asked, 0 free"),
        (vec![share(0, 0, u64::MAX), share(1, 0, u64::MAX)], "its shares are not what was asked for"),
    ];
    for (lie, problem) in lies {
        *node.script.say.lock().unwrap() = vec![Ok(lie.clone()), Ok(lie.clone()), Ok(lie)];
        let (code, message, _) = node.refused(&[("cpu", ONE)], LONG).await;
        assert_eq!(code, "placement-failed");
        assert_eq!(message, format!("the placement could not be booked: {problem}"));
        assert_eq!(node.held().await, BTreeMap::new());
    }
}

#[tokio::test]
async fn the_books_go_on_while_a_policy_thinks() {
    let node = Node::new(2);
    let k1 = node.placed("k1", &[("cpu", ONE)]).await;
    let gate = Arc::new(Notify::new());
    *node.script.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let slow = node.waits("slow", &[("cpu", ONE)], AT_ONCE).await;
    let behind = node.waits("behind", &[("mem", GIB)], AT_ONCE).await;
    assert_eq!(node.questions(), 2, "placement is serial");
    drop(k1);
    assert_eq!(node.held().await, BTreeMap::new());
    let (permit, _) = node.handle.start_permit(request("other", &[])).await.unwrap();
    drop(permit);
    // The offer changes meanwhile: the answer goes by the one that was asked about.
    node.offers.send_replace(Some(offer(3)));
    node.handle.books().await;
    gate.notify_one();
    assert_eq!(slow.await.unwrap().share.allocations()[0].device, "1");
    gate.notify_one();
    behind.await.unwrap();
}

#[tokio::test]
async fn a_place_that_nobody_receives_comes_back() {
    let node = Node::new(2);
    let gate = Arc::new(Notify::new());
    *node.script.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let gone = node.waits("gone", &[("cpu", ONE)], AT_ONCE).await;
    drop(gone);
    gate.notify_one();
    assert_eq!(node.held().await, BTreeMap::new());
    // Answered, but dropped before it was looked at.
    let unread = node.waits("unread", &[("cpu", ONE)], AT_ONCE).await;
    gate.notify_one();
    assert_eq!(node.held().await, BTreeMap::from([("cpu".to_owned(), ONE)]));
    drop(unread);
    assert_eq!(node.held().await, BTreeMap::new());
}

#[tokio::test]
async fn what_a_kernel_held_before_is_booked_and_shown_though_not_offered() {
    let node = Node::new(1);
    let kernel = KernelId::random();
    let part = |slot: &str, device: &str, amount| Allocation {
        slot: slot.parse().unwrap(),
        device: device.to_owned(),
        amount,
    };
    let held = vec![part("rocm.device", "7", ONE), part("cpu", "0", ONE), part("cpu", "5", ONE)];
    let share = node.handle.restore(kernel, "old".to_owned(), held.clone()).await.unwrap();
    assert_eq!(share.allocations(), [part("cpu", "0", ONE), part("cpu", "5", ONE), held[0].clone()]);
    let books = node.handle.books().await;
    let cpu = &books[0];
    assert_eq!((cpu.slot.as_str(), cpu.kind.as_str(), cpu.offered, cpu.held), ("cpu", "count", ONE, 2 * ONE));
    assert_eq!(cpu.devices, [("0".to_owned(), ONE, ONE), ("5".to_owned(), 0, ONE)]);
    assert_eq!(cpu.holders, [(kernel, "old".to_owned(), 2 * ONE)]);
    assert_eq!(books[1].kind, "bytes");
    let last = books.last().unwrap();
    assert_eq!((last.slot.as_str(), last.offered, last.held), ("rocm.device", 0, ONE));
    let refused = node.handle.restore(kernel, "old".to_owned(), held).await.unwrap_err();
    assert_eq!(refused.refusal.code, "already-booked");
    assert_eq!(
        node.refused(&[("cpu", ONE)], AT_ONCE).await.1,
        "1 core asked, 0 free; old holds 2",
        "what is held beyond the offer does not make room"
    );
    drop(share);
    assert_eq!(node.held().await, BTreeMap::new());
}

#[tokio::test]
async fn a_kernel_that_drops_its_share_can_take_another_at_once() {
    let node = Node::new(1);
    let request = request("k1", &[("cpu", ONE)]);
    for _ in 0..20 {
        drop(node.handle.place(request.clone(), AT_ONCE).await.unwrap());
    }
    let _held = node.handle.place(request.clone(), AT_ONCE).await.unwrap();
    let twice = Request { wants: Vec::new(), ..request };
    let refused = node.handle.place(twice, AT_ONCE).await.unwrap_err();
    assert_eq!(refused.refusal.code, "already-booked");
}

#[tokio::test]
async fn starts_are_bounded_and_permits_come_back() {
    let node = Node::with(Config { start_limit: 2, ..Config::default() }, Some(offer(1)));
    let start = |name: &str| Box::pin(node.handle.start_permit(request(name, &[])));
    let (one, by) = start("one").await.unwrap();
    assert_eq!(by.function, "order");
    let (_two, _) = start("two").await.unwrap();
    let (mut three, mut four) = (start("three"), start("four"));
    assert!(three.as_mut().now_or_never().is_none());
    assert!(four.as_mut().now_or_never().is_none());
    node.handle.books().await;
    drop(three);
    drop(one);
    let (_four, _) = four.await.unwrap();
    let question = node.script.ordered.lock().unwrap().last().unwrap().clone();
    assert_eq!((question.waiting.len(), question.load.starting, question.load.start_limit), (1, 1, 2));
    assert_eq!(question.load.memory_free, 4 * GIB);
    let tally = &question.load.tallies[0];
    assert_eq!((tally.owner.as_str(), tally.starting, tally.running), ("1000", 1, 0));
}

#[tokio::test]
async fn the_policy_orders_holds_back_and_refuses_starts() {
    use scheduling::Verdict;
    let node = Node::with(Config { start_limit: 1, ..Config::default() }, Some(offer(1)));
    let start = |name: &str| Box::pin(node.handle.start_permit(request(name, &[])));
    let (running, _) = start("running").await.unwrap();
    let (mut early, mut late, mut never) = (start("early"), start("late"), start("never"));
    for waiting in [&mut early, &mut late, &mut never] {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    node.handle.books().await;
    *node.script.verdicts.lock().unwrap() = vec![vec![
        decision(1, Verdict::Start),
        decision(77, Verdict::Start),
        decision(0, Verdict::Wait("not yet".to_owned())),
        decision(
            2,
            Verdict::Refuse(types::Refusal {
                code: "quota".to_owned(),
                message: "no".to_owned(),
                retry_later: false,
            }),
        ),
    ]];
    drop(running);
    let (late, _) = late.await.unwrap();
    assert_eq!(never.await.unwrap_err().refusal.code, "quota");
    node.handle.books().await;
    assert!(early.as_mut().now_or_never().is_none());
    drop(late);
    early.await.unwrap();
}

#[tokio::test]
async fn a_policy_sees_what_is_free_and_who_is_near() {
    let node = Node::new(2);
    let tenant = request("k1", &[("cpu", ONE), ("cuda.shares", ONE / 2)]);
    let _k1 = node.handle.place(tenant.clone(), AT_ONCE).await.unwrap();
    let sibling =
        Request { session: tenant.session, ..request("k2", &[("cpu", ONE), ("cuda.shares", ONE / 10)]) };
    let _k2 = node.handle.place(sibling, AT_ONCE).await.unwrap();
    let mut asked = node.script.placed.lock().unwrap();
    let question = asked.pop().unwrap();
    let stock: Vec<_> = question.choice.stock.iter().map(|s| (s.device, s.slot, s.free, s.offered)).collect();
    assert_eq!(stock, [(1, 0, ONE, ONE), (3, 3, ONE / 2, ONE)]);
    let tenants: Vec<_> = question.choice.tenants.iter().map(|t| (t.device, t.slot, t.amount)).collect();
    assert_eq!(tenants, [(0, 0, ONE), (3, 3, ONE / 2)]);
    let kin = scheduling::Kinship::SAME_SESSION | scheduling::Kinship::SAME_OWNER;
    assert!(question.choice.tenants.iter().all(|tenant| tenant.kinship == kin));
    let in_use: Vec<_> = question.node.devices.iter().map(|device| device.in_use).collect();
    assert_eq!(in_use, [ONE, 0, 0, ONE / 2]);
    assert_eq!(question.node.slots.len(), 4);
}

#[tokio::test]
async fn calls_to_an_ended_task_are_refused() {
    let (commands, queue) = mpsc::channel(1);
    let handle = Handle {
        commands,
        notes: mpsc::unbounded_channel().0,
        numbers: Arc::default(),
        beats: Beats::default(),
        draining: Arc::default(),
    };
    let waiting = handle.place(request("k", &[]), AT_ONCE);
    let (waiting, ()) = tokio::join!(waiting, async { drop(queue) });
    assert_eq!(waiting.unwrap_err().refusal.code, "admission-ended");
    assert_eq!(handle.place(request("k", &[]), AT_ONCE).await.unwrap_err().refusal.code, "admission-ended");
    assert_eq!(handle.books().await, []);
    handle.ended().await;
}

#[tokio::test]
async fn a_full_queue_says_busy() {
    let (commands, _queue) = mpsc::channel(1);
    let handle = Handle {
        commands,
        notes: mpsc::unbounded_channel().0,
        numbers: Arc::default(),
        beats: Beats::default(),
        draining: Arc::default(),
    };
    let mut first = Box::pin(handle.place(request("k", &[]), AT_ONCE));
    assert!(first.as_mut().now_or_never().is_none());
    assert_eq!(handle.place(request("k", &[]), AT_ONCE).await.unwrap_err().refusal.code, "busy");
}
