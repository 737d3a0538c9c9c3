//! What is answered, in the shapes of the contract (contracts: manager §2.2, kernel §1.8, §1.9).

use callosum::{
    CallId, FRAME_UPPER, Failure, MessageKind, Value, encode_cancelled, encode_failure, encode_result,
};

use crate::route::door::{Answer, Frames};
use crate::route::{ConsoleItem, RouteError, RunResult};

/// A value to a call that needs nobody.
pub(super) fn result(peer: &[u8], id: &CallId, value: &Value) -> Frames {
    let mut body = Vec::new();
    encode_result(value, &mut body);
    vec![peer.to_vec(), FRAME_UPPER.to_vec(), id.reply_header(MessageKind::Result), body]
}

/// An answer's kind and its last frame.
pub(super) fn body(answer: Answer) -> (MessageKind, Vec<u8>) {
    let mut body = Vec::new();
    let value = match answer.built() {
        Answer::Result(result) => Ok(run_result(result)),
        Answer::Interrupted => Ok(Value::map([("status", Value::from("finished"))])),
        Answer::Completion(reply) => Ok(completion(reply.as_deref())),
        Answer::Pinged(started) => {
            Ok(started.map_or(Value::Nil, |started| Value::map([("started_at", Value::Float(started))])))
        }
        Answer::Failed(error) => Err(failure(&error)),
        Answer::Cancelled => {
            encode_cancelled(&mut body);
            return (MessageKind::Cancelled, body);
        }
        Answer::Written { body, is_failure } => {
            return (if is_failure { MessageKind::Failure } else { MessageKind::Result }, body);
        }
        // Built above.
        Answer::Output(_) => Ok(Value::Nil),
    };
    match value {
        Ok(value) => {
            encode_result(&value, &mut body);
            (MessageKind::Result, body)
        }
        Err(failure) => {
            encode_failure(&failure, &mut body);
            (MessageKind::Failure, body)
        }
    }
}

/// The result object.
fn run_result(result: RunResult) -> Value {
    let options = match result.asks {
        None => Value::Nil,
        Some(None) => Value::Map(Vec::new()),
        Some(Some(is_password)) => Value::map([("is_password", Value::from(is_password))]),
    };
    let mut entries = vec![
        ("runId", Value::from(result.run.as_str())),
        ("status", Value::from(result.status.as_str())),
        ("exitCode", result.exit_code.map_or(Value::Nil, |code| Value::from(i64::from(code)))),
        ("options", options),
    ];
    match result.api_version {
        1 => entries.extend(console_of_1(result.console)),
        _ => entries.push(("console", console(result.console))),
    }
    // Kept for API backward-compatibility (contracts: kernel §1.8).
    entries.push(("files", Value::Array(Vec::new())));
    Value::map(entries)
}

/// One ordered list.
fn console(items: Vec<ConsoleItem>) -> Value {
    let pair = |kind: &str, value: Value| Value::Array(vec![kind.into(), value]);
    let items = items.into_iter().map(|item| match item {
        ConsoleItem::Stdout(text) => pair("stdout", text.into()),
        ConsoleItem::Stderr(text) => pair("stderr", text.into()),
        ConsoleItem::Log(text) => pair("log", text.into()),
        ConsoleItem::Html(text) => pair("html", text.into()),
        ConsoleItem::Media { mime, data } => pair("media", Value::Array(vec![mime.into(), data.into()])),
    });
    Value::Array(items.collect())
}

/// Each kind by itself.
fn console_of_1(items: Vec<ConsoleItem>) -> [(&'static str, Value); 4] {
    let (mut stdout, mut stderr, mut media, mut html) =
        (String::new(), String::new(), Vec::new(), Vec::new());
    for item in items {
        match item {
            ConsoleItem::Stdout(text) => stdout.push_str(&text),
            ConsoleItem::Stderr(text) | ConsoleItem::Log(text) => stderr.push_str(&text),
            ConsoleItem::Html(text) => html.push(Value::from(text)),
            ConsoleItem::Media { mime, data } => media.push(Value::Array(vec![mime.into(), data.into()])),
        }
    }
    [
        ("stdout", stdout.into()),
        ("stderr", stderr.into()),
        ("media", Value::Array(media)),
        ("html", Value::Array(html)),
    ]
}

/// `CodeCompletionResp` (contracts: kernel §1.9).
fn completion(reply: Result<&[u8], &RouteError>) -> Value {
    #[derive(serde::Deserialize)]
    struct Reply {
        #[serde(default)]
        suggestions: Vec<String>,
    }
    let read = reply.map_err(ToString::to_string).and_then(|payload| {
        serde_json::from_slice::<Reply>(payload)
            .map_err(|error| format!("the runner's reply cannot be read: {error}"))
    });
    let (status, error, suggestions) = match read {
        Ok(Reply { suggestions }) => ("finished", Value::Nil, suggestions),
        Err(error) => ("failed", Value::from(error), Vec::new()),
    };
    let suggestions = Value::Array(suggestions.into_iter().map(Value::from).collect());
    let result = Value::map([("status", status.into()), ("error", error), ("suggestions", suggestions)]);
    Value::map([("result", result)])
}

fn failure(error: &RouteError) -> Failure {
    match error {
        // The words that clients of the reference look for (contracts: manager §1.8).
        RouteError::NotAttached(kernel) => Failure::new(
            "RuntimeError",
            &format!("The container for kernel {kernel} is not found! (might be terminated--try it again)"),
        ),
        other => Failure::new("RuntimeError", &other.to_string()),
    }
}
