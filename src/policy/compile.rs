//! Compiling, in a process of its own.
//!
//! The compiler is the largest piece of code into which a stranger's module is put. Where a module makes it loop or
//! eat memory, that ends a child and not the agent; and what compiling leaves behind in memory (it is tens of MiB)
//! ends with the child, too. The child is this very program, `berth policy-compile`:
//!
//! ```text
//! agent                                    child
//! Compiler::component ──module (memfd)───> limits itself, compiles,
//!   loads the entry  <──one line (pipe)─── writes the sealed entry into the cache
//! ```
//!
//! Where there is no folder of entries, or no child can be started, the process itself compiles, as it does where
//! nobody named a program (in tests and benches).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Cache;
use super::config::Config;
use super::error::Problem;
use super::header::MAX_MODULE_BYTES;
use super::sandbox::{clean, compiler_engine};
use crate::failpoint;
use crate::ids::Digest;

/// The first word of the child's command line; cache folder, seconds and bytes follow.
const COMMAND: &str = "policy-compile";
/// What of a child's output is kept: its last line is what it has to say.
const OUTPUT_BYTES: usize = 64 << 10;
/// What of it is shown.
const WORDS_BYTES: usize = 1 << 10;

const COMPILED: &str = "compiled";
const REFUSED: &str = "refused: ";
const NOT_KEPT: &str = "not kept: ";

/// Where compiled code is kept, and who compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workshop {
    /// The folder of entries; none: everything is compiled each time.
    pub cache: Option<PathBuf>,
    /// The program `berth`, which compiles as a child; none: the process itself does.
    pub program: Option<PathBuf>,
}

impl Workshop {
    /// Nothing is kept, and nobody else compiles.
    pub const IN_MEMORY: Self = Self { cache: None, program: None };

    /// This program compiles for itself, as a child, and keeps it in that folder.
    #[must_use]
    pub fn own(cache: Option<PathBuf>) -> Self {
        // The file that runs, also after another was put in its place.
        Self { cache, program: Some(PathBuf::from("/proc/self/exe")) }
    }

    /// The same in `$XDG_CACHE_HOME/berth/policy-cache` of this user, by default below `~/.cache`: for commands and
    /// for agents whose state goes with them. Without such a place nothing is kept.
    #[must_use]
    pub fn of_user() -> Self {
        Self::own(users_cache())
    }
}

fn users_cache() -> Option<PathBuf> {
    let absolute =
        |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let berth = caches.join("berth");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&berth).ok()?;
    Some(berth.join("policy-cache"))
}

/// What one module may use of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall clock.
    pub deadline: Duration,
    /// Memory that it writes to.
    pub memory_bytes: u64,
}

impl Limits {
    /// Those of `[policy]`.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self { deadline: Duration::from_secs(config.compile_sec), memory_bytes: config.compile_memory_bytes }
    }
}

/// Makes components of modules.
#[derive(Debug)]
pub(super) struct Compiler {
    cache: Option<Cache>,
    program: Option<PathBuf>,
    limits: Limits,
    /// It was said that no child can be had.
    said: AtomicBool,
}

/// How a child's work came to nothing.
enum Failure {
    /// It is the module's matter.
    Module(Problem),
    /// It is not: the process itself has to compile.
    NoChild(String),
}

impl Compiler {
    /// Opens the folder; without one everything is compiled each time, which is said in the log.
    pub fn open(workshop: &Workshop, limits: Limits) -> Self {
        let open = |dir: &PathBuf| {
            let opened = Cache::open(dir);
            opened
                .inspect_err(|error| {
                    tracing::warn!(%error, "compiled policies are not kept: each start compiles them");
                })
                .ok()
        };
        Self {
            cache: workshop.cache.as_ref().and_then(open),
            program: workshop.program.clone(),
            limits,
            said: AtomicBool::new(false),
        }
    }

    /// The component of a module, compiled now or before.
    ///
    /// # Errors
    /// What is wrong with the module.
    pub fn component(&self, engine: &Engine, digest: Digest, bytes: &[u8]) -> Result<Component, Problem> {
        let Some(cache) = &self.cache else { return compiled(engine, bytes) };
        if let Some(component) = cache.get(engine, digest)? {
            return Ok(component);
        }
        if let Some(program) = &self.program {
            match child(program, cache.dir(), self.limits, bytes) {
                Ok(()) => {
                    return cache.get(engine, digest)?.ok_or_else(|| Problem::CompilerFailed {
                        how: "its code is too large to be kept, or was lost".to_owned(),
                        last_words: String::new(),
                    });
                }
                Err(Failure::Module(problem)) => return Err(problem),
                Err(Failure::NoChild(why)) => {
                    if !self.said.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "policies are compiled in this process, not in one of their own: {why}"
                        );
                    }
                }
            }
        }
        let component = compiled(engine, bytes)?;
        if let Err(error) = cache.put(engine, digest, &component) {
            tracing::warn!(%error, dir = %cache.dir().display(), "compiled code could not be kept");
        }
        Ok(component)
    }
}

fn compiled(engine: &Engine, bytes: &[u8]) -> Result<Component, Problem> {
    Component::from_binary(engine, bytes).map_err(|error| problem_of(&error))
}

/// Why wasmtime does not make a component of it.
pub(super) fn problem_of(error: &wasmtime::Error) -> Problem {
    let message = clean(&format!("{error:#}"), WORDS_BYTES);
    // wasmtime has no type for it; a test holds the text.
    match message.contains("pooling allocator") || message.contains("exceeds the limit of") {
        true => Problem::DoesNotFit(message),
        false => Problem::Compile(message),
    }
}

/// Has a child make the entry.
fn child(program: &Path, dir: &Path, limits: Limits, bytes: &[u8]) -> Result<(), Failure> {
    let no_child = |error: io::Error| Failure::NoChild(error.to_string());
    let (child, output) = start(program, dir, limits, bytes).map_err(no_child)?;
    let mut child = Ended(child);
    let Some(said) = read_until(output, Instant::now() + limits.deadline).map_err(no_child)? else {
        return Err(Failure::Module(Problem::CompilerLimit {
            what: format!("{} s", limits.deadline.as_secs()),
            key: "compile-sec",
        }));
    };
    let status = child.0.wait().map_err(no_child)?;
    verdict(&said, status, limits)
}

/// A child that is ended with this value, and leaves nothing behind.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &Path, dir: &Path, limits: Limits, bytes: &[u8]) -> io::Result<(Child, PipeReader)> {
    // Whole before the child begins: nobody waits for it to read.
    let mut module = File::from(rustix::fs::memfd_create("berth-module", MemfdFlags::CLOEXEC)?);
    module.write_all(bytes)?;
    module.rewind()?;
    let (output, input) = io::pipe()?;
    let child = Command::new(program)
        .arg(COMMAND)
        .arg(dir)
        .arg(limits.deadline.as_secs().to_string())
        .arg(limits.memory_bytes.to_string())
        .env("RAYON_NUM_THREADS", threads().to_string())
        // Making one takes memory; where there is none left it would wait for itself for ever.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::from(module))
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()?;
    Ok((child, output))
}

/// Of the compiler: its memory is bounded, and others want to work, too.
fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4) as u64)
}

/// The end of what a child writes until it closes its output; none: it did not in time.
fn read_until(mut output: PipeReader, until: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let Ok(timeout) = Timespec::try_from(left) else { return Ok(None) };
        match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match output.read(&mut piece)? {
            0 => return Ok(Some(said)),
            count => said.extend_from_slice(piece.get(..count).unwrap_or_default()),
        }
        if said.len() > OUTPUT_BYTES {
            said.drain(..said.len() - OUTPUT_BYTES / 2);
        }
    }
}

/// What a child that has ended says of the module. Pure.
fn verdict(said: &[u8], status: ExitStatus, limits: Limits) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt as _;
    let said = String::from_utf8_lossy(said);
    let last = said.trim_end().lines().next_back().unwrap_or_default();
    let memory = || format!("{} of memory", crate::amount::format_bytes(limits.memory_bytes));
    let limit = |what, key| Err(Failure::Module(Problem::CompilerLimit { what, key }));
    if status.success() {
        if last == COMPILED {
            return Ok(());
        }
        // wasmtime comes to an end of its own where it can.
        if last.ends_with("out of memory") {
            return limit(memory(), "compile-memory-bytes");
        }
        if let Some(text) = last.strip_prefix(REFUSED) {
            return Err(Failure::Module(Problem::Compile(clean(text, WORDS_BYTES))));
        }
        let why = last.strip_prefix(NOT_KEPT).unwrap_or("it said nothing");
        return Err(Failure::NoChild(clean(why, WORDS_BYTES)));
    }
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => limit(format!("{} s", limits.deadline.as_secs()), "compile-sec"),
        // What the system does to the largest when there is none left.
        Some(Signal::KILL) => limit(memory(), "compile-memory-bytes"),
        // What Rust and rayon say before they give up.
        _ if said.contains("memory allocation of") || said.contains("ThreadPoolBuildError") => {
            limit(memory(), "compile-memory-bytes")
        }
        _ => Err(Failure::Module(Problem::CompilerFailed {
            how: status.to_string(),
            last_words: clean(last, WORDS_BYTES),
        })),
    }
}

/// The child, where this command line is one: what `main` does then, and nothing else.
#[must_use]
pub fn as_child(words: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut words = words.into_iter().skip(1);
    if words.next()? != COMMAND {
        return None;
    }
    let number = |word: Option<OsString>| word?.to_str()?.parse::<u64>().ok();
    let given = words.next().zip(number(words.next())).zip(number(words.next()));
    let Some(((dir, seconds), memory_bytes)) = given else {
        eprintln!("berth: {COMMAND} is for berth itself; `berth policy inspect FILE` compiles a module");
        return Some(ExitCode::from(2));
    };
    let limits = Limits { deadline: Duration::from_secs(seconds), memory_bytes };
    let last_line = compile(Path::new(&dir), limits);
    println!("{}", last_line.unwrap_or_else(|error| format!("{NOT_KEPT}{error}")));
    Some(ExitCode::SUCCESS)
}

/// Compiles the module on standard input and keeps it in `dir`. Returns the last line to be said.
///
/// # Errors
/// When it cannot limit itself, or not read: a stranger's module is not touched then.
fn compile(dir: &Path, limits: Limits) -> io::Result<String> {
    confine(limits)?;
    failpoint::reach("policy-compile");
    let mut bytes = Vec::new();
    io::stdin().take(MAX_MODULE_BYTES).read_to_end(&mut bytes)?;
    let kept = |error: &dyn std::fmt::Display| format!("{NOT_KEPT}{error}");
    let engine = match compiler_engine() {
        Ok(engine) => engine,
        Err(error) => return Ok(kept(&error)),
    };
    let component = match Component::from_binary(&engine, &bytes) {
        Ok(component) => component,
        Err(error) => return Ok(format!("{REFUSED}{}", clean(&format!("{error:#}"), WORDS_BYTES))),
    };
    let put = Cache::open(dir).and_then(|cache| cache.put(&engine, Digest::of(&bytes), &component));
    Ok(put.map_or_else(|error| kept(&error), |()| COMPILED.to_owned()))
}

/// Bounds what this process may use from here on.
fn confine(limits: Limits) -> io::Result<()> {
    let at_most = |resource, most: u64| {
        // The signal of the lower one says which it was.
        setrlimit(resource, Rlimit { current: Some(most), maximum: most.checked_add(1) })
    };
    // Not the address space: threads reserve much of it that they never use, more the more cores there are.
    at_most(Resource::Data, limits.memory_bytes)?;
    // Beside the agent's clock, should the agent be gone. All threads together.
    at_most(Resource::Cpu, limits.deadline.as_secs().saturating_mul(threads()).saturating_add(1))?;
    at_most(Resource::Core, 0)?;
    // Of use only to an agent that waits for it, and the first to go where memory is short; that neither can be
    // had changes nothing.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const LIMITS: Limits = Limits { deadline: Duration::from_secs(120), memory_bytes: 2 << 30 };

    fn told(said: &str, status: i32) -> String {
        match verdict(said.as_bytes(), ExitStatus::from_raw(status), LIMITS) {
            Ok(()) => "kept".to_owned(),
            Err(Failure::Module(problem)) => format!("{}: {problem}", problem.code()),
            Err(Failure::NoChild(why)) => format!("no child: {why}"),
        }
    }

    #[test]
    fn each_end_of_a_child_has_a_code_and_a_text_of_its_own() {
        let aborted = "thread 'x' panicked\nmemory allocation of 4096 bytes failed\n";
        let ends = [
            ("compiled\n", 0),
            ("refused: invalid \x1b[31m function\n", 0),
            ("not kept: No space left on device\n", 0),
            ("not kept: out of memory\n", 0),
            ("", 0),
            (aborted, 6),
            ("", 9),
            ("", 24),
            ("thread 'main' panicked: index out of bounds\n", 101 << 8),
            ("", 11),
        ];
        let lines: Vec<String> = ends.iter().map(|(said, status)| told(said, *status)).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_child_that_says_nothing_is_given_up_at_the_deadline_and_one_that_says_much_is_cut() {
        let (output, input) = io::pipe().unwrap();
        assert_eq!(read_until(output, Instant::now()).unwrap(), None);
        drop(input);
        let (output, mut input) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                input.write_all(&[b'x'; 4096]).unwrap();
            }
            input.write_all(b"\ncompiled\n").unwrap();
        });
        let said = read_until(output, Instant::now() + LIMITS.deadline).unwrap().unwrap();
        writer.join().unwrap();
        assert!(said.len() <= OUTPUT_BYTES && said.ends_with(b"\ncompiled\n"));
    }
}
