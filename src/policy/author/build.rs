//! From a project's folder to one module that can be pushed: compiled by the tools of its language, made a component,
//! packed with what it says of itself and its fixtures.
//!
//! A folder with a `Cargo.toml` is a project in Rust. Others say in `policy.toml` what they are:
//! ```toml
//! name = "my-policy"
//! world = "scheduler"
//! lang = "python"          # or, for any other language, the two below
//! # command = "./build.sh"     makes a component, or a core module by wit-bindgen, by `sh -c` in the folder
//! # output = "guest.wasm"      where it lies then
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::toolchain::{LINK, TARGET, componentize_py, rust};
use super::{AuthorError, Inspected, Workshop, inspect, pack};

/// A module that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// What it is.
    pub policy: Inspected,
    /// Where it lies.
    pub file: PathBuf,
}

/// How a project is built.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Recipe {
    Rust,
    Python { world: String },
    Command { command: String, output: PathBuf },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Project {
    name: String,
    recipe: Recipe,
}

/// Whether a folder is a project.
#[must_use]
pub fn is_project(dir: &Path) -> bool {
    dir.join("policy.toml").is_file() || dir.join("Cargo.toml").is_file()
}

/// Where a project's module lies when it is built.
///
/// # Errors
/// When the folder is no project.
pub fn output_of(dir: &Path) -> Result<PathBuf, AuthorError> {
    project(dir).map(|project| dir.join(project.name).with_extension("wasm"))
}

/// Builds a project, with `fixtures/` of its folder in it. What the tools have to say goes to standard error.
///
/// # Errors
/// When a tool is missing or fails, or what it made is no policy.
pub fn build(dir: &Path, to: Option<&Path>, workshop: &Workshop) -> Result<Built, AuthorError> {
    let project = project(dir)?;
    let file = to.map_or_else(|| dir.join(&project.name).with_extension("wasm"), Path::to_owned);
    let component = match &project.recipe {
        Recipe::Rust => componentized(&cargo(dir)?)?,
        Recipe::Python { world } => python(dir, world)?,
        Recipe::Command { command, output } => {
            run("the project's command", Command::new("sh").args(["-c", command]).current_dir(dir))?;
            let made = super::read(&dir.join(output))?;
            // What `wit-bindgen c` and a C compiler make is not a component yet.
            if is_core_module(&made) { componentized(&made)? } else { made }
        }
    };
    let fixtures = Some(dir.join("fixtures")).filter(|fixtures| fixtures.is_dir());
    let subject = file.display().to_string();
    let packed = pack(&subject, component, fixtures.as_deref(), workshop)?;
    write(&file, &packed)?;
    Ok(Built { policy: inspect(subject, packed, workshop)?, file })
}

/// Writes a file whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write(file: &Path, bytes: &[u8]) -> Result<(), AuthorError> {
    let cannot =
        |error: std::io::Error| AuthorError::File(format!("{} cannot be written: {error}", file.display()));
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".berth-").tempfile_in(dir).map_err(cannot)?;
    temporary.write_all(bytes).map_err(cannot)?;
    // Like any build's: a temporary file is its owner's alone.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(temporary.path(), mode).map_err(cannot)?;
    temporary.persist(file).map_err(|error| cannot(error.error))?;
    Ok(())
}

fn project(dir: &Path) -> Result<Project, AuthorError> {
    let shown = dir.display();
    let bad = |problem: String| AuthorError::Project(format!("{shown}: {problem}"));
    if let Ok(text) = fs::read_to_string(dir.join("policy.toml")) {
        return described(&text).map_err(|problem| bad(format!("policy.toml: {problem}")));
    }
    match fs::read_to_string(dir.join("Cargo.toml")) {
        Ok(text) => {
            let name = toml(&text).and_then(|toml| text_of(&toml, "package", "name"));
            let name = name.map_err(|problem| bad(format!("Cargo.toml: {problem}")))?;
            Ok(Project { name, recipe: Recipe::Rust })
        }
        Err(_) => {
            Err(bad("there is neither a Cargo.toml nor a policy.toml: it is no policy's project".to_owned()))
        }
    }
}

/// What `policy.toml` says.
fn described(text: &str) -> Result<Project, String> {
    let toml = toml(text)?;
    let table = toml.as_table();
    let known = ["name", "world", "lang", "command", "output"];
    if let Some((key, _)) = table.iter().find(|(key, _)| !known.contains(key)) {
        return Err(format!("`{key}` is not known (there are {})", known.join(", ")));
    }
    let get = |key: &str| table.get(key).and_then(|item| item.as_str()).map(str::to_owned);
    let need = |key: &str| get(key).ok_or_else(|| format!("`{key}` is missing, a text"));
    let name = need("name")?;
    super::project::check_name(&name)?;
    let recipe = match (get("lang").as_deref(), get("command")) {
        (Some("rust"), None) => Recipe::Rust,
        (Some("python"), None) => Recipe::Python { world: need("world")? },
        (_, Some(command)) => Recipe::Command { command, output: need("output")?.into() },
        (Some(other), None) => {
            return Err(format!(
                "`lang` is {other:?}: rust and python are built without a `command`, other languages with one"
            ));
        }
        (None, None) => {
            return Err("`lang` is missing: rust, python, or a `command` and its `output`".to_owned());
        }
    };
    Ok(Project { name, recipe })
}

fn toml(text: &str) -> Result<toml_edit::ImDocument<String>, String> {
    toml_edit::ImDocument::parse(text.to_owned()).map_err(|error| error.to_string().trim_end().to_owned())
}

fn text_of(toml: &toml_edit::ImDocument<String>, table: &str, key: &str) -> Result<String, String> {
    let found = toml.as_table().get(table).and_then(|table| table.get(key)).and_then(|item| item.as_str());
    found.map(str::to_owned).ok_or_else(|| format!("[{table}] has no `{key}`"))
}

/// Compiles a crate; the bytes of its core module.
fn cargo(dir: &Path) -> Result<Vec<u8>, AuthorError> {
    let rust = rust(dir)?;
    let mut flags = LINK.join(" ");
    // Panics carry the names of source files: not those of this machine.
    let dir_itself = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    for (from, to) in cargo_home.map(|home| (home, "/cargo")).into_iter().chain([(dir_itself, "/src")]) {
        flags += &format!(" --remap-path-prefix={}={to}", from.display());
    }
    let mut command = Command::new(&rust.cargo);
    command.current_dir(dir);
    command.args(["build", "--release", "--lib", "--target", TARGET]);
    command.arg("--message-format=json-render-diagnostics");
    if rust.build_std {
        command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1");
    }
    command.env("RUSTC", &rust.rustc).env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags);
    if let Some(linker) = rust.linker {
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    // Flags that are meant for this machine's programs.
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(inherited);
    }
    let artifacts = run("cargo build", command.stdout(Stdio::piped()))?;
    let module = String::from_utf8_lossy(&artifacts).lines().filter_map(module_of).next_back();
    let module = module.ok_or_else(|| {
        AuthorError::Project(format!(
            "{}: the crate makes no module: its Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`",
            dir.display()
        ))
    })?;
    super::read(&module)
}

/// The module that a line of cargo's messages tells of.
fn module_of(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_cdylib = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "cdylib");
    let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    let module = files.map(PathBuf::from).find(|file| file.extension().is_some_and(|end| end == "wasm"));
    module.filter(|_| is_cdylib)
}

fn is_core_module(bytes: &[u8]) -> bool {
    matches!(bytes, [0, b'a', b's', b'm', 1, 0, 0, 0, ..])
}

/// The component of a core module that wit-bindgen has told its world.
fn componentized(core: &[u8]) -> Result<Vec<u8>, AuthorError> {
    let encoder = wit_component::ComponentEncoder::default().validate(true);
    let encoded = encoder.module(core).and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| AuthorError::Project(format!("what was built is no policy: {error:#}")))
}

fn python(dir: &Path, world: &str) -> Result<Vec<u8>, AuthorError> {
    let tool = componentize_py(dir)?;
    let made =
        tempfile::tempdir().map_err(|error| AuthorError::File(format!("no temporary folder: {error}")))?;
    let module = made.path().join("policy.wasm");
    let mut command = Command::new(tool);
    command.current_dir(dir).args(["-d", "wit", "-w", world, "componentize", "--stub-wasi", "app", "-o"]);
    run("componentize-py", command.arg(&module).stdout(Stdio::piped()))?;
    super::read(&module)
}

/// Runs a tool that says on standard error what it does. Returns what it printed, where that is caught.
fn run(what: &str, command: &mut Command) -> Result<Vec<u8>, AuthorError> {
    let failed = |problem: String| AuthorError::Build(format!("{what} {problem}"));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| failed(format!("cannot be run: {error}")))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(format!("failed ({})", output.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_project_says_is_read() {
        let check = |text: &str, expected: Result<Recipe, &str>| match (described(text), expected) {
            (Ok(project), Ok(recipe)) => assert_eq!(project.recipe, recipe),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
            (got, _) => panic!("{got:?}"),
        };
        let python = "name = \"a\"\nworld = \"scheduler\"\nlang = \"python\"\n";
        check(python, Ok(Recipe::Python { world: "scheduler".to_owned() }));
        let command = "name = \"a\"\ncommand = \"make\"\noutput = \"a.wasm\"\n";
        check(command, Ok(Recipe::Command { command: "make".to_owned(), output: "a.wasm".into() }));
        check("name = \"a\"\nlang = \"python\"\n", Err("`world` is missing"));
        check("name = \"a\"\nlang = \"cobol\"\n", Err("other languages with one"));
        check("name = \"a\"\n", Err("`lang` is missing"));
        check("name = \"a/b\"\nlang = \"rust\"\n", Err("a policy's name"));
        check("nam = \"a\"\n", Err("`nam` is not known"));
        check("name = \n", Err("TOML parse error"));
    }

    #[test]
    fn cargos_messages_name_the_module() {
        let message =
            r#"{"reason":"compiler-artifact","target":{"kind":["cdylib"]},"filenames":["/t/a.wasm"]}"#;
        assert_eq!(module_of(message), Some(PathBuf::from("/t/a.wasm")));
        assert_eq!(module_of(&message.replace("cdylib", "lib")), None);
        assert_eq!(module_of("{\"reason\":\"build-finished\"}"), None);
    }

    #[test]
    fn core_modules_are_told_from_components() {
        assert!(is_core_module(&wat::parse_str("(module)").unwrap()));
        assert!(!is_core_module(&wat::parse_str("(component)").unwrap()));
        let error =
            componentized(&wat::parse_str("(module (import \"a\" \"b\" (func)))").unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("what was built is no policy: "), "{error}");
    }

    #[test]
    fn a_folder_that_is_no_project_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = build(dir.path(), None, &Workshop::IN_MEMORY).unwrap_err();
        assert!(
            error.code() == "bad-project" && error.to_string().contains("neither a Cargo.toml"),
            "{error}"
        );
        assert!(!is_project(dir.path()));
    }
}
