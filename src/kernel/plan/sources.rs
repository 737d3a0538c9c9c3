//! The sources of mounts that a policy adds, as they are on this host.
//!
//! A grant like `add-mount:/data/**` is about what lies there, so links are followed first, those in the granted
//! folder's own path too. What is mounted is the resolved path: a link that is put elsewhere later changes nothing.

use std::fs;
use std::path::Path;

use crate::policy::bindings::configuring::{Edit, MountKind};
use crate::policy::worlds::grants;
use crate::policy::{Decided, DecidedBy};

/// The same decision with resolved sources. A source that is not there stays as it is: the engine says so.
///
/// # Errors
/// Who decided, and which source lies outside of what they are granted.
pub async fn resolve(decided: Decided<Vec<Edit>>) -> Result<Decided<Vec<Edit>>, (DecidedBy, String)> {
    let binds = |edit: &Edit| matches!(edit, Edit::AddMount(mount) if mount.kind == MountKind::Bind);
    if !decided.answer.as_ref().is_ok_and(|edits| edits.iter().any(binds)) {
        return Ok(decided);
    }
    let by = decided.by.clone();
    // The file system may hang; a tokio worker must not.
    let resolved = tokio::task::spawn_blocking(move || resolve_all(decided)).await;
    resolved
        .unwrap_or_else(|error| Err(format!("its mounts could not be looked at: {error}")))
        .map_err(|problem| (by, problem))
}

fn resolve_all(mut decided: Decided<Vec<Edit>>) -> Result<Decided<Vec<Edit>>, String> {
    let Ok(edits) = &mut decided.answer else { return Ok(decided) };
    let patterns = grants::mount_patterns(&decided.granted)
        .map(|patterns| patterns.into_iter().map(resolved_pattern).collect::<Vec<_>>());
    for edit in edits {
        let Edit::AddMount(mount) = edit else { continue };
        if mount.kind != MountKind::Bind {
            continue;
        }
        let Ok(real) = fs::canonicalize(&mount.source) else { continue };
        let Ok(real) = real.into_os_string().into_string() else {
            return Err(format!("the mount source {} is not UTF-8 where it really lies", mount.source));
        };
        let granted = patterns
            .as_ref()
            .is_none_or(|patterns| patterns.iter().any(|pattern| grants::matches(pattern, &real)));
        if !granted {
            return Err(format!(
                "it mounts {}, which is {real} and not granted (`grants` in [policy.container-config])",
                mount.source
            ));
        }
        mount.source = real;
    }
    Ok(decided)
}

/// A pattern with the links in the folders before its first star resolved.
fn resolved_pattern(pattern: &str) -> String {
    let fixed = pattern.find('*').map_or(pattern.len(), |star| pattern[..star].rfind('/').unwrap_or(0));
    let (folder, rest) = pattern.split_at(fixed);
    match fs::canonicalize(Path::new(folder)).ok().and_then(|real| real.into_os_string().into_string().ok()) {
        // `/` has its slash already.
        Some(real) => format!("{}{rest}", real.trim_end_matches('/')),
        None => pattern.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use super::*;
    use crate::policy::bindings::configuring::Mount;
    use crate::policy::{Rung, WorldKind};

    fn decided(source: &str, grants: &[String]) -> Decided<Vec<Edit>> {
        let mount = Mount {
            kind: MountKind::Bind,
            source: source.to_owned(),
            target: "/mnt/x".to_owned(),
            read_only: true,
        };
        let by = DecidedBy {
            world: WorldKind::ContainerConfig,
            function: "adjust".to_owned(),
            policy: "p".to_owned(),
            version: "1".to_owned(),
            digest: None,
            rung: Rung::Active,
            faults: Vec::new(),
            micros: 0,
            note: None,
        };
        Decided { answer: Ok(vec![Edit::AddMount(mount)]), by, granted: Arc::from(grants) }
    }

    #[tokio::test]
    async fn links_do_not_lead_out_of_what_is_granted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name).display().to_string();
        fs::create_dir_all(root.join("real/inner")).unwrap();
        fs::create_dir(root.join("secret")).unwrap();
        symlink(root.join("real"), root.join("data")).unwrap();
        symlink(root.join("secret"), root.join("real/out")).unwrap();
        symlink(root.join("real/inner"), root.join("real/in")).unwrap();
        let grants = [format!("add-mount:{}/**", at("data"))];
        let source = |decided: Decided<Vec<Edit>>| match &decided.answer.unwrap()[0] {
            Edit::AddMount(mount) => mount.source.clone(),
            other => panic!("{other:?}"),
        };
        let check = |from: String| resolve(decided(&from, &grants));

        // The granted folder is a link itself.
        assert_eq!(source(check(at("data/inner")).await.unwrap()), at("real/inner"));
        assert_eq!(source(check(at("data")).await.unwrap()), at("real"));
        assert_eq!(source(check(at("data/in")).await.unwrap()), at("real/inner"));
        let (by, problem) = check(at("data/out")).await.unwrap_err();
        assert!(by.policy == "p" && problem.contains(&format!("which is {} and not granted", at("secret"))));
        // What is not there the engine tells.
        assert_eq!(source(check(at("data/missing")).await.unwrap()), at("data/missing"));
        // Everything is granted: still what is mounted is what was looked at.
        let all = ["add-mount".to_owned()];
        assert_eq!(source(resolve(decided(&at("data/out"), &all)).await.unwrap()), at("secret"));
    }
}
