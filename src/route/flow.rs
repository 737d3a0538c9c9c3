//! Output on its way from the routing thread to a client: the outlet of a run, its receiver, and the
//! credit between them.
//!
//! What is buffered is counted in bytes, per run and for the node. The route asks [`Outlet::has_room`]
//! before it reads a kernel's socket; without room the socket is left unread, libzmq's queue fills, the
//! runner blocks, and with it the program that writes. [`OutputReceiver`] gives the bytes back as the
//! client takes records, and calls the route when a paused run has half its room again. A client that goes
//! away gives its end, the [`Tap`], back to the route, which keeps it for a while ([`super::parked`]).
//!
//! The room of one run is what the node has left, at most its own limit. So many slow readers share the
//! node's memory, the last byte of it is never taken, and nobody has to be woken for somebody else. A
//! run that buffers nothing may always take one record: the sum exceeds the limits by at most one
//! record per run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use super::Output;
use super::inbox::{Inbox, Request};
use super::window::Window;
use crate::ids::{KernelId, RunId};

/// What a record costs beside its payload: its place in the queue and its allocation.
pub(super) const RECORD_OVERHEAD: usize = 128;

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
    /// Kept until a call takes it.
    Window(Box<Window>),
}

/// The route's end of a run's output.
#[derive(Debug)]
pub(super) struct Stream {
    sender: mpsc::UnboundedSender<Vec<Output>>,
    /// Records of this turn, handed over in one piece.
    batch: Vec<Output>,
    flow: Arc<Flow>,
}

#[derive(Debug)]
struct Flow {
    /// Names this stream; run ids may be used again.
    stream: u64,
    kernel: KernelId,
    run: RunId,
    buffered: AtomicUsize,
    /// Not 0: the route waits until less than this is buffered.
    resume_below: AtomicUsize,
    limits: Limits,
    /// The runner that began the run.
    incarnation: OnceLock<String>,
    inbox: Arc<Inbox>,
}

/// A stream for a `run` of `kernel` that begins `at` so many console bytes of its output.
pub(super) fn stream(inbox: &Arc<Inbox>, kernel: KernelId, run: &RunId, at: u64) -> (Outlet, Tap) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let flow = Arc::new(Flow {
        stream: inbox.next_stream(),
        kernel,
        run: run.clone(),
        buffered: AtomicUsize::new(0),
        resume_below: AtomicUsize::new(0),
        limits: inbox.limits(),
        incarnation: OnceLock::new(),
        inbox: Arc::clone(inbox),
    });
    let outlet = Outlet::Stream(Stream { sender, batch: Vec::new(), flow: Arc::clone(&flow) });
    (outlet, Tap { receiver, ready: Vec::new().into_iter(), flow, position: at, ended: false })
}

impl Outlet {
    /// Names this stream, as [`Tap::stream_id`] does.
    pub(super) fn stream_id(&self) -> Option<u64> {
        match self {
            Self::Stream(stream) => Some(stream.flow.stream),
            Self::Window(_) => None,
        }
    }

    /// Whether one more record may be read for it. When not, the route reads on after a
    /// [`Request::Resume`], or a call to a window.
    pub(super) fn has_room(&mut self) -> bool {
        match self {
            Self::Stream(stream) => stream.has_room(),
            Self::Window(window) => window.has_room(),
        }
    }

    /// Says which runner began the run; before its [`Output::Started`].
    pub(super) fn begin(&mut self, incarnation: Option<&str>) {
        if let (Self::Stream(stream), Some(incarnation)) = (self, incarnation) {
            stream.flow.incarnation.get_or_init(|| incarnation.to_owned());
        }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, output: Output) {
        match self {
            // For this turn's batch.
            Self::Stream(stream) => {
                stream.flow.buffer(cost(&output));
                stream.batch.push(output);
            }
            Self::Window(window) => window.push(output),
        }
    }

    /// Hands a stream's batch to the client.
    pub(super) fn flush(&mut self) {
        if let Self::Stream(stream) = self {
            stream.flush();
        }
    }
}

impl Stream {
    fn has_room(&self) -> bool {
        let flow = &self.flow;
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
    /// On the routing thread only.
    fn buffer(&self, bytes: usize) {
        let run = self.buffered.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.inbox.buffer(bytes, run);
    }

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
        Output::Stdout(bytes) | Output::Stderr(bytes) | Output::Log(bytes) | Output::Media(bytes) => {
            bytes.len() + RECORD_OVERHEAD
        }
        Output::Ended(_) => 0,
        _ => RECORD_OVERHEAD,
    }
}

/// The client's end of a run's output. Dropping it gives what is left in it back to nobody.
#[derive(Debug)]
pub(super) struct Tap {
    receiver: mpsc::UnboundedReceiver<Vec<Output>>,
    ready: std::vec::IntoIter<Output>,
    flow: Arc<Flow>,
    /// Console bytes of the run before the next record; what is marked as lost counts as if it had come.
    position: u64,
    ended: bool,
}

impl Tap {
    /// Names this stream; run ids may be used again.
    pub(super) fn stream_id(&self) -> u64 {
        self.flow.stream
    }

    /// Whose output it is.
    pub(super) fn run(&self) -> &RunId {
        &self.flow.run
    }

    /// Console bytes of the run before the next record.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Everything that is left in it, for another outlet. On the routing thread only.
    pub(super) fn into_records(mut self, mut take: impl FnMut(Output)) {
        while let Some(output) = self.try_recv() {
            take(output);
        }
    }

    /// Prepares it for a client that has `received` so many console bytes, and says how many are missing in
    /// between; they are marked. On the routing thread only.
    pub(super) fn rewind(&mut self, received: u64) -> u64 {
        let lost = self.position.saturating_sub(received);
        if lost > 0 {
            self.position = received;
            let mark = Output::Lost(lost);
            self.flow.buffer(cost(&mark));
            self.ready = std::iter::once(mark).chain(self.ready.by_ref()).collect::<Vec<_>>().into_iter();
        }
        lost
    }

    async fn recv(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.ready.next() {
                return Some(self.taken(output));
            }
            self.ready = self.receiver.recv().await?.into_iter();
        }
    }

    fn try_recv(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.ready.next() {
                return Some(self.taken(output));
            }
            self.ready = self.receiver.try_recv().ok()?.into_iter();
        }
    }

    fn taken(&mut self, output: Output) -> Output {
        match &output {
            Output::Ended(_) => self.ended = true,
            Output::Lost(bytes) => self.position = self.position.saturating_add(*bytes),
            other => self.position += other.console_bytes(),
        }
        match cost(&output) {
            0 => {}
            bytes => self.flow.give_back(bytes),
        }
        output
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.receiver.close();
        while self.try_recv().is_some() {}
    }
}

/// The output of a run, in order, [`Output::Ended`] last. Taking a record gives its room back to the
/// routing thread; while nobody takes any, the program in the kernel waits. Dropping it says that the
/// client is gone; what it has not taken waits for it on the routing thread.
#[derive(Debug)]
pub struct OutputReceiver {
    /// There until this is dropped.
    tap: Option<Tap>,
}

impl From<Tap> for OutputReceiver {
    fn from(tap: Tap) -> Self {
        Self { tap: Some(tap) }
    }
}

impl OutputReceiver {
    /// The next record; none after the end (or when the routing thread has ended). Cancel-safe.
    pub async fn recv(&mut self) -> Option<Output> {
        self.tap.as_mut()?.recv().await
    }

    /// The next record if there is one now.
    pub fn try_recv(&mut self) -> Option<Output> {
        self.tap.as_mut()?.try_recv()
    }

    /// Bytes buffered for this run now, with a fixed cost for each record.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.tap.as_ref().map_or(0, |tap| tap.flow.buffered.load(Ordering::Relaxed))
    }

    /// The runner that began the run, as it names itself; none before [`Output::Started`].
    #[must_use]
    pub fn incarnation(&self) -> Option<&str> {
        self.tap.as_ref()?.flow.incarnation.get().map(String::as_str)
    }
}

impl Drop for OutputReceiver {
    fn drop(&mut self) {
        if let Some(tap) = self.tap.take().filter(|tap| !tap.ended) {
            let flow = Arc::clone(&tap.flow);
            flow.inbox.push_always(Request::ClientGone { kernel: flow.kernel, tap });
        }
    }
}
