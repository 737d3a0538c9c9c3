//! `berth --version`.

use super::error::CliError;
use super::output;
use crate::policy;

/// What this was built from.
const LOCK: &str = include_str!("../../Cargo.lock");
/// The interface as it is built in.
const WIT: &str = include_str!("../../wit/policy.wit");

/// One line, or with `verbose` also what policies are built against.
pub(super) fn print(verbose: bool) -> Result<(), CliError> {
    let mut text = format!("berth {}\n", env!("CARGO_PKG_VERSION"));
    if verbose {
        text += &format!(
            "wasmtime {}\npolicy interface {} (takes policies for berth:policy@{})\n",
            locked(LOCK, "wasmtime"),
            interface(WIT),
            policy::WINDOW
        );
    }
    output::print(&text)
}

fn interface(wit: &str) -> &str {
    let package = wit.lines().find_map(|line| line.strip_prefix("package "));
    package.map_or("unknown", |name| name.trim_end_matches(';'))
}

/// The version of a dependency. (wasmtime itself is the policy room's alone.)
fn locked<'a>(lock: &'a str, name: &str) -> &'a str {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.map_or("unknown", |version| version.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_named_with_its_version() {
        assert_eq!(interface("/// x\npackage berth:policy@0.1.0;\n"), "berth:policy@0.1.0");
        assert!(interface(WIT).starts_with("berth:policy@"));
    }

    #[test]
    fn the_runtimes_version_is_the_one_that_was_built() {
        assert_eq!(locked("name = \"a\"\nversion = \"1.2.3\"\n", "a"), "1.2.3");
        assert_eq!(locked("", "a"), "unknown");
        assert!(locked(LOCK, "wasmtime").starts_with(|c: char| c.is_ascii_digit()));
    }
}
