//! `berth image`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::agent;

/// A name that nothing else on this machine has; removed with the guard.
struct Tag(String);

impl Tag {
    fn new() -> Self {
        Self(format!("berth-test-{}:1", berth::ids::KernelId::random().as_uuid().simple()))
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "-f", &self.0]).output();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// The tar of a root file system with a shell in it; none where there is no static busybox.
fn root(dir: &Path, packed: bool) -> Option<String> {
    let is_static = |path: &&str| {
        Path::new(path).is_file() && !Command::new("ldd").arg(path).output().unwrap().status.success()
    };
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(is_static) else {
        println!("skipped: no static busybox to make an image of");
        return None;
    };
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let _ = std::os::unix::fs::symlink("busybox", root.join("bin/echo"));
    let file = dir.join(if packed { "root.tar.gz" } else { "root.tar" }).display().to_string();
    run("tar", &["-C", root.to_str().unwrap(), if packed { "-czf" } else { "-cf" }, &file, "."]);
    Some(file)
}

#[test]
fn a_root_file_system_becomes_an_image_that_kernels_run() {
    let Some(agent) = agent::on_docker() else { return };
    let Some(file) = root(&agent.path("."), true) else { return };
    let tag = Tag::new();
    assert!(agent.fails(&["image", "import", &file]).contains("give it one: --name NAME"));
    assert_eq!(agent.ok(&["image", "import", "--name", &tag.0, "--default", &file]), format!("{}\n", tag.0));

    let images = agent.json(&["image", "list"]);
    let image = images.as_array().unwrap().iter().find(|image| image["tags"][0] == *tag.0).unwrap();
    assert_eq!(image["runs_kernels"], "yes");

    let words = ["run", "--rm", &tag.0, "echo", "x"];
    let runs = Command::new("docker").args(words).output().unwrap();
    if !runs.status.success() {
        println!("skipped: this Docker engine runs nothing: {}", String::from_utf8_lossy(&runs.stderr));
        return;
    }
    assert_eq!(agent.ok(&["run", "--image", &tag.0, "--", "echo", "hello"]), "hello\n");
    agent.ok(&["create", "--name", "k1", "--image", &tag.0]);
    let refused = agent.fails(&["image", "rm", &tag.0]);
    assert!(refused.contains("is in use by k1 (image-in-use)"), "{refused}");
    agent.ok(&["rm", "-f", "k1"]);
    agent.ok(&["image", "rm", &tag.0]);
    let refused = agent.fails(&["create", "--image", &tag.0]);
    assert!(refused.contains(&format!("hint: berth image pull {}", tag.0)), "{refused}");
}

#[test]
fn a_saved_image_comes_with_its_names_from_a_file_and_from_a_pipe() {
    let Some(agent) = agent::on_docker() else { return };
    let Some(file) = root(&agent.path("."), false) else { return };
    let (tag, other) = (Tag::new(), Tag::new());
    agent.ok(&["image", "import", "--name", &tag.0, &file]);
    let saved = agent.path("saved.tar");
    let saved = saved.to_str().unwrap();
    run("docker", &["save", "-o", saved, &tag.0]);
    agent.ok(&["image", "rm", &tag.0]);
    assert_eq!(agent.ok(&["image", "import", saved]), format!("{}\n", tag.0));

    let piped = agent
        .command(&["image", "import", "--name", &other.0, "-"])
        .stdin(std::fs::File::open(saved).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), format!("{}\n", other.0));
    assert!(agent.fails(&["image", "import", "--default", saved]).contains("leave --default out"));
}

#[test]
fn what_is_no_archive_is_refused_while_it_is_still_coming() {
    let Some(agent) = agent::on_docker() else { return };
    let file = agent.path("noise");
    std::fs::write(&file, vec![7; 8 << 20]).unwrap();
    let said = agent.fails(&["image", "import", file.to_str().unwrap()]);
    assert!(said.contains("this is no tar archive") && said.contains("(bad-archive)"), "{said}");
}

#[test]
fn a_registry_out_of_reach_is_one_line_with_the_next_step() {
    let Some(agent) = agent::on_docker() else { return };
    // Nothing listens on the discard port.
    let said = agent.fails(&["image", "pull", "localhost:9/berth/none:1"]);
    assert!(said.contains("(registry-unreachable)") && said.contains("berth image import"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn the_process_engine_says_that_it_has_no_images_but_one() {
    let Some(agent) = agent::on_process() else { return };
    assert!(agent.ok(&["image", "list"]).contains("host"));
    for words in [&["pull", "python"][..], &["rm", "python"]] {
        let said = agent.fails(&[&["image"], words].concat());
        assert!(
            said.contains("the process engine cannot") && said.contains("(engine-unsupported)"),
            "{said}"
        );
    }
}
