use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode};

use super::list::{Kind, list, reference_json};
use super::pack::{Packer, Step};
use super::unpack::unpack;
use super::whole::Meta;
use super::*;

mod archives;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

const META: Meta = Meta { mode: 0o644, mtime: None };

/// A tree, and a folder beside it that nothing of it may reach.
struct Place {
    work: tempfile::TempDir,
    outside: tempfile::TempDir,
    roots: Roots,
}

impl Place {
    fn new() -> Self {
        let (work, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let roots = Roots::open(work.path()).unwrap();
        Self { work, outside, roots }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn write(&self, path: &str) -> Result<u64, TreeError> {
        whole::write(&self.roots, Path::new(path), META, &mut Cursor::new("new"))
    }

    fn pack(&self, path: &str, name: &str) -> (Vec<u8>, Vec<Note>) {
        let (mut archive, mut notes) = (Vec::new(), Vec::new());
        let mut watch = |step| {
            if let Step::Note(note) = step {
                notes.push(note);
            }
        };
        let mut packer = Packer::new(&mut archive, None, &mut watch);
        packer.add(&self.roots, Path::new(path), Path::new(name)).unwrap();
        packer.finish().unwrap();
        (archive, notes)
    }

    fn unpack(&self, base: &str, archive: &[u8]) -> (Result<Carried, TreeError>, Vec<Note>) {
        let mut notes = Vec::new();
        let carried = unpack(&self.roots, Path::new(base), archive, &mut |step| {
            if let Step::Note(note) = step {
                notes.push(note);
            }
        });
        (carried, notes)
    }

    /// Nothing outside was touched.
    fn is_intact(&self) {
        let names: Vec<_> = fs::read_dir(self.outside.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "something was made outside: {names:?}");
        assert_eq!(fs::read(self.outside.path().join("secret")).unwrap(), b"secret");
    }

    /// No half file was left.
    fn is_tidy(&self) {
        for entry in fs::read_dir(self.work.path()).unwrap().flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with(".berth-"), "{entry:?} was left");
        }
    }
}

/// An archive with entries as somebody hostile would write them: no check of any name.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o6777);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let is_file = *kind == tar::EntryType::Regular;
        if !is_file {
            header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if is_file {
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.extend([0; 1024]);
    bytes
}

use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};

#[test]
fn what_people_write_becomes_plain_names_or_nothing() {
    for (path, expected) in [
        ("a/b", Some("a/b")),
        ("./a//b/.", Some("a/b")),
        ("a/../b", Some("b")),
        ("", Some("")),
        (".", Some("")),
        ("..", None),
        ("a/../../b", None),
        ("/a", None),
    ] {
        assert_eq!(normal(Path::new(path)), expected.map(PathBuf::from), "{path:?}");
    }
}

#[test]
fn files_appear_whole_beneath_the_folder_and_nowhere_else() {
    let place = Place::new();
    place.write("a/b/c.txt").unwrap();
    assert_eq!(fs::read(place.at("a/b/c.txt")).unwrap(), b"new");
    symlink(place.outside.path(), place.at("out")).unwrap();
    symlink(place.outside.path().join("secret"), place.at("link")).unwrap();
    fs::hard_link(place.outside.path().join("secret"), place.at("hard")).unwrap();
    rustix::fs::mkfifoat(CWD, place.at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    // What has the name is replaced, never written through.
    for path in ["link", "hard", "fifo"] {
        assert_eq!(place.write(path).unwrap(), 3, "{path}");
        assert!(fs::symlink_metadata(place.at(path)).unwrap().is_file(), "{path}");
    }
    assert!(matches!(place.write("out/x"), Err(TreeError::Link(_))));
    assert!(matches!(place.write("hard/x"), Err(TreeError::Other { .. })));
    assert!(matches!(place.write("a"), Err(TreeError::Other { .. })));
    assert!(matches!(place.write("../x"), Err(TreeError::Outside(_))));
    place.is_intact();
    place.is_tidy();
}

#[test]
fn a_transfer_that_breaks_off_leaves_what_was_there() {
    struct Breaks(Option<&'static [u8]>);
    impl io::Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = self.0.take().ok_or(io::ErrorKind::ConnectionReset)?;
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }
    let place = Place::new();
    place.write("a").unwrap();
    let broken = whole::write(&place.roots, Path::new("a"), META, &mut Breaks(Some(b"half")));
    assert!(matches!(broken, Err(TreeError::Broken(_))), "{broken:?}");
    assert_eq!(fs::read(place.at("a")).unwrap(), b"new");
    // An archive that ends within a file.
    let whole = archive(&[("b", Regular, &"x".repeat(5000))]);
    let (cut, _) = place.unpack("", &whole[..2048]);
    assert!(cut.is_err());
    assert!(!place.at("b").exists());
    place.is_tidy();
}

#[test]
fn hostile_names_in_archives_are_refused() {
    for name in ["../x", "a/../../x", "/tmp/berth-escaped", "", "a/.."] {
        let place = Place::new();
        let (refused, _) = place.unpack("", &archive(&[(name, Regular, "x")]));
        assert!(matches!(refused, Err(TreeError::Outside(_))), "{name:?}: {refused:?}");
        place.is_intact();
    }
}

#[test]
fn archives_that_the_fuzzer_keeps_hold() {
    replay::replay("agent_archive", archives::check);
}

#[test]
fn an_archive_does_not_write_over_the_links_it_makes() {
    let place = Place::new();
    let out = place.outside.path().to_str().unwrap().to_owned();
    let secret = format!("{out}/secret");
    let (refused, _) = place.unpack("", &archive(&[("l", Symlink, &out), ("l/secret", Regular, "x")]));
    assert!(matches!(refused, Err(TreeError::Link(_))), "{refused:?}");
    // The link itself is replaced by a file of its name.
    let (made, _) = place.unpack("", &archive(&[("s", Symlink, &secret), ("s", Regular, "x")]));
    made.unwrap();
    assert_eq!(fs::read(place.at("s")).unwrap(), b"x");
    // Neither a further name of something outside, nor a folder in place of a link.
    let (refused, _) = place.unpack("", &archive(&[("h", Link, &secret)]));
    assert!(matches!(refused, Err(TreeError::Outside(_))), "{refused:?}");
    let (refused, _) = place.unpack("", &archive(&[("h", Link, "l/secret")]));
    assert!(matches!(refused, Err(TreeError::Link(_))), "{refused:?}");
    let (refused, _) = place.unpack("", &archive(&[("l", Directory, ""), ("l/y", Regular, "x")]));
    assert!(matches!(refused, Err(TreeError::Link(_))), "{refused:?}");
    place.is_intact();
    place.is_tidy();
}

#[test]
fn devices_and_set_id_bits_do_not_come_out_of_an_archive() {
    let place = Place::new();
    let entries = [("c", Char, ""), ("f", Fifo, ""), ("x", Regular, "x"), ("d", Directory, "")];
    let (made, notes) = place.unpack("new", &archive(&entries));
    assert_eq!(made.unwrap(), Carried { entries: 2, bytes: 1 });
    assert_eq!(notes.iter().map(|note| note.path.as_str()).collect::<Vec<_>>(), ["new/c", "new/f"]);
    assert!(!place.at("new/c").exists() && !place.at("new/f").exists());
    for name in ["new/x", "new/d"] {
        let made = fs::metadata(place.at(name)).unwrap();
        assert_eq!((made.mode() & 0o7777, made.mtime()), (0o777, 1_000_000_000), "{name}");
    }
}

#[test]
fn names_without_end_do_not_fill_memory() {
    let place = Place::new();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = io::Read::chain(Cursor::new(header.as_bytes().to_vec()), io::repeat(b'a'));
    let refused = unpack(&place.roots, Path::new(""), endless, &mut |_| ());
    assert!(matches!(refused, Err(TreeError::Archive(_))), "{refused:?}");
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let (from, to) = (Place::new(), Place::new());
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    for path in ["t/a", "t/sub/b", &format!("t/{long}"), "t/empty/x"] {
        from.write(path).unwrap();
    }
    fs::remove_file(from.at("t/empty/x")).unwrap();
    fs::write(from.at("t/big"), vec![7; 700_000]).unwrap();
    fs::set_permissions(from.at("t/a"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("/etc/passwd", from.at("t/link")).unwrap();
    fs::hard_link(from.at("t/a"), from.at("t/again")).unwrap();
    rustix::fs::mkfifoat(CWD, from.at("t/fifo"), Mode::from_raw_mode(0o600)).unwrap();
    fs::set_permissions(from.at("t/sub"), fs::Permissions::from_mode(0o555)).unwrap();

    let (packed, notes) = from.pack("t", "u");
    let fifo = Note::left_out(Path::new("t/fifo"), "is a FIFO, a socket or a device");
    assert_eq!(notes, [fifo]);
    let (carried, notes) = to.unpack("", &packed);
    assert_eq!((carried.unwrap().entries, notes), (10, vec![]));
    for path in ["a", "sub/b", "big", "again", &long] {
        let (one, other) = (from.at(&format!("t/{path}")), to.at(&format!("u/{path}")));
        assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap(), "{path}");
        let (one, other) = (fs::metadata(one).unwrap(), fs::metadata(other).unwrap());
        assert_eq!((one.mode() & 0o777, one.mtime()), (other.mode() & 0o7777, other.mtime()), "{path}");
    }
    assert_eq!(fs::read_link(to.at("u/link")).unwrap(), Path::new("/etc/passwd"));
    assert!(to.at("u/empty").is_dir() && !to.at("u/fifo").exists());
    assert_eq!(fs::metadata(to.at("u/sub")).unwrap().mode() & 0o777, 0o555);
    // What is in a folder, without the folder.
    let (packed, _) = from.pack("t/sub", ".");
    to.unpack("s", &packed).0.unwrap();
    assert_eq!(fs::read(to.at("s/b")).unwrap(), b"new");
}

#[test]
fn links_lead_where_they_led_to_the_letter() {
    let long = "d/./".repeat(60);
    for target in ["a//b", "../././x", "./", "/", "a/../b//", &"t".repeat(100), &"t".repeat(101), &long] {
        let (from, to) = (Place::new(), Place::new());
        symlink(target, from.at("link")).unwrap();
        to.unpack("", &from.pack("link", &"n".repeat(120)).0).0.unwrap();
        assert_eq!(fs::read_link(to.at(&"n".repeat(120))).unwrap().as_os_str(), target);
    }
}

#[test]
fn an_archive_of_gnu_tar_is_understood_and_ours_by_it() {
    let (from, to) = (Place::new(), Place::new());
    from.write("t/a").unwrap();
    fs::hard_link(from.at("t/a"), from.at("t/b")).unwrap();
    let sparse = fs::File::create(from.at("t/sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    (&sparse).write_all(b"begin").unwrap();
    let tar = |words: &[&str]| {
        std::process::Command::new("tar").args(words).output().ok().filter(|output| output.status.success())
    };
    let work = from.work.path().to_str().unwrap();
    let Some(made) = tar(&["-C", work, "-S", "--format=gnu", "-cf", "-", "./t"]) else {
        println!("skipped: no GNU tar");
        return;
    };
    to.unpack("", &made.stdout).0.unwrap();
    assert!(fs::read(from.at("t/sparse")).unwrap() == fs::read(to.at("t/sparse")).unwrap());
    let other = tar(&["-C", work, "-S", "--format=posix", "-cf", "-", "t/sparse"]).unwrap();
    let refused = to.unpack("", &other.stdout).0.unwrap_err().to_string();
    assert!(refused.ends_with("make it without -S, or with --format=gnu"), "{refused}");
    let (a, b) = (fs::metadata(to.at("t/a")).unwrap(), fs::metadata(to.at("t/b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    let ours = from.at("ours.tar");
    fs::write(&ours, from.pack("t", "t").0).unwrap();
    let listed = tar(&["-tf", ours.to_str().unwrap()]).unwrap();
    let mut names: Vec<_> = std::str::from_utf8(&listed.stdout).unwrap().lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["t/", "t/a", "t/b", "t/sparse"]);
}

#[test]
fn an_archive_stops_at_its_limit() {
    let place = Place::new();
    fs::write(place.at("a"), vec![1; 10_000]).unwrap();
    let pack = |limit| {
        let mut archive = Vec::new();
        let mut watch = |_| ();
        let mut packer = Packer::new(&mut archive, Some(limit), &mut watch);
        let done = packer.add(&place.roots, Path::new("a"), Path::new("a")).and_then(|()| packer.finish());
        (done.map(drop).map_err(|error| error.to_string()), archive.len() as u64)
    };
    let (_, size) = pack(u64::MAX);
    assert_eq!(pack(size), (Ok(()), size));
    for limit in [0, 511, 512, 5000, size - 1] {
        let (done, sent) = pack(limit);
        assert_eq!(done, Err(format!("it is larger than {limit} bytes")));
        assert!(sent <= limit, "{sent} of {limit}");
    }
    let read = |limit| {
        let mut bytes = Vec::new();
        whole::read(&place.roots, Path::new("a"), Some(limit), &mut bytes).map(|_| bytes.len()).ok()
    };
    assert_eq!((read(10_000), read(9_999)), (Some(10_000), None));
}

#[test]
fn a_file_that_changes_while_it_is_read_does_not_spoil_the_archive() {
    /// Changes the file as soon as its header is written.
    struct Meddler<'a> {
        archive: Vec<u8>,
        file: &'a Path,
        to: u64,
    }
    impl io::Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.archive.extend_from_slice(bytes);
            fs::OpenOptions::new().write(true).open(self.file)?.set_len(self.to)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let check = |to: u64, expected: &str| {
        let (place, other) = (Place::new(), Place::new());
        fs::write(place.at("a"), [7; 3000]).unwrap();
        let (mut notes, mut sink) = (Vec::new(), Meddler { archive: Vec::new(), file: &place.at("a"), to });
        let mut watch = |step| {
            if let Step::Note(note) = step {
                notes.push(note);
            }
        };
        let mut packer = Packer::new(&mut sink, None, &mut watch);
        packer.add(&place.roots, Path::new("a"), Path::new("a")).unwrap();
        packer.finish().unwrap();
        assert!(notes[0].is_loss && notes[0].problem.starts_with(expected), "{notes:?}");
        assert_eq!(other.unpack("", &sink.archive).0.unwrap().bytes, 3000);
        assert_eq!(fs::metadata(other.at("a")).unwrap().len(), 3000);
    };
    check(1000, "shrank while it was read: its last 2000 bytes are zeros");
    check(9000, "grew while it was read");
}

#[test]
fn special_files_are_neither_read_nor_opened() {
    let place = Place::new();
    rustix::fs::mkfifoat(CWD, place.at("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    std::os::unix::net::UnixListener::bind(place.at("socket")).unwrap();
    for name in ["fifo", "socket"] {
        let read = whole::read(&place.roots, Path::new(name), None, &mut io::sink());
        assert!(matches!(read, Err(TreeError::Other { .. })), "{name}: {read:?}");
    }
    symlink(place.outside.path().join("secret"), place.at("link")).unwrap();
    let read = whole::read(&place.roots, Path::new("link"), None, &mut io::sink());
    assert!(matches!(read, Err(TreeError::Link(_))), "{read:?}");
    let (_, notes) = place.pack("", ".");
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn what_is_mounted_is_reached_by_its_source_and_stays_read_only() {
    let (mut place, writable, fixed) = (Place::new(), Place::new(), Place::new());
    for (at, source, read_only) in [("rw", &writable, false), ("deep/ro", &fixed, true)] {
        place.roots.graft(PathBuf::from(at), Graft::at(&fs::canonicalize(&source.work).unwrap(), read_only));
    }
    let file = fs::canonicalize(&fixed.outside).unwrap().join("secret");
    place.roots.graft(PathBuf::from("file"), Graft::at(&file, false));
    place.roots.graft(PathBuf::from("gone"), Graft::at(Path::new("/nowhere/at/all"), false));
    fs::create_dir(place.at("rw")).unwrap();
    fixed.write("f").unwrap();

    place.write("rw/sub/x").unwrap();
    assert_eq!(fs::read(writable.at("sub/x")).unwrap(), b"new");
    for (path, problem) in [
        ("deep/ro/x", "deep/ro/x lies in a mount that is read-only"),
        ("file", "file is a mounted file, which cannot be replaced"),
        (
            "gone/x",
            "gone/x is a mount of /nowhere/at/all, which cannot be opened: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(place.write(path).unwrap_err().to_string(), problem);
    }
    let mut content = Vec::new();
    whole::read(&place.roots, Path::new("file"), None, &mut content).unwrap();
    assert_eq!(content, b"secret");
    // All of it in one archive, those whose place is missing in the folder too.
    let (packed, notes) = place.pack("", ".");
    assert_eq!(notes.iter().map(|note| note.path.as_str()).collect::<Vec<_>>(), ["gone"]);
    let to = Place::new();
    to.unpack("", &packed).0.unwrap();
    for path in ["rw/sub/x", "deep/ro/f", "file"] {
        assert!(to.at(path).is_file(), "{path}");
    }
}

#[test]
fn the_source_of_a_mount_that_became_a_link_is_not_followed() {
    let (mut place, data) = (Place::new(), Place::new());
    let source = fs::canonicalize(&data.work).unwrap().join("x");
    symlink(place.outside.path(), &source).unwrap();
    place.roots.graft(PathBuf::from("m"), Graft::at(&source, false));
    assert!(matches!(place.write("m/y"), Err(TreeError::Closed { .. })));
    place.is_intact();
}

#[test]
fn a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere() {
    let place = Place::new();
    fs::create_dir(place.at("d")).unwrap();
    let (dir, aside, link) = (place.at("d"), place.at("aside"), place.at("link"));
    symlink(place.outside.path(), &link).unwrap();
    let archive = archive(&[("d", Directory, ""), ("d/secret", Regular, "x"), ("d/e/f", Regular, "x")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As a kernel would: the folder away, the link in its place, and back.
            while !done.load(Ordering::Relaxed) {
                let _ = fs::rename(&dir, &aside);
                let _ = fs::rename(&link, &dir);
                let _ = fs::rename(&dir, &link);
                let _ = fs::rename(&aside, &dir);
            }
        });
        for _ in 0..400 {
            // Whether it gets there depends on the moment; where it gets does not.
            let _ = place.write("d/secret");
            let _ = place.write("d/x");
            let _ = place.unpack("", &archive);
            let _ = whole::read(&place.roots, Path::new("d/secret"), None, &mut Secretless);
            let _ = list(&place.roots, Path::new("d"), 10);
        }
        done.store(true, Ordering::Relaxed);
    });
    place.is_intact();
}

/// Takes anything but what lies outside.
struct Secretless;

impl io::Write for Secretless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert_ne!(bytes, b"secret", "what lies outside was read");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_openat2_paths_are_looked_up_as_strictly() {
    use std::os::fd::AsFd as _;
    let place = Place::new();
    place.write("a/b/c").unwrap();
    symlink("a", place.at("l")).unwrap();
    symlink(place.outside.path(), place.at("a/out")).unwrap();
    let root = place.roots.folder(Path::new("")).unwrap();
    for (path, is_folder) in [
        ("a/b", true),
        ("", true),
        ("a/b/c", false),
        ("l/b", true),
        ("a/out", true),
        ("a/none", false),
        ("../x", false),
    ] {
        let flags = if is_folder { rustix::fs::OFlags::DIRECTORY } else { rustix::fs::OFlags::PATH };
        let one = beneath::open(root.as_fd(), Path::new(path), flags, Mode::empty()).map(drop);
        let other = beneath::step_by_step(root.as_fd(), Path::new(path), flags, Mode::empty()).map(drop);
        assert_eq!(one, other, "{path:?}");
    }
}

#[test]
fn a_listing_is_bounded_and_has_the_references_form() {
    let place = Place::new();
    for name in ["b", "a", "c"] {
        place.write(name).unwrap();
        rustix::fs::utimensat(
            CWD,
            place.at(name),
            &whole::times(1_000_000_000),
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
    }
    symlink("a", place.at("l")).unwrap();
    let listing = list(&place.roots, Path::new(""), 10).unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(names, [("a", Kind::File), ("b", Kind::File), ("c", Kind::File), ("l", Kind::Link)]);
    assert!(!listing.is_cut && listing.itself.kind == Kind::Folder);
    let cut = list(&place.roots, Path::new(""), 3).unwrap();
    assert_eq!((cut.entries.len(), cut.is_cut), (3, true));
    assert!(list(&place.roots, Path::new("a"), 3).unwrap().entries.is_empty());
    assert!(matches!(list(&place.roots, Path::new("none"), 3), Err(TreeError::Missing(_))));

    let rows: serde_json::Value = serde_json::from_str(&reference_json(&listing.entries)).unwrap();
    let row = rows[0].as_object().unwrap();
    let keys: Vec<_> = row.keys().map(String::as_str).collect();
    assert_eq!(keys, ["atime", "ctime", "filename", "mode", "mtime", "size"]);
    assert_eq!(
        (&row["mode"], &row["size"], &row["filename"]),
        (&"-rw-r--r--".into(), &3.into(), &"a".into())
    );
    assert_eq!(row["mtime"], 1_000_000_000.0);
    assert_eq!(rows[3]["mode"], "lrwxrwxrwx");
}
