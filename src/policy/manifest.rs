//! What a module carries of itself beside its code: one custom section `berth:policy-manifest` at the top level of
//! the component, JSON, with the words of `describe` and the policy's own fixtures. Pure.
//!
//! `berth policy pack` appends it to what any toolchain built, from the module's own answers. It is not trusted: at
//! load it is compared with `describe`, and a contradiction refuses the module. A module without one loads; it
//! has no fixtures.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wasmparser::BinaryReader;

use super::WorldKind;
use super::error::Problem;
use super::guest::About;
use super::json::Jot as _;

/// Name of the section.
pub const SECTION: &str = "berth:policy-manifest";
/// Of what is in it.
const FORMAT: u32 = 1;
/// Most bytes of the section's content.
pub const MOST_BYTES: usize = 1 << 20;
/// `\0asm`, version and layer.
const HEADER: usize = 8;
const CUSTOM: u8 = 0;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// The policy's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub summary: String,
    /// Its world.
    pub world: WorldKind,
    /// What an operator may set.
    #[serde(default)]
    pub settings: Vec<ManifestSetting>,
    /// Edits that it needs to be granted.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Image labels that it wants to see.
    #[serde(default)]
    pub image_labels: Vec<String>,
    /// What it must decide.
    #[serde(default)]
    pub fixtures: Vec<ManifestFixture>,
}

/// A setting that the policy knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestSetting {
    /// Its key; `quota.*` is a table.
    pub key: String,
    /// In the form of the WIT: `{"integer": 3}`. None: it must be given, unless it is a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// What it is.
    pub help: String,
}

/// A file of fixtures, whole: what it said to be based on has been merged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestFixture {
    /// Its name.
    pub file: String,
    /// One case, or a list of them.
    pub fixture: Value,
}

impl Manifest {
    /// What a module says of itself, with these fixtures.
    pub(super) fn of(world: WorldKind, about: &About, fixtures: Vec<ManifestFixture>) -> Self {
        let settings = about.settings.iter().map(|setting| ManifestSetting {
            key: setting.key.clone(),
            default: setting.default_value.as_ref().map(super::json::Jot::json),
            help: setting.help.clone(),
        });
        Self {
            format: FORMAT,
            name: about.name.clone(),
            version: about.version.clone(),
            summary: about.summary.clone(),
            world,
            settings: settings.collect(),
            needs: about.needs.clone(),
            image_labels: about.image_labels.clone(),
            fixtures,
        }
    }

    /// It must say what the module itself says.
    ///
    /// # Errors
    /// The first difference.
    pub(super) fn agrees(&self, world: WorldKind, about: &About) -> Result<(), Problem> {
        let differs = |what: &str, manifest: String, module: String| Problem::ManifestMismatch {
            what: what.to_owned(),
            manifest,
            module,
        };
        let list = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
        if self.world != world {
            return Err(differs("world", self.world.to_string(), world.to_string()));
        }
        for (what, ours, its) in [
            ("name", &self.name, &about.name),
            ("version", &self.version, &about.version),
            ("needs", &list(&self.needs), &list(&about.needs)),
            ("image-labels", &list(&self.image_labels), &list(&about.image_labels)),
        ] {
            if ours != its {
                return Err(differs(what, ours.clone(), its.clone()));
            }
        }
        let ours: Vec<String> = self.settings.iter().map(|s| spelt(&s.key, s.default.as_ref())).collect();
        let its = about.settings.iter();
        let its: Vec<String> =
            its.map(|s| spelt(&s.key, s.default_value.as_ref().map(|v| v.json()).as_ref())).collect();
        if ours == its { Ok(()) } else { Err(differs("settings", list(&ours), list(&its))) }
    }
}

fn spelt(key: &str, default: Option<&Value>) -> String {
    default.map_or_else(|| key.to_owned(), |default| format!("{key} = {default}"))
}

/// A component's manifest; none: it has none.
///
/// # Errors
/// When it is too large, there are two, or it cannot be read.
pub fn read(component: &[u8]) -> Result<Option<Manifest>, Problem> {
    let mut found = None;
    for section in sections(component)? {
        let Some(content) = section.manifest(component)? else { continue };
        if found.replace(content).is_some() {
            return Err(bad("there are two of them"));
        }
    }
    let Some(content) = found else { return Ok(None) };
    if content.len() > MOST_BYTES {
        return Err(bad(format!("it has {} bytes, more than {MOST_BYTES}", content.len())));
    }
    // A later format may have lost fields of this one.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format = serde_json::from_slice(content).map_err(|error| bad(error.to_string()))?;
    if format.format != FORMAT {
        return Err(bad(format!("its format is {}, this agent reads {FORMAT}", format.format)));
    }
    serde_json::from_slice(content).map(Some).map_err(|error| bad(error.to_string()))
}

/// The component with this manifest instead of what it had.
///
/// # Errors
/// When the bytes are no component, or the manifest is too large.
pub fn write(component: &[u8], manifest: &Manifest) -> Result<Vec<u8>, Problem> {
    let content = serde_json::to_vec(manifest).map_err(|error| bad(error.to_string()))?;
    if content.len() > MOST_BYTES {
        return Err(bad(format!(
            "with its fixtures it has {} bytes, more than {MOST_BYTES}: take fewer or smaller fixtures",
            content.len()
        )));
    }
    let mut written = without(component)?;
    let mut body = Vec::with_capacity(content.len() + SECTION.len() + 2);
    push_leb(&mut body, SECTION.len());
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(&content);
    written.push(CUSTOM);
    push_leb(&mut written, body.len());
    written.extend_from_slice(&body);
    Ok(written)
}

/// The component without its manifest.
///
/// # Errors
/// When the bytes are no component.
pub fn without(component: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut bare = component.get(..HEADER).unwrap_or_default().to_vec();
    for section in sections(component)? {
        if section.manifest(component)?.is_none() {
            bare.extend_from_slice(&component[section.whole]);
        }
    }
    Ok(bare)
}

fn bad(problem: impl Into<String>) -> Problem {
    Problem::BadManifest(problem.into())
}

/// A section of the component itself: identifier, length, body.
struct Section {
    id: u8,
    whole: Range<usize>,
    body: Range<usize>,
}

impl Section {
    /// The content, if it is a manifest.
    fn manifest<'b>(&self, component: &'b [u8]) -> Result<Option<&'b [u8]>, Problem> {
        if self.id != CUSTOM {
            return Ok(None);
        }
        let mut reader = BinaryReader::new(&component[self.body.clone()], self.body.start);
        let name = reader.read_string().map_err(malformed)?;
        if name != SECTION {
            return Ok(None);
        }
        let rest = reader.bytes_remaining();
        reader.read_bytes(rest).map(Some).map_err(malformed)
    }
}

/// Nested modules and components are one section each, so nothing of theirs is taken for the component's own.
fn sections(component: &[u8]) -> Result<Vec<Section>, Problem> {
    let rest =
        component.get(HEADER..).ok_or_else(|| Problem::Malformed("it ends in its header".to_owned()))?;
    let mut reader = BinaryReader::new(rest, HEADER);
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8().map_err(malformed)?;
        let length = reader.read_var_u32().map_err(malformed)? as usize;
        let body = reader.original_position();
        reader.read_bytes(length).map_err(malformed)?;
        sections.push(Section { id, whole: start..body + length, body: body..body + length });
    }
    Ok(sections)
}

fn malformed(error: wasmparser::BinaryReaderError) -> Problem {
    Problem::Malformed(error.to_string())
}

/// Unsigned LEB128, as all lengths of WebAssembly.
fn push_leb(bytes: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::bindings::types::SettingValue;
    use super::super::guest::SettingInfo;
    use super::*;

    fn about() -> About {
        let setting = |key: &str, default_value| SettingInfo {
            key: key.to_owned(),
            default_value,
            help: format!("about {key}"),
        };
        About {
            name: "half".to_owned(),
            version: "1.2.0".to_owned(),
            summary: "Halves".to_owned(),
            settings: vec![setting("most", Some(SettingValue::Integer(3))), setting("quota.*", None)],
            needs: vec!["set-env".to_owned()],
            image_labels: vec!["ai.berth.*".to_owned()],
        }
    }

    fn manifest() -> Manifest {
        let fixture = ManifestFixture { file: "a.json".to_owned(), fixture: json!({"function": "place"}) };
        Manifest::of(WorldKind::Scheduler, &about(), vec![fixture])
    }

    fn component() -> Vec<u8> {
        // What is nested has a section of that name, too, which is not the component's.
        wat::parse_str(r#"(component (core module (@custom "berth:policy-manifest" "{}")) (component))"#)
            .unwrap()
    }

    #[test]
    fn it_is_written_read_and_replaced_and_the_rest_stays_as_it_was() {
        let bare = component();
        assert_eq!(read(&bare), Ok(None));
        let packed = write(&bare, &manifest()).unwrap();
        assert_eq!(&packed[..bare.len()], bare);
        assert_eq!(read(&packed), Ok(Some(manifest())));
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(&packed)
            .unwrap();
        let other = Manifest { version: "2".to_owned(), ..manifest() };
        assert_eq!(read(&write(&packed, &other).unwrap()), Ok(Some(other)));
        assert_eq!(write(&packed, &manifest()), Ok(packed));
    }

    #[test]
    fn its_json_is_the_one_that_is_agreed() {
        assert_eq!(
            serde_json::to_value(manifest()).unwrap(),
            json!({
                "format": 1, "name": "half", "version": "1.2.0", "summary": "Halves", "world": "scheduler",
                "settings": [
                    {"key": "most", "default": {"integer": 3}, "help": "about most"},
                    {"key": "quota.*", "help": "about quota.*"},
                ],
                "needs": ["set-env"], "image-labels": ["ai.berth.*"],
                "fixtures": [{"file": "a.json", "fixture": {"function": "place"}}],
            })
        );
    }

    #[test]
    fn a_contradiction_is_named() {
        let check = |manifest: Manifest, expected: &str| {
            let problem = manifest.agrees(WorldKind::Scheduler, &about()).unwrap_err();
            assert_eq!(problem.code(), "manifest-mismatch");
            assert!(problem.to_string().contains(expected), "{problem}");
        };
        assert_eq!(manifest().agrees(WorldKind::Scheduler, &about()), Ok(()));
        check(
            Manifest { version: "1.3.0".to_owned(), ..manifest() },
            "its manifest says version 1.3.0, the module itself 1.2.0",
        );
        check(Manifest { needs: Vec::new(), ..manifest() }, "needs none, the module itself set-env");
        check(Manifest { world: WorldKind::SlotReporter, ..manifest() }, "world slot-reporter");
        let mut other = manifest();
        other.settings[0].default = Some(json!({"integer": 4}));
        check(other, "most = {\"integer\":4}, quota.*, the module itself most = {\"integer\":3}, quota.*");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let check = |text: &str, expected: &str| {
            let with = |text: &str| {
                let text = text.replace('"', "\\\"");
                wat::parse_str(format!("(component (@custom \"{SECTION}\" \"{text}\"))")).unwrap()
            };
            let problem = read(&with(text)).unwrap_err();
            assert_eq!(problem.code(), "bad-manifest");
            assert!(problem.to_string().contains(expected), "{problem}");
        };
        check("no", "expected");
        check("{}", "missing field `format`");
        check(r#"{"format": 2}"#, "its format is 2");
        check(r#"{"format": 1, "name": "a"}"#, "missing field `version`");
        check(&format!(r#"{{"format": 1, "name": "{}"}}"#, "a".repeat(MOST_BYTES)), "more than 1048576");
        let twice = format!(r#"(component (@custom "{SECTION}" "{{}}") (@custom "{SECTION}" "{{}}"))"#);
        assert!(read(&wat::parse_str(twice).unwrap()).unwrap_err().to_string().contains("two of them"));
        let large = ManifestFixture { file: String::new(), fixture: Value::from("a".repeat(MOST_BYTES)) };
        let large = Manifest { fixtures: vec![large], ..manifest() };
        assert!(write(&component(), &large).unwrap_err().to_string().contains("fewer or smaller fixtures"));
    }

    #[test]
    fn cut_short_it_is_malformed() {
        let packed = write(&component(), &manifest()).unwrap();
        for end in [3, packed.len() - 1] {
            assert_eq!(read(&packed[..end]).unwrap_err().code(), "malformed-module");
        }
    }
}
