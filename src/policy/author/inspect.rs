//! What a module is: what it says of itself, what it carries and what it asks of its host.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

use super::{Workshop, loaded};
use crate::ids::Digest;
use crate::policy::config::Config;
use crate::policy::error::{PolicyError, Problem};
use crate::policy::load::Module;
use crate::policy::manifest::{Manifest, ManifestSetting, SIGNATURE};
use crate::policy::{WorldKind, fixture};

const PAGE: u64 = 65_536;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspected {
    /// Its world.
    pub world: WorldKind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// The interface that it speaks, e.g. `berth:policy@0.2.0`.
    pub interface: String,
    /// Digest of the file.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// What an operator may set.
    pub settings: Vec<ManifestSetting>,
    /// Edits that it needs to be granted.
    pub needs: Vec<String>,
    /// Image labels that it wants to see.
    pub image_labels: Vec<String>,
    /// What it imports.
    pub imports: Vec<String>,
    /// Bytes of all its memories at the start of a call.
    pub memory_at_start: u64,
    /// What a call may have, by the agent's defaults.
    pub memory_limit: u64,
    /// Whether it carries a manifest.
    pub packed: bool,
    /// Files of fixtures in it.
    pub fixtures: Vec<String>,
    /// Cases in them.
    pub cases: usize,
    /// Whether it carries a signature; whose it is, `berth policy verify` tells.
    pub signed: bool,
}

/// Loads a module as an agent would and tells what it is. Compiles it: that takes a moment.
///
/// # Errors
/// What is wrong with it.
pub fn inspect(subject: String, component: Vec<u8>, workshop: &Workshop) -> Result<Inspected, PolicyError> {
    let name = subject.clone();
    loaded(&subject, component, workshop, move |_, module, component| {
        of(module, component).map_err(|problem| problem.of(name))
    })
}

pub(super) fn of(module: &Module, component: &[u8]) -> Result<Inspected, Problem> {
    let Border { mut imports, exports, memory, sections } = border(component)?;
    imports.sort();
    let of_ours = exports.iter().chain(&imports).filter_map(|name| name.strip_prefix("berth:policy/"));
    let version = of_ours.filter_map(|name| name.split_once('@')).map(|(_, version)| version).next();
    let Manifest { name, version: own, summary, world, settings, needs, image_labels, .. } =
        Manifest::of(module.world, &module.about, Vec::new());
    let fixtures = module.manifest.as_ref().map_or(&[][..], |manifest| &manifest.fixtures);
    Ok(Inspected {
        world,
        name,
        version: own,
        summary,
        interface: version
            .map_or_else(|| "berth:policy".to_owned(), |version| format!("berth:policy@{version}")),
        digest: module.digest,
        bytes: component.len() as u64,
        settings,
        needs,
        image_labels,
        imports,
        memory_at_start: memory,
        memory_limit: Config::default().memory_bytes as u64,
        packed: module.manifest.is_some(),
        fixtures: fixtures.iter().map(|entry| entry.file.clone()).collect(),
        cases: fixtures.iter().map(|entry| fixture::cases(&entry.file, &entry.fixture).len()).sum(),
        signed: sections.iter().any(|name| name == SIGNATURE),
    })
}

/// What its sections say.
#[derive(Default)]
struct Border {
    imports: Vec<String>,
    exports: Vec<String>,
    memory: u64,
    sections: Vec<String>,
}

fn border(component: &[u8]) -> Result<Border, Problem> {
    let malformed = |error: wasmparser::BinaryReaderError| Problem::Malformed(error.to_string());
    let (mut border, mut depth) = (Border::default(), 0_usize);
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(malformed)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    border.imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    border.exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if depth == 1 => border.sections.push(section.name().to_owned()),
            Payload::MemorySection(section) => {
                for memory in section {
                    let pages = memory.map_err(malformed)?.initial;
                    border.memory = border.memory.saturating_add(pages.saturating_mul(PAGE));
                }
            }
            _ => {}
        }
    }
    Ok(border)
}
