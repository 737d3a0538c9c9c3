//! `berth policy bench`: how long a policy takes.

use std::path::PathBuf;

use super::author::{binary, module_and_fixtures};
use super::inspect;
use crate::cli::error::CliError;
use crate::cli::output::{Output, table};
use crate::policy::Workshop;
use crate::policy::author::{self, Bench as Figures, Questions};

/// Time a policy's calls on fixtures or on real decisions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy bench gpu-quota.wasm                     on the fixtures in the module
  berth policy bench -n 10000 gpu-quota                 a project, on its fixtures/
  berth policy journal -n 1000 -o json > journal.jsonl
  berth policy bench --journal journal.jsonl gpu-quota.wasm

A call is what it is in an agent: a fresh instance, the question copied in, the answer copied out and
checked. INSTANCE is the least that it can take, making an instance and dropping it; NATIVE is the
built-in on the same questions. MEMORY is the most that a call had, IN and OUT the bytes of the largest
question and answer. Calls are made one after another on one thread.")]
pub(super) struct Bench {
    /// Folder of fixtures (*.json) [default: the project's fixtures/, else those in the module]
    #[arg(long, value_name = "DIR", conflicts_with = "journal")]
    fixtures: Option<PathBuf>,
    /// The questions of an exported journal instead
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Calls of each function
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    number: u32,
    /// The module, or a project that was built
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    policy: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (file, questions) = module_and_fixtures(&self.policy, self.fixtures)?;
        let questions = self.journal.map_or(questions, Questions::Journal);
        let subject = file.display().to_string();
        let bench = author::bench(
            &subject,
            author::read(&file)?,
            questions,
            self.number as usize,
            &Workshop::of_user(),
        )?;
        self.output.print(&bench, text)
    }
}

/// A line for each function.
pub(super) fn text(bench: &Figures) -> String {
    let mut text = inspect::head(&bench.policy);
    let rows = bench.functions.iter().map(|figures| {
        vec![
            figures.function.clone(),
            figures.questions.to_string(),
            figures.calls.to_string(),
            micros(figures.p50_ns),
            micros(figures.p99_ns),
            micros(figures.instantiate_ns),
            micros(figures.native_ns),
            bytes(figures.memory_bytes),
            bytes(figures.bytes_in),
            bytes(figures.bytes_out),
        ]
    });
    let headings =
        ["FUNCTION", "QUESTIONS", "CALLS", "P50", "P99", "INSTANCE", "NATIVE", "MEMORY", "IN", "OUT"];
    text += &table(&headings, rows);
    text += &format!(
        "an agent gives a call by default {} ms, {} of memory, {} in and {} out\n",
        bench.deadline_us / 1000,
        binary(bench.policy.memory_limit),
        bytes(bench.limit_in),
        bytes(bench.limit_out),
    );
    for figures in &bench.functions {
        if figures.p99_ns / 1000 > bench.deadline_us {
            text += &format!("{}: too slow for that deadline\n", figures.function);
        }
        for problem in &figures.failed {
            text += &format!("{}: failed on {problem}\n", figures.function);
        }
    }
    text
}

fn micros(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{}.{} µs", nanos / 1000, nanos % 1000 / 100),
        _ => format!("{}.{:02} ms", nanos / 1_000_000, nanos % 1_000_000 / 10_000),
    }
}

fn bytes(bytes: usize) -> String {
    binary(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_matter() {
        assert_eq!([17_123, 950, 1_748_123].map(micros), ["17.1 µs", "0.9 µs", "1.74 ms"]);
    }
}
