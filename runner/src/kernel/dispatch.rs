//! What the agent asks, taken apart by the thread that receives; nothing here waits (design §5).

use std::sync::Arc;
use std::sync::mpsc::Sender;

use berth_link::{MessageType, Op, WORD_MAX};

use super::console::Console;
use super::feed::{Feed, Pushed};
use super::interrupt::Interrupt;
use super::oom::Witness;
use super::outbox::{Accepted, Outbox};
use super::pump::Pump;
use super::tasks::{Event, Task};

/// The receiving thread's state.
pub struct Dispatch {
    /// Replies.
    pub outbox: Arc<Outbox>,
    /// Log.
    pub console: Arc<Console>,
    /// Told when a feed has more.
    pub pump: Pump,
    /// SIGINT to what runs.
    pub interrupt: Arc<Interrupt>,
    /// Knows who is gone when memory ran out.
    pub witness: Arc<Witness>,
    /// The task thread's queue.
    pub tasks: Sender<Event>,
    /// The feed that standard input goes to.
    pub feed: Option<Arc<Feed>>,
    /// The same, until a task has taken it.
    pub announced: Option<Arc<Feed>>,
    /// The id of the task that comes next.
    pub run: Option<String>,
}

impl Dispatch {
    /// Handles one message.
    pub fn handle(&mut self, message: Vec<Vec<u8>>) {
        let [kind, payload]: [Vec<u8>; 2] = match message.try_into() {
            Ok(frames) => frames,
            Err(frames) => {
                return self.console.note(format_args!("a message of {} frames is ignored", frames.len()));
            }
        };
        let Some(op) = Op::parse(&kind) else {
            return self
                .console
                .note(format_args!("the unknown operation `{}` is ignored", kind.escape_ascii()));
        };
        match op {
            Op::Status => self.outbox.status(word(payload)),
            Op::Run => self.name_next(payload),
            Op::Clean | Op::Build | Op::Exec | Op::Code | Op::Argv => self.queue(op, payload),
            Op::Input => self.send(Event::Input(payload)),
            Op::Complete => self.send(Event::Complete(payload)),
            Op::Interrupt => self.interrupt.ask(),
            Op::Stdin if payload.is_empty() => self.announce(),
            Op::Stdin => self.push(payload),
            Op::StdinEof => self.end_feed(),
            Op::GetApps => self.outbox.reply(MessageType::AppsResult, *br#"{"status": "done", "data": []}"#),
            Op::StartService => self.refuse_service(MessageType::ServiceResult, &payload),
            Op::StartModelService => self.refuse_service(MessageType::ModelServiceResult, &payload),
            Op::Event => self.happened(&payload),
            Op::ShutdownService => {
                self.console.note(format_args!("{}: {}", op.as_str(), payload.escape_ascii()));
            }
        }
    }

    fn happened(&self, payload: &[u8]) {
        let event: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
        match event.get("type").and_then(serde_json::Value::as_str) {
            Some("oom") => self.witness.ask(),
            _ => self.console.note(format_args!("event: {}", payload.escape_ascii())),
        }
    }

    fn queue(&mut self, op: Op, payload: Vec<u8>) {
        self.interrupt.queued();
        let feed = self.announced.take();
        self.outbox.accept(Accepted { op, run: self.run.take(), feed: feed.clone() });
        self.send(Event::Task(Task { op, payload, feed }));
    }

    fn name_next(&mut self, run: Vec<u8>) {
        self.run = word(run);
        // An agent that died in between had announced it for a task that it never sent.
        if self.announced.take().is_some() {
            self.end_feed();
        }
    }

    fn announce(&mut self) {
        self.end_feed();
        let feed = Arc::new(Feed::default());
        self.announced = Some(Arc::clone(&feed));
        self.feed = Some(feed);
    }

    fn push(&mut self, bytes: Vec<u8>) {
        let count = bytes.len();
        match self.feed.as_ref().map_or(Pushed::Unread, |feed| feed.push(bytes)) {
            Pushed::Held => self.pump.wake(),
            Pushed::Unread => self.outbox.credit(count),
            Pushed::Overflow => {
                self.console
                    .note(format_args!("{count} bytes of standard input beyond the window are dropped"));
                self.outbox.dropped(count);
                self.outbox.credit(count);
            }
        }
    }

    fn end_feed(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.end();
            self.pump.wake();
        }
    }

    fn refuse_service(&self, kind: MessageType, payload: &[u8]) {
        let request: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
        let name = request.get("name").and_then(serde_json::Value::as_str).unwrap_or("?");
        let reply = serde_json::json!({"status": "failed", "error": format!("unsupported service: {name}")});
        self.outbox.reply(kind, reply.to_string());
    }

    fn send(&self, event: Event) {
        // The task thread lives as long as the program.
        let _gone = self.tasks.send(event);
    }
}

/// A word that the agent gives and gets back.
fn word(payload: Vec<u8>) -> Option<String> {
    String::from_utf8(payload).ok().filter(|word| !word.is_empty() && word.len() <= WORD_MAX)
}
