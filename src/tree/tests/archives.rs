//! What holds when any archive is unpacked. The fuzz target `agent_archive` calls the same function (`fuzz/`).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::tree::pack::{Packer, Step};
use crate::tree::unpack::unpack;
use crate::tree::{Note, Roots, TreeError};

const BLOCK: usize = 512;
/// Larger files are not written here: of a sparse one a small archive says that it has gigabytes of zeros.
const FILE_MAX: u64 = 64 * 1024;

/// Something that was made: where, its mode, and its content or where it leads.
type Made = (PathBuf, u32, Vec<u8>);

/// Nothing appears but files, folders and links below the place, none with a set-id bit or half written; and what
/// appeared can be packed and unpacked as the same. The sums of headers are set right first.
pub fn check(bytes: &[u8]) {
    let archive = signed(bytes);
    if has_large_files(&archive) {
        return;
    }
    let Ok(place) = tempfile::tempdir() else { panic!("no place to unpack at") };
    let (work, again, secret) =
        (place.path().join("work"), place.path().join("again"), place.path().join("secret"));
    for folder in [&work, &again] {
        assert!(fs::create_dir(folder).is_ok());
    }
    assert!(fs::write(&secret, "secret").is_ok());

    let unpacked = unpack_at(&work, &archive);
    let first = walk(&work);
    if let Ok(entries) = unpacked {
        assert!(entries >= u64::from(!first.is_empty()));
    }
    match packed(&work) {
        Ok(copy) => {
            let copied = unpack_at(&again, &copy);
            assert!(copied.is_ok(), "{copied:?} of {first:?}");
            assert_eq!(walk(&again), first);
        }
        // Folders in folders end somewhere.
        Err(lost) => assert!(first.iter().any(|(path, ..)| path.components().count() >= 256), "{lost:?}"),
    }

    let mut beside: Vec<_> =
        fs::read_dir(place.path()).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["again", "secret", "work"]);
    assert!(fs::read(&secret).is_ok_and(|text| text == b"secret"));
    assert!(fs::metadata(&secret).is_ok_and(|secret| secret.nlink() == 1), "it has another name");
}

/// Whole blocks, and every header with its sum.
fn signed(bytes: &[u8]) -> Vec<u8> {
    let mut archive = bytes.to_vec();
    archive.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let mut rest = archive.as_mut_slice();
    while let Some((block, behind)) = rest.split_first_chunk_mut::<BLOCK>() {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let content = header.entry_size().unwrap_or(0);
        // A block of zeros ends an archive.
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let content =
            usize::try_from(content).unwrap_or(usize::MAX).min(behind.len()).next_multiple_of(BLOCK);
        rest = behind.split_at_mut_checked(content).map_or(&mut [], |(_, rest)| rest);
    }
    archive
}

fn has_large_files(archive: &[u8]) -> bool {
    let mut archive = tar::Archive::new(archive);
    archive.entries().into_iter().flatten().flatten().any(|entry| entry.size() > FILE_MAX)
}

/// How many entries were carried.
fn unpack_at(folder: &Path, archive: &[u8]) -> Result<u64, TreeError> {
    let roots = Roots::open(folder)?;
    unpack(&roots, Path::new(""), archive, &mut |_| ()).map(|carried| carried.entries)
}

/// All of a folder as an archive, or what got lost on the way.
fn packed(folder: &Path) -> Result<Vec<u8>, Vec<Note>> {
    let (mut archive, mut lost) = (Vec::new(), Vec::new());
    let mut watch = |step| match step {
        Step::Note(note) if note.is_loss => lost.push(note),
        _ => {}
    };
    let mut packer = Packer::new(&mut archive, None, &mut watch);
    let done = Roots::open(folder)
        .and_then(|roots| packer.add(&roots, Path::new(""), Path::new(".")))
        .and_then(|()| packer.finish());
    assert!(done.is_ok(), "{done:?}");
    if lost.is_empty() { Ok(archive) } else { Err(lost) }
}

/// All that lies in a folder, by path. It is made readable to its owner on the way.
fn walk(folder: &Path) -> Vec<Made> {
    let mut made = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(found) = fs::symlink_metadata(&path) else { panic!("{path:?} went away") };
            let kind = found.file_type();
            assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{path:?} is a {kind:?}");
            let name = entry.file_name();
            let is_half = name.to_string_lossy().starts_with(".berth-") && name.len() > 40;
            assert!(!is_half, "{path:?} was left");
            let mode = (found.mode() & 0o7777) | if kind.is_dir() { 0o700 } else { 0o600 };
            if !kind.is_symlink() {
                assert_eq!(mode & !0o777, 0, "{path:?} has the mode {mode:o}");
                assert!(fs::set_permissions(&path, fs::Permissions::from_mode(mode)).is_ok());
            }
            let content = if kind.is_symlink() {
                fs::read_link(&path).map(|target| target.into_os_string().into_encoded_bytes())
            } else if kind.is_file() {
                fs::read(&path)
            } else {
                folders.push(path.clone());
                Ok(Vec::new())
            };
            let relative = path.strip_prefix(folder).unwrap_or(&path).to_owned();
            made.push((relative, mode, content.unwrap_or_default()));
        }
    }
    made.sort();
    made
}
