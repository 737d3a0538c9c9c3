//! The store against real files: locks, damage, a disk that fails.

use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redb::backends::FileBackend;
use redb::{Database, StorageBackend, TableDefinition};
use serde::Deserialize;

use super::*;

/// A record at its second version; the first had `title` for `name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    id: String,
    name: String,
}

impl Record for Note {
    const TABLE: &'static str = "notes";
    const VERSION: u32 = 2;

    fn upgrade(version: u32, value: serde_json::Value) -> Result<Self, String> {
        let text = |key: &str| value[key].as_str().map(str::to_owned).ok_or(format!("{key} is missing"));
        match version {
            1 => Ok(Self { id: text("id")?, name: text("title")? }),
            other => Err(format!("there never was a version {other}")),
        }
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

fn note(id: &str) -> Note {
    Note { id: id.to_owned(), name: format!("note {id}") }
}

fn temp() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("berth-store-").tempdir().unwrap()
}

/// Opens `dir`, which must work.
fn opened(dir: &Path) -> Opened {
    open(dir).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(dir: &Path) -> String {
    open(dir).expect_err("it should be refused").to_string()
}

/// Writes rows past the store, as an older or newer berth or a fault would have left them.
fn write_raw(dir: &Path, table: &str, rows: &[(&[u8], &[u8])]) {
    let database = Database::create(dir.join("berth.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let definition = TableDefinition::<&[u8], &[u8]>::new(table);
    for (key, row) in rows {
        transaction.open_table(definition).unwrap().insert(*key, *row).unwrap();
    }
    transaction.commit().unwrap();
}

fn read_raw(dir: &Path, table: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    use redb::{ReadableDatabase as _, ReadableTable as _};
    let database = Database::create(dir.join("berth.redb")).unwrap();
    let definition = TableDefinition::<&[u8], &[u8]>::new(table);
    let Ok(table) = database.begin_read().unwrap().open_table(definition) else { return Vec::new() };
    let rows = table.iter().unwrap().map(Result::unwrap);
    rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).collect()
}

#[tokio::test]
async fn rows_and_identity_survive_a_restart() {
    let dir = temp();
    let first = opened(dir.path());
    for id in ["b", "a", "c"] {
        first.handle.put(&note(id)).await.unwrap();
    }
    first.handle.delete::<Note>("c").await.unwrap();
    first.handle.delete::<Note>("never there").await.unwrap();
    first.handle.close().await;

    let second = opened(dir.path());
    assert_eq!(second.instance, first.instance);
    let (notes, aside) = second.handle.load::<Note>().await.unwrap();
    assert_eq!(notes, [note("a"), note("b")]);
    assert_eq!(aside, []);
    second.handle.close().await;
}

#[tokio::test]
async fn two_directories_have_two_identities() {
    let (one, two) = (temp(), temp());
    assert_ne!(opened(one.path()).instance, opened(two.path()).instance);
}

#[tokio::test]
async fn many_writers_at_once_are_all_on_disk() {
    let dir = temp();
    let store = opened(dir.path());
    let writes = (0..500).map(|n| store.handle.put(&note(&format!("{n:03}"))));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    store.handle.close().await;
    assert_eq!(read_raw(dir.path(), Note::TABLE).len(), 500);
}

#[tokio::test]
async fn a_second_agent_is_told_who_holds_the_directory() {
    let dir = temp();
    let first = opened(dir.path());
    let message = refused(dir.path());
    assert_eq!(
        message,
        format!("{} is in use by another berth agent (pid {})", dir.path().display(), std::process::id())
    );
    first.handle.put(&note("a")).await.unwrap();
    first.handle.close().await;
    opened(dir.path()).handle.close().await;
    assert_eq!(std::fs::read_to_string(dir.path().join("pid")).unwrap(), "", "no pid of an ended agent");
}

#[tokio::test]
async fn redb_alone_keeps_others_out_too() {
    let dir = temp();
    drop(opened(dir.path()));
    let held = std::iter::repeat_with(|| Database::create(dir.path().join("berth.redb")));
    // The thread that was just left ends on its own time.
    let _held = held.filter_map(Result::ok).next().unwrap();
    let message = retry_while_locked_by_us(dir.path());
    assert_eq!(message, format!("{} is in use by another berth agent", dir.path().display()));
}

fn retry_while_locked_by_us(dir: &Path) -> String {
    loop {
        match open(dir) {
            Err(StoreError::Locked { pid: Some(_), .. }) => std::thread::yield_now(),
            Err(error) => return error.to_string(),
            Ok(_) => panic!("it should be refused"),
        }
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = temp();
    let store = opened(dir.path());
    store.handle.close().await;
    store.handle.ended().await;
    store.handle.close().await;
    assert!(matches!(store.handle.put(&note("a")).await, Err(StoreError::Closed)));
    assert!(matches!(store.handle.load::<Note>().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn directories_and_files_are_private() {
    let parent = temp();
    let dir = parent.path().join("a/state/");
    let store = opened(&dir);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("berth.redb")), 0o600);
    assert_eq!(mode(&dir.join("pid")), 0o600);
    store.handle.close().await;
}

#[test]
fn an_unsafe_directory_is_refused_with_the_remedy() {
    let parent = temp();
    let dir = parent.path().join("state");
    std::fs::create_dir(&dir).unwrap();
    let said = |problem: &str| format!("the state directory {} cannot be used: {problem}", dir.display());

    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(
        refused(&dir),
        said(&format!("others may write to it (mode 0777): `chmod 0700 {}`", dir.display()))
    );
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();

    symlink("/etc/passwd", dir.join("pid")).unwrap();
    assert_eq!(refused(&dir), said("its file pid is a symbolic link; remove it"));
    std::fs::remove_file(dir.join("pid")).unwrap();

    std::fs::create_dir(dir.join("pid")).unwrap();
    assert!(refused(&dir).contains("its file pid cannot be opened"));
    std::fs::remove_dir(dir.join("pid")).unwrap();

    symlink("elsewhere", dir.join("berth.redb")).unwrap();
    assert_eq!(refused(&dir), said("its file berth.redb is a symbolic link; remove it"));
    assert!(!dir.join("elsewhere").exists());

    let link = parent.path().join("link");
    symlink(&dir, &link).unwrap();
    for path in [link.clone(), link.join("")] {
        assert_eq!(
            refused(&path),
            format!(
                "the state directory {} cannot be used: it is a symbolic link; name the directory it points to",
                link.display()
            )
        );
    }

    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(refused(&file).contains("name another with --state-dir"));
    assert!(refused(Path::new("")).contains("its name is empty"));
}

#[test]
fn a_directory_of_someone_else_is_refused() {
    let dir = temp();
    // Only root can give a directory away.
    if std::os::unix::fs::chown(dir.path(), Some(12345), None).is_err() {
        println!("skipped: not root");
        return;
    }
    let message = refused(dir.path());
    assert!(message.contains("it belongs to uid 12345, the agent runs as uid 0: `chown 0 "), "{message}");
}

#[tokio::test]
async fn older_rows_are_upgraded_and_damaged_ones_set_aside() {
    let dir = temp();
    opened(dir.path()).handle.close().await;
    write_raw(
        dir.path(),
        Note::TABLE,
        &[
            (b"a", br#"{"version":2,"value":{"id":"a","name":"note a"}}"#),
            (b"b", br#"{"version":1,"value":{"id":"b","title":"note b"}}"#),
            (b"c", br#"{"version":2,"value":{"id":"c"}}"#),
            (b"d", b"\xff\x00 not json"),
            (b"e", br#"{"version":3,"value":{"whatever":[]}}"#),
            (b"f", br#"{"version":2,"value":{"id":"another","name":""}}"#),
            (b"g\xff", br#"{"version":0,"value":null}"#),
        ],
    );
    let store = opened(dir.path());
    let (notes, aside) = store.handle.load::<Note>().await.unwrap();
    assert_eq!(notes, [note("a"), note("b")]);
    let found: Vec<_> = aside.iter().map(|row| (row.key.as_str(), row.problem.as_str())).collect();
    assert_eq!(
        found,
        [
            ("c", "version 2 of it cannot be read: missing field `name`"),
            ("d", "it is no versioned JSON record: expected value at line 1 column 1"),
            ("e", "a newer berth wrote it: record version 3, this one reads up to 2"),
            ("f", "it holds the record of \"another\""),
            ("g\u{fffd}", "version 0 of it cannot be read: there never was a version 0"),
        ]
    );
    let (_, again) = store.handle.load::<Note>().await.unwrap();
    assert_eq!(
        again.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(),
        ["e"],
        "told once, but newer ones"
    );
    // A damaged row may come twice under one key; both are kept.
    store.handle.close().await;
    write_raw(dir.path(), Note::TABLE, &[(b"c", b"again")]);
    let store = opened(dir.path());
    assert_eq!(store.handle.load::<Note>().await.unwrap().1.len(), 2);
    store.handle.close().await;

    let left: Vec<_> = read_raw(dir.path(), Note::TABLE).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [b"a", b"b", b"e"]);
    let kept = read_raw(dir.path(), "set-aside");
    let keys: Vec<_> = kept.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(keys, ["notes/c", "notes/c#2", "notes/d", "notes/f", "notes/g\u{fffd}"]);
    let first: serde_json::Value = serde_json::from_slice(&kept[0].1).unwrap();
    assert_eq!(first["row"], r#"{"version":2,"value":{"id":"c"}}"#);
}

#[tokio::test]
async fn a_row_rewritten_meanwhile_is_not_set_aside() {
    let dir = temp();
    let store = opened(dir.path());
    store.handle.put(&note("a")).await.unwrap();
    let stale = row::Row { key: b"a".to_vec(), bytes: b"damaged".to_vec() };
    let damaged = vec![(stale, "it was damaged".to_owned())];
    store.handle.ask(|reply| Command::SetAside { table: Note::TABLE, damaged, reply }).await.unwrap();
    assert_eq!(store.handle.load::<Note>().await.unwrap(), (vec![note("a")], vec![]));
    store.handle.close().await;
}

#[tokio::test]
async fn a_database_that_is_damaged_as_a_whole_is_refused_and_left_alone() {
    let dir = temp();
    let file = dir.path().join("berth.redb");
    let store = opened(dir.path());
    for n in 0..200 {
        store.handle.put(&note(&n.to_string())).await.unwrap();
    }
    store.handle.close().await;
    let good = std::fs::read(&file).unwrap();
    let check = |bytes: Vec<u8>| {
        std::fs::write(&file, &bytes).unwrap();
        let message = refused(dir.path());
        assert!(message.contains(&format!("{} cannot be read", file.display())), "{message}");
        assert!(message.contains("to start with an empty one"), "{message}");
        assert_eq!(std::fs::read(&file).unwrap().len(), bytes.len());
    };
    check(b"this is no database".to_vec());
    check(vec![0; 8192]);
    check(good[..100].to_vec());
    // Damage behind the header must be found too; where the page was not in use it may be harmless.
    for start in (512..good.len().min(1 << 16)).step_by(4096) {
        let mut bytes = good.clone();
        bytes[start..start + 64].fill(0xa5);
        std::fs::write(&file, &bytes).unwrap();
        match open(dir.path()) {
            Ok(store) => store.handle.close().await,
            Err(error) => assert!(matches!(error, StoreError::Database(_)), "{error}"),
        }
    }
    std::fs::write(&file, &good).unwrap();
    let store = opened(dir.path());
    assert_eq!(store.handle.load::<Note>().await.unwrap().0.len(), 200);
    store.handle.close().await;
}

#[tokio::test]
async fn a_newer_layout_is_refused_by_number() {
    let dir = temp();
    opened(dir.path()).handle.close().await;
    write_raw(dir.path(), "meta", &[(b"layout", b"7")]);
    let message = refused(dir.path());
    assert!(message.contains("a newer berth wrote") && message.contains("layout 7"), "{message}");
    write_raw(dir.path(), "meta", &[(b"layout", b"1"), (b"instance", b"nobody")]);
    assert!(refused(dir.path()).contains("its instance id cannot be read"));
}

/// A disk that is full while `full` is set.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_survived() {
    let dir = temp();
    let file = dir.path().join("db");
    let full = Arc::new(AtomicBool::new(false));
    let opens = Arc::new(AtomicUsize::new(0));
    let opener = {
        let (file, full, opens) = (file.clone(), Arc::clone(&full), Arc::clone(&opens));
        move || {
            opens.fetch_add(1, Ordering::SeqCst);
            let options =
                std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&file);
            let disk = Disk { file: FileBackend::new(options.unwrap()).unwrap(), full: Arc::clone(&full) };
            Database::builder()
                .create_with_backend(disk)
                .map_err(|error| StoreError::Database(error.to_string()))
        }
    };
    let (commands, _) = thread::start_with(Box::new(opener), file.clone()).unwrap();
    let store = Handle { commands };
    store.put(&note("before")).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let error = store.put(&note("lost")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the state database failed: no space is left to write {}: free some on its file system; the agent goes on by itself",
            file.display()
        )
    );
    assert!(store.put(&note("lost too")).await.is_err());
    full.store(false, Ordering::SeqCst);
    store.put(&note("after")).await.unwrap();
    let (notes, _) = store.load::<Note>().await.unwrap();
    assert_eq!(notes, [note("after"), note("before")]);
    assert!(opens.load(Ordering::SeqCst) > 1);
    store.close().await;
}
