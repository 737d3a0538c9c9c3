//! `berth run` without an agent.

use std::os::unix::fs::PermissionsExt as _;

use crate::engines::runner;
use crate::support::{output, said};

#[test]
fn what_a_private_agent_compiled_serves_the_next_one_and_nothing_else_of_it_stays() {
    if runner().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("berth.sock");
    let cache = dir.path().join("cache/berth/policy-cache");
    let mut kept = Vec::new();
    for _ in 0..2 {
        let ran = output(&socket, &["run", "--engine", "process", "--", "echo", "on"]);
        assert!(ran.status.success() && ran.stdout == b"on\n", "{}", said(&ran));
        let mut entries: Vec<_> = std::fs::read_dir(&cache)
            .unwrap()
            .flatten()
            .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
            .collect();
        entries.sort_unstable();
        kept.push(entries);
    }
    // The three shipped policies and the secret, written once.
    assert_eq!(kept[0].len(), 4);
    assert!(kept[0] == kept[1]);
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the cache alone");
}
