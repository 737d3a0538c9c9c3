//! The journal's files: `NNNN.jsonl` in one folder, a record a line, the oldest file removed when they are too
//! large together. Written by one thread; readers read what is there and skip a line that is not whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::Entry;

/// Files that a full ring has about.
const SEGMENTS: u64 = 16;
/// A file is not made smaller than this, whatever the ring's size.
const LEAST_SEGMENT_BYTES: u64 = 16 << 10;
/// What a reader takes at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The writing end.
#[derive(Debug)]
pub(super) struct Ring {
    dir: PathBuf,
    bytes: u64,
    number: u64,
    file: File,
    length: u64,
}

impl Ring {
    /// Opens (or makes) the ring of at most `bytes` in `dir`. Returns the number of its last record, too.
    pub fn open(dir: &Path, bytes: u64) -> io::Result<(Self, u64)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let segments = segments(dir)?;
        let number = segments.last().map_or(1, |(number, _)| *number);
        let (file, length) = open(dir, number)?;
        let mut ring = Self { dir: dir.to_owned(), bytes, number, file, length };
        if ring.is_torn()? {
            // A line that an earlier process could not finish stays alone; readers skip it.
            ring.append(b"\n")?;
        }
        let last = segments.iter().rev().find_map(|(_, path)| last_number(path));
        Ok((ring, last.unwrap_or(0)))
    }

    fn is_torn(&self) -> io::Result<bool> {
        if self.length == 0 {
            return Ok(false);
        }
        let mut last = [0];
        self.file.read_exact_at(&mut last, self.length - 1)?;
        Ok(last != *b"\n")
    }

    /// Appends whole lines, in a new file when this one is full.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let most = (self.bytes / SEGMENTS).max(LEAST_SEGMENT_BYTES);
        if self.length > 0 && self.length + lines.len() as u64 > most {
            let (file, length) = open(&self.dir, self.number + 1)?;
            (self.file, self.length, self.number) = (file, length, self.number + 1);
            self.remove_oldest(most)?;
        }
        self.file.write_all(lines)?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// So that what is there and one full file more fit.
    fn remove_oldest(&self, next: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for (number, path) in segments(&self.dir)? {
            files.push((number, fs::metadata(&path)?.len(), path));
        }
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum::<u64>() + next;
        for (_, length, path) in files.into_iter().filter(|(number, ..)| *number != self.number) {
            if total <= self.bytes {
                break;
            }
            fs::remove_file(path)?;
            total = total.saturating_sub(length);
        }
        Ok(())
    }
}

fn open(dir: &Path, number: u64) -> io::Result<(File, u64)> {
    let path = dir.join(format!("{number:04}.jsonl"));
    let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The files by number, oldest first.
fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jsonl")?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

fn last_number(path: &Path) -> Option<u64> {
    let text = fs::read(path).ok()?;
    text.rsplit(|byte| *byte == b'\n').find_map(parse).map(|entry| entry.seq)
}

fn parse(line: &[u8]) -> Option<Entry> {
    if line.is_empty() { None } else { serde_json::from_slice(line).ok() }
}

/// The last `most` entries for which `wanted` holds, oldest first. `contains`: text that a line must have to be
/// looked at, since most need not be parsed.
pub(super) fn last(
    dir: &Path,
    most: usize,
    contains: Option<&str>,
    wanted: impl Fn(&Entry) -> bool,
) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for (_, path) in segments(dir)?.into_iter().rev() {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // The ring has moved on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in bytes.rsplit(|byte| *byte == b'\n') {
            if found.len() >= most {
                break;
            }
            let there =
                contains.is_none_or(|text| std::str::from_utf8(line).is_ok_and(|line| line.contains(text)));
            found.extend(there.then(|| parse(line)).flatten().filter(&wanted));
        }
        if found.len() >= most {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// Hands `each` the entries for which `wanted` holds, oldest first, until it breaks.
pub(super) fn scan(
    dir: &Path,
    wanted: impl Fn(&Entry) -> bool,
    mut each: impl FnMut(Entry) -> ControlFlow<()>,
) -> io::Result<()> {
    for (_, path) in segments(dir)? {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // The ring has moved on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in bytes.split(|byte| *byte == b'\n').filter_map(parse).filter(&wanted) {
            if each(entry).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Where a reader that follows is.
#[derive(Debug)]
pub struct Cursor {
    dir: PathBuf,
    segment: u64,
    offset: u64,
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
}

impl Cursor {
    /// Behind everything that is there.
    pub(super) fn at_end(dir: &Path) -> io::Result<Self> {
        let last = segments(dir)?.pop();
        let (segment, offset) = match last {
            Some((number, path)) => (number, fs::metadata(path)?.len()),
            None => (1, 0),
        };
        Ok(Self { dir: dir.to_owned(), segment, offset, rest: Vec::new() })
    }

    /// What has been written since, at most a piece; empty: nothing.
    pub(super) fn next(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            let segments = segments(&self.dir)?;
            let Some((number, path)) = segments.iter().find(|(number, _)| *number >= self.segment) else {
                return Ok(Vec::new());
            };
            if *number > self.segment {
                (self.segment, self.offset) = (*number, 0);
                self.rest.clear();
            }
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(self.offset))?;
            let mut piece = Vec::new();
            let read = file.take(PIECE_BYTES).read_to_end(&mut piece)? as u64;
            if read > 0 {
                self.offset += read;
                self.rest.extend_from_slice(&piece);
                let entries = self.whole_lines();
                if !entries.is_empty() {
                    return Ok(entries);
                }
            } else if segments.iter().any(|(number, _)| *number > self.segment) {
                self.segment += 1;
                self.offset = 0;
                self.rest.clear();
            } else {
                return Ok(Vec::new());
            }
        }
    }

    fn whole_lines(&mut self) -> Vec<Entry> {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        lines.split(|byte| *byte == b'\n').filter_map(parse).collect()
    }
}
