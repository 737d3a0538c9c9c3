//! `berth cp`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{self, Agent, until};

/// Files of the test's own, beside those of the agent.
struct Here<'a>(&'a Agent);

impl Here<'_> {
    fn new(agent: &Agent) -> Here<'_> {
        fs::create_dir(agent.path("here")).unwrap();
        Here(agent)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path("here").join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

/// The kernel's work folder on this host.
fn work(agent: &Agent) -> PathBuf {
    PathBuf::from(agent.json(&["inspect", "k1"])["work_dir"].as_str().unwrap())
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn copies_land_where_cp_would_put_them(agent: &Agent) {
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(agent);
    here.write("t/a.csv", "1");
    here.write("t/sub/b.csv", "2");
    here.write("c.csv", "3");
    let cp = |from: &[&str], to: &str| agent.ok(&[&["cp"], from, &[to]].concat());

    cp(&[&here.text("t")], "k1:");
    cp(&[&here.text("t")], "k1:named");
    cp(&[&here.text("t")], "k1:named");
    cp(&[&here.text("t/."), &here.text("c.csv")], "k1:/home/work/many/");
    cp(&[&here.text("c.csv")], "k1:t/a.csv");
    let found = agent.ok(&["exec", "k1", "--", "sh", "-c", "find . -type f | sort"]);
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        [
            "./many/a.csv",
            "./many/c.csv",
            "./many/sub/b.csv",
            "./named/a.csv",
            "./named/sub/b.csv",
            "./named/t/a.csv",
            "./named/t/sub/b.csv",
            "./t/a.csv",
            "./t/sub/b.csv",
        ]
    );
    // And back, what was replaced replaced.
    cp(&["k1:t"], &here.text("out"));
    cp(&["k1:t"], &here.text("out"));
    cp(&["k1:t/a.csv"], &here.text("file"));
    cp(&["k1:many/*.csv", "k1:t/sub/."], &here.text("several/"));
    assert_eq!((here.read("out/a.csv"), here.read("out/t/sub/b.csv")), ("3".into(), "2".into()));
    assert_eq!(here.read("file"), "3");
    assert_eq!(names(&here.at("several")), ["a.csv", "b.csv", "c.csv"]);
}

#[test]
fn copies_land_where_cp_would_put_them_on_processes() {
    let Some(agent) = agent::on_process() else { return };
    copies_land_where_cp_would_put_them(&agent);
}

#[test]
fn files_of_a_container_belong_to_its_user_and_mounts_are_seen() {
    let Some(agent) = agent::on_docker() else { return };
    if crate::engines::docker_image().is_none() {
        return;
    }
    let here = Here::new(&agent);
    for name in ["data", "fixed"] {
        fs::create_dir(here.at(name)).unwrap();
        // Kernels of a root agent are another user's.
        fs::set_permissions(here.at(name), fs::Permissions::from_mode(0o777)).unwrap();
        here.write(&format!("{name}/f"), name);
    }
    here.write("data/locked", "not for everybody");
    fs::set_permissions(here.at("data/locked"), fs::Permissions::from_mode(0o600)).unwrap();
    let data = format!("{}:/home/work/data", here.text("data"));
    let fixed = format!("{}:/home/work/fixed:ro", here.text("fixed"));
    agent.ok(&["create", "--name", "k1", "--mount", &data, "--mount", &fixed]);

    here.write("t/new/x", "x");
    fs::set_permissions(here.at("t/new/x"), fs::Permissions::from_mode(0o4750)).unwrap();
    agent.ok(&["cp", &here.text("t"), "k1:a/b/"]);
    agent.ok(&["cp", &here.text("t/new/x"), "k1:data/x"]);
    let owners =
        agent.ok(&["exec", "k1", "--", "sh", "-c", "stat -c '%u %a' a a/b a/b/t/new/x data/x; id -u"]);
    let me = owners.lines().last().unwrap();
    assert_eq!(
        owners.lines().collect::<Vec<_>>(),
        [format!("{me} 755"), format!("{me} 755"), format!("{me} 750"), format!("{me} 750"), me.to_owned()]
    );
    assert_eq!(here.read("data/x"), "x", "a mount is written to where it lies");
    let refused = agent.fails(&["cp", &here.text("t/new/x"), "k1:fixed/x"]);
    assert!(refused.contains("fixed lies in a mount that is read-only (read-only)"), "{refused}");

    // All that the kernel sees, and no more than its user may read.
    let output = agent.output(&["cp", "k1:", &here.text("all/")]);
    assert_eq!((here.read("all/data/f"), here.read("all/fixed/f")), ("data".into(), "fixed".into()));
    if me != "0" {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("data/locked could not be read: Permission denied"), "{said}");
        let refused = agent.fails(&["cp", "k1:data/locked", "-q", &here.text("locked")]);
        assert!(refused.contains("(permission-denied)"), "{refused}");
    }
    assert!(!here.at("all/data/locked").exists() || me == "0");
    // Files of a kernel that has ended are there until it is removed.
    agent.ok(&["stop", "k1"]);
    agent.ok(&["cp", "k1:a/b/t/new/x", &here.text("late")]);
    assert_eq!(here.read("late"), "x");
    let refused = agent.fails(&["cp", &here.text("late"), "k1:"]);
    assert!(refused.contains("kernel k1 is not running (not-running)"), "{refused}");
}

#[test]
fn ten_thousand_files_come_back_as_they_went() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(&agent);
    for number in 0..10_000 {
        here.write(&format!("many/{}/{number}", number % 17), number.to_string().repeat(number % 50));
    }
    agent.ok(&["cp", "-q", &here.text("many"), "k1:"]);
    agent.ok(&["cp", "-q", "k1:many", &here.text("back")]);
    let same = Command::new("diff").args(["-r", &here.text("many"), &here.text("back")]).status().unwrap();
    assert!(same.success());
    let (one, other) = (here.at("many/3/3"), here.at("back/3/3"));
    assert_eq!(fs::metadata(one).unwrap().mtime(), fs::metadata(other).unwrap().mtime());
}

#[test]
fn archives_go_through_pipes() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(&agent);
    here.write("t/a", "a");
    let tar = Command::new("tar").args(["-C", &here.text("."), "-cf", &here.text("t.tar"), "t"]).status();
    assert!(tar.unwrap().success());
    let archive = fs::File::open(here.at("t.tar")).unwrap();
    assert!(agent.command(&["cp", "-", "k1:in"]).stdin(archive).status().unwrap().success());
    let out = agent.command(&["cp", "k1:in/t", "-"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    fs::write(here.at("out.tar"), out.stdout).unwrap();
    let listed = Command::new("tar").args(["-tf", &here.text("out.tar")]).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), "t/\nt/a\n");
    // What is no archive is refused, however much more of it would come.
    let mut cp =
        agent.command(&["cp", "-", "k1:in"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = cp.stdin.take().unwrap();
    let _ = stdin.write_all(&vec![7; 4 << 20]);
    let said = String::from_utf8(cp.wait_with_output().unwrap().stderr).unwrap();
    assert!(said.contains("the archive is malformed") && said.contains("(bad-archive)"), "{said}");
    drop(stdin);
}

#[test]
fn a_kernel_leads_nobody_elsewhere() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(&agent);
    here.write("f", "f");
    here.write("outside/secret", "secret");
    let work = work(&agent);
    symlink(here.at("outside"), work.join("link")).unwrap();
    for words in [
        ["k1:link/secret", &here.text("x")],
        ["k1:link/.", &here.text("x")],
        [&here.text("f"), "k1:link/secret"],
    ] {
        let refused = agent.fails(&[&["cp"], &words[..]].concat());
        assert!(refused.contains("symbolic link"), "{words:?}: {refused}");
    }
    for path in ["k1:../x", "k1:/etc/passwd", "k1:a/../../x"] {
        let refused = agent.fails(&["cp", path, &here.text("x")]);
        assert!(refused.contains("(outside-work-folder)"), "{path}: {refused}");
    }
    // As a link it is copied, and then not followed here either.
    agent.ok(&["cp", "k1:link", &here.text("copied")]);
    assert_eq!(fs::read_link(here.at("copied")).unwrap(), here.at("outside"));
    fs::create_dir(work.join("copied")).unwrap();
    fs::write(work.join("copied/secret"), "mine").unwrap();
    let refused = agent.fails(&["cp", "k1:copied", &here.text(".")]);
    assert!(refused.contains("copied is a symbolic link"), "{refused}");
    assert_eq!(here.read("outside/secret"), "secret");
    assert!(!here.at("x").exists());
}

#[test]
fn ctrl_c_leaves_no_half_file_on_either_side() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(&agent);
    let work = work(&agent);
    // Half of an archive with one file, and then nothing more.
    let mut cp = agent.command(&["cp", "-", "k1:"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = cp.stdin.take().unwrap();
    let script = "head -c 3000000 /dev/zero > f; tar c f | head -c 2000000; rm f";
    let half = Command::new("sh").args(["-c", script]).current_dir(here.at(".")).output().unwrap().stdout;
    stdin.write_all(&half).unwrap();
    let has_part = |dir: &Path| names(dir).iter().any(|name| name.starts_with(".berth-"));
    until("it is being written", || has_part(&work));
    kill_process(Pid::from_child(&cp), Signal::INT).unwrap();
    assert_eq!(cp.wait().unwrap().code(), Some(130));
    until("nothing is left of it", || names(&work).is_empty());
    drop(stdin);

    // A file that takes long to come.
    fs::File::create(work.join("huge")).unwrap().set_len(1 << 33).unwrap();
    let mut cp = agent.command(&["cp", "k1:huge", &here.text("huge")]).spawn().unwrap();
    until("it is being written", || has_part(&here.at(".")));
    kill_process(Pid::from_child(&cp), Signal::INT).unwrap();
    assert_eq!(cp.wait().unwrap().code(), Some(130));
    assert!(names(&here.at(".")).is_empty(), "{:?}", names(&here.at(".")));
}

#[test]
fn mistakes_are_one_line_with_the_next_step() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let here = Here::new(&agent);
    here.write("f", "f");
    here.write("g/f", "g");
    let (f, g, none) = (here.text("f"), here.text("g/f"), here.text("none"));
    let said: Vec<String> = [
        &["k1:none", "."][..],
        &["k1:*.none", "."],
        &["k2:f", "."],
        &[&none, "k1:"],
        &[&f, "k1:none/f/", "k1:"],
        &[&f, "elsewhere"],
        &[&f, &g, "k1:"],
        &[&f, &none, "k1:no-folder"],
        &["k1:", "k1:a", "-"],
        &["a b:c", "."],
    ]
    .into_iter()
    .map(|words| {
        let output = agent.output(&[&["cp"], words].concat());
        let shown = format!("berth cp {}\n{}", words.join(" "), String::from_utf8(output.stderr).unwrap());
        shown.replace(&here.text("."), ".").replace(&here.text(""), "")
    })
    .collect();
    insta::assert_snapshot!(said.join(""));
}
