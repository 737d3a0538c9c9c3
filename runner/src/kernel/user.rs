//! User set-up with nothing of the image: who the kernel runs as, told to `/etc/passwd` and
//! `/etc/group`, then root is given up for good (contracts: kernel §2.7).

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::process::{DumpableBehavior, Gid, Uid};

use crate::sys::{self, Before};
use crate::{Failure, complain};

/// Name of the user and of its group in every kernel.
pub const USER: &str = "work";
/// The image's own set-up, run as root before root is given up.
const HOOK: &str = "/opt/container/bootstrap.sh";

/// Who tasks run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub additional: BTreeSet<u32>,
}

/// Makes the user known, runs the image's hook and becomes the user. Only while there is one thread.
///
/// # Errors
/// When root cannot be given up. That the files cannot be written is no error: images are read-only.
pub fn become_user(identity: &Identity, home: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if identity.uid != 0 {
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        let home = home.to_string_lossy();
        rewrite(Path::new("/etc/passwd"), |text| edit_passwd(text, identity, &home, shell));
        rewrite(Path::new("/etc/group"), |text| edit_group(text, identity));
    }
    run_hook(identity);
    if identity.uid == 0 {
        return Ok(());
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: rustix::io::Errno| Failure::system(what, error)
    };
    let mut groups = vec![Gid::from_raw(identity.gid)];
    groups.extend(identity.additional.iter().map(|gid| Gid::from_raw(*gid)));
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::thread::set_thread_groups(&groups).map_err(failed("set the user's groups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("become the user's group"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("become the user"))?;
    // Giving root up hides /proc/self from us, and children could not raise their oom_score_adj.
    let _unhidden = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    Ok(())
}

fn run_hook(identity: &Identity) {
    let is_executable =
        |path: &str| std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
    if !is_executable(HOOK) || !is_executable("/bin/sh") {
        return;
    }
    let mut command = Command::new("/bin/sh");
    command.arg(HOOK).env("LOCAL_USER_ID", identity.uid.to_string());
    command.env("LOCAL_GROUP_ID", identity.gid.to_string());
    sys::prepare(&mut command, Before::default());
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => complain(format_args!("{HOOK} ended with {status}")),
        Err(error) => complain(format_args!("{HOOK} could not be run: {error}")),
    }
}

/// Rewrites a file in place (it may be a bind mount, which cannot be replaced), never through a link.
fn rewrite(path: &Path, edit: impl FnOnce(&str) -> String) {
    let result = (|| {
        let mut file: File = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .mode(0o644)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let old = String::from_utf8_lossy(&text);
        let new = edit(&old);
        if new != old {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(new.as_bytes())?;
        }
        std::io::Result::Ok(())
    })();
    if let Err(error) = result {
        complain(format_args!("{} stays as it is: {error}", path.display()));
    }
}

/// `work` with these ids: renumbered where it is, else put before another user of the same id, so that
/// looking the id up finds it.
fn edit_passwd(text: &str, identity: &Identity, home: &str, shell: &str) -> String {
    let Identity { uid, gid, .. } = identity;
    let own = format!("{USER}:x:{uid}:{gid}:{USER}:{home}:{shell}");
    place(text, *uid, |line| match line {
        Some(old) => {
            let mut fields: Vec<&str> = old.split(':').collect();
            let (uid, gid) = (uid.to_string(), gid.to_string());
            fields.resize(7, "");
            for (index, value) in [(2, uid.as_str()), (3, &gid), (5, home), (6, shell)] {
                if let Some(field) = fields.get_mut(index) {
                    *field = value;
                }
            }
            fields.join(":")
        }
        None => own.clone(),
    })
}

/// The user's group, and the user as a member of the additional ones.
fn edit_group(text: &str, identity: &Identity) -> String {
    let gid = identity.gid;
    let text = place(text, gid, |line| {
        let members = line.and_then(|line| line.split(':').nth(3)).unwrap_or_default();
        format!("{USER}:x:{gid}:{members}")
    });
    let mut missing: BTreeSet<u32> = identity.additional.iter().copied().filter(|id| *id != gid).collect();
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match (fields.as_slice(), id_of(line)) {
                ([name, password, _, members], Some(id)) if *name != USER && missing.remove(&id) => {
                    if members.split(',').any(|member| member == USER) {
                        return line.to_owned();
                    }
                    let comma = if members.is_empty() { "" } else { "," };
                    format!("{name}:{password}:{id}:{members}{comma}{USER}")
                }
                _ => line.to_owned(),
            }
        })
        .collect();
    lines.extend(missing.iter().map(|id| format!("{USER}-{id}:x:{id}:{USER}")));
    join(lines)
}

/// Puts our line (made from the one that has our name) where the first line of our name or id is.
fn place(text: &str, id: u32, make: impl Fn(Option<&str>) -> String) -> String {
    let is_ours = |line: &str| line.split(':').next() == Some(USER);
    let own = make(text.lines().find(|line| is_ours(line)));
    let mut own = Some(own);
    let mut lines = Vec::new();
    for line in text.lines() {
        if is_ours(line) || id_of(line) == Some(id) {
            lines.extend(own.take());
        }
        if !is_ours(line) {
            lines.push(line.to_owned());
        }
    }
    lines.extend(own);
    join(lines)
}

fn join(lines: Vec<String>) -> String {
    lines.into_iter().map(|line| line + "\n").collect()
}

fn id_of(line: &str) -> Option<u32> {
    line.split(':').nth(2)?.parse().ok()
}

/// The name of a user id in the text of a passwd file.
pub fn name_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find(|line| id_of(line) == Some(uid))?.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uid: u32, gid: u32, additional: &[u32]) -> Identity {
        Identity { uid, gid, additional: additional.iter().copied().collect() }
    }

    #[test]
    fn passwd_gets_the_user_whatever_was_there() {
        let check = |before: &str, after: &str| {
            assert_eq!(edit_passwd(before, &identity(1000, 100, &[]), "/home/work", "/bin/sh"), after);
            // Done twice is done once: a container may be started again.
            assert_eq!(edit_passwd(after, &identity(1000, 100, &[]), "/home/work", "/bin/sh"), after);
        };
        let own = "work:x:1000:100:work:/home/work:/bin/sh\n";
        check("", own);
        check("root:x:0:0::/root:/bin/sh", &format!("root:x:0:0::/root:/bin/sh\n{own}"));
        // Another user owns the id: ours comes first.
        check("root:x:0:0:::\nnode:x:1000:1000:::\n", &format!("root:x:0:0:::\n{own}node:x:1000:1000:::\n"));
        // `work` with other ids is renumbered and keeps its comment.
        check("work:x:7:7:Me:/w:/bin/zsh\n", "work:x:1000:100:Me:/home/work:/bin/sh\n");
        check(
            "node:x:1000:5:::\nwork:x:7:7:Me:/w:\n",
            "work:x:1000:100:Me:/home/work:/bin/sh\nnode:x:1000:5:::\n",
        );
    }

    #[test]
    fn group_gets_the_users_groups() {
        let check = |before: &str, after: &str| {
            assert_eq!(edit_group(before, &identity(1000, 100, &[100, 44, 4242])), after);
            assert_eq!(edit_group(after, &identity(1000, 100, &[100, 44, 4242])), after);
        };
        check("", "work:x:100:\nwork-44:x:44:work\nwork-4242:x:4242:work\n");
        check(
            "root:x:0:\nvideo:x:44:a\nusers:x:100:\n",
            "root:x:0:\nvideo:x:44:a,work\nwork:x:100:\nusers:x:100:\nwork-4242:x:4242:work\n",
        );
    }

    #[test]
    fn a_broken_file_is_kept_line_by_line() {
        let broken = "::\nx\n:::::::::\nname:x:notanumber:5:::\n";
        let edited = edit_passwd(broken, &identity(5, 5, &[]), "/h", "/s");
        assert_eq!(edited, format!("{broken}work:x:5:5:work:/h:/s\n"));
        assert_eq!(name_of(&edited, 5), Some("work"));
    }
}
