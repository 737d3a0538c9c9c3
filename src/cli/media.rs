//! What a program shows that is no text: pictures, html. It is said in a line, or kept in a folder.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::CliError;
use crate::ids::RunId;

/// Where the items of one run go.
#[derive(Debug)]
pub(super) struct Media {
    dir: Option<PathBuf>,
    /// The beginning of every file's name.
    run: String,
    number: u32,
}

/// One item.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    mime: String,
    data: Vec<u8>,
}

impl Media {
    /// Makes the folder, so that a mistake in its name shows before anything runs.
    pub(super) fn new(dir: Option<PathBuf>, run: &RunId) -> Result<Self, CliError> {
        if let Some(dir) = &dir {
            fs::create_dir_all(dir).map_err(|error| {
                CliError::new(format!("cannot make the folder {}: {error}", dir.display()))
                    .with_hint("name a folder that you can write to by --save-media")
            })?;
        }
        let run = run.as_str().chars().take(8).collect();
        Ok(Self { dir, run, number: 0 })
    }

    /// Takes an item as the runner sent it, and says what became of it.
    pub(super) fn take(&mut self, record: &[u8]) -> String {
        let item = read(record);
        let what = format!("{}, {}", printable(&item.mime), size(item.data.len()));
        let Some(dir) = self.dir.clone() else {
            return format!("[{what}; --save-media DIR keeps it]");
        };
        match self.save(&dir, &item) {
            Ok(path) => format!("saved {what}: {}", path.display()),
            Err(error) => format!("{what}, could not be saved in {}: {error}", dir.display()),
        }
    }

    /// Under a name of our own making that is not there yet.
    fn save(&mut self, dir: &Path, item: &Item) -> io::Result<PathBuf> {
        loop {
            self.number += 1;
            let path = dir.join(format!("{}-{:03}.{}", self.run, self.number, suffix(&item.mime)));
            match File::create_new(&path) {
                Ok(mut file) => return file.write_all(&item.data).map(|()| path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// JSON `{"type", "data"}`, the data as `data:<mime>;base64,...` or as text; what is no JSON is html (contracts:
/// kernel §1.4).
fn read(record: &[u8]) -> Item {
    #[derive(serde::Deserialize)]
    struct Record {
        r#type: String,
        data: String,
    }
    let Ok(Record { r#type: mime, data }) = serde_json::from_slice(record) else {
        return Item { mime: "text/html".to_owned(), data: record.to_vec() };
    };
    let packed = data.strip_prefix("data:").and_then(|url| url.split_once(";base64,"));
    let unpacked = packed.and_then(|(_, packed)| STANDARD.decode(packed.trim()).ok());
    Item { mime, data: unpacked.unwrap_or_else(|| data.into_bytes()) }
}

/// A kernel says what type it is: nothing in it may move a terminal's cursor.
fn printable(mime: &str) -> String {
    mime.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

fn suffix(mime: &str) -> &'static str {
    match mime {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/svg+xml" => "svg",
        "text/html" => "html",
        "text/markdown" => "md",
        "text/latex" => "tex",
        "text/plain" => "txt",
        "application/json" => "json",
        "application/pdf" => "pdf",
        _ => "bin",
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        "0123456789abcdef".parse().unwrap()
    }

    #[test]
    fn every_item_becomes_a_file_of_our_own_naming() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/figures");
        let mut media = Media::new(Some(folder.clone()), &run()).unwrap();
        fs::write(folder.join("01234567-002.svg"), "somebody's").unwrap();
        for (record, name, data) in [
            (
                r#"{"type": "image/png", "data": "data:image/png;base64,iVBORw=="}"#,
                "01234567-001.png",
                &b"\x89PNG"[..],
            ),
            (r#"{"type": "image/svg+xml", "data": "<svg/>"}"#, "01234567-003.svg", b"<svg/>"),
            ("<b>bare</b>", "01234567-004.html", b"<b>bare</b>"),
            (
                r#"{"type": "../../x\u001b[2J", "data": "data:x;base64,!"}"#,
                "01234567-005.bin",
                b"data:x;base64,!",
            ),
        ] {
            let said = media.take(record.as_bytes());
            assert!(said.starts_with("saved ") && said.ends_with(name), "{said:?}");
            assert!(said.chars().all(|c| !c.is_control()), "{said:?}");
            assert_eq!(fs::read(folder.join(name)).unwrap(), data);
        }
        assert_eq!(fs::read(folder.join("01234567-002.svg")).unwrap(), b"somebody's");
    }

    #[test]
    fn without_a_folder_an_item_is_said_in_a_line() {
        let mut media = Media::new(None, &run()).unwrap();
        let record = format!(
            r#"{{"type": "image/png", "data": "data:image/png;base64,{}"}}"#,
            STANDARD.encode([7; 12_345])
        );
        assert_eq!(media.take(record.as_bytes()), "[image/png, 13 kB; --save-media DIR keeps it]");
    }

    #[test]
    fn a_folder_that_cannot_be_is_said_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = Media::new(Some(dir.path().join("file/folder")), &run()).unwrap_err();
        assert!(error.message.starts_with("cannot make the folder"), "{}", error.message);
    }
}
