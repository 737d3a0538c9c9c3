use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::places::{Found, Place, Target, matching, own_name, pattern, target};
use crate::tree::list::{Entry, Kind, Listing};

#[test]
fn a_word_with_a_colon_is_in_a_kernel_unless_it_looks_like_a_path() {
    let parse = |word: &str| Place::parse(&OsString::from(word));
    assert_eq!(parse("k1:a/b").unwrap(), Place::Kernel("k1".parse().unwrap(), "a/b".to_owned()));
    assert_eq!(parse("k1:").unwrap(), Place::Kernel("k1".parse().unwrap(), String::new()));
    assert_eq!(parse("k1:a:b").unwrap(), Place::Kernel("k1".parse().unwrap(), "a:b".to_owned()));
    for word in ["a", "./a:b", "/a:b", ":a", "a/b:c"] {
        assert_eq!(parse(word).unwrap(), Place::Here(PathBuf::from(word)));
    }
    assert_eq!(parse("-").unwrap(), Place::Pipe);
    let error = parse("a b:c").unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("a file of that name is ./a b:c"));
}

#[test]
fn things_go_where_cp_would_put_them() {
    let check = |from: &str, to: &str, found, is_one, expected: Option<(&str, &str)>| {
        let got = target(OsStr::new(to), found, &own_name(OsStr::new(from)), is_one).ok();
        let expected = expected.map(|(folder, name)| Target { folder: folder.into(), name: name.into() });
        assert_eq!(got, expected, "{from} to {to}");
    };
    // Into a folder that is there, or is written as one.
    check("x/f", "", Found::Folder, true, Some(("", "f")));
    check("x/f", "d", Found::Folder, true, Some(("d", "f")));
    check("x/f", "d/", Found::Nothing, true, Some(("d/", "f")));
    check("x/f/", "d/", Found::Nothing, false, Some(("d/", "f")));
    check("x/f/.", "d", Found::Nothing, true, Some(("d", ".")));
    check("..", "d", Found::Folder, true, Some(("d", ".")));
    check("", "d", Found::Folder, true, Some(("d", ".")));
    // Under the name that is written.
    check("x/f", "d/g", Found::Nothing, true, Some(("d", "g")));
    check("x/f", "g", Found::Other, true, Some(("", "g")));
    check("x/f", "g", Found::Other, false, None);
    check("x/f", "g/", Found::Other, true, None);
    check("x/f", "g", Found::Nothing, false, None);
}

#[test]
fn patterns_match_as_in_shells() {
    assert_eq!(pattern("a/b*"), Some(("a/", "b*")));
    assert_eq!(pattern("?"), Some(("", "?")));
    assert_eq!(pattern("a*/b"), None);
    let entry = |name: &str| Entry {
        name: name.to_owned(),
        kind: Kind::File,
        mode: 0,
        size: 0,
        ctime: 0.0,
        mtime: 0.0,
        atime: 0.0,
    };
    let names = ["a", "aab", "ab", "b.csv", ".ab", "", "axxbxb"];
    let listing = Listing { itself: entry("."), entries: names.map(entry).to_vec(), is_cut: false };
    for (pattern, expected) in [
        ("*", &["d/a", "d/aab", "d/ab", "d/b.csv", "d/", "d/axxbxb"][..]),
        ("a*b", &["d/aab", "d/ab", "d/axxbxb"]),
        ("?b", &["d/ab"]),
        ("*.csv", &["d/b.csv"]),
        (".*", &["d/.ab"]),
        ("a*x?", &["d/axxbxb"]),
    ] {
        assert_eq!(matching("d/", pattern, &listing).unwrap(), expected, "{pattern}");
    }
    assert_eq!(matching("d/", "z*", &listing).unwrap_err().message, "nothing there matches d/z*");
    let cut = Listing { is_cut: true, ..listing };
    assert!(matching("d/", "*", &cut).unwrap_err().message.contains("more than 100000 things"));
}

#[test]
fn names_are_those_of_the_last_part() {
    for (path, name) in
        [("a/b", "b"), ("a/b/", "b"), ("a/.", "."), (".", "."), ("/", "."), ("/home/work", "work")]
    {
        assert_eq!(own_name(OsStr::new(path)), Path::new(name), "{path}");
    }
}
