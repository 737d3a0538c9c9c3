//! What a module says of itself before anything is compiled: that it is a component, which world it is
//! of, which version it speaks, and that it asks for nothing it may not have. Pure.

use wasmparser::{Encoding, Parser, Payload};

use super::WorldKind;
use super::error::Problem;

/// The versions of the package that this agent speaks: every `0.2.x`.
pub const WINDOW: &str = "0.2.x";
/// How they begin.
const VERSIONS: &str = "0.2.";
const PACKAGE: &str = "berth:policy/";
/// Componentised Python is 18 MB.
pub(super) const MAX_MODULE_BYTES: u64 = 64 << 20;

/// Checks the header of `bytes` and tells the world.
pub(super) fn read(bytes: &[u8]) -> Result<WorldKind, Problem> {
    magic(bytes)?;
    let (imports, exports) = names(bytes)?;
    let mut forbidden: Vec<String> = imports
        .iter()
        .filter(|name| !matches!(interface(name), Some(("host" | "types", _))))
        .map(|name| format!("`{name}`"))
        .collect();
    if !forbidden.is_empty() {
        forbidden.sort();
        return Err(Problem::ForbiddenImport { names: forbidden });
    }
    for name in imports.iter().chain(&exports) {
        if let Some((_, version)) = interface(name)
            && !in_window(version)
        {
            return Err(Problem::Version { found: name.clone(), window: WINDOW });
        }
    }
    exports
        .iter()
        .find_map(|name| match interface(name)?.0 {
            "reporting" => Some(WorldKind::SlotReporter),
            "scheduling" => Some(WorldKind::Scheduler),
            "configuring" => Some(WorldKind::ContainerConfig),
            _ => None,
        })
        .ok_or(Problem::NoWorld)
}

fn magic(bytes: &[u8]) -> Result<(), Problem> {
    let (found, remedy) = match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => (
            "a core module",
            "wrap it with `wasm-tools component new`, or build it with `cargo xtask guests`",
        ),
        [0, b'a', b's', b'm', ..] => ("WebAssembly of an unknown layer", "build it with current tools"),
        [0x7f, b'E', b'L', b'F', ..] => (
            "a precompiled or native file",
            "give the .wasm it was made from; this agent compiles policies itself",
        ),
        [] => ("an empty file", "build it again"),
        text if looks_like_wat(text) => {
            ("WebAssembly in text form", "translate it with `wasm-tools parse policy.wat -o policy.wasm`")
        }
        _ => ("not WebAssembly", "give the .wasm that the build made"),
    };
    Err(Problem::NotAComponent { found, remedy })
}

fn looks_like_wat(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    start.starts_with(b"(") || start.starts_with(b";;")
}

/// Names that the component itself, not what is nested in it, imports and exports.
fn names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), Problem> {
    let malformed = |e: wasmparser::BinaryReaderError| Problem::Malformed(e.to_string());
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // `parse_all` walks into nested modules and components: each has a Version and an End.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding != Encoding::Component {
                    return Err(Problem::Malformed("it is not a component".to_owned()));
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

/// `berth:policy/host@0.2.0` is (`host`, `0.2.0`); other names are none of ours.
fn interface(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?;
    Some(rest.split_once('@').unwrap_or((rest, "")))
}

fn in_window(version: &str) -> bool {
    version.starts_with(VERSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        let text = read(bytes).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_not_a_component_is_named_for_what_it_is() {
        check(b"", "an empty file");
        check(b"\x7fELF\x02\x01", "precompiled");
        check(b"  (component)", "text form");
        check(b"#!/bin/sh", "not WebAssembly");
        check(&wat::parse_str("(module)").unwrap(), "a core module");
        check(&wat::parse_str("(component)").unwrap()[..7], "unknown layer");
        check(b"\0asm\x0d\0\x01\0\xff\xff\xff", "not valid WebAssembly");
    }

    #[test]
    fn imports_beyond_the_log_are_all_named_with_the_remedy() {
        let component = wat::parse_str(
            r#"(component
                (import "wasi:clocks/wall-clock@0.2.0" (instance))
                (import "berth:policy/host@0.2.0" (instance))
                (import "my:thing/x" (instance)))"#,
        )
        .unwrap();
        check(&component, "`my:thing/x`, `wasi:clocks/wall-clock@0.2.0`");
        check(&component, "wasm32-unknown-unknown");
    }

    #[test]
    fn imports_of_nested_components_are_their_own_affair() {
        let component = wat::parse_str(r#"(component (component (import "a:b/c" (instance))))"#).unwrap();
        assert_eq!(read(&component), Err(Problem::NoWorld));
    }

    #[test]
    fn another_version_is_refused_with_the_window() {
        let component =
            wat::parse_str(r#"(component (import "berth:policy/types@1.0.0" (instance)))"#).unwrap();
        check(&component, "speaks berth:policy/types@1.0.0, this agent speaks berth:policy@0.2");
        assert!(in_window("0.2.7") && !in_window("0.1.0") && !in_window("0.20.0") && !in_window(""));
    }
}
