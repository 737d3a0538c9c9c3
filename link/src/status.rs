//! The reply to `status`: msgpack, `started_at` as the reference knows it and our own keys beside it
//! (design §5), so that an agent that comes back learns what it missed.

use serde::{Deserialize, Serialize};

// The bytes that begin a map (github.com/msgpack/msgpack, spec.md).
const FIXMAP_FIRST: u8 = 0x80;
const FIXMAP_LAST: u8 = 0x8f;
const MAP16: u8 = 0xde;
const MAP32: u8 = 0xdf;

/// What a runner says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Seconds by the container's CLOCK_MONOTONIC at which the runner's `main` began.
    pub started_at: f64,
    /// Seconds by the same clock at which this reply was queued. The first reply's difference to
    /// `started_at` is the runner's boot time.
    #[serde(default)]
    pub replied_at: Option<f64>,
    /// [`crate::PROTOCOL`]; none from the reference's runner.
    #[serde(default)]
    pub protocol: Option<u32>,
    /// The runner's package version.
    #[serde(default)]
    pub runner_version: Option<String>,
    /// Random text of this runner process; another one means that it was started anew.
    #[serde(default)]
    pub incarnation: Option<String>,
    /// The op whose task runs now.
    #[serde(default)]
    pub running: Option<String>,
    /// Tasks ended since the start.
    #[serde(default)]
    pub tasks_done: u64,
    /// The task that ended last.
    #[serde(default)]
    pub last: Option<LastTask>,
    /// Bytes of output that were dropped because nobody took them.
    #[serde(default)]
    pub dropped_bytes: u64,
    /// Payload of the question that this answers.
    #[serde(default)]
    pub question: Option<String>,
    /// Id of the task that runs now, when it has one.
    #[serde(default)]
    pub run: Option<String>,
    /// Bytes of console output of that task that were queued before this reply, from its start.
    #[serde(default)]
    pub output_bytes: u64,
    /// Bytes of standard input that came for that task.
    #[serde(default)]
    pub stdin_bytes: u64,
    /// Those of them that it has not taken yet, and that will be acknowledged.
    #[serde(default)]
    pub stdin_held: u64,
    /// The last [`crate::RECENT_TASKS`] tasks that ended with `finished`, oldest first.
    #[serde(default)]
    pub recent: Vec<EndedTask>,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTask {
    /// Its op.
    pub op: String,
    /// Its exit code.
    pub exit_code: i32,
}

/// A task that ended with `finished`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EndedTask {
    /// Its id, when it had one.
    #[serde(default)]
    pub run: Option<String>,
    /// Its op.
    pub op: String,
    /// Its exit code.
    pub exit_code: i32,
    /// Bytes of console output that it wrote.
    #[serde(default)]
    pub output_bytes: u64,
    /// Seconds by the clock of [`Status::started_at`].
    #[serde(default)]
    pub ended_at: Option<f64>,
}

/// A payload that is no [`Status`].
#[derive(Debug, thiserror::Error)]
#[error("the status reply is not the msgpack map it should be")]
pub struct StatusError(#[source] rmp_serde::decode::Error);

impl Status {
    /// The msgpack payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Writing named fields of plain types into memory has no failure.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads a payload of this or of the reference's runner; unknown keys are ignored, and so is what follows
    /// the map.
    ///
    /// # Errors
    /// When it is no msgpack map with a number `started_at`.
    pub fn decode(payload: &[u8]) -> Result<Self, StatusError> {
        // A derived struct would also be read from an array, by the order of its fields.
        if !matches!(payload, [FIXMAP_FIRST..=FIXMAP_LAST | MAP16 | MAP32, ..]) {
            return Err(StatusError(serde::de::Error::custom("it begins no map")));
        }
        rmp_serde::from_slice(payload).map_err(StatusError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_reply_has_only_its_start() {
        // {"started_at": 12.5} as msgpack with use_bin_type.
        let payload = b"\x81\xaastarted_at\xcb\x40\x29\x00\x00\x00\x00\x00\x00";
        let status = Status::decode(payload).unwrap();
        assert_eq!(status.started_at, 12.5);
        assert_eq!((status.protocol, status.incarnation, status.last), (None, None, None));
    }

    #[test]
    fn a_reply_reads_back_as_itself() {
        let status = Status {
            started_at: 1.25,
            replied_at: Some(1.26),
            protocol: Some(crate::PROTOCOL),
            runner_version: Some("0.1.0".into()),
            incarnation: Some("ab12".into()),
            running: None,
            tasks_done: 3,
            last: Some(LastTask { op: "exec".into(), exit_code: -9 }),
            dropped_bytes: 0,
            question: Some("7".into()),
            run: Some("r4".into()),
            output_bytes: 12,
            stdin_bytes: 34,
            stdin_held: 5,
            recent: vec![EndedTask {
                run: Some("r3".into()),
                op: "exec".into(),
                exit_code: -9,
                output_bytes: 6,
                ended_at: Some(1.25),
            }],
        };
        assert_eq!(Status::decode(&status.encode()).unwrap(), status);
    }

    #[test]
    fn hostile_replies_are_errors() {
        for payload in [&b""[..], b"\xc0", b"\x80", b"\xff\xff", b"\xdf\xff\xff\xff\xff"] {
            assert!(Status::decode(payload).is_err());
        }
        // The number of a start, but in an array.
        assert!(Status::decode(b"\x91\xcb\x40\x29\x00\x00\x00\x00\x00\x00").is_err());
    }
}
