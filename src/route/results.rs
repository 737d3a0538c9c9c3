//! What a client that polls is given: the result object (contracts: kernel §1.8). Pure.
//!
//! This is the only place where a run's output is decoded. A [`Batch`] holds all that is needed, so large
//! ones can be built on another thread than the one that routes.

use bytes::Bytes;

use super::{RunEnd, Step};
use crate::ids::RunId;

/// The mime type that has an item kind of its own.
const HTML: &str = "text/html";

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// A piece of a run's output as it waits for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Bytes of one stream that came one after another.
    Text(Stream, Vec<u8>),
    /// Text for people.
    Log(Bytes),
    /// As the runner sent it.
    Media(Bytes),
    /// That many bytes are missing here (0: unknown).
    Lost(u64),
    /// A step of a batch has ended.
    Step(Step, i32),
    /// The code asks for input; whether it is a password, if it says so.
    Asks(Option<bool>),
}

/// Why a result is given now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The client waited long enough, or there is as much as may be kept.
    Patience,
    /// A step of a batch has ended.
    Step(Step, i32),
    /// The code asks for input.
    Asks(Option<bool>),
    /// The run has ended.
    Ended(RunEnd),
}

/// Output for one result. The last characters of its streams are whole: what is cut by its end was left for
/// the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub(super) run: RunId,
    pub(super) api_version: u32,
    /// Beginnings of characters that the batch before had left: of standard output and standard error.
    pub(super) carried: [Tail; 2],
    pub(super) items: Vec<Item>,
    pub(super) stop: Stop,
}

/// The beginning of a character whose end has not come.
pub(super) type Tail = Vec<u8>;

/// A result, in the words of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResult {
    /// The run's id.
    pub run: RunId,
    /// The version that the client asked for: from 2 on the console is one ordered list.
    pub api_version: u32,
    /// Where the run is.
    pub status: RunStatus,
    /// Of the step or run that has ended.
    pub exit_code: Option<i32>,
    /// What the code asks: whether it is a password, if it says so.
    pub asks: Option<Option<bool>>,
    /// Output, in order.
    pub console: Vec<ConsoleItem>,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// There is more to come.
    Continued,
    /// The clean step has ended, or was skipped.
    CleanFinished,
    /// The build step likewise.
    BuildFinished,
    /// The run has ended.
    Finished,
    /// The code asks for input.
    WaitingInput,
    /// The run took longer than it may.
    ExecTimeout,
}

impl RunStatus {
    /// The word of the contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continued => "continued",
            Self::CleanFinished => "clean-finished",
            Self::BuildFinished => "build-finished",
            Self::Finished => "finished",
            Self::WaitingInput => "waiting-input",
            Self::ExecTimeout => "exec-timeout",
        }
    }
}

/// A console item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleItem {
    /// Text of standard output.
    Stdout(String),
    /// Text of standard error.
    Stderr(String),
    /// Text for people.
    Log(String),
    /// An html document or a part of one.
    Html(String),
    /// Something to show.
    Media {
        /// Its mime type.
        mime: String,
        /// Its data: `data:<mime>;base64,...`, or text.
        data: String,
    },
}

impl Batch {
    /// Bytes to be decoded, about what building costs.
    pub(super) fn bytes(&self) -> usize {
        self.items.iter().map(Item::bytes).sum()
    }

    /// Decodes everything.
    #[must_use]
    pub fn build(self) -> RunResult {
        let [stdout, stderr] = self.carried;
        let mut console = Console { stdout, stderr, items: Vec::new() };
        for item in self.items {
            console.take(item);
        }
        let (status, exit_code, asks) = match self.stop {
            Stop::Patience => (RunStatus::Continued, None, None),
            Stop::Step(Step::Clean, code) => (RunStatus::CleanFinished, Some(code), None),
            Stop::Step(Step::Build, code) => (RunStatus::BuildFinished, Some(code), None),
            Stop::Asks(is_password) => (RunStatus::WaitingInput, None, Some(is_password)),
            Stop::Ended(RunEnd::Finished { exit_code }) => (RunStatus::Finished, Some(exit_code), None),
            Stop::Ended(RunEnd::TimedOut) => (RunStatus::ExecTimeout, None, None),
            Stop::Ended(end) => {
                console.items.push(ConsoleItem::Stderr(note(&end)));
                // A failure of the runner's side (contracts: kernel §1.4).
                (RunStatus::Finished, Some(-1), None)
            }
        };
        RunResult {
            run: self.run,
            api_version: self.api_version,
            status,
            exit_code,
            asks,
            console: console.items,
        }
    }
}

impl Item {
    /// Whether a client has to react to it, so that nothing behind it goes into the same result.
    pub(super) fn stops(&self) -> bool {
        matches!(self, Self::Step(..) | Self::Asks(_))
    }

    /// Bytes of payload.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(_, data) => data.len(),
            Self::Log(data) | Self::Media(data) => data.len(),
            Self::Lost(_) | Self::Step(..) | Self::Asks(_) => 0,
        }
    }
}

/// Why a run ended that did not finish by itself, for the person who waits for it.
fn note(end: &RunEnd) -> String {
    format!("[the run was lost: {}]\n", end.reason())
}

/// The bytes at the end of `data` that begin a character and may be continued; at most three.
pub(super) fn open_tail(data: &[u8]) -> &[u8] {
    let begins = |at: &usize| {
        let tail = &data[*at..];
        std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    let at = (data.len().saturating_sub(3)..data.len()).find(begins).unwrap_or(data.len());
    &data[at..]
}

/// The console while it is built.
struct Console {
    /// Beginnings of characters.
    stdout: Tail,
    stderr: Tail,
    items: Vec<ConsoleItem>,
}

impl Console {
    fn take(&mut self, item: Item) {
        let item = match item {
            Item::Text(stream, data) => {
                let Some(text) = self.decode(stream, data) else { return };
                match stream {
                    Stream::Stdout => ConsoleItem::Stdout(text),
                    Stream::Stderr => ConsoleItem::Stderr(text),
                }
            }
            Item::Log(data) => ConsoleItem::Log(String::from_utf8_lossy(&data).into_owned()),
            Item::Media(data) => media(&data),
            Item::Lost(0) => ConsoleItem::Stderr("[output may be missing here]\n".to_owned()),
            Item::Lost(bytes) => ConsoleItem::Stderr(format!("[{bytes} bytes of output are missing here]\n")),
            // They end a batch.
            Item::Step(..) | Item::Asks(_) => return,
        };
        self.items.push(item);
    }

    /// Text of one stream, its unfinished last character kept; none when that is all.
    fn decode(&mut self, stream: Stream, mut data: Vec<u8>) -> Option<String> {
        let tail = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if !tail.is_empty() {
            tail.append(&mut data);
            data = std::mem::take(tail);
        }
        let open = open_tail(&data).len();
        *tail = data.split_off(data.len() - open);
        // Without a copy where all of it is text.
        let text = String::from_utf8(data)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Some(text).filter(|text| !text.is_empty())
    }
}

/// A media record; what is no JSON is html, which the reference's runner sends bare (contracts: kernel §1.4,
/// BUG).
fn media(payload: &[u8]) -> ConsoleItem {
    #[derive(serde::Deserialize)]
    struct Media {
        r#type: String,
        data: String,
    }
    match serde_json::from_slice(payload) {
        Ok(Media { r#type: mime, data }) if mime == HTML => ConsoleItem::Html(data),
        Ok(Media { r#type: mime, data }) => ConsoleItem::Media { mime, data },
        Err(_) => ConsoleItem::Html(String::from_utf8_lossy(payload).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(items: Vec<Item>, stop: Stop) -> Batch {
        Batch { run: "r".parse().unwrap(), api_version: 2, carried: Default::default(), items, stop }
    }

    fn out(data: &[u8]) -> Item {
        Item::Text(Stream::Stdout, data.to_vec())
    }

    fn err(data: &[u8]) -> Item {
        Item::Text(Stream::Stderr, data.to_vec())
    }

    #[test]
    fn streams_keep_their_order_and_their_split_characters() {
        let euro = "€".as_bytes();
        let items = vec![out(b"a"), out(&euro[..1]), err(&euro[..2]), out(&euro[1..]), err(&euro[2..])];
        let result = batch(items, Stop::Patience).build();
        let (out, err) = (ConsoleItem::Stdout, ConsoleItem::Stderr);
        assert_eq!(result.console, [out("a".into()), out("€".into()), err("€".into())]);
        assert_eq!(result.status, RunStatus::Continued);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let console = batch(vec![out(b"a\xffb\xe2\x82c")], Stop::Patience).build().console;
        assert_eq!(console, [ConsoleItem::Stdout("a\u{fffd}b\u{fffd}c".into())]);
    }

    #[test]
    fn media_and_html_are_told_apart_whatever_form_they_came_in() {
        let console = |payload: &str| {
            batch(vec![Item::Media(payload.to_owned().into())], Stop::Patience).build().console.remove(0)
        };
        let svg = console(r#"{"type": "image/svg+xml", "data": "<svg/>"}"#);
        assert_eq!(svg, ConsoleItem::Media { mime: "image/svg+xml".into(), data: "<svg/>".into() });
        for html in [r#"{"type": "text/html", "data": "<b>"}"#, "<b>"] {
            assert_eq!(console(html), ConsoleItem::Html("<b>".into()));
        }
    }

    #[test]
    fn every_end_is_a_definite_one() {
        let ended = |end| {
            let result = batch(Vec::new(), Stop::Ended(end)).build();
            (result.status.as_str(), result.exit_code, result.console.len())
        };
        assert_eq!(ended(RunEnd::Finished { exit_code: 3 }), ("finished", Some(3), 0));
        assert_eq!(ended(RunEnd::TimedOut), ("exec-timeout", None, 0));
        assert_eq!(ended(RunEnd::RunnerRestarted), ("finished", Some(-1), 1));
        assert_eq!(ended(RunEnd::Detached { reason: "oom".into() }), ("finished", Some(-1), 1));
        let step = batch(Vec::new(), Stop::Step(Step::Build, 2)).build();
        assert_eq!((step.status, step.exit_code), (RunStatus::BuildFinished, Some(2)));
        let asks = batch(Vec::new(), Stop::Asks(None)).build();
        assert_eq!((asks.status, asks.asks), (RunStatus::WaitingInput, Some(None)));
    }

    proptest! {
        #[test]
        fn the_open_tail_is_what_a_decoder_would_wait_for(text in "\\PC{0,4}", cut in 0usize..16) {
            let bytes = &text.as_bytes()[..cut.min(text.len())];
            let valid = match std::str::from_utf8(bytes) { Ok(_) => bytes.len(), Err(error) => error.valid_up_to() };
            prop_assert_eq!(open_tail(bytes), &bytes[valid..]);
        }

        #[test]
        fn pieces_decode_to_what_the_whole_does(data: Vec<u8>, cuts in proptest::collection::vec(0usize..64, 0..6)) {
            let mut items = Vec::new();
            let mut rest = &data[..];
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                items.push(out(piece));
                rest = left;
            }
            items.push(out(rest));
            let whole = String::from_utf8_lossy(&data[..data.len() - open_tail(&data).len()]).into_owned();
            let console = batch(items, Stop::Patience).build().console;
            let text: String = console.iter().map(|item| match item {
                ConsoleItem::Stdout(text) => text.as_str(),
                _ => "?",
            }).collect();
            prop_assert_eq!(text, whole);
        }
    }
}
