//! The add-only allocator: the one place in the guests with hand-written `unsafe`.
//!
//! Memory from the end of the program's data to the end of the linear memory is handed out once, in
//! order. Nothing is given back, so every byte handed out is still zero as the instance was born.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; audited here")]

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_grow, memory_size};
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const PAGE: usize = 65_536;

unsafe extern "C" {
    /// Where the linker says that the program's own data ends. Only its address means something.
    static __heap_base: u8;
}

/// Hands out memory and never takes it back.
pub struct Arena {
    /// First free address; 0 before the first allocation. Atomic for the type only: there is one thread.
    next: AtomicUsize,
}

impl Arena {
    /// An arena that has handed out nothing.
    pub const fn new() -> Self {
        Self { next: AtomicUsize::new(0) }
    }

    /// Moves the end to `end`, growing the memory if need be; false where it cannot grow.
    fn advance(&self, end: usize) -> bool {
        let have = memory_size(0) * PAGE;
        if end > have {
            let pages = (end - have).div_ceil(PAGE);
            if memory_grow(0, pages) == usize::MAX {
                return false;
            }
        }
        self.next.store(end, Relaxed);
        true
    }
}

// SAFETY: a block begins at or after `next`, is aligned up, lies inside the linear memory (`advance`),
// and `next` moves behind it, so that no two blocks overlap. wasm32-unknown-unknown has one thread.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut next = self.next.load(Relaxed);
        if next == 0 {
            next = (&raw const __heap_base) as usize;
        }
        let Some(start) = next.checked_add(layout.align() - 1).map(|at| at & !(layout.align() - 1)) else {
            return null_mut();
        };
        match start.checked_add(layout.size()) {
            Some(end) if self.advance(end) => start as *mut u8,
            _ => null_mut(),
        }
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same contract. Linear memory is born zero and no byte is handed out twice.
        unsafe { self.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if new_size <= layout.size() {
            return block;
        }
        let start = block as usize;
        if start + layout.size() == self.next.load(Relaxed) {
            // The last block grows where it is.
            return match start.checked_add(new_size) {
                Some(end) if self.advance(end) => block,
                _ => null_mut(),
            };
        }
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the size is above the old one and so not zero.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks hold at least the old size, and a new block never overlaps another.
            unsafe { copy_nonoverlapping(block, new, layout.size()) };
        }
        new
    }
}
