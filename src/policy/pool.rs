//! `policy-0..n`: the OS threads on which WebAssembly runs (invariant 2), fed by one bounded queue.
//!
//! A full queue refuses at once, so the asking room never waits for room in it. A panic in a job ends
//! the job, not the thread. The threads end when the pool is dropped and the running jobs are done.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Waiting decisions per thread. With calls of 20 µs a queue of 32 is done in under a millisecond; with
/// calls that use their whole deadline nothing behind the first few could still be answered in time.
const QUEUE_PER_THREAD: usize = 32;

pub(super) type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub(super) struct Pool {
    queue: Arc<Queue>,
}

/// The queue is full.
#[derive(Debug)]
pub(super) struct Full;

impl Pool {
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State { jobs: VecDeque::new(), closed: false }),
            ready: Condvar::new(),
            capacity: threads * QUEUE_PER_THREAD,
        });
        // Made first: dropping it ends the threads that did start when a later one does not.
        let pool = Self { queue };
        for number in 0..threads {
            let queue = Arc::clone(&pool.queue);
            std::thread::Builder::new().name(format!("policy-{number}")).spawn(move || work(&queue))?;
        }
        Ok(pool)
    }

    pub fn submit(&self, job: Job) -> Result<(), Full> {
        let mut state = self.queue.lock();
        if state.jobs.len() >= self.queue.capacity {
            return Err(Full);
        }
        state.jobs.push_back(job);
        drop(state);
        self.queue.ready.notify_one();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        // Their askers are gone or see a closed channel.
        let abandoned = std::mem::take(&mut state.jobs);
        drop(state);
        drop(abandoned);
        self.queue.ready.notify_all();
    }
}

struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    capacity: usize,
}

struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(queue: &Queue) {
    while let Some(job) = queue.next() {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a decision panicked on a policy thread; the built-in answers it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_full_queue_refuses_and_a_panic_ends_only_its_job() {
        let pool = Pool::start(1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (says, heard) = mpsc::channel();
        let started = says.clone();
        pool.submit(Box::new(move || {
            started.send("started").unwrap();
            gate.recv().unwrap();
            panic!("of the test");
        }))
        .unwrap();
        assert_eq!(heard.recv(), Ok("started"));
        for _ in 0..QUEUE_PER_THREAD {
            let says = says.clone();
            pool.submit(Box::new(move || says.send("done").unwrap())).unwrap();
        }
        assert!(pool.submit(Box::new(|| ())).is_err());
        open.send(()).unwrap();
        for _ in 0..QUEUE_PER_THREAD {
            assert_eq!(heard.recv(), Ok("done"));
        }
    }

    #[test]
    fn threads_end_with_the_pool() {
        let pool = Pool::start(2).unwrap();
        let queue = Arc::downgrade(&pool.queue);
        drop(pool);
        while queue.strong_count() > 0 {
            std::thread::yield_now();
        }
    }
}
