//! `berth policy test`: what a policy must decide, asked of the module itself.

use std::path::PathBuf;

use serde::Serialize;

use super::author::{count, module_and_fixtures, say_idle};
use super::inspect;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::policy::author::{self, Tested};
use crate::policy::fixture::Verdict;
use crate::policy::{Workshop, WorldKind};

/// Ask a policy its fixtures and compare what it answers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth policy test gpu-quota                        a project: its module, its fixtures/
  berth policy test gpu-quota.wasm                   the fixtures in the module
  berth policy test --fixtures more/ gpu-quota.wasm
  berth policy test -o json gpu-quota | jq '.cases[] | select(.problem)'

Exits 1 when one fails. A module is asked in the agent's own sandbox, with its checks, its budgets and
what its built-in adds to an answer; each fixture twice, since the same question must have the same
answer. The format is in docs/policies.md: a line of `berth policy journal -o json` with `expect`
added is one.")]
pub(super) struct Test {
    /// Folder of fixtures (*.json) [default: the project's fixtures/, else those in the module]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// The module, or a project that was built
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    policy: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// What programs get.
#[derive(Debug, Serialize)]
struct Report<'t> {
    name: &'t str,
    version: &'t str,
    world: WorldKind,
    digest: String,
    passed: usize,
    failed: usize,
    cases: &'t [Verdict],
}

impl Test {
    pub(super) fn run(self) -> Result<(), CliError> {
        let (file, questions) = module_and_fixtures(&self.policy, self.fixtures)?;
        let tested = author::test(
            &file.display().to_string(),
            author::read(&file)?,
            &questions,
            &Workshop::of_user(),
        )?;
        say_idle(&tested.idle);
        let report = report(&tested);
        self.output.print(&report, |_| text(&tested))?;
        failure(&tested).map_or(Ok(()), Err)
    }
}

fn report(tested: &Tested) -> Report<'_> {
    let failed = tested.verdicts.iter().filter(|verdict| verdict.problem.is_some()).count();
    Report {
        name: &tested.policy.name,
        version: &tested.policy.version,
        world: tested.policy.world,
        digest: tested.policy.digest.to_string(),
        passed: tested.verdicts.len() - failed,
        failed,
        cases: &tested.verdicts,
    }
}

/// A line for each fixture.
pub(super) fn text(tested: &Tested) -> String {
    let mut text = inspect::head(&tested.policy);
    for verdict in &tested.verdicts {
        text += &match (&verdict.problem, &verdict.answered) {
            (Some(problem), _) => format!("  FAIL  {}: {problem}\n", verdict.name),
            (None, answered) => {
                format!("  ok    {}: {}\n", verdict.name, answered.as_deref().unwrap_or("nothing"))
            }
        };
    }
    text
}

/// The error of a test that failed.
pub(super) fn failure(tested: &Tested) -> Option<CliError> {
    let failed = tested.verdicts.iter().filter(|verdict| verdict.problem.is_some()).count();
    (failed > 0).then(|| {
        CliError::new(format!("{failed} of {} failed", count(tested.verdicts.len(), "fixture")))
            .with_code("fixtures-failed")
            .with_hint("the lines with FAIL say what was expected; mend the policy or the fixture")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::author::Questions;

    #[test]
    fn the_report_has_a_line_for_each_fixture() {
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/dist/examples/last-core.wasm");
        let dir = tempfile::tempdir().unwrap();
        let node = r#"{"function": "place", "question": {
            "node": {
                "models": [{"kind": "cpu", "family": "cpu", "capacity": 1000000}],
                "devices": [{"number": 0}, {"number": 1}], "slots": [{"name": "cpu", "quantum": 1000000}]},
            "request": {"wants": [{"slot": 0, "amount": 1000000}]},
            "choice": {"stock": [
                {"device": 0, "slot": 0, "free": 1000000, "offered": 1000000},
                {"device": 1, "slot": 0, "free": 1000000, "offered": 1000000}]}}}"#;
        std::fs::write(dir.path().join("node.json"), node).unwrap();
        let cases = r#"[
            {"name": "the last core", "base": "node.json", "expect": {"properties": {"device": [1]}}},
            {"name": "the first core", "base": "node.json", "expect": {"properties": {"device": [0]}}},
            {"name": "no core", "base": "node.json", "expect": {"refusal": "not-enough-free"}},
            {"name": "exactly", "base": "node.json",
             "expect": {"answer": {"shares": [{"device": 0, "slot": 0, "amount": 1000000}]}}},
            {"name": "misspelt", "base": "node.json", "expect": {"properties": {"devices": [0]}}},
            {"name": "a stranger", "function": "report", "expect": {"properties": {"withheld": []}}},
            {"name": "settings", "base": "node.json", "settings": {"colour": 3}, "expect": {"refusal": "no"}}
        ]"#;
        std::fs::write(dir.path().join("cores.json"), cases).unwrap();
        let questions = Questions::Folder(dir.path().to_owned());
        let tested =
            author::test("last-core", std::fs::read(module).unwrap(), &questions, &Workshop::IN_MEMORY)
                .unwrap();
        let text = text(&tested).replace(&tested.policy.digest.short(), "DIGEST");
        insta::assert_snapshot!(format!("{text}{}", failure(&tested).unwrap().message));
    }
}
