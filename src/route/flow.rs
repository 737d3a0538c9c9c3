//! Output on its way from the routing thread to a client: the outlet of a run, its receiver, and the
//! credit between them.
//!
//! What is buffered is counted in bytes, per run and for the node. The route asks [`Outlet::has_room`]
//! before it reads a kernel's socket; without room the socket is left unread, libzmq's queue fills, the
//! runner blocks, and with it the program that writes. [`OutputReceiver`] gives the bytes back as the
//! client takes records, and calls the route when a paused run has half its room again.
//!
//! The room of one run is what the node has left, at most its own limit. So many slow readers share the
//! node's memory, the last byte of it is never taken, and nobody has to be woken for somebody else. A
//! run that buffers nothing may always take one record: the sum exceeds the limits by at most one
//! record per run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Output;
use super::inbox::{Inbox, Request};
use crate::ids::KernelId;

/// What a record costs beside its payload: its place in the queue and its allocation.
const RECORD_OVERHEAD: usize = 128;

/// How much output may be buffered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes per run.
    pub run_bytes: usize,
    /// Bytes for all runs together.
    pub node_bytes: usize,
}

impl Default for Limits {
    /// Design §3: 8 MiB per run, 64 MiB per node.
    fn default() -> Self {
        Self { run_bytes: 8 << 20, node_bytes: 64 << 20 }
    }
}

/// Where a run's output goes.
#[derive(Debug)]
pub(super) enum Outlet {
    /// Raw bytes per record, with credit.
    Stream(Stream),
}

/// The route's end of a [`OutputReceiver`].
#[derive(Debug)]
pub(super) struct Stream {
    sender: mpsc::UnboundedSender<Vec<Output>>,
    /// Records of this turn, handed over in one piece.
    batch: Vec<Output>,
    flow: Arc<Flow>,
}

#[derive(Debug)]
struct Flow {
    /// Names this stream in [`Request::ClientGone`]; run ids may be used again.
    stream: u64,
    kernel: KernelId,
    buffered: AtomicUsize,
    /// Not 0: the route waits until less than this is buffered.
    resume_below: AtomicUsize,
    limits: Limits,
    inbox: Arc<Inbox>,
}

/// A stream for a run of `kernel`.
pub(super) fn stream(inbox: &Arc<Inbox>, kernel: KernelId) -> (Outlet, OutputReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let flow = Arc::new(Flow {
        stream: inbox.next_stream(),
        kernel,
        buffered: AtomicUsize::new(0),
        resume_below: AtomicUsize::new(0),
        limits: inbox.limits(),
        inbox: Arc::clone(inbox),
    });
    let outlet = Outlet::Stream(Stream { sender, batch: Vec::new(), flow: Arc::clone(&flow) });
    (outlet, OutputReceiver { receiver, ready: Vec::new().into_iter(), flow, ended: false })
}

impl Outlet {
    /// Names the outlet's client in [`Request::ClientGone`].
    pub(super) fn stream_id(&self) -> u64 {
        let Self::Stream(stream) = self;
        stream.flow.stream
    }

    /// Whether one more record may be read for it. When not, the route is called back by
    /// [`Request::Resume`].
    pub(super) fn has_room(&self) -> bool {
        let Self::Stream(stream) = self;
        let flow = &stream.flow;
        let room = || {
            let buffered = flow.buffered.load(Ordering::SeqCst);
            let free = flow.limits.node_bytes.saturating_sub(flow.inbox.node_buffered());
            (buffered, flow.limits.run_bytes.min(free))
        };
        let (buffered, limit) = room();
        if buffered == 0 || buffered < limit {
            return true;
        }
        // Say where to call back, then look again: the receiver does the two in the other order.
        let resume_below = (limit / 2).max(1);
        flow.resume_below.store(resume_below, Ordering::SeqCst);
        if flow.buffered.load(Ordering::SeqCst) >= resume_below {
            return false;
        }
        flow.resume_below.store(0, Ordering::SeqCst);
        true
    }

    /// Adds a record to this turn's batch.
    pub(super) fn push(&mut self, output: Output) {
        let Self::Stream(stream) = self;
        let cost = cost(&output);
        let run = stream.flow.buffered.fetch_add(cost, Ordering::SeqCst) + cost;
        stream.flow.inbox.buffer(cost, run);
        stream.batch.push(output);
    }

    /// Hands the batch to the client.
    pub(super) fn flush(&mut self) {
        let Self::Stream(stream) = self;
        stream.flush();
    }
}

impl Stream {
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if let Err(mpsc::error::SendError(batch)) = self.sender.send(std::mem::take(&mut self.batch)) {
            self.flow.inbox.count_unwanted(batch.len());
            self.flow.give_back(batch.iter().map(cost).sum());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Flow {
    fn give_back(&self, bytes: usize) {
        let left = self.buffered.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        self.inbox.unbuffer(bytes);
        if left < self.resume_below.load(Ordering::SeqCst) && self.resume_below.swap(0, Ordering::SeqCst) != 0
        {
            self.inbox.push_always(Request::Resume { kernel: self.kernel });
        }
    }
}

/// What a buffered record counts. The end costs nothing: it is always delivered.
fn cost(output: &Output) -> usize {
    match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Media(bytes) => bytes.len() + RECORD_OVERHEAD,
        Output::Ended(_) => 0,
        _ => RECORD_OVERHEAD,
    }
}

/// The output of a run, in order, [`Output::Ended`] last. Taking a record gives its room back to the
/// routing thread; while nobody takes any, the program in the kernel waits. Dropping it says that the
/// client is gone.
#[derive(Debug)]
pub struct OutputReceiver {
    receiver: mpsc::UnboundedReceiver<Vec<Output>>,
    ready: std::vec::IntoIter<Output>,
    flow: Arc<Flow>,
    ended: bool,
}

impl OutputReceiver {
    /// The next record; none after the end (or when the routing thread has ended). Cancel-safe.
    pub async fn recv(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.ready.next() {
                return Some(self.taken(output));
            }
            self.ready = self.receiver.recv().await?.into_iter();
        }
    }

    /// The next record if there is one now.
    pub fn try_recv(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.ready.next() {
                return Some(self.taken(output));
            }
            self.ready = self.receiver.try_recv().ok()?.into_iter();
        }
    }

    /// Bytes buffered for this run now, with a fixed cost for each record.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.flow.buffered.load(Ordering::Relaxed)
    }

    fn taken(&mut self, output: Output) -> Output {
        self.ended |= matches!(output, Output::Ended(_));
        match cost(&output) {
            0 => {}
            bytes => self.flow.give_back(bytes),
        }
        output
    }
}

impl Drop for OutputReceiver {
    fn drop(&mut self) {
        self.receiver.close();
        while self.try_recv().is_some() {}
        if !self.ended {
            let Flow { stream, kernel, inbox, .. } = &*self.flow;
            inbox.push_always(Request::ClientGone { kernel: *kernel, stream: *stream });
        }
    }
}
