//! An allocator that counts what each thread holds, so that a check can say how much memory a decoder took.
//! Whoever includes this file gets it as its global allocator.

#![expect(unsafe_code, reason = "an allocator that counts cannot be had otherwise")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Without initialisation and without a destructor: to touch them allocates nothing.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, with what each thread was given and the most that was at once.
struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

/// Sizes are below `isize::MAX`, as `Layout` promises.
fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator with its arguments as they are; counting touches no memory
// of the caller. What is not written here falls back to these two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: `pointer` came from `alloc` above, so from the system's allocator, with this `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `read` gives, and the most bytes that it held at once beyond what this thread held before.
pub fn measured<T>(read: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let outcome = read();
    (outcome, PEAK.get().saturating_sub(before).unsigned_abs())
}
