//! Methods that are answered on the workers: everything but the execution path (contracts: manager §2.2).
//!
//! ```text
//!  door (routing thread) --Job, channel--> serve --a task each--> kernels, files
//!        ^---------------- Answer::Written, the route's queue -------+
//! ```
//!
//! Every call runs by itself, replies go out as they come (contracts: manager §1.7), and one that its caller gives
//! up is ended.

use std::collections::HashMap;

use callosum::{Call, Failure, Value, encode_failure, encode_result};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::ids::{KernelId, KernelRef};
use crate::kernel::{Files, KernelError, Kernels, Phase};
use crate::route;
use crate::route::door::{Answer, Caller};

mod files;
mod images;

pub use images::{Bringer, Images, images};

/// Calls that may wait for a worker; the door refuses more.
pub const QUEUE: usize = 1024;

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `check_and_pull(image_configs)`: sees to it that they are here.
    CheckAndPull,
    /// `check_creating(kernel_id)`: whether it is being made or is there.
    CheckCreating,
    /// `check_pulling(image_name)`: whether it is on its way.
    CheckPulling,
    /// `check_running(kernel_id)`: whether it is there and runs.
    CheckRunning,
    /// `download_file(kernel_id, filepath)`: a tar archive.
    DownloadFile,
    /// `download_single(kernel_id, filepath)`: a file's content.
    DownloadSingle,
    /// `gather_hwinfo()`.
    GatherHwinfo,
    /// `gather_hwinfo_v2(req)`.
    GatherHwinfoV2,
    /// `get_local_config()`.
    GetLocalConfig,
    /// `get_logs(kernel_id)`.
    GetLogs,
    /// `list_files(kernel_id, path)`.
    ListFiles,
    /// `scan_gpu_alloc_map()`.
    ScanGpuAllocMap,
    /// `upload_file(kernel_id, filename, filedata)`.
    UploadFile,
}

impl Method {
    /// By its name on the wire, with the position of `agent_id` among its arguments.
    #[must_use]
    pub fn find(name: &str) -> Option<(Self, usize)> {
        Some(match name {
            "check_and_pull" => (Self::CheckAndPull, 1),
            "check_pulling" => (Self::CheckPulling, 1),
            "check_creating" => (Self::CheckCreating, 1),
            "check_running" => (Self::CheckRunning, 1),
            "download_file" => (Self::DownloadFile, 2),
            "download_single" => (Self::DownloadSingle, 2),
            "gather_hwinfo" => (Self::GatherHwinfo, 0),
            "gather_hwinfo_v2" => (Self::GatherHwinfoV2, 1),
            "get_local_config" => (Self::GetLocalConfig, 0),
            "get_logs" => (Self::GetLogs, 1),
            "list_files" => (Self::ListFiles, 2),
            "scan_gpu_alloc_map" => (Self::ScanGpuAllocMap, 0),
            "upload_file" => (Self::UploadFile, 3),
            _ => return None,
        })
    }
}

/// What the door hands over.
#[derive(Debug)]
pub enum Job {
    /// A call that wants an answer.
    Call {
        /// Who asks.
        caller: Caller,
        /// For what.
        method: Method,
        /// With which arguments, `agent_id` taken.
        call: Call,
    },
    /// The answer is not wanted any more.
    Cancel(Caller),
}

/// The rooms that the methods work with.
#[derive(Debug, Clone)]
pub struct Methods {
    kernels: Kernels,
    files: Files,
    images: Images,
    route: route::Handle,
}

impl Methods {
    /// Works with these.
    #[must_use]
    pub fn new(kernels: Kernels, files: Files, images: Images, route: route::Handle) -> Self {
        Self { kernels, files, images, route }
    }

    /// Answers calls until the door is gone.
    pub async fn serve(self, mut jobs: mpsc::Receiver<Job>) {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<Caller, AbortHandle> = HashMap::new();
        loop {
            // Cancel-safe: a receiver and JoinSet::join_next.
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(Job::Call { caller, method, call }) => {
                        let methods = self.clone();
                        let handle = tasks.spawn(async move { (caller, methods.answer(method, call).await) });
                        running.insert(caller, handle);
                    }
                    Some(Job::Cancel(caller)) => {
                        if let Some(task) = running.remove(&caller) {
                            task.abort();
                            self.route.answer(caller, Answer::Cancelled);
                        }
                    }
                    None => return,
                },
                Some(ended) = tasks.join_next() => match ended {
                    Ok((caller, answer)) => {
                        // One that was given up has been answered.
                        if running.remove(&caller).is_some() {
                            self.route.answer(caller, answer);
                        }
                    }
                    Err(failure) if failure.is_cancelled() => {}
                    Err(failure) => self.failed(&mut running, &failure),
                },
            }
        }
    }

    /// A method that panicked says nothing about its caller: whoever has no task any more is told.
    fn failed(&self, running: &mut HashMap<Caller, AbortHandle>, failure: &tokio::task::JoinError) {
        tracing::error!(%failure, "a call ended early");
        running.retain(|caller, task| {
            if task.is_finished() {
                let failure =
                    Failure::new("RuntimeError", "the agent failed at this call; its log tells more");
                self.route.answer(*caller, written(Err(failure)));
            }
            !task.is_finished()
        });
    }

    async fn answer(&self, method: Method, mut call: Call) -> Answer {
        written(self.value(method, &mut call).await)
    }

    async fn value(&self, method: Method, call: &mut Call) -> Result<Value, Failure> {
        match method {
            Method::CheckAndPull => self.check_and_pull(call),
            Method::CheckPulling => self.check_pulling(call),
            Method::CheckCreating => Ok(self.phase(call)?.is_some().into()),
            Method::CheckRunning => Ok((self.phase(call)? == Some(Phase::Running)).into()),
            Method::GetLogs => self.logs(call).await,
            Method::ListFiles => self.list_files(call).await,
            Method::UploadFile => self.upload_file(call).await,
            Method::DownloadFile => self.download_file(call).await,
            Method::DownloadSingle => self.download_single(call).await,
            // No device of this node has anything to tell but what its heartbeat says, which is also what the
            // reference answers for cores and memory (contracts: observed 20).
            Method::GatherHwinfo | Method::ScanGpuAllocMap => Ok(Value::Map(Vec::new())),
            Method::GatherHwinfoV2 => Ok(Value::map([("devices", Value::Array(Vec::new()))])),
            Method::GetLocalConfig => Ok(Value::map([
                ("agent", Value::map([("abuse-report-path", Value::from(""))])),
                ("watcher", Value::Map(Vec::new())),
            ])),
        }
    }

    /// Where a kernel is in its life; none: it is not here, or has ended.
    fn phase(&self, call: &mut Call) -> Result<Option<Phase>, Failure> {
        let kernel = kernel(call)?;
        let there = self.kernels.get(&KernelRef::Id(kernel)).ok().map(|view| view.phase);
        Ok(there.filter(|phase| !matches!(phase, Phase::Collected | Phase::Gone)))
    }
}

/// What goes into the last frame.
fn written(outcome: Result<Value, Failure>) -> Answer {
    let mut body = Vec::new();
    let is_failure = outcome.is_err();
    match outcome {
        Ok(value) => encode_result(&value, &mut body),
        Err(failure) => encode_failure(&failure, &mut body),
    }
    Answer::Written { body, is_failure }
}

/// The first argument of most methods.
fn kernel(call: &mut Call) -> Result<KernelId, Failure> {
    text(call, 0, "kernel_id")?.parse().map_err(|error| invalid(&format!("{error}")))
}

fn text(call: &mut Call, position: usize, name: &str) -> Result<String, Failure> {
    let value = argument(call, position, name)?;
    value.as_str().map(str::to_owned).ok_or_else(|| invalid(&format!("{name} must be text")))
}

fn argument(call: &mut Call, position: usize, name: &str) -> Result<Value, Failure> {
    let missing = || Failure::new("TypeError", &format!("missing a required argument: '{name}'"));
    call.take(position, name).ok_or_else(missing)
}

fn invalid(text: &str) -> Failure {
    Failure::new("ValueError", text)
}

/// By the names of exceptions that clients of the reference know.
fn refused(error: &KernelError) -> Failure {
    let name = match error.code.as_str() {
        "no-such-kernel" => "KernelNotFoundError",
        "outside-work-folder" | "read-only" => "PermissionError",
        _ => "RuntimeError",
    };
    Failure::new(name, &error.message)
}
