//! Puts the files of a corpus through their check. The tests of the packages include this file.

use std::fs;
use std::panic::{self, RefUnwindSafe};
use std::path::Path;

/// Checks every file of `fuzz/corpus/TARGET`. Fails when one does not pass, and when there is none.
pub fn replay(target: &str, check: impl Fn(&[u8]) + RefUnwindSafe) {
    // The package is the repository's own, or one folder below.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpora = package.ancestors().take(2).map(|above| above.join("fuzz/corpus")).find(|at| at.is_dir());
    let Some(folder) = corpora.map(|at| at.join(target)) else { panic!("there is no fuzz/corpus") };
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut replayed = 0;
    for file in files {
        let path = file.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let outcome = panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} does not pass", path.display());
        replayed += 1;
    }
    assert!(replayed > 0, "{} is empty", folder.display());
}
