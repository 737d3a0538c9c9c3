//! On Docker, with an image made here of nothing but busybox.

use std::process::{Command, Stdio};
use std::sync::Arc;

use berth::engine::docker::{Config, Docker};
use berth::engine::node_architecture;
use berth::ids::KernelId;

use crate::life;
use crate::support::{Stage, code, command, on};

/// A stage on the Docker Engine of this machine; none, and a word about it, where there is none.
async fn stage(changes: &[&str]) -> Option<Stage> {
    let config = Config { host: std::env::var("DOCKER_HOST").ok(), ..Config::default() };
    let docker = match Docker::connect(config).await {
        Ok(docker) => docker,
        Err(error) => {
            println!("skipped: no Docker engine ({error})");
            return None;
        }
    };
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| is_static(path)) else {
        println!("skipped: no static busybox to make an image of");
        return None;
    };
    let tag = format!("berth-test-{}:1", KernelId::random().as_uuid().simple());
    import(busybox, &tag, changes)?;
    let mut stage = Stage::new(Arc::new(docker), &tag);
    stage.docker_image = Some(tag);
    Some(stage)
}

fn is_static(path: &str) -> bool {
    std::path::Path::new(path).is_file() && command("ldd", &[path]).is_none()
}

fn import(busybox: &str, tag: &str, changes: &[&str]) -> Option<()> {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy(busybox, bin.join("busybox")).unwrap();
    for applet in ["sh", "sleep", "grep", "dd", "true", "cat"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(root.path())
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Command::new("docker")
        .arg("import")
        .args(changes.iter().flat_map(|change| ["--change", change]))
        .args(["-", tag])
        .stdin(tar.stdout.take().unwrap())
        .output();
    let packed = tar.wait().unwrap();
    let Ok(output) = output else {
        println!("skipped: no docker command to make an image with");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(packed.success());
    Some(())
}

#[tokio::test]
async fn docker_leads_a_container_through_its_life() {
    let Some(stage) = stage(&[]).await else { return };
    on(stage, life::whole).await;
}

#[tokio::test]
async fn docker_tells_how_containers_end() {
    let Some(stage) = stage(&[]).await else { return };
    on(stage, life::ends).await;
}

#[tokio::test]
async fn docker_follows_logs() {
    let Some(stage) = stage(&[]).await else { return };
    on(stage, life::follows).await;
}

#[tokio::test]
async fn docker_tells_what_is_not_there() {
    let Some(stage) = stage(&[]).await else { return };
    on(stage, life::strangers).await;
}

#[tokio::test]
async fn docker_mounts_and_limits() {
    let Some(stage) = stage(&[]).await else { return };
    on(stage, |stage| async {
        life::mounts(stage.clone(), Some("/home/work")).await;
        life::limits(stage).await;
    })
    .await;
}

#[tokio::test]
async fn an_image_with_a_mind_of_its_own_is_overruled() {
    let changes = [
        "ENTRYPOINT [\"/bin/false\"]",
        "CMD [\"nothing\"]",
        "USER 12:34",
        "VOLUME /data",
        "HEALTHCHECK --interval=1s CMD false",
        "WORKDIR /nowhere",
        "LABEL ai.backend.kernelspec=1",
    ];
    let Some(stage) = stage(&changes).await else { return };
    on(stage, |stage| async move {
        let image = stage.engine.image(&stage.image).await.unwrap().unwrap();
        assert!(berth::images::is_runnable(&image));
        assert!(image.created > 1_500_000_000 && image.size > 0, "{image:?}");
        let chosen = berth::images::choose(&*stage.engine, Some(&stage.image), None).await.unwrap();
        assert_eq!(chosen, image);

        let volumes = || command("docker", &["volume", "ls", "-q", "--filter", "dangling=true"]).unwrap();
        let id = stage.started(&stage.spec("grep -E '^(Uid|Gid)' /proc/self/status; pwd")).await;
        stage.engine.wait(&id).await.unwrap();
        assert_eq!(stage.log(&id, None).await.0, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n/\n");
        let inspect = |format| command("docker", &["inspect", "-f", format, id.as_str()]).unwrap();
        assert_eq!(inspect("{{.Config.StopSignal}} {{.Config.Healthcheck.Test}}").trim(), "SIGTERM [NONE]");
        let volume = inspect("{{range .Mounts}}{{.Name}}{{end}}").trim().to_owned();
        assert!(!volume.is_empty());
        stage.engine.remove(&id).await.unwrap();
        assert!(!volumes().contains(&volume), "the image's volume goes with the container");
    })
    .await;
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    let foreign = if node_architecture() == "amd64" { "arm64" } else { "amd64" };
    let Some(stage) = stage(&[]).await else { return };
    let Some((tag, _dir)) = relabelled(&stage.image, foreign) else { panic!("the image could not be made") };
    on(stage, |stage| async move {
        let mut spec = stage.spec("true");
        spec.image.clone_from(&tag);
        let refused = stage.engine.create(&spec).await.unwrap_err();
        let chosen = berth::images::choose(&*stage.engine, Some(&tag), None).await;
        command("docker", &["rmi", "-f", &tag]);
        assert_eq!(refused.code(), "wrong-architecture");
        assert!(
            refused.to_string().contains(&format!("is for {foreign}, this node is {}", node_architecture()))
        );
        assert_eq!(chosen.unwrap_err().code(), "wrong-architecture");
        assert_eq!(code(stage.engine.create(&spec).await), "no-such-image");
    })
    .await;
}

/// `docker save`, edit, `docker load`: the same image, said to be for another architecture.
fn relabelled(image: &str, architecture: &str) -> Option<(String, tempfile::TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let (saved, tree) = (dir.path().join("saved.tar"), dir.path().join("tree"));
    std::fs::create_dir(&tree).unwrap();
    command("docker", &["save", "-o", saved.to_str()?, image])?;
    command("tar", &["-C", tree.to_str()?, "-xf", saved.to_str()?])?;
    let read = |path: &std::path::Path| {
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
    };
    let mut manifest = read(&tree.join("manifest.json"))?;
    let old = tree.join(manifest[0]["Config"].as_str()?);
    let mut config = read(&old)?;
    config["architecture"] = architecture.into();
    let config = serde_json::to_vec(&config).unwrap();
    let name = format!("{}.json", berth::ids::Digest::of(&config));
    std::fs::write(tree.join(&name), config).unwrap();
    let tag = format!("{}-{architecture}", image);
    manifest[0]["Config"] = name.into();
    manifest[0]["RepoTags"] = serde_json::json!([tag]);
    std::fs::write(tree.join("manifest.json"), manifest.to_string()).unwrap();
    // Of the older format, which wins where it is there.
    let _ = std::fs::remove_file(tree.join("repositories"));
    let _ = std::fs::remove_file(tree.join("index.json"));
    let edited = dir.path().join("edited.tar");
    command("tar", &["-C", tree.to_str()?, "-cf", edited.to_str()?, "."])?;
    command("docker", &["load", "-i", edited.to_str()?])?;
    Some((tag, dir))
}
