//! What every engine must do.

use std::sync::Arc;
use std::time::Duration;

use berth::engine::{ContainerState, EngineEvent, LogChunk, LogOptions, MountKind, MountSpec};
use berth::ids::{ContainerId, InstanceId, KernelId};

use crate::support::{Stage, code, next, until};

/// From made to removed.
pub async fn whole(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let mut events = engine.events(stage.instance);
    assert_eq!(events.recv().await, Some(EngineEvent::Resync), "a look at everything comes first");

    let spec = stage
        .spec("trap 'echo bye; exit 3' TERM; echo \"$GREETING $0\"; echo up; while :; do sleep 0.05; done");
    let id = engine.create(&spec).await.unwrap();
    let made = engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!((&made.state, made.pid), (&ContainerState::Created, None));
    assert_eq!((made.name.as_str(), made.kernel()), (spec.name.as_str(), Some(spec.kernel)));
    assert_eq!(made.labels.get("ai.berth.instance"), Some(&stage.instance.to_string()));
    assert_eq!(code(engine.create(&spec).await), "container-name-taken");

    engine.start(&id).await.unwrap();
    engine.start(&id).await.unwrap();
    let running = engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!(running.state, ContainerState::Running);
    assert!(std::path::Path::new(&format!("/proc/{}", running.pid.unwrap())).exists());
    let listed = engine.list(stage.instance).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, &listed[0].state), (&id, &ContainerState::Running));
    assert_eq!(engine.list(InstanceId::random()).await.unwrap(), [], "another instance's are not ours");

    stage.has_said(&id, "up").await;
    assert!(stage.log(&id, None).await.0.starts_with("hello you "));
    assert_eq!(stage.log(&id, Some(1)).await.0, "up\n");

    engine.stop(&id, Duration::from_secs(60)).await.unwrap();
    engine.stop(&id, Duration::from_secs(60)).await.unwrap();
    let end = ContainerState::Exited { code: Some(3), oom_killed: false };
    assert_eq!(engine.wait(&id).await.unwrap(), end);
    let ended = engine.inspect(&id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.pid), (end.clone(), None));
    assert_eq!(engine.list(stage.instance).await.unwrap()[0].state, end);
    assert!(stage.log(&id, None).await.0.ends_with("bye\n"), "its last words are kept");
    assert_eq!(
        next(&mut events).await,
        EngineEvent::Died { container: id.clone(), kernel: spec.kernel, exit_code: Some(3) }
    );

    engine.remove(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.inspect(&id).await.unwrap(), None);
    assert_eq!(engine.list(stage.instance).await.unwrap(), []);
}

/// A container that does not heed SIGTERM, one that ends by itself, one that is removed while it runs.
pub async fn ends(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let mut events = engine.events(stage.instance);
    assert_eq!(events.recv().await, Some(EngineEvent::Resync));

    let stubborn = stage.spec("trap '' TERM; echo up; while :; do sleep 0.05; done");
    let id = stage.started(&stubborn).await;
    stage.has_said(&id, "up").await;
    let waiting = {
        let (engine, id) = (engine.clone(), id.clone());
        tokio::spawn(async move { engine.wait(&id).await })
    };
    engine.stop(&id, Duration::from_millis(1)).await.unwrap();
    let end = waiting.await.unwrap().unwrap();
    assert_eq!(end, ContainerState::Exited { code: Some(137), oom_killed: false });
    assert!(matches!(next(&mut events).await, EngineEvent::Died { container, .. } if container == id));

    let quick = stage.spec("echo out; echo err >&2; exit 7");
    let (code, said) = stage.run(&quick).await;
    assert_eq!((code, said.as_str()), (Some(7), "out\nerr\n"));
    assert!(
        matches!(next(&mut events).await, EngineEvent::Died { kernel, exit_code: Some(7), .. } if kernel == quick.kernel)
    );

    let running = stage.spec("echo up; while :; do sleep 0.05; done");
    let id = stage.started(&running).await;
    stage.has_said(&id, "up").await;
    let pid = engine.inspect(&id).await.unwrap().unwrap().pid.unwrap();
    engine.remove(&id).await.unwrap();
    assert_eq!(engine.inspect(&id).await.unwrap(), None);
    until(|| async { (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()) }).await;
}

/// A log that is followed ends with its container, and everything is in it.
pub async fn follows(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let follow = LogOptions { tail: None, follow: true };
    let id = stage
        .started(&stage.spec("trap 'echo two; exit 3' TERM; echo one; while :; do sleep 0.05; done"))
        .await;
    let mut log = engine.logs(&id, follow).await.unwrap();
    let mut said = Vec::new();
    while said != b"one\n" {
        let Some(Ok(LogChunk::Stdout(piece))) = log.recv().await else { panic!("it ended with {said:?}") };
        said.extend_from_slice(&piece);
    }
    // Who does not read holds nobody up, and who hangs up is forgotten.
    let idle = engine.logs(&id, follow).await.unwrap();
    drop(engine.logs(&id, follow).await.unwrap());
    engine.stop(&id, Duration::from_secs(60)).await.unwrap();
    while let Some(piece) = log.recv().await {
        let Ok(LogChunk::Stdout(piece)) = piece else { panic!("{piece:?}") };
        said.extend_from_slice(&piece);
    }
    assert_eq!(said, b"one\ntwo\n");
    drop(idle);
    let nobody: ContainerId = KernelId::random().as_uuid().simple().to_string().parse().unwrap();
    assert_eq!(code(engine.logs(&nobody, follow).await), "no-such-container");
}

/// What is not there is told by kind.
pub async fn strangers(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let nobody: ContainerId = KernelId::random().as_uuid().simple().to_string().parse().unwrap();
    assert_eq!(engine.inspect(&nobody).await.unwrap(), None);
    engine.remove(&nobody).await.unwrap();
    assert_eq!(code(engine.start(&nobody).await), "no-such-container");
    assert_eq!(code(engine.stop(&nobody, Duration::ZERO).await), "no-such-container");
    assert_eq!(code(engine.wait(&nobody).await), "no-such-container");
    assert_eq!(code(engine.logs(&nobody, LogOptions::default()).await), "no-such-container");

    let mut spec = stage.spec("true");
    spec.image = "no-such-image-of-berth:0".into();
    assert_eq!(engine.image(&spec.image).await.unwrap(), None);
    assert_eq!(code(engine.create(&spec).await), "no-such-image");

    let mut spec = stage.spec("true");
    spec.mounts = vec![MountSpec {
        kind: MountKind::Bind,
        source: "/no/such/folder/of/berth".into(),
        target: "/no/such/folder/of/berth".into(),
        read_only: false,
    }];
    let refused = engine.create(&spec).await.unwrap_err();
    assert_eq!(refused.code(), "engine-refused");
    assert!(refused.to_string().contains("does not exist"), "{refused}");
    assert_eq!(engine.list(stage.instance).await.unwrap(), [], "nothing is left of what was refused");

    let image = engine.image(&stage.image).await.unwrap().unwrap();
    assert_eq!(image.architecture, berth::engine::node_architecture());
    assert!(
        engine.images().await.unwrap().iter().any(|other| other.id == image.id && other.tags == image.tags)
    );
    let info = engine.info().await.unwrap();
    assert_eq!((info.kind, info.architecture.as_str()), (engine.kind(), image.architecture.as_str()));
}

/// A folder of the host, seen by the kernel at `target`: what it writes is there afterwards.
pub async fn mounts(stage: Arc<Stage>, target: Option<&str>) {
    let source = stage.dir.path().to_str().unwrap().to_owned();
    let target = target.unwrap_or(&source).to_owned();
    let mut spec = stage.spec("echo made >made; pwd");
    spec.mounts = vec![MountSpec { kind: MountKind::Bind, source, target: target.clone(), read_only: false }];
    spec.working_dir = target.clone();
    assert_eq!(stage.run(&spec).await, (Some(0), format!("{target}\n")));
    assert_eq!(std::fs::read_to_string(stage.dir.path().join("made")).unwrap(), "made\n");
}

/// Bound to core 0 and to 32 MiB: both hold, and the kill for memory is told.
pub async fn limits(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let mut events = engine.events(stage.instance);
    let mut spec = stage.spec(
        "grep Cpus_allowed_list /proc/self/status; dd if=/dev/zero of=/dev/null bs=256M count=1; echo dd: $?; exit 9",
    );
    spec.cpuset = vec![0];
    spec.memory_limit = Some(32 << 20);
    let id = stage.started(&spec).await;
    let end = engine.wait(&id).await.unwrap();
    let said = stage.log(&id, None).await.0;
    assert!(said.contains("Cpus_allowed_list:\t0\n"), "{said}");
    assert!(said.contains("dd: 137"), "{said}");
    assert_eq!(end, ContainerState::Exited { code: Some(9), oom_killed: true });
    let (mut oom, mut died) = (false, false);
    while !(oom && died) {
        match next(&mut events).await {
            EngineEvent::OutOfMemory { container, kernel } => {
                assert_eq!((container, kernel), (id.clone(), spec.kernel));
                oom = true;
            }
            EngineEvent::Died { container, .. } => {
                assert_eq!(container, id);
                died = true;
            }
            EngineEvent::Resync => {}
        }
    }
}
