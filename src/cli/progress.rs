//! What a transfer of an image says on standard error: a line that lives on a terminal, else a line per layer.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};

use super::error::say;
use super::output::size;
use crate::engine::ImageStep;

/// Where the layers of one transfer are.
#[derive(Debug)]
pub(super) struct Progress {
    live: bool,
    /// Per layer: what it does, bytes so far and in all.
    layers: BTreeMap<String, (String, Option<u64>, Option<u64>)>,
    /// Whether the live line is on the screen.
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { live: std::io::stderr().is_terminal(), layers: BTreeMap::new(), shown: false }
    }

    /// Shows a step.
    pub(super) fn show(&mut self, step: &ImageStep) {
        let told = self.take(step);
        if self.live && matches!(step, ImageStep::Layer { .. }) {
            // Where standard error is closed there is nobody to tell.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{}", self.line());
            self.shown = true;
        } else if let Some(line) = told {
            self.clear();
            say(&line);
        }
    }

    /// Takes the live line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }

    /// Books a step; returns the line for it, when it is worth one.
    fn take(&mut self, step: &ImageStep) -> Option<String> {
        match step {
            ImageStep::Layer { id, status, current, total } => {
                let before = self.layers.insert(id.clone(), (status.clone(), *current, *total));
                let is_news = before.is_none_or(|(before, ..)| before != *status);
                is_news.then(|| format!("{id}: {}", plain(status)))
            }
            ImageStep::Note { text } => Some(text.clone()),
            ImageStep::Done { .. } => None,
        }
    }

    /// All layers in one line.
    fn line(&self) -> String {
        let counted = self.layers.values().filter_map(|(_, current, total)| (*current).zip(*total));
        let (current, total) = counted
            .fold((0_u64, 0_u64), |sum, part| (sum.0.saturating_add(part.0), sum.1.saturating_add(part.1)));
        let is_done = |status: &str| status.contains("complete") || status == "Already exists";
        let done = self.layers.values().filter(|(status, ..)| is_done(status)).count();
        let busy = self.layers.iter().find(|(_, (status, ..))| !is_done(status));
        let doing = busy.map_or(String::new(), |(id, (status, ..))| format!(", {} {id}", plain(status)));
        format!("{done} of {} layers, {} of {}{doing}", self.layers.len(), size(current), size(total))
    }
}

/// No control characters reach the terminal, whatever an engine says.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(id: &str, status: &str, current: Option<u64>, total: Option<u64>) -> ImageStep {
        ImageStep::Layer { id: id.to_owned(), status: status.to_owned(), current, total }
    }

    #[test]
    fn a_layer_is_told_once_for_each_thing_that_it_does() {
        let mut progress = Progress { live: false, layers: BTreeMap::new(), shown: false };
        let mut told = |step| progress.take(&step);
        assert_eq!(told(layer("a", "Downloading", Some(1), Some(9))), Some("a: Downloading".to_owned()));
        assert_eq!(told(layer("a", "Downloading", Some(5), Some(9))), None);
        assert_eq!(told(layer("a", "Pull complete\x1b", None, None)), Some("a: Pull complete".to_owned()));
        assert_eq!(told(ImageStep::Note { text: "x".to_owned() }), Some("x".to_owned()));
    }

    #[test]
    fn the_live_line_counts_all_layers() {
        let mut progress = Progress { live: true, layers: BTreeMap::new(), shown: false };
        for step in [
            layer("a", "Pull complete", None, None),
            layer("b", "Downloading", Some(5_000_000), Some(9_000_000)),
            layer("c", "Downloading", Some(1_000_000), Some(1_500_000)),
        ] {
            progress.take(&step);
        }
        assert_eq!(progress.line(), "1 of 3 layers, 6.0 MB of 10.5 MB, Downloading b");
    }
}
