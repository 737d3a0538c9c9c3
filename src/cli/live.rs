//! A line on standard error that is there while something goes on.

use std::io::{IsTerminal as _, Write as _};

/// A line that is there while something goes on; nothing where standard error is no terminal.
pub(super) struct Live {
    is_terminal: bool,
    shown: bool,
}

impl Live {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: false }
    }

    /// Whether anything would be shown.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(super) fn show(&mut self, line: &str) {
        if self.is_terminal {
            // Where standard error is closed there is nobody to tell.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
            self.shown = true;
        }
    }

    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}
