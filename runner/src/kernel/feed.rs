//! Standard input of one task, from the agent to a pipe (rules: crate documentation of `berth_link`).
//!
//! The thread that takes operations pushes, the pump writes; both acknowledge what will never be read,
//! so the agent's window never closes for good.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_link::STDIN_WINDOW;
use rustix::io::Errno;

/// More than an agent that respects its window can have sent.
const HELD_MAX: usize = 16 * STDIN_WINDOW;

/// Standard input of one task.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Vec<u8>>,
    /// Bytes of the first part that are written.
    offset: usize,
    held: usize,
    /// Everything that ever came.
    received: u64,
    ended: bool,
    /// Nobody reads any more.
    closed: bool,
}

/// What a feed can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There are bytes to write.
    Write,
    /// More may come.
    Wait,
    /// Nothing will come: close the pipe.
    Close,
}

/// What became of bytes that were pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// They wait for the task.
    Held,
    /// The task has ended: acknowledge them at once.
    Unread,
    /// The agent sent more than its window allows, and they were dropped.
    Overflow,
}

impl Feed {
    /// Takes bytes from the agent.
    pub fn push(&self, bytes: Vec<u8>) -> Pushed {
        let mut state = self.state();
        state.received += bytes.len() as u64;
        if state.closed || state.ended {
            return Pushed::Unread;
        }
        if state.held + bytes.len() > HELD_MAX {
            return Pushed::Overflow;
        }
        state.held += bytes.len();
        state.parts.push_back(bytes);
        Pushed::Held
    }

    /// Nothing more will come.
    pub fn end(&self) {
        self.state().ended = true;
    }

    /// Nobody reads any more; how many bytes were dropped.
    pub fn close(&self) -> usize {
        let mut state = self.state();
        state.closed = true;
        state.parts.clear();
        state.offset = 0;
        std::mem::take(&mut state.held)
    }

    /// Bytes that ever came, and those of them that wait for the task.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.received, state.held as u64)
    }

    /// What can be done.
    pub fn next(&self) -> Next {
        let state = self.state();
        match (state.closed, state.parts.is_empty(), state.ended) {
            (true, _, _) | (false, true, true) => Next::Close,
            (false, false, _) => Next::Write,
            (false, true, false) => Next::Wait,
        }
    }

    /// Writes to a pipe that does not block; how many bytes it took.
    ///
    /// # Errors
    /// As write(2), other than "would block".
    pub fn write(&self, pipe: BorrowedFd<'_>) -> Result<usize, Errno> {
        let mut state = self.state();
        let mut sum = 0;
        while let Some(part) = state.parts.front() {
            let length = part.len();
            let written = match rustix::io::write(pipe, part.get(state.offset..).unwrap_or_default()) {
                Ok(written) => written,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            };
            sum += written;
            state.held -= written;
            state.offset += written;
            if state.offset < length {
                break;
            }
            state.parts.pop_front();
            state.offset = 0;
        }
        Ok(sum)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn bytes_reach_the_pipe_in_order_and_the_end_closes_it() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let feed = Feed::default();
        assert_eq!(feed.next(), Next::Wait);
        assert_eq!(feed.push(b"ab".to_vec()), Pushed::Held);
        assert_eq!(feed.push(b"c".to_vec()), Pushed::Held);
        feed.end();
        assert_eq!(feed.push(b"late".to_vec()), Pushed::Unread);
        assert_eq!(feed.next(), Next::Write);
        assert_eq!(feed.write(writer.as_fd()), Ok(3));
        assert_eq!(feed.next(), Next::Close);
        let mut seen = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut seen), Ok(3));
        assert_eq!(&seen[..3], b"abc");
    }

    #[test]
    fn closing_tells_what_was_never_read() {
        let feed = Feed::default();
        feed.push(vec![0; 100]);
        assert_eq!(feed.close(), 100);
        assert_eq!(feed.close(), 0);
        assert_eq!(feed.push(vec![0; 5]), Pushed::Unread);
        assert_eq!(feed.next(), Next::Close);
    }

    #[test]
    fn an_agent_that_ignores_its_window_is_bounded() {
        let feed = Feed::default();
        assert_eq!(feed.push(vec![0; HELD_MAX]), Pushed::Held);
        assert_eq!(feed.push(vec![0; 1]), Pushed::Overflow);
    }
}
