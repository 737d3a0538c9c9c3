//! `berth doctor`: what is not as it should be on this node.

use std::path::PathBuf;

use super::Context;
use super::error::{CliError, say};
use super::layers::Layers;
use super::output::Output;
use crate::config;
use crate::doctor::{self, Check, Report, Verdict};
use crate::kernel::reconcile::Finding;

/// Look for what is not as it should be, and say the next step for each
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth doctor
  berth doctor -o json | jq -r '.checks[] | select(.verdict == \"bad\") | .hint'
  berth doctor --engine process       where no agent runs: as one would with these flags

A running agent looks for itself, and the flags of its configuration have no effect. Where none
answers, this command looks, as an agent would that is started here and now; nothing is changed.
Under `kernels` stands what a running agent mends by itself, half a minute after it saw it.

Exits 0 when all is well and 1 when something should be done.")]
pub(super) struct Doctor {
    #[command(flatten)]
    layers: Layers,
    #[command(flatten)]
    output: Output,
}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let report = match context.agent.get::<Report>("/v1/doctor").await {
            Err(error) if error.code == "no-agent" => {
                let config =
                    config::load(&self.layers.into_overrides(context.socket.clone())).map_err(|error| {
                        CliError::new(error.to_string())
                            .with_code("bad-config")
                            .with_hint("`berth config check` tells all of it")
                    })?;
                say("no agent answers; looking without one");
                doctor::offline(&config).await
            }
            answered => answered?,
        };
        self.output.print(&report, text)?;
        Ok(u8::from(!report.is_well()))
    }
}

fn text(report: &Report) -> String {
    let mut text: String = report.checks.iter().map(check).collect();
    for found in &report.findings {
        text += &format!("{:<5} {:<13} {}\n", "bad", "kernels", finding(found));
    }
    if report.findings.is_empty() {
        text += &format!("{:<5} {:<13} {}\n", "good", "kernels", "nothing is missing, nothing is left over");
    } else {
        let hint = match report.online {
            true => "the agent mends this by itself within half a minute; look again then",
            false => "an agent that is started mends this",
        };
        text += &format!("{:<5} {:<13} -> {hint}\n", "", "");
    }
    text
}

fn check(check: &Check) -> String {
    let verdict = match check.verdict {
        Verdict::Good => "good",
        Verdict::Note => "note",
        Verdict::Bad => "bad",
    };
    let mut text = format!("{verdict:<5} {:<13} {}\n", check.name, check.text);
    if let Some(hint) = &check.hint {
        text += &format!("{:<5} {:<13} -> {hint}\n", "", "");
    }
    text
}

fn finding(finding: &Finding) -> String {
    let paths = |paths: &[PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    match finding {
        Finding::ContainerEnded { name, container, exit_code, .. } => {
            let code = exit_code.map_or(String::new(), |code| format!(" ({code})"));
            format!("{name} should run, its container {container} has ended{code}")
        }
        Finding::ContainerMissing { name, container, .. } => {
            format!("{name} should run, its container {container} is gone")
        }
        Finding::ContainerWithoutRecord { container, name } => {
            format!("the container {name} ({container}) is of no kernel")
        }
        Finding::FoldersWithoutKernel { folders, .. } => format!("folders of no kernel: {}", paths(folders)),
        Finding::StaleSockets { name, sockets, .. } => {
            format!("{name} has ended, its sockets are left: {}", paths(sockets))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_for_each_thing_and_the_next_step_below() {
        let check = |name: &str, verdict, text: &str, hint: Option<&str>| Check {
            name: name.to_owned(),
            verdict,
            text: text.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let report = Report {
            online: true,
            checks: vec![
                check("engine", Verdict::Good, "docker 20.10.24 at unix:///run/docker.sock", None),
                check(
                    "live-restore",
                    Verdict::Bad,
                    "a restart of the engine ends every kernel",
                    Some("do x"),
                ),
                check("not enforced", Verdict::Note, "Swap is not limited.", None),
            ],
            findings: vec![
                Finding::ContainerMissing {
                    kernel: crate::ids::KernelId::random(),
                    name: "k1".parse().unwrap(),
                    container: "c1".parse().unwrap(),
                },
                Finding::FoldersWithoutKernel {
                    kernel: crate::ids::KernelId::random(),
                    folders: vec!["/s/a".into(), "/l/a".into()],
                },
            ],
        };
        insta::assert_snapshot!(text(&report));
        let well = Report { checks: report.checks[..1].to_vec(), findings: Vec::new(), ..report };
        assert!(well.is_well());
        insta::assert_snapshot!(text(&well));
    }
}
