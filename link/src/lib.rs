//! The two-socket protocol between the agent and a kernel's runner.
//!
//! Shared by both programs so that there is one place for it. Implements contracts: kernel §1.2–1.6 and
//! the extensions of design §5, which the reference does not know and ignores:
//!
//! * ops [`Op::Argv`], [`Op::Stdin`], [`Op::StdinEof`], [`Op::Run`] and the message
//!   [`MessageType::StdinCredit`];
//! * a payload of `status`, and the extra keys of [`Status`].
//!
//! Every message in either direction is exactly two frames: `[type: ASCII][payload]`. There is no I/O
//! here: these are the words, not the wire.
//!
//! # Standard input
//!
//! `stdin` with an **empty** payload announces that the task sent next has a standard input; it also
//! ends whatever was being fed before. Later non-empty `stdin` payloads are raw bytes for that task, and
//! `stdin-eof` closes it. A task without the announcement reads end-of-file at once (batch) or asks by
//! `waiting-input` (query). The agent may have at most [`STDIN_WINDOW`] bytes unacknowledged;
//! the runner acknowledges with `stdin-credit` (decimal count of bytes) as it hands them to the task,
//! or drops them because the task has ended.
//!
//! # An agent that comes back
//!
//! `run` names the task sent next (its payload is the run's id) and takes back what was announced for a
//! task that was never sent, so it goes before an announcement of standard input. The reply to `status`
//! then says which run the task under way belongs to, how much it wrote and was given, and how the last
//! [`RECENT_TASKS`] ended. All messages of a runner are in one order, so an agent that comes back can tell
//! from the first reply whose the output before it was, and how many bytes the agent before it took along.
//! The payload of `status` comes back in [`Status::question`]: replies to an earlier agent, which may
//! still be waiting, are told apart from one's own.

use serde::{Deserialize, Serialize};

mod status;

pub use status::{EndedTask, LastTask, Status, StatusError};

/// Version of the extensions, in [`Status::protocol`]. A runner without the key is the reference's; version
/// 1 knows no [`Op::Run`].
pub const PROTOCOL: u32 = 2;
/// From this [`Status::protocol`] on a runner knows [`Op::Run`].
pub const PROTOCOL_WITH_RUNS: u32 = 2;

/// Ended tasks that a runner remembers in [`Status::recent`].
pub const RECENT_TASKS: usize = 16;

/// Longest payload of `status` that a runner gives back, and longest run id that it keeps.
pub const WORD_MAX: usize = 64;

/// Socket file in the link directory that the agent's PUSH binds: agent to runner.
pub const SOCKET_IN: &str = "in";
/// Socket file in the link directory that the agent's PULL binds: runner to agent.
pub const SOCKET_OUT: &str = "out";

/// Container port of the runner's PULL where it binds TCP (contracts: kernel §1.1).
pub const PORT_IN: u16 = 2000;
/// Container port of the runner's PUSH where it binds TCP (contracts: kernel §1.1).
pub const PORT_OUT: u16 = 2001;

/// Bytes of standard input that may be on their way without an acknowledgement.
pub const STDIN_WINDOW: usize = 256 * 1024;

/// Largest console payload the runner sends in one message.
pub const CHUNK_MAX: usize = 64 * 1024;

/// Largest payload of any message to the agent by the sockets in the link directory; the agent hangs up on
/// one that sends more. Small, so that many messages may wait in a socket while a kernel that means harm
/// still fills no memory.
pub const MESSAGE_MAX: usize = 1024 * 1024;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// Every word, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The word on the wire, as a frame.
            #[must_use]
            pub const fn as_bytes(self) -> &'static [u8] {
                self.as_str().as_bytes()
            }

            /// Reads a type frame; none for a word this version does not know.
            #[must_use]
            pub fn parse(frame: &[u8]) -> Option<Self> {
                match frame { $(w if w == $word.as_bytes() => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// What the agent asks of a runner (contracts: kernel §1.3).
    Op {
        /// Report [`Status`]. The reference's agent sends an empty payload, and its runner reads none.
        Status = "status",
        /// Clean step of a batch run: empty skips, `*` guesses, else a shell command.
        Clean = "clean",
        /// Build step: the same three forms.
        Build = "build",
        /// Run step: the same three forms.
        Exec = "exec",
        /// Source code for the kernel's language process (query mode).
        Code = "code",
        /// Answer to `waiting-input`.
        Input = "input",
        /// SIGINT to what runs. No reply.
        Interrupt = "interrupt",
        /// Completion request, JSON.
        Complete = "complete",
        /// Something happened outside, JSON `{"type", "data"}`.
        Event = "event",
        /// Start a service, JSON.
        StartService = "start-service",
        /// Stop a service, JSON string.
        ShutdownService = "shutdown-service",
        /// Start a model service, JSON.
        StartModelService = "start-model-service",
        /// List services.
        GetApps = "get-apps",
        /// Run exactly these words, a JSON list of strings. Extension.
        Argv = "argv",
        /// Standard input, see the crate documentation. Extension.
        Stdin = "stdin",
        /// End of standard input. Extension.
        StdinEof = "stdin-eof",
        /// The id of the task sent next, see the crate documentation. Extension.
        Run = "run",
    }
}

words! {
    /// What a runner tells the agent (contracts: kernel §1.4).
    MessageType {
        /// Raw bytes of standard output.
        Stdout = "stdout",
        /// Raw bytes of standard error.
        Stderr = "stderr",
        /// JSON `{"type": mime, "data": text}`.
        Media = "media",
        /// UTF-8 html.
        Html = "html",
        /// UTF-8 text.
        Log = "log",
        /// JSON `{"suggestions": [text]}`.
        Completion = "completion",
        /// [`Status`], msgpack.
        Status = "status",
        /// JSON [`Finished`].
        CleanFinished = "clean-finished",
        /// JSON [`Finished`].
        BuildFinished = "build-finished",
        /// JSON [`Finished`]; ends the run.
        Finished = "finished",
        /// JSON `{"is_password": bool}`, or empty in batch mode.
        WaitingInput = "waiting-input",
        /// JSON.
        ServiceResult = "service-result",
        /// JSON.
        ModelServiceResult = "model-service-result",
        /// JSON.
        ModelServiceStatus = "model-service-status",
        /// JSON.
        AppsResult = "apps-result",
        /// Decimal count of standard input bytes that were consumed. Extension.
        StdinCredit = "stdin-credit",
    }
}

/// Payload of the `*-finished` messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Negative: killed by that signal. `-1` may also be a failure of the runner, `127` means that there
    /// was nothing to run (contracts: kernel §1.4). Legacy runners leave it out.
    #[serde(rename = "exitCode", default)]
    pub exit_code: Option<i32>,
}

impl Finished {
    /// The payload for this exit code.
    #[must_use]
    pub fn encode(exit_code: i32) -> Vec<u8> {
        format!("{{\"exitCode\": {exit_code}}}").into_bytes()
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is not a JSON object, or the exit code is not a number.
    pub fn decode(payload: &[u8]) -> Result<Self, serde_json::Error> {
        // By way of an object: a derived struct would also be read from a list.
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(payload)?;
        Self::deserialize(serde_json::Value::Object(object))
    }
}

/// Reads the payload of a `stdin-credit` message; none when it is no decimal number.
#[must_use]
pub fn decode_credit(payload: &[u8]) -> Option<u64> {
    // The standard library's numbers may have a plus before them.
    if !payload.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(payload).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_as_itself() {
        for op in Op::ALL {
            assert_eq!(Op::parse(op.as_bytes()), Some(*op));
        }
        for kind in MessageType::ALL {
            assert_eq!(MessageType::parse(kind.as_bytes()), Some(*kind));
        }
        assert_eq!(Op::parse(b"stdin\0"), None);
    }

    #[test]
    fn finished_reads_what_runners_send() {
        let read = |text: &str| Finished::decode(text.as_bytes()).map(|f| f.exit_code).ok();
        assert_eq!(read("{\"exitCode\": -9}"), Some(Some(-9)));
        assert_eq!(read("{}"), Some(None));
        assert_eq!(read("[]"), None);
        assert_eq!(Finished::encode(3), b"{\"exitCode\": 3}");
    }

    #[test]
    fn credit_is_a_plain_decimal_number() {
        assert_eq!(decode_credit(b"4096"), Some(4096));
        assert_eq!(decode_credit(b"-1"), None);
        assert_eq!(decode_credit(b"+1"), None);
        assert_eq!(decode_credit(b"18446744073709551616"), None);
        assert_eq!(decode_credit(b""), None);
    }
}
