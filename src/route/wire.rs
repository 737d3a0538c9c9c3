//! What a runner's message means (contracts: kernel §1.4). Pure.

use berth_link::{Finished, MessageType, decode_credit};
use bytes::Bytes;

use super::inquiries::Kind;
use super::machine::Record;
use super::{Output, RunnerStatus, Step};

/// A message from a runner.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// Something for the run.
    Record(Record),
    /// The answer to `status`.
    Status(Box<RunnerStatus>),
    /// The reply to a question.
    Reply(Kind, Bytes),
    /// Nothing that was asked for, or nothing that can be read.
    Stray,
}

/// Reads a message. Console payloads are handed over as they are.
pub(super) fn read(kind: &[u8], payload: Bytes) -> Meaning {
    let record = match MessageType::parse(kind) {
        Some(MessageType::Stdout) => Record::Output(Output::Stdout(payload)),
        Some(MessageType::Stderr) => Record::Output(Output::Stderr(payload)),
        Some(MessageType::Log) => Record::Output(Output::Log(payload)),
        Some(MessageType::Media) => Record::Output(Output::Media(payload)),
        Some(MessageType::Html) => Record::Output(Output::Media(html(&payload))),
        Some(MessageType::WaitingInput) => Record::Output(waiting_input(&payload)),
        Some(MessageType::CleanFinished) => Record::Step(Step::Clean, exit_code(&payload)),
        Some(MessageType::BuildFinished) => Record::Step(Step::Build, exit_code(&payload)),
        Some(MessageType::Finished) => Record::Finished(exit_code(&payload)),
        Some(MessageType::StdinCredit) => match decode_credit(&payload) {
            Some(bytes) => Record::Credit(bytes),
            None => return Meaning::Stray,
        },
        Some(MessageType::Status) => {
            return RunnerStatus::decode(&payload).map_or(Meaning::Stray, |s| Meaning::Status(Box::new(s)));
        }
        Some(other) => {
            return Kind::of(other).map_or(Meaning::Stray, |kind| Meaning::Reply(kind, payload));
        }
        None => return Meaning::Stray,
    };
    Meaning::Record(record)
}

/// A task has ended, whatever the payload looks like: a run that hangs would be worse. Runners of 2018
/// leave the code out.
fn exit_code(payload: &[u8]) -> i32 {
    Finished::decode(payload).map_or(-1, |finished| finished.exit_code.unwrap_or(0))
}

/// JSON from query mode, empty from batch mode.
fn waiting_input(payload: &[u8]) -> Output {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(default)]
        is_password: bool,
    }
    let is_password = serde_json::from_slice::<Asked>(payload).map(|asked| asked.is_password);
    Output::WaitingInput { is_password: is_password.ok() }
}

/// Html as the media record it is.
fn html(payload: &[u8]) -> Bytes {
    serde_json::json!({ "type": "text/html", "data": String::from_utf8_lossy(payload) }).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, payload: &str, expected: Meaning) {
        assert_eq!(read(kind.as_bytes(), payload.to_owned().into()), expected, "{kind} {payload:?}");
    }

    #[test]
    fn messages_mean_what_the_contract_says() {
        let output = |output| Meaning::Record(Record::Output(output));
        check("stdout", "a", output(Output::Stdout("a".into())));
        check("stderr", "b", output(Output::Stderr("b".into())));
        check("log", "c", output(Output::Log("c".into())));
        check("media", "no json", output(Output::Media("no json".into())));
        check("html", "<b>\"", output(Output::Media(r#"{"data":"<b>\"","type":"text/html"}"#.into())));
        check("waiting-input", "", output(Output::WaitingInput { is_password: None }));
        check(
            "waiting-input",
            r#"{"is_password":true}"#,
            output(Output::WaitingInput { is_password: Some(true) }),
        );
        check("finished", r#"{"exitCode": -9}"#, Meaning::Record(Record::Finished(-9)));
        check("finished", "{}", Meaning::Record(Record::Finished(0)));
        check("stdin-credit", "12", Meaning::Record(Record::Credit(12)));
    }

    #[test]
    fn garbage_is_stray_but_never_hides_an_end() {
        check("finished", "garbage", Meaning::Record(Record::Finished(-1)));
        check("stdin-credit", "-1", Meaning::Stray);
        check("status", "garbage", Meaning::Stray);
        check("", "", Meaning::Stray);
        check("stdout ", "", Meaning::Stray);
    }
}
