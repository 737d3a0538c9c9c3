//! What a command says when it cannot do what it was asked to: `berth: …`, then `hint: …`.

use std::io;

use crate::control::api::ErrorBody;

/// Exit status of a program that SIGPIPE ends: 128 + 13.
const BROKEN_PIPE: u8 = 141;

/// Why a command came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CliError {
    /// The agent's code, or one of ours.
    pub(super) code: String,
    /// One line.
    pub(super) message: String,
    /// The next step.
    pub(super) hint: Option<String>,
}

impl CliError {
    /// An error of no particular code.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { code: "failed".to_owned(), message: message.into(), hint: None }
    }

    /// Wrong usage: exits 2.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: "usage".to_owned(), ..Self::new(message) }
    }

    /// The same with another code.
    pub(super) fn with_code(mut self, code: &str) -> Self {
        code.clone_into(&mut self.code);
        self
    }

    /// The same with the next step.
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Standard output (or error) could not be written to.
    pub(super) fn output(error: &io::Error) -> Self {
        let code = if error.kind() == io::ErrorKind::BrokenPipe { "broken-pipe" } else { "failed" };
        Self::new(format!("the output could not be written: {error}")).with_code(code)
    }

    /// Of several errors the last becomes the command's; those before it are told at once.
    pub(super) fn keep_last(last: &mut Option<Self>, error: Self) {
        if let Some(earlier) = last.replace(error) {
            earlier.report(1);
        }
    }

    /// Tells it and returns the status to exit with. A reader that went away (`| head`) hears nothing.
    pub(super) fn report(&self, on_failure: u8) -> u8 {
        if self.code == "broken-pipe" {
            return BROKEN_PIPE;
        }
        match self.code.as_str() {
            "failed" | "usage" => say(&self.message),
            // The code is what scripts and reports can rely on, so it is shown beside the sentence.
            code => say(&format!("{} ({code})", self.message)),
        }
        if let Some(hint) = &self.hint {
            tell("hint", hint);
        }
        if self.code == "usage" { 2 } else { on_failure }
    }
}

/// One line on standard error.
pub(super) fn say(line: &str) {
    tell("berth", line);
}

/// The same for who writes it elsewhere.
pub(super) fn said(line: &str) -> String {
    as_line("berth", line)
}

fn tell(who: &str, line: &str) {
    use io::Write as _;
    // Where standard error is closed there is nobody to tell.
    let _ = io::stderr().lock().write_all(as_line(who, line).as_bytes());
}

/// What is said may come from an engine or a program: no control characters reach the terminal.
fn as_line(who: &str, line: &str) -> String {
    let plain: String =
        line.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    format!("{who}: {plain}\n")
}

impl From<ErrorBody> for CliError {
    fn from(error: ErrorBody) -> Self {
        Self { code: error.code, message: error.message, hint: error.hint }
    }
}
