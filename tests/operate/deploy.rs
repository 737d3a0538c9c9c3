//! The files of `deploy/`, and what a service manager hears from the agent.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::engines::{self, Engine};
use crate::support::{Agent, PATIENCE};

fn deploy() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy"))
}

#[test]
fn systemd_takes_the_unit() {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        println!("skipped: no systemd-analyze");
        return;
    }
    // It looks whether the program is there, and it is another one here.
    let unit = fs::read_to_string(deploy().join("berth.service")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("berth.service");
    fs::write(&here, unit.replace("/usr/local/bin/berth", env!("CARGO_BIN_EXE_berth"))).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says of other units of this machine is theirs.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("berth.service")).collect();
    assert!(ours.is_empty(), "{said}");
    // It must not be taken for right because it was not read at all.
    fs::write(&here, "[Service]\nExecStart=/nowhere/berth\nKillMode=whatever\n").unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("berth.service"));
}

/// The value of a key in a file of `key=value` lines.
fn value(file: &str, key: &str) -> String {
    let text = fs::read_to_string(deploy().join(file)).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{file} has no {key}")).to_owned()
}

#[test]
fn kernels_outlive_the_agent_under_either_manager() {
    assert_eq!(value("berth.service", "KillMode"), "process");
    assert_eq!(value("berth.service", "Restart"), "always");
    assert_eq!(value("berth.supervisor.conf", "stopsignal"), "TERM");
    assert_eq!(value("berth.supervisor.conf", "killasgroup"), "false");
}

#[test]
fn a_service_manager_hears_of_the_start_the_end_and_that_it_lives() {
    if engines::runner().is_none() {
        return;
    }
    let mut agent = Agent::new(Engine::Process, "", &["--policy", "builtin"]);
    let path = agent.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let path = path.display().to_string();
    // Fed every half of two seconds.
    agent.spawn(&[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "2000000")]);
    assert_eq!(hear(), "READY=1");
    // Ready means ready: the first command finds it.
    agent.ok(&["status"]);
    assert_eq!((hear(), hear()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    agent.end();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut last = String::new();
    let mut buffer = [0; 256];
    while let Ok(length) = socket.recv(&mut buffer) {
        last = String::from_utf8(buffer[..length].to_vec()).unwrap();
    }
    assert_eq!(last, "STOPPING=1");
}
