//! `berth cp`: files into a kernel and out of it.
//!
//! What is asked for becomes a plan here: which side is where, and what each thing will be called. [`upload`] and
//! [`download`] carry it out, `places` is the grammar, `tally` what is told meanwhile.

use std::ffi::OsString;

use super::Context;
use super::client::{Agent, escaped};
use super::error::CliError;
use crate::ids::KernelRef;
use crate::tree::list::Listing;

mod download;
mod places;
mod tally;
#[cfg(test)]
mod tests;
mod upload;

use places::Place;
use tally::Tally;

/// Copy files and folders into a kernel, or out of it
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "berth cp [OPTIONS] SRC.. KERNEL:DST\n       berth cp [OPTIONS] KERNEL:SRC.. DST",
    after_help = "\
Examples:
  berth cp data.csv k1:                  into the work folder
  berth cp -q src/ data.csv k1:in/       a folder and a file, into a folder that is made if need be
  berth cp 'k1:out/*.png' .              what matches in that folder of the kernel
  berth cp k1:out results                the folder out, called results here; if there is a folder
                                         results already, it gets into that, as out
  berth cp k1:out/. results/             what is in out, without the folder itself
  tar c . | berth cp - k1:src            unpack an archive there
  berth cp k1:out - | tar tv             an archive of it

Paths in the kernel are relative to its work folder, /home/work; other places of it are not copied.
Folders are copied with all that is in them. A SRC on this side that is a symbolic link is followed;
links in folders are copied as links, and links in the kernel are never followed. Mode and time of
files are kept, without set-id bits; in the kernel they belong to its user, here to you. A file
replaces one of its name when it is whole; a folder that is there already is added to. What runs
in the kernel goes on; files of one that has ended can be copied until `berth rm`.

A local name with a colon in it is written with its folder: ./a:b"
)]
pub(super) struct Cp {
    /// Say nothing of how it goes on
    #[arg(short, long)]
    quiet: bool,
    /// What to copy, and last where to; - for a tar archive on standard input or output
    #[arg(value_name = "SRC|DST", required = true)]
    places: Vec<OsString>,
}

impl Cp {
    pub(super) async fn run(self, context: &Context) -> Result<u8, CliError> {
        let mut places = self.places.iter().map(Place::parse).collect::<Result<Vec<_>, _>>()?;
        let to = places.pop().filter(|_| !places.is_empty()).ok_or_else(|| {
            CliError::usage("it is not said where to copy to").with_hint("`berth cp --help` has examples")
        })?;
        let tally = Tally::new(self.quiet);
        match to {
            Place::Kernel(kernel, path) => {
                upload::run(&context.agent, places, (&kernel, &path), &tally).await
            }
            Place::Pipe => download::to_pipe(&context.agent, places, &tally).await,
            Place::Here(path) => download::run(&context.agent, places, &path, &tally).await,
        }
    }
}

/// Both sides are here, or both are in kernels.
fn one_side(to_kernel: bool) -> CliError {
    if to_kernel {
        CliError::usage("one side must be here")
            .with_hint("from kernel to kernel: berth cp k1:a - | berth cp - k2:")
    } else {
        CliError::usage("one side must be in a kernel")
            .with_hint("berth cp FILE KERNEL:PATH, or berth cp KERNEL:PATH DIR")
    }
}

/// What is at a path of a kernel, up to `most` entries of it; none when there is nothing.
async fn look(
    agent: &Agent,
    kernel: &KernelRef,
    path: &str,
    most: usize,
) -> Result<Option<Listing>, CliError> {
    let path = format!("/v1/kernels/{kernel}/files/list?path={}&most={most}", escaped(path));
    match agent.get(&path).await {
        Ok(listing) => Ok(Some(listing)),
        Err(error) if error.code == "no-such-file" => Ok(None),
        Err(error) => Err(error),
    }
}
