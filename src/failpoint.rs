//! Named places at which a test can end or hang the agent: the proof that every intent is on disk before its
//! side effect (design §11).
//!
//! `BERTH_FAILPOINTS` says what happens where: `NAME=kill` or `NAME=kill:3` sends SIGKILL to this process
//! the first or third time that it comes there, `NAME=hang` blocks the thread for ever. With
//! `BERTH_FAILPOINT_TRACE` every place that is reached is appended to that file, a name a line. Without
//! these variables, and in builds without debug assertions, a place costs nothing and does nothing.

/// Every place, in the order of a kernel's life.
pub const ALL: &[&str] = &[
    // Between the share and the record of it.
    "placed",
    // The record is on disk, nothing exists outside.
    "committed-preparing",
    // Folders and files are made, sockets are not.
    "folders-made",
    // Sockets are bound, there is no container.
    "attached",
    // The engine has made the container, the agent has not noted it.
    "container-created",
    // Noted, not started.
    "committed-creating",
    // The engine has started it, nobody was told.
    "container-started",
    // Its runner has answered, that is not on disk.
    "answered",
    // On disk, its creator has not been told.
    "committed-started",
    // The end is intended on disk, the container runs.
    "committed-stopping",
    // The container has ended, sockets are there.
    "container-stopped",
    // Sockets are gone, the end is not on disk.
    "detached",
    // The end is on disk and told.
    "committed-terminated",
    // The container is removed, folders are there.
    "container-removed",
    // Folders are gone, the record is there.
    "folders-removed",
    // The record is gone, whoever asked has not been told.
    "record-removed",
    // Records were read, nothing is adopted yet.
    "records-loaded",
    // Some kernels are adopted, others are not yet.
    "adopted",
    // For hanging: inside the admission task.
    "admission-step",
    // For hanging: in the child that compiles a policy.
    "policy-compile",
];

/// Marks a place; see the module documentation.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &'static str) {}

#[cfg(debug_assertions)]
pub use active::reach;

#[cfg(debug_assertions)]
mod active {
    use std::collections::HashMap;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{LazyLock, Mutex};

    use rustix::process::{Signal, getpid, kill_process};

    struct Plan {
        what: What,
        /// How often it is passed before it happens.
        left: AtomicU64,
    }

    #[derive(Clone, Copy)]
    enum What {
        Kill,
        Hang,
    }

    static PLANS: LazyLock<HashMap<String, Plan>> = LazyLock::new(|| {
        let text = std::env::var("BERTH_FAILPOINTS").unwrap_or_default();
        text.split(',').filter_map(parse).collect()
    });

    static TRACE: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {
        let path = std::env::var_os("BERTH_FAILPOINT_TRACE")?;
        std::fs::OpenOptions::new().create(true).append(true).open(path).ok().map(Mutex::new)
    });

    fn parse(word: &str) -> Option<(String, Plan)> {
        let (name, action) = word.split_once('=')?;
        let (action, times) = action.split_once(':').unwrap_or((action, "1"));
        let what = match action {
            "kill" => What::Kill,
            "hang" => What::Hang,
            _ => return None,
        };
        let times: u64 = times.parse().ok()?;
        Some((name.trim().to_owned(), Plan { what, left: AtomicU64::new(times.max(1)) }))
    }

    /// Marks a place; see the module documentation.
    pub fn reach(name: &'static str) {
        debug_assert!(super::ALL.contains(&name), "{name} is not in the list of places");
        if let Some(trace) = &*TRACE
            && let Ok(mut file) = trace.lock()
        {
            let _ = writeln!(file, "{name}");
        }
        let Some(plan) = PLANS.get(name) else { return };
        // Exactly the one that takes the last: others pass by.
        if plan.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) != Ok(1) {
            return;
        }
        match plan.what {
            What::Kill => {
                let _ = kill_process(getpid(), Signal::KILL);
                // The signal may be delivered to another thread first: nothing more happens here.
                loop {
                    std::thread::park();
                }
            }
            What::Hang => loop {
                std::thread::park();
            },
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn words_are_read_and_noise_is_passed_over() {
            let read = |word: &str| {
                parse(word)
                    .map(|(name, plan)| (name, matches!(plan.what, What::Kill), plan.left.into_inner()))
            };
            assert_eq!(read("placed=kill"), Some(("placed".to_owned(), true, 1)));
            assert_eq!(read("placed=hang:3"), Some(("placed".to_owned(), false, 3)));
            assert_eq!(read("placed"), None);
            assert_eq!(read("placed=kill:x"), None);
            assert_eq!(read("placed=smile"), None);
        }

        #[test]
        fn no_place_is_named_twice() {
            let names: std::collections::BTreeSet<_> = super::super::ALL.iter().collect();
            assert_eq!(names.len(), super::super::ALL.len());
        }
    }
}
