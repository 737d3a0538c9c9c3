use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::admission::Allocation;

fn open(named: Option<&Path>) -> (tempfile::TempDir, Result<Scratch, ScratchError>) {
    let state = tempfile::tempdir().unwrap();
    let scratch = Scratch::open(named, state.path());
    (state, scratch)
}

fn problem(root: &Path) -> String {
    open(Some(root)).1.unwrap_err().to_string().replace(&root.display().to_string(), "ROOT")
}

#[test]
fn a_named_root_must_be_a_folder_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(problem(&dir.path().join("none")), "the scratch root ROOT does not exist");
    symlink(dir.path(), dir.path().join("link")).unwrap();
    assert_eq!(problem(&dir.path().join("link")), "the scratch root ROOT is a symbolic link");
    fs::write(dir.path().join("file"), "").unwrap();
    assert_eq!(problem(&dir.path().join("file")), "the scratch root ROOT is not a folder");
    fs::create_dir(dir.path().join("open")).unwrap();
    fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(problem(&dir.path().join("open")), "the scratch root ROOT may be written by others");
}

#[test]
fn folders_come_and_go_with_everything_in_them() {
    let (_state, scratch) = open(None);
    let scratch = scratch.unwrap();
    let kernel = KernelId::random();
    let folders = scratch.make(kernel, (1000, 1000)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    symlink(outside.path(), folders.work.join("out")).unwrap();
    fs::create_dir_all(folders.work.join("a/b")).unwrap();
    std::os::unix::net::UnixListener::bind(folders.link.join("in")).unwrap();
    let present = Present {
        kernel,
        folders: vec![folders.base.clone(), folders.link.clone()],
        sockets: vec![folders.link.join("in")],
    };
    assert_eq!(scratch.present().unwrap(), [present]);
    scratch.remove_sockets(kernel).unwrap();
    assert!(scratch.present().unwrap()[0].sockets.is_empty());
    scratch.remove(kernel).unwrap();
    scratch.remove(kernel).unwrap();
    assert!(!folders.base.exists() && !folders.link.exists());
    assert!(outside.path().join("keep").exists(), "a link in the work folder was followed");
    assert!(scratch.present().unwrap().is_empty());
}

#[test]
fn resource_and_environ_files_have_the_references_form() {
    let allocation = |slot: &str, device: &str, amount| Allocation {
        slot: slot.parse().unwrap(),
        device: device.to_owned(),
        amount,
    };
    let allocations = [
        allocation("cpu", "0", 1_000_000),
        allocation("cpu", "1", 1_000_000),
        allocation("mem", "root", 4 << 30),
    ];
    let mounts = [MountSpecForTest::work()];
    assert_eq!(
        files::resource_txt(&mounts, &allocations),
        "SCRATCH_SIZE=0m\nMOUNTS=/s/work:/home/work:rw\nSLOTS={\"cpu\":\"2\",\"mem\":\"4294967296\"}\n\
         UNIFIED_DEVICES=[]\nCPU_SHARES=0:1,1:1\nMEM_SHARES=root:4g\n"
    );
    let env = BTreeMap::from([("A".to_owned(), "1 2".to_owned()), ("B".to_owned(), "x\ny".to_owned())]);
    assert_eq!(files::environ_txt(&env), "A=1 2\n");
}

struct MountSpecForTest;

impl MountSpecForTest {
    fn work() -> crate::engine::MountSpec {
        crate::engine::MountSpec {
            kind: crate::engine::MountKind::Bind,
            source: "/s/work".into(),
            target: "/home/work".into(),
            read_only: false,
        }
    }
}
