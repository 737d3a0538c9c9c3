//! From here into a kernel: everything in one archive, whatever it is and however much.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use super::places::{Found, Place, Target, own_name, target};
use super::tally::{Tally, Waited};
use super::{look, one_side};
use crate::cli::client::{Agent, Body, escaped};
use crate::cli::error::CliError;
use crate::cli::signals::Signals;
use crate::ids::KernelRef;
use crate::kernel::files::Received;
use crate::tree::list::Kind;
use crate::tree::pack::Packer;
use crate::tree::{Roots, TreeError, pieces};

/// Pieces of the archive that may wait.
const QUEUE: usize = 4;

/// One thing on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    /// The folder it lies in, and its name there.
    folder: PathBuf,
    name: PathBuf,
    /// What it is called in the archive.
    called: OsString,
}

pub(super) async fn run(
    agent: &Agent,
    from: Vec<Place>,
    (kernel, path): (&KernelRef, &str),
    tally: &Tally,
) -> Result<u8, CliError> {
    let mut signals = Signals::listen()?;
    if from == [Place::Pipe] {
        let sending = send(agent, kernel, OsStr::new(path), stdin(tally.clone())?);
        return match tally.watch(&mut signals, sending).await {
            Waited::Stopped(exit) => Ok(exit),
            Waited::Done(received) => told(received?, tally),
        };
    }
    let found = match look(agent, kernel, path, 0).await? {
        None => Found::Nothing,
        Some(listing) if listing.itself.kind == Kind::Folder => Found::Folder,
        Some(_) => Found::Other,
    };
    let (folder, sources) = plan(&from, path, found)?;

    let (feed, fed) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
    let counting = tally.clone();
    // Ends when the archive is whole, or when nobody takes it any more.
    let packing = tokio::task::spawn_blocking(move || pack(sources, &feed, &counting));
    let body = StreamBody::new(ReceiverStream::new(fed).map(|piece| piece.map(Frame::data))).boxed_unsync();
    let sent = tally.watch(&mut signals, send(agent, kernel, folder.as_os_str(), body)).await;
    let packed = packing.await.map_err(|error| CliError::new(format!("reading failed: {error}")))?;
    match (sent, packed) {
        (Waited::Stopped(exit), _) => Ok(exit),
        // What broke off here made the agent complain as well.
        (_, Err(error)) if !matches!(error, TreeError::Broken(_)) => Err(CliError::new(error.to_string())),
        (Waited::Done(received), _) => told(received?, tally),
    }
}

/// Looks at everything that can be wrong on this side. Returns the folder in the kernel too.
fn plan(from: &[Place], to: &str, found: Found) -> Result<(PathBuf, Vec<Source>), CliError> {
    let mut folder = PathBuf::new();
    let mut sources: Vec<Source> = Vec::with_capacity(from.len());
    for place in from {
        let path = match place {
            Place::Here(path) => path,
            Place::Pipe => {
                return Err(CliError::usage("- is an archive of its own")
                    .with_hint("copy it alone: berth cp - KERNEL:DIR"));
            }
            Place::Kernel(..) => return Err(one_side(true)),
        };
        let own = own_name(path.as_os_str());
        let Target { folder: into, name: called } = target(OsStr::new(to), found, &own, from.len() == 1)?;
        folder = into;
        if called != "." && sources.iter().any(|other| other.called == called) {
            return Err(CliError::usage(format!("two things would be called {}", called.display()))
                .with_hint("copy one of them under another name"));
        }
        sources.push(source(path, called, found)?);
    }
    Ok((folder, sources))
}

/// Follows a link that was named, and no other.
fn source(path: &Path, called: OsString, found: Found) -> Result<Source, CliError> {
    let shown = path.display();
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CliError::new(format!("there is no {shown}")),
        _ => CliError::new(format!("{shown} cannot be read: {error}")),
    };
    let real = std::fs::canonicalize(path).map_err(missing)?;
    let is_dir = std::fs::metadata(&real).map_err(missing)?.is_dir();
    if is_dir && found == Found::Other {
        return Err(CliError::new(format!("{shown} is a folder, and there is a file where it would go"))
            .with_hint("name a folder to copy into"));
    }
    Ok(match (real.parent(), real.file_name()) {
        (Some(folder), Some(name)) if !is_dir || called != "." => {
            Source { folder: folder.to_owned(), name: PathBuf::from(name), called }
        }
        _ => Source { folder: real, name: PathBuf::new(), called },
    })
}

fn pack(
    sources: Vec<Source>,
    feed: &mpsc::Sender<io::Result<Bytes>>,
    tally: &Tally,
) -> Result<(), TreeError> {
    let out = pieces::Outgoing::new(|piece: Bytes| {
        tally.moved(piece.len());
        feed.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    });
    let mut watch = |step| tally.step(step);
    let mut packer = Packer::new(out, None, &mut watch);
    let mut packed = Ok(());
    let mut open: Option<(PathBuf, Roots)> = None;
    for Source { folder, name, called } in sources {
        // Many files mostly lie in one folder.
        let roots = match open.take().filter(|(last, _)| *last == folder) {
            Some((_, roots)) => Ok(roots),
            None => Roots::open(&folder),
        };
        let added = roots.and_then(|roots| {
            packer.add(&roots, &name, Path::new(&called))?;
            Ok(roots)
        });
        match added {
            Ok(roots) => open = Some((folder, roots)),
            Err(error) => {
                packed = Err(error);
                break;
            }
        }
    }
    let packed = packed.and_then(|()| packer.finish().map(drop));
    if packed.is_err() {
        // Without this the agent would wait for the rest, or take what it has for all.
        let _ = feed.blocking_send(Err(io::ErrorKind::Interrupted.into()));
    }
    packed
}

async fn send(agent: &Agent, kernel: &KernelRef, folder: &OsStr, body: Body) -> Result<Received, CliError> {
    let folder = folder.to_str().unwrap_or_default();
    agent.send_files(&format!("/v1/kernels/{kernel}/files/tree?path={}", escaped(folder)), body).await
}

/// Standard input as a body.
fn stdin(tally: Tally) -> Result<Body, CliError> {
    if io::stdin().is_terminal() {
        return Err(CliError::usage("standard input is a terminal")
            .with_hint("give it an archive: tar c DIR | berth cp - KERNEL:DIR"));
    }
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| CliError::new(format!("standard input cannot be read: {error}")))?;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(input.into()), 256 * 1024);
    let counted = pieces.inspect(move |piece| tally.moved(piece.as_ref().map_or(0, Bytes::len)));
    Ok(StreamBody::new(counted.map(|piece| piece.map(Frame::data))).boxed_unsync())
}

fn told(received: Received, tally: &Tally) -> Result<u8, CliError> {
    received.notes.into_iter().for_each(|note| tally.note(note));
    tally.more_notes(received.more_notes);
    tally.end().map(|()| 0)
}
