//! The static runner as the entrypoint of containers whose images have next to nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::peer::{Agent, runner, wait_until};

const UID: u32 = 41234;
const GID: u32 = 42345;

fn docker(words: &[&str]) -> Option<String> {
    let output = Command::new("docker").args(words).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Why there is nothing to be tested here, if so. A runner of a plain `cargo build` needs a loader,
/// which these images have not.
fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can give a folder to the kernel's user");
    }
    if docker(&["version", "--format", "{{.Server.Version}}"]).is_none() {
        return Some("no Docker engine");
    }
    let elf = fs::read(runner()).unwrap();
    let loader = b"/ld-linux";
    let is_dynamic = elf[..elf.len().min(4096)].windows(loader.len()).any(|window| window == loader);
    is_dynamic.then_some("the runner beside this test is not static: cargo xtask build --runner-only")
}

/// An image and a container of it; both are removed when dropped.
struct Container {
    name: String,
    directory: tempfile::TempDir,
}

impl Container {
    /// Starts a container of an image that holds the given files of this host, and nothing else.
    fn start(kind: &str, files: &[(&Path, &str)]) -> (Self, Agent) {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("berth-runner-test-{kind}-{}", std::process::id());
        let container = Self { name, directory };
        container.make_image(files);

        for folder in ["work", "config", "link"] {
            fs::create_dir(container.path(folder)).unwrap();
        }
        std::os::unix::fs::chown(container.path("work"), Some(UID), Some(GID)).unwrap();
        let link = container.path("link");
        let agent = Agent::bind(&link);
        for socket in ["in", "out"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(link.join(socket), mode).unwrap();
        }
        let mounts = [
            format!("{}:/opt/kernel/berth-runner:ro", runner().display()),
            format!("{}:/opt/kernel/link:ro", link.display()),
            format!("{}:/home/config:ro", container.path("config").display()),
            format!("{}:/home/work", container.path("work").display()),
        ];
        let mut words = vec!["run", "-d", "--name", &container.name, "--user", "0:0", "--network", "none"];
        words.extend(["--label", "ai.berth.instance=berth-runner-test", "-e", "ADDITIONAL_GIDS=44"]);
        words.extend(mounts.iter().flat_map(|mount| ["-v", mount]));
        let (uid, gid) = (UID.to_string(), GID.to_string());
        words.extend(["--entrypoint", "/opt/kernel/berth-runner", &container.name]);
        words.extend(["kernel", "--uid", &uid, "--gid", &gid]);
        docker(&words).expect("the container starts");
        (container, agent)
    }

    fn make_image(&self, files: &[(&Path, &str)]) {
        let root = self.path("image");
        fs::create_dir(&root).unwrap();
        for (file, name) in files {
            let place = root.join(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(file, place).unwrap();
        }
        let tar = self.path("image.tar");
        let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(status.unwrap().success());
        docker(&["import", tar.to_str().unwrap(), &self.name]).expect("the image is made");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.name]);
        docker(&["rmi", &self.name]);
    }
}

#[test]
fn an_empty_image_has_a_kernel_that_gave_up_root() {
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let (container, agent) = Container::start("empty", &[]);
    let status = agent.status();
    assert_eq!(status.tasks_done, 0);

    agent.argv(&["/opt/kernel/berth-runner", "--version"]);
    agent.run().check(&format!("berth-runner {}\n", env!("CARGO_PKG_VERSION")), "", 0);
    agent.send("exec", "true");
    assert_eq!(agent.run().exit_code, Some(127));
    agent.send("code", "1");
    assert_eq!(agent.run().exit_code, Some(127));

    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container.name]).unwrap();
    let own = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| own.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("Uid:"), [UID.to_string().as_str(); 4].join("\t"));
    assert_eq!(field("Gid:"), [GID.to_string().as_str(); 4].join("\t"));
    assert_eq!(field("Groups:"), format!("44 {GID}"));
    assert_eq!(field("CapEff:"), "0000000000000000");

    // It ends by itself, and at once.
    docker(&["stop", "-t", "60", &container.name]).unwrap();
    let state = docker(&["inspect", "-f", "{{.State.ExitCode}}", &container.name]).unwrap();
    assert_eq!(state, "0");
}

#[test]
fn a_busybox_image_knows_the_user_and_orphans_are_reaped() {
    let busybox = Path::new("/bin/busybox");
    let reason = missing().or_else(|| {
        let elf = fs::read(busybox).unwrap_or_default();
        let is_static = !elf.is_empty() && !elf[..4096].windows(9).any(|window| window == b"/ld-linux");
        (!is_static).then_some("no static /bin/busybox")
    });
    if let Some(reason) = reason {
        println!("skipped: {reason}");
        return;
    }
    let files = ["sh", "id", "cat", "pwd", "touch", "sleep", "env"];
    let files = files.map(|name| (busybox, format!("bin/{name}")));
    let files: Vec<(&Path, &str)> = files.iter().map(|(file, name)| (*file, name.as_str())).collect();
    let (container, agent) = Container::start("busybox", &files);
    agent.send("exec", "id; pwd; cat /proc/self/oom_score_adj; echo $HOME $USER $SHELL; touch made");
    let expected = format!(
        "uid={UID}(work) gid={GID}(work) groups=44(work-44),{GID}(work)\n/home/work\n500\n/home/work work /bin/sh\n"
    );
    agent.run().check(&expected, "", 0);
    let metadata = fs::metadata(container.path("work").join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), UID);

    // Orphans of what somebody else starts in the container are reaped too.
    docker(&["exec", "-d", &container.name, "/bin/sh", "-c", "(sleep 0 & echo $! > /home/work/orphan)"])
        .unwrap();
    let orphan = container.path("work").join("orphan");
    wait_until("the orphan was there", || fs::read_to_string(&orphan).is_ok_and(|pid| pid.ends_with('\n')));
    let orphan = fs::read_to_string(orphan).unwrap();
    let pid = orphan.trim().to_owned();
    let mut gone = false;
    wait_until("the orphan is reaped", || {
        agent.argv(&["/bin/cat", &format!("/proc/{pid}/stat")]);
        gone = agent.run().exit_code == Some(1);
        gone
    });
}
