//! On processes of this host, by the runner that was built beside this test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth::engine::process::{Cgroups, HOST_IMAGE, Process, Sandbox, Settings};
use berth::engine::{ContainerState, Deadlines, Engine, EngineEvent, MountKind, MountSpec};

use crate::life;
use crate::support::{Stage, built_runner, code, next, on};

struct Ways {
    sandbox: Sandbox,
    cgroups: Cgroups,
}

const BARE: Ways = Ways { sandbox: Sandbox::Off, cgroups: Cgroups::Off };
const BEST: Ways = Ways { sandbox: Sandbox::Auto, cgroups: Cgroups::Auto };

async fn open(dir: &Path, runner: &Path, ways: &Ways) -> Process {
    let settings = Settings {
        dir: dir.join("containers"),
        runner: runner.to_owned(),
        sandbox: ways.sandbox,
        cgroups: ways.cgroups,
        deadlines: Deadlines::default(),
    };
    Process::open(settings).await.unwrap()
}

/// The stage, and the folder of the engine, which must live as long; none, and a word about it, where
/// no runner was built.
async fn stage(ways: Ways) -> Option<(Stage, tempfile::TempDir, PathBuf)> {
    let Some(runner) = built_runner() else {
        println!("skipped: no static runner (cargo xtask build)");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), &runner, &ways).await;
    Some((Stage::new(Arc::new(engine), HOST_IMAGE), dir, runner))
}

async fn says(stage: &Stage, text: &str) -> bool {
    stage.engine.info().await.unwrap().not_enforced.iter().any(|said| said.contains(text))
}

#[tokio::test]
async fn processes_lead_a_life_in_a_sandbox() {
    let Some((stage, _dir, _)) = stage(BEST).await else { return };
    on(stage, life::whole).await;
}

#[tokio::test]
async fn processes_lead_a_life_without_a_sandbox() {
    let Some((stage, _dir, _)) = stage(BARE).await else { return };
    on(stage, life::whole).await;
}

#[tokio::test]
async fn processes_end_in_a_sandbox() {
    let Some((stage, _dir, _)) = stage(BEST).await else { return };
    on(stage, life::ends).await;
}

#[tokio::test]
async fn processes_end_without_a_sandbox() {
    let Some((stage, _dir, _)) = stage(BARE).await else { return };
    on(stage, life::ends).await;
}

#[tokio::test]
async fn logs_are_followed() {
    let Some((stage, _dir, _)) = stage(BARE).await else { return };
    on(stage, life::follows).await;
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let Some((stage, _dir, _)) = stage(BEST).await else { return };
    on(stage, life::strangers).await;
}

#[tokio::test]
async fn a_folder_is_seen_in_its_own_place_without_a_sandbox_and_elsewhere_is_refused() {
    let Some((stage, _dir, _)) = stage(BARE).await else { return };
    on(stage, |stage| async move {
        life::mounts(stage.clone(), None).await;
        let mut spec = stage.spec("true");
        let source = stage.dir.path().to_str().unwrap().to_owned();
        spec.mounts =
            vec![MountSpec { kind: MountKind::Bind, source, target: "/tmp".into(), read_only: false }];
        assert_eq!(code(stage.engine.create(&spec).await), "engine-unsupported");
        assert!(says(&stage, "bubblewrap is switched off").await);
        assert!(says(&stage, "Memory limits are not enforced").await);
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_shows_the_kernels_folder_and_leaves_the_host_alone() {
    let Some((stage, dir, _)) = stage(BEST).await else { return };
    if says(&stage, "bubblewrap").await {
        println!("skipped: no bubblewrap");
        return;
    }
    let outside = dir.path().to_str().unwrap().to_owned();
    on(stage, |stage| async move {
        life::mounts(stage.clone(), None).await;
        life::mounts(stage.clone(), Some("/tmp/elsewhere")).await;
        let (code, said) = stage.run(&stage.spec("touch /etc/berth-was-here")).await;
        assert!(code != Some(0) && said.contains("Read-only file system"), "{code:?} {said}");
        let (_, said) =
            stage.run(&stage.spec(&format!("ls {outside}; hostname; echo /proc/[0-9]* | wc -w"))).await;
        let lines: Vec<&str> = said.lines().rev().collect();
        assert!(lines[0].trim().parse::<u32>().unwrap() < 6, "only its own processes: {said}");
        assert_eq!(lines[1], "main1");
        assert!(said.contains("No such file"), "/tmp is its own: {said}");
        let (_, said) =
            stage.run(&stage.spec("echo x >/tmp/x && echo y >/dev/shm/y && cat /tmp/x /dev/shm/y")).await;
        assert_eq!(said, "x\ny\n");

        let mut spec = stage.spec("true");
        let source = stage.dir.path().to_str().unwrap().to_owned();
        spec.mounts =
            vec![MountSpec { kind: MountKind::Bind, source, target: "/no/target".into(), read_only: false }];
        let refused = stage.engine.create(&spec).await.unwrap_err().to_string();
        assert_eq!(refused, "create was refused: the mount target /no/target does not exist on this host");
    })
    .await;
}

#[tokio::test]
async fn a_kernel_of_another_user_reaches_its_folder_below_a_private_one() {
    let Some((mut stage, _dir, _)) = stage(BEST).await else { return };
    if says(&stage, "bubblewrap").await || !rustix::process::geteuid().is_root() {
        println!("skipped: no bubblewrap, or not root");
        return;
    }
    // Not below /tmp, which is another one in there.
    stage.dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::set_permissions(stage.dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    on(stage, |stage| async move {
        let work = stage.dir.path().join("state/work");
        std::fs::create_dir_all(&work).unwrap();
        std::fs::write(stage.dir.path().join("state/secret"), "").unwrap();
        std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).unwrap();
        let source = work.to_str().unwrap().to_owned();
        let mut spec =
            stage.spec("setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'test -e ../secret || echo alone; echo x >made'");
        spec.working_dir.clone_from(&source);
        spec.mounts = vec![MountSpec {
            kind: MountKind::Bind,
            source: source.clone(),
            target: source,
            read_only: false,
        }];
        assert_eq!(stage.run(&spec).await, (Some(0), "alone\n".into()));
        assert!(work.join("made").exists());
    })
    .await;
}

#[tokio::test]
async fn limits_hold_where_control_groups_can_be_made() {
    let Some((stage, _dir, _)) = stage(BEST).await else { return };
    if says(&stage, "Memory limits are not enforced").await {
        println!("skipped: no memory control group");
        return;
    }
    on(stage, life::limits).await;
}

#[tokio::test]
async fn a_kernel_is_bound_to_its_cores_without_control_groups_too() {
    let Some((stage, _dir, _)) = stage(BARE).await else { return };
    on(stage, |stage| async move {
        let mut spec = stage.spec("grep Cpus_allowed_list /proc/self/status");
        spec.cpuset = vec![0];
        assert_eq!(stage.run(&spec).await, (Some(0), "Cpus_allowed_list:\t0\n".into()));
        spec.name = "another".into();
        spec.cpuset = vec![1000];
        let id = stage.engine.create(&spec).await.unwrap();
        assert_eq!(code(stage.engine.start(&id).await), "engine-failed");
        assert_eq!(stage.engine.inspect(&id).await.unwrap().unwrap().state, ContainerState::Created);
    })
    .await;
}

#[tokio::test]
async fn kernels_live_on_when_the_agent_goes_and_are_found_again() {
    let Some((stage, dir, runner)) = stage(BEST).await else { return };
    let path = dir.path().to_owned();
    on(stage, |stage| async move {
        let spec = stage.spec("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
        let id = stage.started(&spec).await;
        stage.has_said(&id, "up").await;

        let again = open(&path, &runner, &BEST).await;
        let mut events = again.events(stage.instance);
        assert_eq!(events.recv().await, Some(EngineEvent::Resync));
        assert_eq!(again.inspect(&id).await.unwrap().unwrap().state, ContainerState::Running);
        again.stop(&id, std::time::Duration::from_secs(60)).await.unwrap();
        let end = ContainerState::Exited { code: Some(5), oom_killed: false };
        assert_eq!(again.wait(&id).await.unwrap(), end);
        assert!(matches!(next(&mut events).await, EngineEvent::Died { exit_code: Some(5), .. }));
        assert_eq!(stage.engine.wait(&id).await.unwrap(), end, "both agents agree");
    })
    .await;
}

#[tokio::test]
async fn a_start_that_was_not_noted_is_found_by_the_supervisors_own_note() {
    let Some((stage, dir, _)) = stage(BARE).await else { return };
    let path = dir.path().to_owned();
    on(stage, |stage| async move {
        let id = stage.started(&stage.spec("echo up; while :; do sleep 0.05; done")).await;
        stage.has_said(&id, "up").await;
        let folder = path.join("containers").join(id.as_str());
        std::fs::remove_file(folder.join("start.json")).unwrap();
        assert_eq!(stage.engine.inspect(&id).await.unwrap().unwrap().state, ContainerState::Running);
        assert!(folder.join("start.json").exists());
    })
    .await;
}

#[tokio::test]
async fn a_supervisor_on_its_way_is_waited_for_and_not_started_twice() {
    for remove in [false, true] {
        let Some((stage, dir, runner)) = stage(BARE).await else { return };
        let path = dir.path().to_owned();
        on(stage, |stage| async move {
            let id = stage.started(&stage.spec("echo up; while :; do sleep 0.05; done")).await;
            stage.has_said(&id, "up").await;
            // As if the agent had been killed just after the fork.
            let folder = path.join("containers").join(id.as_str());
            std::fs::remove_file(folder.join("start.json")).unwrap();
            std::fs::rename(folder.join("pid"), folder.join("later")).unwrap();
            let again = open(&path, &runner, &BARE).await;
            assert_eq!(again.inspect(&id).await.unwrap().unwrap().state, ContainerState::Created);
            let late = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(200));
                std::fs::rename(folder.join("later"), folder.join("pid")).unwrap();
            });
            let mark = format!("BERTH_CONTAINER={id}");
            let count = || environments().iter().filter(|environment| environment.contains(&mark)).count();
            if remove {
                again.remove(&id).await.unwrap();
                assert_eq!(count(), 0);
            } else {
                let before = count();
                again.start(&id).await.unwrap();
                assert_eq!(again.inspect(&id).await.unwrap().unwrap().state, ContainerState::Running);
                assert_eq!(count(), before);
            }
            late.join().unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_supervisor_leaves_an_end_without_code_and_no_process() {
    for ways in [BARE, BEST] {
        let Some((stage, _dir, _)) = stage(ways).await else { return };
        on(stage, |stage| async move {
            let marked = "berth-leftover";
            let id = stage
                .started(&stage.spec(&format!("echo up; while :; do sleep 0.05; done # {marked}")))
                .await;
            stage.has_said(&id, "up").await;
            let pid = stage.engine.inspect(&id).await.unwrap().unwrap().pid.unwrap();
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let end = stage.engine.wait(&id).await.unwrap();
            assert_eq!(end, ContainerState::Exited { code: None, oom_killed: false });
            stage.engine.remove(&id).await.unwrap();
            let mark = format!("BERTH_CONTAINER={id}");
            assert!(!environments().iter().any(|environment| environment.contains(&mark)));
        })
        .await;
    }
}

/// Environments of the processes that live.
fn environments() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("environ")).ok())
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .collect()
}
