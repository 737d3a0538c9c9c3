//! The tools for authors of policies, as `berth`'s own commands: from nothing to a module that an agent takes.
//!
//! What needs a toolchain for guests, or componentize-py, is skipped with a line that says so where there is none.
#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// The cores of a node in which core 0 comes first and core 1 last.
const TWO_CORES: &str = r#"{"function": "place", "question": {
    "node": {
        "models": [{"kind": "cpu", "family": "cpu", "capacity": 1000000}],
        "devices": [{"number": 0}, {"number": 1}], "slots": [{"name": "cpu", "quantum": 1000000}]},
    "request": {"wants": [{"slot": 0, "amount": 1000000}]},
    "choice": {"stock": [
        {"device": 0, "slot": 0, "free": 1000000, "offered": 1000000},
        {"device": 1, "slot": 0, "free": 1000000, "offered": 1000000}]}}}"#;

fn last_core() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/dist/examples/last-core.wasm")
}

/// The same without its manifest, as a build makes it.
fn bare(to: &Path) {
    let packed = fs::read(last_core()).unwrap();
    fs::write(to, berth::policy::manifest::without(&packed).unwrap()).unwrap();
}

/// Where what is downloaded and compiled stays from one run to the next.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("authors")
}

fn berth(dir: &Path, words: &[&str]) -> Output {
    Command::new(BERTH)
        .args(words)
        .current_dir(dir)
        // One for all projects: their dependencies are compiled once.
        .env("CARGO_TARGET_DIR", cache().join("target"))
        .env_remove("BERTH_SOCKET")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn says(dir: &Path, words: &[&str]) -> String {
    let output = berth(dir, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exits 1 with one line and a hint.
fn refuses(dir: &Path, words: &[&str], expected: &[&str]) {
    let output = berth(dir, words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
    assert!(said.lines().count() == 2 && said.contains("\nhint: "), "{words:?}: {said}");
    for words in expected {
        assert!(said.contains(words), "{said}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("berth-authors-").tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Builds, or says why it cannot be tried here.
fn built(dir: &Path, project: &str) -> Option<String> {
    let output = berth(dir, &["policy", "build", project]);
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("(missing-tool)") {
        println!("skipped: {said}");
        return None;
    }
    assert!(output.status.success(), "{project}: {said}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_new_policy_in_rust_builds_and_passes_its_fixtures_in_every_world() {
    let dir = folder(&[]);
    for world in ["slot-reporter", "scheduler", "container-config"] {
        let said =
            says(dir.path(), &["policy", "new", world, "--world", world, "--dir", &format!("my-{world}")]);
        assert!(said.contains(&format!("my-{world}/src/lib.rs")), "{said}");
        let Some(said) = built(dir.path(), &format!("my-{world}")) else { return };
        assert!(said.contains("cases of fixtures"), "{said}");
        let module = format!("my-{world}/{world}.wasm");
        // The project's own fixtures, and those that were packed.
        for policy in [&module, &format!("my-{world}")] {
            let said = says(dir.path(), &["policy", "test", policy]);
            assert!(said.contains("  ok    ") && !said.contains("FAIL"), "{said}");
        }
        let bench: Value =
            serde_json::from_str(&says(dir.path(), &["policy", "bench", "-n", "50", &module, "-o", "json"]))
                .unwrap();
        let figures = &bench["functions"][0];
        assert_eq!((&figures["calls"], &figures["memory-bytes"]), (&json!(50), &json!(196_608)), "{bench}");
        assert!(figures["p50-ns"].as_u64() >= figures["instantiate-ns"].as_u64(), "{bench}");
        assert_eq!(figures["failed"], json!([]));
    }
    says(dir.path(), &["policy", "dev", "--once", "my-scheduler"]);
    // A mistake in the policy is a failed fixture, in `dev` as in `test`.
    let source = dir.path().join("my-scheduler/src/lib.rs");
    let wrong = fs::read_to_string(&source).unwrap().replace("Strategy::Spread)", "Strategy::Pack)");
    fs::write(source, wrong).unwrap();
    let output = berth(dir.path(), &["policy", "dev", "--once", "my-scheduler"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(
        "FAIL  kinds.json: a batch kernel gets the empty one: device: should be cuda 1, is cuda 0"
    ));
}

/// componentize-py in an environment of its own below the target folder, made once.
fn python_tools() -> Result<PathBuf, String> {
    let venv = cache().join("python");
    let tool = venv.join("bin/componentize-py");
    if tool.is_file() {
        return Ok(tool);
    }
    let run = |program: &Path, words: &[&str]| {
        let output = Command::new(program).args(words).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{words:?} failed: {}", said.lines().last().unwrap_or_default()))
            }
            Err(error) => Err(format!("no {}: {error}", program.display())),
        }
    };
    fs::create_dir_all(cache()).map_err(|error| error.to_string())?;
    run(Path::new("python3"), &["-m", "venv", venv.to_str().unwrap()])?;
    let pip = ["install", "--quiet", "--retries", "1", "--timeout", "20", "componentize-py==0.25.1"];
    run(&venv.join("bin/pip"), &pip)?;
    Ok(tool)
}

#[test]
fn a_policy_in_python_loads_in_the_agents_sandbox_and_places() {
    let tool = match python_tools() {
        Ok(tool) => tool,
        Err(why) => {
            println!("skipped: componentize-py cannot be installed here: {why}");
            return;
        }
    };
    let dir = folder(&[]);
    says(dir.path(), &["policy", "new", "py", "--world", "scheduler", "--lang", "python"]);
    let output = Command::new(BERTH)
        .args(["policy", "build", "py"])
        .current_dir(dir.path())
        .env("BERTH_COMPONENTIZE_PY", tool)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // It has as much memory as an agent gives by default, and the pool has room for its many instances.
    let tested: Value =
        serde_json::from_str(&says(dir.path(), &["policy", "test", "py/py.wasm", "-o", "json"])).unwrap();
    assert_eq!((&tested["passed"], &tested["failed"]), (&json!(3), &json!(0)), "{tested}");
    let case = &tested["cases"][1];
    assert_eq!(case["answered"], "cuda.shares: 0.5 of 1", "{tested}");
}

#[test]
fn a_project_of_any_language_is_built_by_its_command() {
    let module = last_core();
    let project = format!(
        "name = \"own\"\ncommand = \"cp '{}' made.wasm\"\noutput = \"made.wasm\"\n",
        module.display()
    );
    let case = r#"{"base": "node.json", "expect": {"properties": {"device": [1]}}}"#;
    let files = [("policy.toml", &*project), ("fixtures/node.json", TWO_CORES), ("fixtures/last.json", case)];
    let dir = folder(&files);
    let said = built(dir.path(), ".").unwrap();
    assert!(
        said.starts_with("./own.wasm: last-core 0.1.0 for scheduler") && said.contains("1 case"),
        "{said}"
    );
    assert!(says(dir.path(), &["policy", "test"]).contains("  ok    last.json: cpu: 1\n"));
    fs::write(dir.path().join("policy.toml"), project.replace("cp ", "false ")).unwrap();
    refuses(dir.path(), &["policy", "build"], &["the project's command failed", "(build-failed)"]);
}

#[test]
fn packing_is_the_same_every_time_and_what_is_packed_is_shown() {
    let case = r#"[{"name": "last", "base": "node.json", "expect": {"properties": {"device": [1]}}}]"#;
    let dir = folder(&[("fixtures/node.json", TWO_CORES), ("fixtures/cores.json", case)]);
    let dir = dir.path();
    bare(&dir.join("bare.wasm"));
    for out in ["one.wasm", "two.wasm"] {
        says(dir, &["policy", "pack", "bare.wasm", "--fixtures", "fixtures", "-o", out]);
    }
    let (one, two) = (fs::read(dir.join("one.wasm")).unwrap(), fs::read(dir.join("two.wasm")).unwrap());
    assert_eq!(one, two);
    // Again, with the same fixtures or those that it has.
    for words in
        [&["policy", "pack", "one.wasm", "--fixtures", "fixtures"][..], &["policy", "pack", "one.wasm"]]
    {
        says(dir, words);
        assert_eq!(fs::read(dir.join("one.wasm")).unwrap(), two);
    }

    let shown: Value =
        serde_json::from_str(&says(dir, &["policy", "inspect", "./one.wasm", "-o", "json"])).unwrap();
    assert_eq!((&shown["name"], &shown["world"]), (&json!("last-core"), &json!("scheduler")));
    assert_eq!((&shown["fixtures"], &shown["cases"]), (&json!(["cores.json"]), &json!(1)));
    let imports = shown["imports"].as_array().unwrap();
    assert!(imports.iter().all(|name| name.as_str().unwrap().starts_with("berth:policy/types@")), "{shown}");
    assert!(
        says(dir, &["policy", "inspect", "bare.wasm"])
            .contains("no manifest: `berth policy pack` writes one")
    );
}

#[test]
fn a_failed_fixture_fails_the_command_and_says_what_was_expected() {
    let cases = r#"[
        {"name": "right", "base": "node.json", "expect": {"properties": {"device": [1]}}},
        {"name": "wrong", "base": "node.json", "expect": {"properties": {"device": [0], "not-device": [1]}}}]"#;
    let dir = folder(&[("node.json", TWO_CORES), ("cores.json", cases), ("idle.json", "{}")]);
    let module = last_core();
    let words = ["policy", "test", module.to_str().unwrap(), "--fixtures", "."];
    let output = berth(dir.path(), &words);
    let (said, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("  ok    cores.json: right: cpu: 1\n"), "{said}");
    assert!(
        said.contains(
            "  FAIL  cores.json: wrong: device: should be cpu 0, is cpu 1; not-device: cpu 1 should not be used \
             (it answered: cpu: 1)\n"
        ),
        "{said}"
    );
    assert!(errors.contains("berth: 1 of 2 fixtures failed (fixtures-failed)\nhint: "), "{errors}");
    assert!(errors.contains("idle.json: no `expect`"), "{errors}");
}

#[test]
fn mistakes_are_one_line_and_the_next_step() {
    let dir = folder(&[("bad/a.json", "{"), ("text.wasm", "(component)"), ("there/x", "")]);
    let (dir, module) = (dir.path(), dir.path().join("bare.wasm"));
    bare(&module);
    let module = module.to_str().unwrap();
    refuses(dir, &["policy", "test", module], &["carries no fixtures", "(no-fixtures)", "--fixtures"]);
    refuses(dir, &["policy", "bench", module], &["(no-fixtures)"]);
    refuses(
        dir,
        &["policy", "test", module, "--fixtures", "nowhere"],
        &["nowhere cannot be read", "(bad-fixtures)"],
    );
    refuses(
        dir,
        &["policy", "pack", module, "-o", "x.wasm", "--fixtures", "bad"],
        &["a.json: it is not JSON"],
    );
    refuses(
        dir,
        &["policy", "bench", module, "--journal", "bad/a.json"],
        &["line 1 is no record", "(bad-journal)"],
    );
    refuses(dir, &["policy", "inspect", "text.wasm"], &["text form", "(not-a-component)"]);
    refuses(dir, &["policy", "inspect", "gone.wasm"], &["No such file", "(not-readable)"]);
    refuses(dir, &["policy", "test", "there"], &["neither a Cargo.toml nor a policy.toml", "(bad-project)"]);
    refuses(dir, &["policy", "dev", "there"], &["is no policy's project"]);
    refuses(dir, &["policy", "new", "there", "--world", "scheduler"], &["is there already"]);
    refuses(dir, &["policy", "new", "There", "--world", "scheduler"], &["is no name"]);
    let no_agent = ["--socket", "none.sock", "policy", "inspect", "3fa1c2"];
    refuses(dir, &no_agent, &["no agent answers", "(no-agent)"]);
    assert_eq!(berth(dir, &["policy", "new", "x", "--world", "weather"]).status.code(), Some(2));
}
