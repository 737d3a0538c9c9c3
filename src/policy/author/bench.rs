//! How long a policy takes, beside what it can at least take and what the built-in takes.
//!
//! A call is what the agent does on a policy thread: a fresh instance, the question lowered into it, the answer
//! lifted and checked, the instance dropped. Beside it the same without the call, and the native twin with the same
//! check on the same questions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{AuthorError, Inspected, Questions, Workshop, inspect, loaded, packed};
use crate::policy::config::Config;
use crate::policy::fixture::{self, Asking, Case, Expect, Typed, typed};
use crate::policy::guest::Asked;
use crate::policy::journal::Entry;
use crate::policy::ladder::BUILTIN_TERMS;
use crate::policy::load::Policy;
use crate::policy::sandbox::{Stage, classify};
use crate::policy::weigh::{self, Weigh};
use crate::policy::{WorldKind, bindings::types};

/// Not counted.
const WARM_UP: usize = 20;
/// Wall clock of one call; far beyond an agent's, so that slow ones are timed, too.
const CALL: Duration = Duration::from_secs(2);
/// All calls of a function; somebody waits.
const ALL: Duration = Duration::from_secs(60);

/// What was timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bench {
    /// The policy.
    pub policy: Inspected,
    /// Function by function.
    pub functions: Vec<Figures>,
    /// Wall clock that an agent gives the active policy by default, in microseconds.
    pub deadline_us: u64,
    /// Bytes of a question, by default.
    pub limit_in: usize,
    /// Bytes of an answer, by default.
    pub limit_out: usize,
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    /// Its name.
    pub function: String,
    /// Different questions, asked in turn.
    pub questions: usize,
    /// Calls that were timed.
    pub calls: usize,
    /// Median of a call, in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Median of instantiating and dropping it, nothing else.
    pub instantiate_ns: u64,
    /// Median of the built-in on the same questions.
    pub native_ns: u64,
    /// Most linear memory of a call, in bytes.
    pub memory_bytes: usize,
    /// Bytes of the largest question, as the budget counts them.
    pub bytes_in: usize,
    /// Bytes of the largest answer.
    pub bytes_out: usize,
    /// Questions on which the call failed, and how.
    pub failed: Vec<String>,
}

/// Times a module on fixtures or on a journal, `calls` calls of each function that is asked in them.
///
/// # Errors
/// When the module does not load, or nothing is asked of it there.
pub fn bench(
    subject: &str,
    component: Vec<u8>,
    questions: Questions,
    calls: usize,
    workshop: &Workshop,
) -> Result<Bench, AuthorError> {
    let name = subject.to_owned();
    loaded(subject, component, workshop, move |sandbox, module, component| {
        let config = Config::default();
        let cases = match questions {
            Questions::Folder(dir) => whole(&fixture::folder(&dir).map_err(AuthorError::BadFixtures)?.files)?,
            Questions::Manifest => whole(&packed(module))?,
            Questions::Journal(file) => of_journal(&file, module.world)?,
        };
        if cases.is_empty() {
            return Err(AuthorError::NoFixtures(name));
        }
        let asking = Asking { sandbox, module, call: CALL };
        let mut functions = Vec::new();
        for function in ["report", "place", "order", "evict", "adjust"] {
            let cases: Vec<&Case> = cases.iter().filter(|case| case.function == function).collect();
            if cases.is_empty() {
                continue;
            }
            let timed = typed(function, Timing { asking, cases: &cases, calls });
            functions.push(timed.and_then(|timed| timed).map_err(AuthorError::BadFixtures)?);
        }
        Ok(Bench {
            policy: inspect::of(module, component).map_err(|problem| problem.of(name))?,
            functions,
            deadline_us: config.deadline_ms * 1000 / 2,
            limit_in: config.bytes_in,
            limit_out: config.bytes_out,
        })
    })
}

/// All cases; one that cannot be read is an error here.
fn whole(files: &super::Files) -> Result<Vec<Case>, AuthorError> {
    let mut cases = Vec::new();
    for (file, whole) in files {
        let bad = |name: &str, problem: &str| AuthorError::BadFixtures(format!("{name}: {problem}"));
        let whole = whole.as_ref().map_err(|problem| bad(file, problem))?;
        for case in fixture::cases(file, whole) {
            cases.push(case.map_err(|(name, problem)| bad(&name, &problem))?);
        }
    }
    Ok(cases)
}

/// The questions of an exported journal that are of this world.
fn of_journal(file: &PathBuf, world: WorldKind) -> Result<Vec<Case>, AuthorError> {
    let shown = file.display();
    let bad = |problem: String| AuthorError::Journal(format!("{shown}: {problem}"));
    let text = std::fs::read_to_string(file).map_err(|error| bad(format!("it cannot be read: {error}")))?;
    let mut cases = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let entry: Entry =
            serde_json::from_str(text).map_err(|error| bad(format!("line {line} is no record: {error}")))?;
        if entry.world != world {
            continue;
        }
        let context = crate::policy::json::Read::read(&entry.context);
        cases.push(Case {
            name: format!("line {line}"),
            function: entry.function,
            settings: None,
            context: context.map_err(|wrong| bad(format!("line {line}: context: {wrong}")))?,
            question: entry.question,
            expect: Expect::Properties(Map::new()),
        });
    }
    if cases.is_empty() {
        return Err(bad(format!("nothing in it was asked of a {world}")));
    }
    Ok(cases)
}

/// The calls of one function.
struct Timing<'a> {
    asking: Asking<'a>,
    cases: &'a [&'a Case],
    calls: usize,
}

/// A question with all that belongs to it.
struct Prepared<D: Asked> {
    name: String,
    policy: Policy,
    context: types::Context,
    question: D::Question,
    /// As the built-in is asked, which has none of these settings.
    bare_context: types::Context,
    untailored: D::Question,
    weight: usize,
}

impl Typed for Timing<'_> {
    type Out = Result<Figures, String>;

    fn of<D: Asked>(self) -> Self::Out
    where
        D::Raw: Weigh,
    {
        let mut prepared = Vec::new();
        for case in self.cases {
            prepared.push(self.prepare::<D>(case).map_err(|problem| format!("{}: {problem}", case.name))?);
        }
        let mut figures = Figures {
            function: D::FUNCTION.to_owned(),
            questions: prepared.len(),
            calls: 0,
            p50_ns: 0,
            p99_ns: 0,
            instantiate_ns: 0,
            native_ns: 0,
            memory_bytes: 0,
            bytes_in: prepared.iter().map(|one| one.weight).max().unwrap_or(0),
            bytes_out: 0,
            failed: Vec::new(),
        };
        for one in &prepared {
            match self.call(one) {
                Ok((memory, out)) => {
                    figures.memory_bytes = figures.memory_bytes.max(memory);
                    figures.bytes_out = figures.bytes_out.max(out);
                }
                Err(problem) => figures.failed.push(format!("{}: {problem}", one.name)),
            }
        }
        let calls = self.time(|turn| {
            // Failures have been told; how long they take counts.
            let _ = self.call(&prepared[turn % prepared.len()]);
        });
        figures.calls = calls.len();
        (figures.p50_ns, figures.p99_ns) = (percentile(&calls, 50), percentile(&calls, 99));
        let name: Arc<str> = self.asking.module.about.name.as_str().into();
        let bare = self.time(|turn| {
            let one = &prepared[turn % prepared.len()];
            let _running = self.asking.sandbox.clock.running();
            let mut store = self.asking.sandbox.store(&name, Instant::now() + CALL, one.policy.budgets);
            let _ = one.policy.pre.instantiate(&mut store);
        });
        figures.instantiate_ns = percentile(&bare, 50);
        let native = self.time(|turn| {
            let one = &prepared[turn % prepared.len()];
            if let Ok(raw) = D::twin(&one.bare_context, &one.untailored) {
                let _ = D::check(&one.bare_context, &one.untailored, raw);
            }
        });
        figures.native_ns = percentile(&native, 50);
        Ok(figures)
    }
}

impl Timing<'_> {
    fn prepare<D: Asked>(&self, case: &Case) -> Result<Prepared<D>, String> {
        let (policy, asked) = self.asking.prepared::<D>(case)?;
        let bare_context = types::Context { settings: Vec::new(), ..case.context.clone() };
        let context = types::Context { settings: policy.settings.clone(), ..bare_context.clone() };
        let untailored = D::tailored(&asked, &BUILTIN_TERMS).into_owned();
        let weight = D::weigh(&asked, &policy.terms) + context.behind();
        let name = case.name.clone();
        Ok(Prepared { name, policy, context, question: asked, bare_context, untailored, weight })
    }

    /// One call. Returns the memory and the bytes that came out.
    fn call<D: Asked>(&self, one: &Prepared<D>) -> Result<(usize, usize), String>
    where
        D::Raw: Weigh,
    {
        let sandbox = self.asking.sandbox;
        let limit = one.policy.budgets.bytes_in;
        if one.weight > limit {
            return Err(format!("the question has {} bytes, the limit is {limit}", one.weight));
        }
        let _running = sandbox.clock.running();
        let mut store = sandbox.store(&one.policy.name, Instant::now() + CALL, one.policy.budgets);
        let guest = one.policy.pre.instantiate(&mut store);
        let guest = guest.map_err(|error| classify(Stage::Instantiate, &error, store.data()).1)?;
        let raw = D::call(&guest, &mut store, &one.context, &one.question, &one.policy.terms);
        let raw = raw.map_err(|error| classify(Stage::Call, &error, store.data()).1)?;
        let mut out = 0;
        if let Ok(raw) = raw {
            out = weigh::list(std::slice::from_ref(&raw));
            D::check_under(&one.context, &one.question, &one.policy.terms, raw)?;
        }
        Ok((store.data().memory_bytes(), out))
    }

    /// Nanoseconds of each turn, in order of size.
    fn time(&self, mut turn: impl FnMut(usize)) -> Vec<u64> {
        for at in 0..WARM_UP.min(self.calls) {
            turn(at);
        }
        let begun = Instant::now();
        let mut times = Vec::with_capacity(self.calls);
        for at in 0..self.calls.max(1) {
            let before = Instant::now();
            turn(at);
            times.push(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if begun.elapsed() > ALL {
                break;
            }
        }
        times.sort_unstable();
        times
    }
}

/// Of sorted times.
fn percentile(times: &[u64], hundredths: usize) -> u64 {
    times.get((times.len() * hundredths / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(0)
}
