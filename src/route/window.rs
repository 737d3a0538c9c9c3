//! The outlet of a run whose client polls (contracts: kernel §1.7, §1.8): output waits here until a call takes
//! it. Pure but for the shared counters; on the routing thread only.
//!
//! A call takes what there is up to the first thing that it must react to (the end of a step, a question, the
//! end of the run). While the window is full the kernel's socket is left unread, as with a stream. One that
//! nobody polls for a long time lets go of its oldest output instead, so that the run goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::door::Caller;
use super::flow::{Limits, RECORD_OVERHEAD};
use super::inbox::Inbox;
use super::results::{Batch, Item, Stop, Stream, Tail, open_tail};
use super::timers::Key;
use super::{Output, RunEnd};
use crate::ids::RunId;

/// Longest console record that is kept; what is beyond is cut off (contracts: kernel §1.5).
const RECORD_MAX: usize = 10 << 20;
/// Bytes that make a result: a call waits for no more, and what is beyond the item that reaches it is for the next one.
/// So a client that reads all that a kernel prints keeps nobody else waiting for its results.
const RESULT_BYTES: usize = 2 << 20;
/// Bytes of one stream that become one item: what is read on is kept apart, so that dropping the oldest of a
/// window drops little.
const ITEM_BYTES: usize = 1 << 20;

/// A call that waits for output.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) caller: Caller,
    pub(super) api_version: u32,
    /// How long it waits from the run's turn on; none: without limit.
    pub(super) flush: Option<Duration>,
    /// When that is over; none before the run's turn.
    pub(super) timer: Option<Key>,
}

/// Output of one run for a client that polls.
#[derive(Debug)]
pub(super) struct Window {
    run: RunId,
    items: VecDeque<Item>,
    /// What the items cost.
    buffered: usize,
    /// Items that a call has to react to.
    stops: usize,
    carried: [Tail; 2],
    /// Nobody polls: the oldest output goes when there is no room.
    letting_go: bool,
    started: bool,
    ended: Option<RunEnd>,
    /// The call that waits for output.
    pub(super) waiting: Option<Waiting>,
    /// Runs while no call waits.
    pub(super) unpolled: Option<Key>,
    inbox: Arc<Inbox>,
}

impl Window {
    pub(super) fn new(inbox: &Arc<Inbox>, run: RunId) -> Self {
        Self {
            run,
            items: VecDeque::new(),
            buffered: 0,
            stops: 0,
            carried: [Tail::new(), Tail::new()],
            letting_go: false,
            started: false,
            ended: None,
            waiting: None,
            unpolled: None,
            inbox: Arc::clone(inbox),
        }
    }

    /// Whose output it is.
    pub(super) fn run(&self) -> &RunId {
        &self.run
    }

    /// Whether the run's turn has come.
    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    /// Whether one more record may be read for it.
    pub(super) fn has_room(&mut self) -> bool {
        if self.letting_go {
            self.let_go();
        }
        self.buffered == 0 || self.buffered < self.limit()
    }

    /// What one run may buffer now, as for a stream: its own limit, and what the node has left.
    fn limit(&self) -> usize {
        let Limits { run_bytes, node_bytes } = self.inbox.limits();
        run_bytes.min(node_bytes.saturating_sub(self.inbox.node_buffered()))
    }

    /// Adds a record.
    pub(super) fn push(&mut self, output: Output) {
        let item = match output {
            Output::Started => {
                self.started = true;
                return;
            }
            Output::Stdout(data) => return self.text(Stream::Stdout, &data),
            Output::Stderr(data) => return self.text(Stream::Stderr, &data),
            Output::Log(data) => Item::Log(data),
            Output::Media(data) => Item::Media(data),
            Output::StepEnded { step, exit_code } => Item::Step(step, exit_code),
            Output::WaitingInput { is_password } => Item::Asks(is_password),
            Output::Lost(bytes) => Item::Lost(bytes),
            // It sends no standard input but answers.
            Output::StdinCredit(_) => return,
            Output::Ended(end) => {
                self.ended = Some(end);
                return;
            }
        };
        self.stops += usize::from(item.stops());
        self.buffer(item.bytes() + RECORD_OVERHEAD);
        self.items.push_back(item);
    }

    fn text(&mut self, stream: Stream, data: &[u8]) {
        let data = &data[..data.len().min(RECORD_MAX)];
        match self.items.back_mut() {
            Some(Item::Text(of, text)) if *of == stream && text.len() < ITEM_BYTES => {
                text.extend_from_slice(data);
                self.buffer(data.len());
            }
            _ => {
                self.items.push_back(Item::Text(stream, data.to_vec()));
                self.buffer(data.len() + RECORD_OVERHEAD);
            }
        }
    }

    fn buffer(&mut self, bytes: usize) {
        self.buffered += bytes;
        self.inbox.buffer(bytes, self.buffered);
    }

    fn unbuffer(&mut self, bytes: usize) {
        self.buffered -= bytes;
        self.inbox.unbuffer(bytes);
    }

    /// Nobody has polled for long: from now on the oldest output goes when there is no room.
    pub(super) fn abandon(&mut self) {
        self.letting_go = true;
    }

    /// Makes room for half of what may be kept; a mark says how much is missing.
    fn let_go(&mut self) {
        if self.buffered < self.limit() {
            return;
        }
        let (keep, mut lost) = (self.limit() / 2, 0);
        // Steps that have ended go with the rest: whoever polls again sees where the run is by then.
        while self.buffered > keep
            && let Some(item) = self.pop()
        {
            lost += match item {
                Item::Lost(bytes) => bytes,
                item => item.bytes() as u64,
            };
        }
        self.carried = [Tail::new(), Tail::new()];
        self.items.push_front(Item::Lost(lost));
        self.buffer(RECORD_OVERHEAD);
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.unbuffer(item.bytes() + RECORD_OVERHEAD);
        self.stops -= usize::from(item.stops());
        Some(item)
    }

    /// Whether a call that waits has to wait no longer.
    pub(super) fn is_ready(&mut self) -> bool {
        self.ended.is_some() || self.stops > 0 || self.buffered >= RESULT_BYTES || !self.has_room()
    }

    /// Takes output for one result, up to what stops it. True with it when it was the last one.
    pub(super) fn take(&mut self, api_version: u32) -> (Batch, bool) {
        self.letting_go = false;
        let carried = std::mem::take(&mut self.carried);
        let (mut items, mut stop, mut bytes) = (Vec::new(), Stop::Patience, 0);
        while bytes < RESULT_BYTES
            && let Some(item) = self.pop()
        {
            bytes += item.bytes();
            match item {
                Item::Step(step, exit_code) => {
                    stop = Stop::Step(step, exit_code);
                    break;
                }
                Item::Asks(is_password) => {
                    stop = Stop::Asks(is_password);
                    break;
                }
                item => items.push(item),
            }
        }
        let last = stop == Stop::Patience && self.items.is_empty() && self.ended.is_some();
        if let (true, Some(end)) = (last, &self.ended) {
            stop = Stop::Ended(end.clone());
        }
        // The end of a build or of the run ends both streams too; what is cut then stays cut.
        let ends_streams = last || matches!(stop, Stop::Step(super::Step::Build, _));
        if !ends_streams {
            self.carried = [Stream::Stdout, Stream::Stderr].map(|of| cut_tail(of, &carried, &mut items));
        }
        (Batch { run: self.run.clone(), api_version, carried, items, stop }, last)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.inbox.unbuffer(self.buffered);
    }
}

/// Takes the unfinished character at the end of a stream's bytes out of the items, where it is all in the
/// last of them; else it is left for the decoder, which keeps it open.
fn cut_tail(of: Stream, carried: &[Tail; 2], items: &mut [Item]) -> Tail {
    let before = &carried[usize::from(of == Stream::Stderr)];
    let mut last = [0_u8; 3];
    let mut texts = items.iter().filter_map(|item| match item {
        Item::Text(stream, data) if *stream == of => Some(&data[..]),
        _ => None,
    });
    // The last three bytes, over the borders of items.
    let (mut filled, mut pieces) = (0, vec![&before[..]]);
    pieces.extend(texts.by_ref());
    for byte in pieces.iter().rev().flat_map(|piece| piece.iter().rev()).take(3) {
        filled += 1;
        last[3 - filled] = *byte;
    }
    let open = open_tail(&last[3 - filled..]).to_vec();
    let mut left = open.len();
    for item in items.iter_mut().rev() {
        if let Item::Text(stream, data) = item
            && *stream == of
        {
            let here = left.min(data.len());
            data.truncate(data.len() - here);
            left -= here;
        }
    }
    // What is left over was carried already.
    open
}

#[cfg(test)]
mod tests;
