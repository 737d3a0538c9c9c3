//! A journal in one file, as `berth policy journal --export` writes it: the lines of the ring.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use super::{Entry, Wanted};

/// Hands `each` the entries of a file that are wanted, in the order of the file, until it breaks.
/// [`Wanted::most`]: the last so many.
///
/// # Errors
/// When the file cannot be read, or a line of it is no record.
pub fn scan(path: &Path, wanted: &Wanted, mut each: impl FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
    let Some(most) = wanted.most else { return lines(path, wanted, each) };
    let mut last = std::collections::VecDeque::with_capacity(most.min(1 << 10));
    lines(path, wanted, |entry| {
        if last.len() == most {
            last.pop_front();
        }
        if most > 0 {
            last.push_back(entry);
        }
        ControlFlow::Continue(())
    })?;
    let _ = last.into_iter().try_for_each(&mut each);
    Ok(())
}

fn lines(path: &Path, wanted: &Wanted, mut each: impl FnMut(Entry) -> ControlFlow<()>) -> io::Result<()> {
    for (at, line) in BufReader::new(File::open(path)?).split(b'\n').enumerate() {
        let line = line?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let entry: Entry = serde_json::from_slice(&line).map_err(|error| {
            let problem = format!("line {} is no record of a journal: {error}", at + 1);
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        if wanted.matches(&entry) && each(entry).is_break() {
            break;
        }
    }
    Ok(())
}
