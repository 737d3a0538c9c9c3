//! The methods that a manager knows (contracts: manager §2.2), and what their arguments mean here.

use std::time::Duration;

use bytes::Bytes;
use callosum::{Call, Failure, Value};

use crate::ids::{AgentId, KernelId, RunId};
use crate::manager::methods::Method;
use crate::route::Task;
use crate::route::door::{Ask, Execute, Mode};

/// Longest a call may want to collect output.
const FLUSH_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a call wants.
#[derive(Debug)]
pub(super) enum Wanted {
    /// This value back.
    Echo(Value),
    /// Something of a kernel.
    Kernel(KernelId, Ask),
    /// Something that is answered on the workers.
    Worker(Method, Call),
}

/// Methods of the contract that are not answered here yet.
const LATER: [&str; 19] = [
    "assign_port",
    "commit",
    "create_kernels",
    "create_local_network",
    "destroy_kernel",
    "destroy_local_network",
    "get_commit_status",
    "health",
    "health_v2",
    "purge_images",
    "push_image",
    "release_port",
    "reset_agent",
    "restart_kernel",
    "shutdown_agent",
    "shutdown_service",
    "start_service",
    "sync_kernel_registry",
    "trigger_batch_execution",
];

/// Reads a call.
pub(super) fn read(agent: &AgentId, method: &str, mut call: Call) -> Result<Wanted, Failure> {
    // The health check; it names no agent.
    if method == "ping" {
        return Ok(Wanted::Echo(call.take(0, "msg").unwrap_or(Value::Nil)));
    }
    if let Some((worker, position)) = Method::find(method) {
        ours(agent, call.take(position, "agent_id"))?;
        return Ok(Wanted::Worker(worker, call));
    }
    let position = match method {
        "execute" => 8,
        "get_completions" => 3,
        "interrupt_kernel" | "ping_kernel" => 1,
        _ if LATER.contains(&method) => {
            return Err(Failure::new("NotImplementedError", &format!("{method} is not built yet")));
        }
        _ => return Err(Failure::new("KeyError", &format!("there is no method {method}"))),
    };
    ours(agent, call.take(position, "agent_id"))?;
    match method {
        "execute" => execute(&mut call),
        "get_completions" => completions(&mut call),
        "interrupt_kernel" => Ok(Wanted::Kernel(kernel(&mut call, 0)?, Ask::Interrupt)),
        _ => Ok(Wanted::Kernel(kernel(&mut call, 0)?, Ask::Ping)),
    }
}

/// Nil and nothing mean the only agent here (contracts: manager §2.1).
fn ours(agent: &AgentId, named: Option<Value>) -> Result<(), Failure> {
    match named.as_ref().map(|named| (named.is_nil(), named.as_str())) {
        None | Some((true, _)) => Ok(()),
        Some((_, Some(name))) if name == agent.as_str() => Ok(()),
        Some((_, name)) => {
            let text = format!("agent {} is not here; this is {agent}", name.unwrap_or("?"));
            Err(Failure::new("AgentIdNotFoundError", &text))
        }
    }
}

/// `execute(session_id, kernel_id, api_version, run_id, mode, code, opts, flush_timeout)`
/// (contracts: kernel §1.7).
fn execute(call: &mut Call) -> Result<Wanted, Failure> {
    let kernel = kernel(call, 1)?;
    let api_version = match call.take(2, "api_version").and_then(|version| version.as_i64()) {
        Some(version) if version >= 1 => u32::try_from(version).unwrap_or(u32::MAX),
        _ => return Err(Failure::new("AssertionError", "api_version must be a number from 1 on")),
    };
    // Empty and nil both occur, and mean a new one.
    let run = match call.take(3, "run_id") {
        None | Some(Value::Nil) => None,
        Some(value) => match value.as_str() {
            Some("") => None,
            Some(text) => Some(text.parse::<RunId>().map_err(|error| invalid(&error.to_string()))?),
            None => return Err(invalid("run_id must be text")),
        },
    };
    let mode = text(call, 4, "mode")?;
    let code = text(call, 5, "code")?;
    let opts = call.take(6, "opts").unwrap_or(Value::Nil);
    let flush = match call.take(7, "flush_timeout") {
        None | Some(Value::Nil) => None,
        Some(value) => Some(seconds(&value)?),
    };
    let step = |name: &str| opts.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mode = match mode.as_str() {
        "query" => Mode::Begin(Task::Code(code)),
        "batch" => {
            Mode::Begin(Task::Batch { clean: step("clean"), build: step("build"), exec: step("exec") })
        }
        "input" => Mode::Input(code),
        "continue" => Mode::Continue,
        other => {
            return Err(invalid(&format!("mode {other:?} is none of query, batch, input and continue")));
        }
    };
    Ok(Wanted::Kernel(kernel, Ask::Execute(Execute { run, mode, api_version, flush })))
}

/// `get_completions(kernel_id, text, opts)`.
fn completions(call: &mut Call) -> Result<Wanted, Failure> {
    let kernel = kernel(call, 0)?;
    let mut request = serde_json::Map::new();
    if let Some(Value::Map(entries)) = call.take(2, "opts") {
        for (key, value) in entries {
            if let (Some(key), Some(value)) = (key.as_str(), json(&value)) {
                request.insert(key.to_owned(), value);
            }
        }
    }
    request.insert("code".to_owned(), text(call, 1, "text")?.into());
    let payload = serde_json::Value::Object(request).to_string();
    Ok(Wanted::Kernel(kernel, Ask::Complete(Bytes::from(payload))))
}

fn kernel(call: &mut Call, position: usize) -> Result<KernelId, Failure> {
    text(call, position, "kernel_id")?.parse().map_err(|error| invalid(&format!("{error}")))
}

fn text(call: &mut Call, position: usize, name: &str) -> Result<String, Failure> {
    match call.take(position, name) {
        None => Err(Failure::new("TypeError", &format!("missing a required argument: '{name}'"))),
        Some(value) => {
            value.as_str().map(str::to_owned).ok_or_else(|| invalid(&format!("{name} must be text")))
        }
    }
}

fn seconds(value: &Value) -> Result<Duration, Failure> {
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| invalid("flush_timeout must be a number of seconds from 0 on"))?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(FLUSH_MAX).min(FLUSH_MAX))
}

/// Plain values only; what JSON has no word for is left out.
fn json(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Nil => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
        other => match (other.as_i64(), other.as_str()) {
            (Some(number), _) => number.into(),
            (None, Some(text)) => text.into(),
            (None, None) => return None,
        },
    })
}

fn invalid(text: &str) -> Failure {
    Failure::new("ValueError", text)
}
