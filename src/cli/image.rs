//! `berth image`: what kernels are made of.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::Context;
use super::client::{Body, empty, escaped};
use super::error::CliError;
use super::output::{Output, age, print, size, table};
use super::progress::Progress;
use crate::control::api::{ImageLine, ImageRow};
use crate::engine::{ImageStep, ImageView};
use crate::images::Use;

/// Show, bring and remove the images that kernels are made of
#[derive(Debug, clap::Args)]
pub(super) struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Pull(Pull),
    Import(Import),
    Rm(Rm),
}

/// List the images on this node, and whether kernels can use them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth image list
  berth image list -o json | jq -r '.[] | select(.runs_kernels == \"yes\") | .tags[0]'

KERNELS: `yes`, it says that it can run them and may be chosen for those that name none;
`when-named`, it says nothing, and kernels that name it use it; `no`, it is for another machine.")]
struct List {
    #[command(flatten)]
    output: Output,
}

/// Get an image from its registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth image pull python:3.13-slim
  berth image pull registry.local:5000/team/python:1

Ctrl-C cancels. Where the registry cannot be reached, bring the image by file: `berth image import`.")]
struct Pull {
    /// Its name; without a tag it means :latest
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    output: Output,
}

/// Make an image of a file: what `docker save` wrote, or the tar of a root file system
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth image import python.tar.gz                  as it was saved, with its names
  docker save python:3.13 | ssh node berth image import -
  berth image import --name alpine:3 --default alpine-minirootfs.tar.gz

Both may be packed by gzip. What it is, is told by its first file.")]
struct Import {
    /// Its name; a root file system needs one
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// It may be chosen for kernels that name no image (label ai.berth.default; root file systems only)
    #[arg(long)]
    default: bool,
    /// The file, - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Remove images
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth image rm python:3.13-slim
  berth image rm --force old:1    also when kernels, or other containers, use it")]
struct Rm {
    /// Also when it is in use
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Image {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.command {
            Command::List(list) => list.run(context).await,
            Command::Pull(pull) => {
                let path = format!("/v1/images/pull?image={}", escaped(&pull.image));
                transfer(context, &path, empty(), (Some(&pull.image), pull.output)).await
            }
            Command::Import(import) => import.run(context).await,
            Command::Rm(rm) => rm.run(context).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let rows: Vec<ImageRow> = context.agent.get("/v1/images").await?;
        self.output.print(&rows, |rows| list_text(rows))
    }
}

impl Import {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut path = format!("/v1/images/import?default={}", self.default);
        if let Some(name) = &self.name {
            path += &format!("&name={}", escaped(name));
        }
        let body = if self.file == Path::new("-") {
            if std::io::stdin().is_terminal() {
                return Err(CliError::usage("standard input is a terminal")
                    .with_hint("docker save IMAGE | berth image import -"));
            }
            use std::os::fd::AsFd as _;
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            let input =
                input.map_err(|error| CliError::new(format!("standard input cannot be read: {error}")))?;
            body_of(tokio::fs::File::from_std(input.into()))
        } else {
            let shown = self.file.display();
            let file = tokio::fs::File::open(&self.file).await;
            body_of(file.map_err(|error| CliError::new(format!("{shown} cannot be read: {error}")))?)
        };
        transfer(context, &path, body, (self.name.as_deref(), self.output)).await
    }
}

impl Rm {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut failed = None;
        for image in &self.images {
            let path = format!("/v1/images?image={}&force={}", escaped(image), self.force);
            match context.agent.delete::<Vec<String>>(&path).await {
                Ok(_) => print(&format!("{image}\n"))?,
                Err(error) => CliError::keep_last(&mut failed, error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// A file as a request's body, piece by piece.
fn body_of(source: impl AsyncRead + Send + 'static) -> Body {
    let pieces = ReaderStream::with_capacity(source, 256 * 1024).map(|piece| piece.map(Frame::data));
    StreamBody::new(pieces).boxed_unsync()
}

/// Shows the steps of a transfer on standard error, and what there is then on standard output: under the name
/// that was asked for, when it has that.
async fn transfer(
    context: &Context,
    path: &str,
    body: Body,
    (wanted, output): (Option<&str>, Output),
) -> Result<(), CliError> {
    let mut lines = context.agent.lines(Method::POST, path, body).await?;
    let mut progress = Progress::new();
    while let Some(line) = lines.next().await? {
        match line {
            ImageLine::Step(ImageStep::Done { images }) => {
                progress.clear();
                return output.print(&images, |images| {
                    images.iter().map(|image| name(image, wanted) + "\n").collect()
                });
            }
            ImageLine::Step(step) => progress.show(&step),
            ImageLine::Failed { error } => {
                progress.clear();
                return Err(error.into());
            }
        }
    }
    progress.clear();
    Err(super::client::lost())
}

fn list_text(rows: &[ImageRow]) -> String {
    let rows = rows.iter().map(|ImageRow { image, runs_kernels }| {
        let made = u64::try_from(image.created).ok().filter(|at| *at > 0);
        vec![
            if image.tags.is_empty() { "-".to_owned() } else { image.tags.join(" ") },
            short_id(image),
            size(image.size),
            made.map_or_else(|| "-".to_owned(), |at| age(at.saturating_mul(1000))),
            image.architecture.clone(),
            match runs_kernels {
                Use::Yes => "yes",
                Use::WhenNamed => "when-named",
                Use::No => "no",
            }
            .to_owned(),
        ]
    });
    table(&["NAME", "ID", "SIZE", "AGE", "ARCHITECTURE", "KERNELS"], rows)
}

/// The first twelve digits of a digest, as engines show them.
fn short_id(image: &ImageView) -> String {
    image.id.strip_prefix("sha256:").unwrap_or(&image.id).chars().take(12).collect()
}

/// What an image is called: as it was asked for, else by its first name, else by its id.
fn name(image: &ImageView, wanted: Option<&str>) -> String {
    let asked = wanted.and_then(|wanted| {
        image.tags.iter().find(|tag| *tag == wanted || tag.strip_suffix(":latest") == Some(wanted))
    });
    asked.or(image.tags.first()).unwrap_or(&image.id).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_a_table() {
        let row = |tags: &[&str], id: &str, size, runs_kernels| ImageRow {
            image: ImageView {
                id: id.to_owned(),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                labels: std::collections::BTreeMap::new(),
                architecture: "amd64".to_owned(),
                size,
                created: 0,
            },
            runs_kernels,
        };
        let rows = [
            row(&["python:3.13", "p:1"], "sha256:0123456789abcdef", 49_912_345, Use::Yes),
            row(&[], "sha256:fedcba9876543210", 999, Use::WhenNamed),
        ];
        insta::assert_snapshot!(list_text(&rows));
        let [two, none] = &rows;
        assert_eq!(name(&two.image, None), "python:3.13");
        assert_eq!(name(&two.image, Some("p:1")), "p:1");
        assert_eq!(name(&two.image, Some("other")), "python:3.13");
        assert_eq!(name(&none.image, Some("p:1")), "sha256:fedcba9876543210");
    }
}
