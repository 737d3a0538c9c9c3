//! wasmtime, set up once: the engine with what modules need to get into it, the one import, the three budgets of a call, and how a failed call
//! is told apart (design §6; the figures behind the settings are in the notes beside the WIT).
//!
//! A call gets a fresh instance, so nothing of one call is seen by another. The wall clock is checked
//! against the call's own deadline at every tick of [`Clock`], memory is summed over all linear memories,
//! bytes out are wasmtime's hostcall fuel; bytes in are weighed before the call (`weigh`).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{
    Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourceLimiter, Store, Trap,
    UpdateDeadline, WasmBacktrace,
};

use super::Fault;
use super::bindings::{host, types};
use super::clock::{Clock, TICK, thread_cpu};
use super::compile::Compiler;
use super::config::Budgets;
use super::stage::Stages;
use super::trust::Trust;

/// Core instances of one component: Python needs up to 40, Rust 4.
const CORE_INSTANCES: u32 = 48;
const MEMORIES: u32 = 4;
/// Elements of all tables of a policy.
const TABLE_ELEMENTS: usize = 60_000;
const LOG_LINE_BYTES: usize = 1 << 10;
const LOG_CALL_BYTES: usize = 64 << 10;
const BACKTRACE_FRAMES: usize = 16;

/// The engine, its imports and its clock.
pub(super) struct Sandbox {
    pub engine: Engine,
    pub linker: Linker<State>,
    pub clock: Clock,
    /// Where `[policy.<world>]` says nothing else.
    pub budgets: Budgets,
    most_memory: usize,
    /// Whom modules must be signed by.
    pub trust: Trust,
    /// Makes machine code of modules.
    pub compiler: Compiler,
    /// How far the module is that is being loaded.
    pub stages: Stages,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("budgets", &self.budgets).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// A sandbox in which `calls` calls can run at once, none of them in more than `most_memory` bytes.
    pub fn new(
        budgets: Budgets,
        most_memory: usize,
        calls: usize,
        compiler: Compiler,
    ) -> Result<Self, String> {
        let engine = engine(most_memory, calls).map_err(|e| format!("{e:#}"))?;
        let mut linker = Linker::new(&engine);
        types::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)
            .and_then(|()| host::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state))
            .map_err(|e| format!("{e:#}"))?;
        let clock = Clock::start(engine.clone()).map_err(|e| format!("no thread for the clock: {e}"))?;
        Ok(Self {
            engine,
            linker,
            clock,
            budgets,
            most_memory,
            trust: Trust::default(),
            compiler,
            stages: Stages::default(),
        })
    }

    /// For `describe`, which is asked before it is known whose section holds: no less than any policy may have.
    pub fn budgets_at_most(&self) -> Budgets {
        Budgets { memory_bytes: self.most_memory, ..self.budgets }
    }

    /// A store for one call that must be over at `until`. Hold [`Clock::running`] while it is used.
    pub fn store(&self, policy: &Arc<str>, until: Instant, budgets: Budgets) -> Store<State> {
        let state = State {
            policy: Arc::clone(policy),
            until,
            memory: MemoryBudget { used: 0, limit: budgets.memory_bytes, exceeded: None },
            log: Log::default(),
            ticked: None,
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(budgets.bytes_out);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut store| {
            // Asked of the system only here: most calls are over before the first tick.
            store.data_mut().ticked.get_or_insert_with(thread_cpu);
            if Instant::now() < store.data().until {
                Ok(UpdateDeadline::Continue(1))
            } else {
                Err(Trap::Interrupt.into())
            }
        });
        store
    }
}

fn engine(most_memory: usize, calls: usize) -> wasmtime::Result<Engine> {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(CORE_INSTANCES))
        .total_memories(calls.saturating_mul(MEMORIES))
        .total_tables(calls.saturating_mul(CORE_INSTANCES))
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_tables_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_memory_size(most_memory)
        .table_elements(TABLE_ELEMENTS)
        .max_core_instance_size(1 << 20)
        .max_component_instance_size(1 << 20)
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(64 << 10);
    Engine::new(config().allocation_strategy(InstanceAllocationStrategy::Pooling(pool)))
}

/// The same for code that another process will run: it has no pool, which code does not depend on.
pub(super) fn compiler_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// What compiled code depends on.
fn config() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .wasm_component_model(true)
        // A no-op with our features, not where others enable wasmtime's async ones.
        .concurrency_support(false)
        .epoch_interruption(true)
        // The same question has the same answer on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES));
    config
}

/// What belongs to one call. Private to this room; public only because `Asked` names it.
#[derive(Debug)]
pub struct State {
    policy: Arc<str>,
    until: Instant,
    memory: MemoryBudget,
    log: Log,
    /// CPU time of the thread when the clock first ticked during the call.
    ticked: Option<Duration>,
}

impl State {
    /// How long the guest has run, to within a tick of the clock; CPU time.
    pub(super) fn ran(&self) -> Duration {
        self.ticked.map_or(Duration::ZERO, |since| thread_cpu().saturating_sub(since) + TICK)
    }
}

impl State {
    /// Bytes of all linear memories now. They never shrink, so it is also the most that they had.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory.used
    }
}

impl types::Host for State {}

impl host::Host for State {
    fn log(&mut self, level: host::Level, text: String) {
        let Some(line) = self.log.take(&text) else { return };
        let policy = &*self.policy;
        match level {
            host::Level::Debug => tracing::debug!(target: "berth::policy::guest", policy, "{line}"),
            host::Level::Info => tracing::info!(target: "berth::policy::guest", policy, "{line}"),
            host::Level::Warn => tracing::warn!(target: "berth::policy::guest", policy, "{line}"),
        }
        self.log.last = Some(line);
    }
}

/// The lines of one call, bounded.
#[derive(Debug, Default)]
struct Log {
    bytes: usize,
    dropped: u64,
    last: Option<String>,
}

impl Log {
    /// The line as it may be written: cut, without control characters; none when the call has said enough.
    fn take(&mut self, text: &str) -> Option<String> {
        let line = clean(text, LOG_LINE_BYTES);
        if self.bytes + line.len() > LOG_CALL_BYTES {
            self.dropped += 1;
            return None;
        }
        self.bytes += line.len();
        Some(line)
    }
}

/// `text` for a log or a terminal: at most `limit` bytes, control characters as escapes.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for c in text.trim_end().chars() {
        if line.len() + c.len_utf8() > limit {
            line.push('…');
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Bytes of all linear memories of one instance.
#[derive(Debug)]
struct MemoryBudget {
    used: usize,
    limit: usize,
    exceeded: Option<usize>,
}

impl ResourceLimiter for MemoryBudget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            self.exceeded = Some(total);
            // An error traps at once. A failed growth would be seen by the guest, which aborts with
            // `unreachable` and hides the reason.
            return Err(wasmtime::Error::msg("the memory limit was reached"));
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// How the message of a trap for want of stack begins: whether it happens depends on the compiler's version.
pub(super) const STACK_OVERFLOW: &str = "its stack overflowed";

/// Where a call was when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Instantiate,
    Call,
}

/// Tells what kind of failure `error` is, with a sentence for a person.
pub(super) fn classify(stage: Stage, error: &wasmtime::Error, state: &State) -> (Fault, String) {
    if let Some(wanted) = state.memory.exceeded {
        let limit = state.memory.limit;
        return (
            Fault::Memory,
            format!("it wanted {wanted} bytes of memory, the limit is {limit} (memory-bytes)"),
        );
    }
    let root = error.root_cause().to_string();
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (Fault::Deadline, "it was still running at its deadline".to_owned()),
        Some(Trap::StackOverflow) => {
            (Fault::Trap, format!("{STACK_OVERFLOW}: it calls itself too deep{}", whereabouts(error, state)))
        }
        Some(_) => (Fault::Trap, trapped(&root, error, state)),
        // wasmtime's type for this is private; a test holds the text.
        None if root.contains("fuel allocated for hostcalls") => {
            (Fault::Boundary, "its answer is larger than a policy may give (bytes-out)".to_owned())
        }
        None if stage == Stage::Instantiate => (Fault::Link, clean(&root, LOG_LINE_BYTES)),
        // Not a trap of the guest's code: its result could not be read.
        None => {
            (Fault::InvalidAnswer, format!("its answer cannot be read: {}", clean(&root, LOG_LINE_BYTES)))
        }
    }
}

fn trapped(root: &str, error: &wasmtime::Error, state: &State) -> String {
    clean(root, LOG_LINE_BYTES) + &whereabouts(error, state)
}

/// In which functions it was, and what it said last.
fn whereabouts(error: &wasmtime::Error, state: &State) -> String {
    let mut text = String::new();
    let frames: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .into_iter()
        .flat_map(WasmBacktrace::frames)
        .filter_map(|frame| frame.func_name())
        .take(3)
        .map(|name| clean(name, 120))
        .collect();
    if !frames.is_empty() {
        text.push_str(" in ");
        text.push_str(&frames.join(" < "));
    }
    if let Some(last) = &state.log.last {
        text.push_str("; its last words: ");
        text.push_str(last);
    }
    if state.log.dropped > 0 {
        text.push_str(&format!(" ({} log lines dropped)", state.log.dropped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_cut_escaped_and_bounded_per_call() {
        let mut log = Log::default();
        assert_eq!(log.take("a\nb\x1b[31m\n").as_deref(), Some("a\\nb\\u{1b}[31m"));
        let long = "é".repeat(LOG_LINE_BYTES);
        let line = log.take(&long).unwrap();
        assert!(line.len() <= LOG_LINE_BYTES + '…'.len_utf8() && line.ends_with('…'));
        for _ in 0..100 {
            log.take(&long);
        }
        assert!(log.bytes <= LOG_CALL_BYTES);
        assert!(log.dropped > 30);
    }

    #[test]
    fn memory_is_summed_over_all_memories() {
        let mut memory = MemoryBudget { used: 0, limit: 100, exceeded: None };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(memory.memory_growing(40, 41, None).is_err());
        assert_eq!(memory.exceeded, Some(101));
    }
}
