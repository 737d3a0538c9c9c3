//! From a kernel to here. What comes is hostile: the kernel may have named it, and it goes into a folder of the user's.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::places::{Found, Place, Target, ends_as_folder, matching, own_name, pattern, target};
use super::tally::{Tally, Waited};
use super::{look, one_side};
use crate::cli::client::{Agent, Frames, escaped, not_understood};
use crate::cli::error::CliError;
use crate::cli::signals::Signals;
use crate::control::stream::ServerFrame;
use crate::ids::KernelRef;
use crate::kernel::files::LISTED_MAX;
use crate::tree::list::{Entry, Kind};
use crate::tree::pack::Step;
use crate::tree::whole::Meta;
use crate::tree::{Roots, TreeError, pieces, unpack, whole};

/// Pieces that may wait for the disk.
const QUEUE: usize = 4;

/// One thing in a kernel.
struct Source {
    kernel: KernelRef,
    path: String,
    itself: Entry,
}

pub(super) async fn run(agent: &Agent, from: Vec<Place>, to: &Path, tally: &Tally) -> Result<u8, CliError> {
    let mut signals = Signals::listen()?;
    let writers = TaskTracker::new();
    let copying = async {
        let sources = sources(agent, &from).await?;
        let found = match std::fs::metadata(to) {
            Ok(found) if found.is_dir() => Found::Folder,
            Ok(_) => Found::Other,
            Err(_) => Found::Nothing,
        };
        let is_one = sources.len() == 1;
        if found == Found::Nothing && ends_as_folder(to.as_os_str()) {
            std::fs::create_dir_all(to).map_err(|error| {
                CliError::new(format!("the folder {} cannot be made: {error}", to.display()))
            })?;
        }
        for source in sources {
            let own = own_name(OsStr::new(&source.path));
            let target = target(to.as_os_str(), found, &own, is_one)?;
            fetch(agent, &source, target, tally, &writers).await?;
        }
        Ok::<(), CliError>(())
    };
    match tally.watch(&mut signals, copying).await {
        Waited::Stopped(exit) => {
            // The thread that writes is told by its channel, and takes half a file away.
            writers.close();
            writers.wait().await;
            Ok(exit)
        }
        Waited::Done(done) => {
            done?;
            tally.end().map(|()| 0)
        }
    }
}

/// An archive on standard output.
pub(super) async fn to_pipe(agent: &Agent, from: Vec<Place>, tally: &Tally) -> Result<u8, CliError> {
    let [Place::Kernel(kernel, path)] = from.as_slice() else {
        return Err(match from.as_slice() {
            [_] => one_side(false),
            _ => CliError::usage("one thing at a time goes to standard output")
                .with_hint("copy the folder they lie in"),
        });
    };
    if io::stdout().is_terminal() {
        return Err(CliError::usage("standard output is a terminal, and an archive is no text")
            .with_hint(format!("berth cp {kernel}:{path} - | tar t")));
    }
    let mut signals = Signals::listen()?;
    let copying = async {
        let mut frames = tree(agent, kernel, path, &own_name(OsStr::new(path))).await?;
        let mut stdout = io::stdout().lock();
        while let Some(piece) = next(&mut frames, tally).await? {
            stdout.write_all(&piece).map_err(|error| CliError::output(&error))?;
        }
        stdout.flush().map_err(|error| CliError::output(&error))
    };
    match tally.watch(&mut signals, copying).await {
        Waited::Stopped(exit) => Ok(exit),
        Waited::Done(done) => {
            done?;
            tally.end().map(|()| 0)
        }
    }
}

/// What is there of what was asked for, patterns resolved.
async fn sources(agent: &Agent, from: &[Place]) -> Result<Vec<Source>, CliError> {
    let mut sources = Vec::with_capacity(from.len());
    for place in from {
        let Place::Kernel(kernel, path) = place else { return Err(one_side(false)) };
        let paths = match (look(agent, kernel, path, 0).await?, pattern(path)) {
            (Some(listing), _) => {
                sources.push(Source { kernel: kernel.clone(), path: path.clone(), itself: listing.itself });
                continue;
            }
            (None, Some((folder, last))) => match look(agent, kernel, folder, LISTED_MAX).await? {
                Some(listing) => {
                    let mut found = matching(folder, last, &listing)?;
                    let listed = |path: &String| {
                        let name = path.strip_prefix(folder)?;
                        listing.entries.iter().find(|entry| entry.name == name).cloned()
                    };
                    found.sort();
                    found.into_iter().filter_map(|path| Some((listed(&path)?, path))).collect::<Vec<_>>()
                }
                None => Vec::new(),
            },
            (None, None) => Vec::new(),
        };
        if paths.is_empty() {
            return Err(CliError::new(format!("there is no {path} in {kernel}"))
                .with_code("no-such-file")
                .with_hint("paths are relative to /home/work of the kernel"));
        }
        sources.extend(paths.into_iter().map(|(itself, path)| Source {
            kernel: kernel.clone(),
            path,
            itself,
        }));
    }
    Ok(sources)
}

/// Brings one thing: a file as it is, anything else as an archive that is unpacked as it comes.
async fn fetch(
    agent: &Agent,
    source: &Source,
    to: Target,
    tally: &Tally,
    writers: &TaskTracker,
) -> Result<(), CliError> {
    let Source { kernel, path, itself } = source;
    let is_file = itself.kind == Kind::File;
    let mut frames = match itself.kind {
        Kind::File => agent.frames(&format!("/v1/kernels/{kernel}/files?path={}", escaped(path))).await?,
        Kind::Link if to.name == "." => {
            return Err(CliError::new(format!("{path} is a symbolic link, which is not followed"))
                .with_hint("name the folder itself"));
        }
        Kind::Folder | Kind::Link => tree(agent, kernel, path, &to.name).await?,
        Kind::Special => {
            return Err(CliError::new(format!("{path} is a FIFO, a socket or a device"))
                .with_hint("only files, folders and links are copied"));
        }
    };
    let meta = Meta { mode: itself.mode, mtime: Some(itself.mtime as i64) };
    let (feed, mut fed) = mpsc::channel::<Bytes>(QUEUE);
    let counting = tally.clone();
    let writing = move || {
        let folder = if to.folder.as_os_str().is_empty() { Path::new(".") } else { &to.folder };
        let roots = Roots::open(folder)?;
        let mut content = pieces::Incoming::new(|| {
            fed.blocking_recv().ok_or_else(|| io::Error::other("it did not arrive whole"))
        });
        if is_file {
            let bytes = whole::write(&roots, Path::new(&to.name), meta, &mut content)?;
            counting.step(Step::Carried { bytes });
            return Ok(());
        }
        unpack::unpack(&roots, Path::new(""), content, &mut |step| counting.step(step)).map(drop)
    };
    let writing = writers.spawn_blocking(writing);
    let received = hand_on(&mut frames, feed, tally).await;
    let written = writing.await;
    received?;
    let written = written.map_err(|error| CliError::new(format!("writing failed: {error}")))?;
    written.map_err(|error: TreeError| match error {
        TreeError::NoSpace(_) => CliError::new(error.to_string()).with_hint("make room here"),
        error => CliError::new(error.to_string()),
    })
}

/// Hands over what comes, and that it has come to its end.
async fn hand_on(frames: &mut Frames, feed: mpsc::Sender<Bytes>, tally: &Tally) -> Result<(), CliError> {
    while let Some(piece) = next(frames, tally).await? {
        if feed.send(piece).await.is_err() {
            // Who writes has given up, and says why.
            return Ok(());
        }
    }
    let _ = feed.send(Bytes::new()).await;
    Ok(())
}

async fn tree(agent: &Agent, kernel: &KernelRef, path: &str, name: &OsStr) -> Result<Frames, CliError> {
    let name = name.to_str().ok_or_else(|| {
        CliError::usage(format!("the name {} is not UTF-8", name.display())).with_hint("choose another one")
    })?;
    let query = format!("path={}&name={}", escaped(path), escaped(name));
    agent.frames(&format!("/v1/kernels/{kernel}/files/tree?{query}")).await
}

/// The next bytes; notes go to the tally.
async fn next(frames: &mut Frames, tally: &Tally) -> Result<Option<Bytes>, CliError> {
    while let Some(frame) = frames.next().await? {
        match frame {
            ServerFrame::Stdout(data) if !data.is_empty() => {
                tally.moved(data.len());
                return Ok(Some(data));
            }
            ServerFrame::Stderr(note) => {
                tally.note(serde_json::from_slice(&note).map_err(|error| not_understood(&error))?);
            }
            ServerFrame::Error(error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(None)
}
