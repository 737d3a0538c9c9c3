//! Resource limits that cannot be refused: clamped to the agent's own
//! (contracts: kernel §2.2 `Ulimits`, the reference's `get_safe_ulimit`).

use rustix::process::{Resource, getrlimit};

use super::Ulimit;

/// The agent's own hard limit of a resource; none: unlimited, or not a resource we know.
pub(super) type OwnLimit = fn(&str) -> Option<u64>;

/// Asks the system for the agent's own hard limit.
pub(super) fn own_limit(name: &str) -> Option<u64> {
    getrlimit(resource(name)?).maximum
}

/// `wanted`, no higher than what the agent may use itself.
pub(super) fn clamp(wanted: &Ulimit, own: OwnLimit) -> Ulimit {
    let ceiling = own(&wanted.name).map(|own| i64::try_from(own).unwrap_or(i64::MAX));
    let lower = |value: i64| match (value, ceiling) {
        (value, None) => value.max(-1),
        (..0, Some(ceiling)) => ceiling,
        (value, Some(ceiling)) => value.min(ceiling),
    };
    let hard = lower(wanted.hard);
    // A soft limit above the hard one is refused by the kernel (setrlimit(2), EINVAL).
    let soft = match (lower(wanted.soft), hard) {
        (soft, -1) => soft,
        (-1, hard) => hard,
        (soft, hard) => soft.min(hard),
    };
    Ulimit { name: wanted.name.clone(), soft, hard }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        "as" => Resource::As,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: OwnLimit, (soft, hard): (i64, i64), expected: (i64, i64)) {
        let clamped = clamp(&Ulimit { name: "nofile".into(), soft, hard }, own);
        assert_eq!((clamped.soft, clamped.hard), expected, "{soft}:{hard}");
    }

    #[test]
    fn limits_never_exceed_the_agents_own() {
        let unlimited: OwnLimit = |_| None;
        let thousand: OwnLimit = |_| Some(1000);
        check(unlimited, (-1, -1), (-1, -1));
        check(unlimited, (5000, 5000), (5000, 5000));
        check(unlimited, (-1, 10), (10, 10));
        check(unlimited, (10, -1), (10, -1));
        check(thousand, (-1, -1), (1000, 1000));
        check(thousand, (100, 5000), (100, 1000));
        check(thousand, (5000, 5000), (1000, 1000));
        check(thousand, (100, 50), (50, 50));
    }
}
