//! How often the routing thread allocates for a record that it forwards: libzmq's own memory aside, at most once for
//! a record that is handed over, and never for the frames that it came in.
//!
//! The allocator of this program counts by thread. libzmq takes its memory from C's allocator and is not counted.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; it only counts and passes on")]
#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

#[path = "../benches/peers/mod.rs"]
mod peers;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use berth::ids::{KernelId, RunId};
use berth::route::{self, Attach, LinkAt, Output, RunRequest, Task};

/// Allocations by thread id, of which the lowest bits are as good as unique here.
static COUNTS: [AtomicU64; 4096] = [const { AtomicU64::new(0) }; 4096];

struct Counting;

fn slot(thread: usize) -> &'static AtomicU64 {
    &COUNTS[thread % COUNTS.len()]
}

fn count() {
    let thread = usize::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap_or(0);
    slot(thread).fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator with what it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the thread of that name has allocated so far.
fn allocations(name: &str) -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap());
    let thread = threads
        .filter(|thread| {
            std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        })
        .map(|thread| thread.file_name().to_str().unwrap().parse::<usize>().unwrap())
        .next()
        .unwrap();
    slot(thread).load(Ordering::Relaxed)
}

#[test]
fn a_forwarded_record_costs_at_most_one_allocation() {
    const RECORDS: u64 = 50_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (handle, _thread) = route::start(route::Config::default()).unwrap();
    for bytes in [64, 4096] {
        let (kernel, dir) = (KernelId::random(), tempfile::tempdir().unwrap());
        let (reports, _received) = tokio::sync::mpsc::channel(16);
        let at = LinkAt::Directory(dir.path().to_owned());
        runtime.block_on(handle.attach(Attach { kernel, at, reports })).unwrap();
        let mut context = zmq::Context::new();
        let runner = peers::runner(&context, dir.path(), bytes);
        let forward = |records: u64| {
            runtime.block_on(async {
                let task = Task::Exec(records.to_string());
                let request = RunRequest { run: RunId::random(), task, stdin: false, timeout: None };
                let mut run = handle.run(kernel, request).await.unwrap();
                let mut seen = 0;
                while let Some(output) = run.output.recv().await {
                    seen += u64::from(matches!(output, Output::Stdout(_)));
                }
                assert_eq!(seen, records);
            });
        };
        // What grows once has grown then.
        forward(RECORDS);
        let before = allocations("route-0");
        forward(RECORDS);
        let spent = allocations("route-0") - before;
        println!("{bytes} B: {spent} allocations for {RECORDS} records");
        // The record's own, and what a batch of many records takes to be handed over.
        assert!(spent <= RECORDS + RECORDS / 4, "{spent} allocations for {RECORDS} records of {bytes} B");
        context.destroy().unwrap();
        runner.join().unwrap();
    }
}
