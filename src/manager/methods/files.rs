//! Files and logs of kernels for a manager (contracts: manager §2.2 B, kernel §6).

use bytes::Bytes;
use callosum::{Call, Failure, Value};
use tokio::sync::mpsc;

use super::{Methods, argument, invalid, kernel, refused, text};
use crate::engine::{LogChunk, LogOptions};
use crate::ids::KernelRef;
use crate::kernel::files::{LISTED_MAX, Piece};
use crate::tree::list::reference_json;
use crate::tree::whole::Meta;

/// Largest archive or file that is sent (contracts: kernel §6); nobody reads on to find out.
const DOWNLOAD_MAX: u64 = 1 << 20;
/// Largest log that is sent, its beginning: above what an engine keeps by default.
const LOG_MAX: usize = 16 << 20;
/// Mode of what a manager writes.
const FILE_MODE: u32 = 0o644;

impl Methods {
    /// `get_logs(kernel_id)`.
    pub(super) async fn logs(&self, call: &mut Call) -> Result<Value, Failure> {
        let kernel = KernelRef::Id(kernel(call)?);
        let options = LogOptions { tail: None, follow: false };
        let mut chunks = self.kernels.logs(&kernel, options).await.map_err(|error| refused(&error))?;
        let mut log = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|error| Failure::new("RuntimeError", &error.to_string()))?;
            let (LogChunk::Stdout(bytes) | LogChunk::Stderr(bytes)) = chunk;
            let room = LOG_MAX - log.len();
            log.extend_from_slice(bytes.get(..room).unwrap_or(&bytes));
            if log.len() == LOG_MAX {
                break;
            }
        }
        let log = String::from_utf8_lossy(&log).into_owned();
        Ok(Value::map([("logs", log)]))
    }

    /// `list_files(kernel_id, path)`. What keeps it from being listed is part of the answer.
    pub(super) async fn list_files(&self, call: &mut Call) -> Result<Value, Failure> {
        let (kernel, path) = (KernelRef::Id(kernel(call)?), text(call, 1, "path")?);
        let (files, errors) = match self.files.list(&kernel, &path, LISTED_MAX).await {
            Ok(listing) => (reference_json(&listing.entries), String::new()),
            Err(error) if ["no-such-kernel", "outside-work-folder"].contains(&error.code.as_str()) => {
                return Err(refused(&error));
            }
            Err(error) => (String::new(), error.message),
        };
        Ok(Value::map([("files", files), ("errors", errors), ("abspath", path)]))
    }

    /// `upload_file(kernel_id, filename, filedata)`.
    pub(super) async fn upload_file(&self, call: &mut Call) -> Result<Value, Failure> {
        let (kernel, path) = (KernelRef::Id(kernel(call)?), text(call, 1, "filename")?);
        let Value::Bin(data) = argument(call, 2, "filedata")? else {
            return Err(invalid("filedata must be bytes"));
        };
        let (pieces, incoming) = mpsc::channel(2);
        // An empty piece is the end. The channel is new and has room for both.
        for piece in (!data.is_empty()).then_some(data).into_iter().chain([Bytes::new()]) {
            let _ = pieces.try_send(Ok(piece));
        }
        let meta = Meta { mode: FILE_MODE, mtime: None };
        self.files.write(&kernel, &path, meta, incoming).await.map_err(|error| refused(&error))?;
        Ok(Value::Nil)
    }

    /// `download_file(kernel_id, filepath)`.
    pub(super) async fn download_file(&self, call: &mut Call) -> Result<Value, Failure> {
        let (kernel, path) = (KernelRef::Id(kernel(call)?), text(call, 1, "filepath")?);
        whole(self.files.pack(&kernel, &path, None, Some(DOWNLOAD_MAX)).map_err(|error| refused(&error))?)
            .await
    }

    /// `download_single(kernel_id, filepath)`.
    pub(super) async fn download_single(&self, call: &mut Call) -> Result<Value, Failure> {
        let (kernel, path) = (KernelRef::Id(kernel(call)?), text(call, 1, "filepath")?);
        whole(self.files.read(&kernel, &path, Some(DOWNLOAD_MAX)).map_err(|error| refused(&error))?).await
    }
}

/// Everything that comes.
async fn whole(mut pieces: mpsc::Receiver<Piece>) -> Result<Value, Failure> {
    let mut data = Vec::new();
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Data(bytes) => data.extend_from_slice(&bytes),
            // A manager has no word for what is not as it was.
            Piece::Note(note) => tracing::debug!(?note, "a download is not as the files are"),
            Piece::Failed(error) if error.code == "too-large" => return Err(invalid(&error.message)),
            Piece::Failed(error) => return Err(refused(&error)),
        }
    }
    Ok(Value::Bin(data.into()))
}
