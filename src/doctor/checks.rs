//! What facts about a node mean, and the next step for each that is not good. Pure.

use super::Check;
use super::node::{Facts, Runner, StateFolder};
use crate::engine::{EngineInfo, EngineKind};
use crate::policy::PolicyView;

/// Two sockets a kernel, a connection a client, and files beside: less than this is soon used up.
const OPEN_FILES: u64 = 4096;
/// Below this a node should not make new kernels.
const FREE_BYTES: u64 = 1 << 30;
/// 2025-01-01: a clock that shows less was never set.
const NOT_BEFORE_MS: u64 = 1_735_689_600_000;
/// How far a record may lie ahead of the clock.
const AHEAD_MS: u64 = 60_000;

/// Judges all of them, in the order in which they matter.
pub(super) fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let docker = match &facts.engine {
        Some(Ok(info)) => {
            engine(info, &mut checks);
            info.kind == EngineKind::Docker
        }
        Some(Err(error)) => {
            checks.push(Check::of_error("engine", error));
            false
        }
        None => false,
    };
    checks.push(runner(&facts.runner, docker));
    if let Some(state) = &facts.state {
        checks.extend(state_folder(state));
    }
    checks.push(open_files(facts.open_files));
    checks.extend(policies(&facts.policies));
    checks.push(clock(facts.now_ms, facts.newest_ms));
    checks
}

fn engine(info: &EngineInfo, checks: &mut Vec<Check>) {
    let api = info.api_version.as_ref().map_or(String::new(), |api| format!(", API {api}"));
    checks.push(Check::good(
        "engine",
        format!("{} {}{api} at {}", info.kind.as_str(), info.version, info.endpoint),
    ));
    match info.live_restore {
        Some(false) => checks.push(Check::bad(
            "live-restore",
            "a restart of the engine ends every kernel",
            "put \"live-restore\": true into /etc/docker/daemon.json, then: systemctl reload docker",
        )),
        Some(true) if info.kind == EngineKind::Docker => {
            checks.push(Check::good("live-restore", "kernels survive a restart of the engine"));
        }
        _ => {}
    }
    checks.push(match info.cgroup_version.as_deref() {
        Some(version) => Check::good("cgroup", format!("version {version}")),
        None => Check::bad(
            "cgroup",
            "limits of cores, memory and processes are not enforced",
            "run the agent as root, or give it a delegated cgroup: systemd-run --user -p Delegate=yes berth serve",
        ),
    });
    if info.kind == EngineKind::Process {
        checks.push(match &info.unsandboxed {
            None => Check::good("bubblewrap", "kernels are confined by it"),
            Some(reason) => Check::bad(
                "bubblewrap",
                format!("kernels are not confined: {reason}"),
                "install it (apt install bubblewrap), and let users make namespaces where they may not",
            ),
        });
    }
    checks.extend(info.not_enforced.iter().map(|sentence| Check::note("not enforced", sentence)));
}

fn runner(found: &Result<Runner, String>, docker: bool) -> Check {
    const BUILD: &str = "build it by `cargo xtask build`, or name one in [kernel-runner] path";
    match found {
        Err(problem) => Check::bad("runner", problem, BUILD),
        Ok(Runner { path, is_static: None }) => {
            Check::bad("runner", format!("{} is no program of this system", path.display()), BUILD)
        }
        Ok(Runner { path, is_static: Some(false) }) if docker => Check::bad(
            "runner",
            format!("{} needs a dynamic loader, which an image may not have", path.display()),
            BUILD,
        ),
        Ok(Runner { path, .. }) => Check::good("runner", path.display().to_string()),
    }
}

fn state_folder(found: &Result<StateFolder, String>) -> Vec<Check> {
    let folder = match found {
        Ok(folder) => folder,
        Err(problem) => return vec![Check::bad("state", problem, "name another folder by --state-dir")],
    };
    let shown = folder.path.display();
    let mut checks = Vec::new();
    if !folder.is_ours {
        checks.push(Check::bad(
            "state",
            format!("{shown} belongs to another user"),
            "run this as the agent's user, or name another folder by --state-dir",
        ));
    }
    if folder.mode & 0o077 != 0 {
        checks.push(Check::bad(
            "state",
            format!("{shown} is open to others (mode {:04o})", folder.mode),
            format!("chmod 0700 {shown}"),
        ));
    }
    let free = format!("{} MiB free", folder.free_bytes >> 20);
    checks.push(if folder.free_bytes < FREE_BYTES {
        Check::bad(
            "disk",
            format!("{shown}: only {free}"),
            "make room, or name another folder by --state-dir",
        )
    } else {
        Check::good("disk", format!("{shown}: {free}"))
    });
    checks
}

fn open_files(limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < OPEN_FILES => Check::bad(
            "open files",
            format!("at most {limit}"),
            format!("allow at least {OPEN_FILES}: LimitNOFILE=65536 in the unit, or `ulimit -Hn`"),
        ),
        Some(limit) => Check::good("open files", format!("at most {limit}")),
        None => Check::good("open files", "no limit"),
    }
}

fn policies(found: &Result<Vec<PolicyView>, String>) -> Vec<Check> {
    let views = match found {
        Ok(views) => views,
        Err(problem) => {
            let hint = "mend [policy], or start with --policy builtin";
            return vec![Check::bad("policies", problem, hint)];
        }
    };
    let mut checks = Vec::new();
    for view in views {
        let called = format!("{} {}", view.name, view.version);
        if let Some(why) = &view.demoted {
            checks.push(Check::bad(
                "policies",
                format!("{called} is not asked any more: {why}"),
                "mend it or configure another, then restart the agent; `berth policy list` counts its failures",
            ));
        } else if view.digest.is_none() && view.source != "builtin" {
            checks.push(Check::bad(
                "policies",
                format!("{} was not loaded, the built-in decides", view.source),
                "the agent's log says why; mend it and restart the agent",
            ));
        }
    }
    if checks.is_empty() {
        let names = views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>().join(", ");
        checks.push(Check::good("policies", names));
    }
    checks
}

fn clock(now_ms: u64, newest_ms: Option<u64>) -> Check {
    const HINT: &str = "set it and keep it synchronised: timedatectl set-ntp true";
    if now_ms < NOT_BEFORE_MS {
        return Check::bad("clock", "it was never set", HINT);
    }
    match newest_ms.and_then(|newest| newest.checked_sub(now_ms)) {
        Some(ahead) if ahead > AHEAD_MS => {
            Check::bad("clock", format!("it went back: a kernel was made {} s from now", ahead / 1000), HINT)
        }
        _ => Check::good("clock", "as far as can be told from here"),
    }
}

impl Check {
    /// For tests and logs: `bad runner: ..`.
    #[cfg(test)]
    fn line(&self) -> String {
        format!("{:?} {}: {}", self.verdict, self.name, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelError;
    use crate::policy::WorldKind;

    fn healthy() -> Facts {
        Facts {
            engine: Some(Ok(EngineInfo {
                kind: EngineKind::Docker,
                version: "20.10.24".to_owned(),
                api_version: Some("1.41".to_owned()),
                endpoint: "unix:///d.sock".to_owned(),
                architecture: "amd64".to_owned(),
                cgroup_version: Some("2".to_owned()),
                live_restore: Some(true),
                unsandboxed: None,
                not_enforced: Vec::new(),
            })),
            open_files: Some(1 << 20),
            state: Some(Ok(StateFolder {
                path: "/s".into(),
                mode: 0o700,
                is_ours: true,
                free_bytes: 5 << 30,
            })),
            runner: Ok(Runner { path: "/r".into(), is_static: Some(true) }),
            policies: Ok(vec![view(Some("x"), None)]),
            now_ms: NOT_BEFORE_MS + 1,
            newest_ms: Some(NOT_BEFORE_MS),
        }
    }

    fn view(module: Option<&str>, demoted: Option<&str>) -> PolicyView {
        PolicyView {
            world: WorldKind::Scheduler,
            link: 0,
            name: "mine".to_owned(),
            version: "1".to_owned(),
            digest: module.map(|module| crate::ids::Digest::of(module.as_bytes())),
            source: "/p.wasm".to_owned(),
            summary: String::new(),
            calls: 0,
            fallbacks: 0,
            p50_micros: 0,
            p99_micros: 0,
            last_fault: None,
            demoted: demoted.map(str::to_owned),
            signer: None,
            outcomes: Default::default(),
            last_good: None,
            own_settings: false,
            probation: None,
            shadow: None,
            notices: Vec::new(),
        }
    }

    fn with_engine(facts: &mut Facts, change: impl FnOnce(&mut EngineInfo)) {
        if let Some(Ok(info)) = &mut facts.engine {
            change(info);
        }
    }

    /// What is bad after a change, each with a next step.
    fn check(change: impl FnOnce(&mut Facts), expected: &[&str]) {
        let mut facts = healthy();
        change(&mut facts);
        let bad: Vec<Check> =
            judge(&facts).into_iter().filter(|check| check.verdict == super::super::Verdict::Bad).collect();
        assert!(bad.iter().all(|check| check.hint.as_ref().is_some_and(|hint| !hint.is_empty())), "{bad:?}");
        assert_eq!(bad.iter().map(Check::line).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_healthy_node_has_nothing_to_be_done() {
        check(|_| {}, &[]);
    }

    #[test]
    fn each_trouble_is_told() {
        check(
            |facts| with_engine(facts, |info| info.live_restore = Some(false)),
            &["Bad live-restore: a restart of the engine ends every kernel"],
        );
        check(
            |facts| facts.engine = Some(Err(KernelError::new("engine-unreachable", "no answer"))),
            &["Bad engine: no answer"],
        );
        check(
            |facts| with_engine(facts, |info| info.cgroup_version = None),
            &["Bad cgroup: limits of cores, memory and processes are not enforced"],
        );
        check(
            |facts| {
                with_engine(facts, |info| {
                    info.kind = EngineKind::Process;
                    info.unsandboxed = Some("bwrap is missing".to_owned());
                });
            },
            &["Bad bubblewrap: kernels are not confined: bwrap is missing"],
        );
        check(
            |facts| facts.runner = Ok(Runner { path: "/r".into(), is_static: Some(false) }),
            &["Bad runner: /r needs a dynamic loader, which an image may not have"],
        );
        check(|facts| facts.runner = Err("none".to_owned()), &["Bad runner: none"]);
        check(
            |facts| {
                let free_bytes = 100 << 20;
                let folder = StateFolder { path: "/s".into(), mode: 0o755, is_ours: true, free_bytes };
                facts.state = Some(Ok(folder));
            },
            &["Bad state: /s is open to others (mode 0755)", "Bad disk: /s: only 100 MiB free"],
        );
        check(|facts| facts.open_files = Some(1024), &["Bad open files: at most 1024"]);
        check(
            |facts| facts.policies = Ok(vec![view(Some("x"), Some("5 failures in 60 s")), view(None, None)]),
            &[
                "Bad policies: mine 1 is not asked any more: 5 failures in 60 s",
                "Bad policies: /p.wasm was not loaded, the built-in decides",
            ],
        );
        check(|facts| facts.policies = Err("no".to_owned()), &["Bad policies: no"]);
        check(|facts| facts.now_ms = 5, &["Bad clock: it was never set"]);
        check(
            |facts| facts.newest_ms = Some(facts.now_ms + 90_000),
            &["Bad clock: it went back: a kernel was made 90 s from now"],
        );
    }
}
