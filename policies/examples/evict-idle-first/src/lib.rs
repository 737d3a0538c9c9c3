//! Who must go when the node is short of something: idle kernels before those at work, of each the preemptible ones
//! first. An idle kernel goes by how long it has been idle; one at work by how little is lost, the youngest first.

use berth_guest::settings::{Flag, Integer, Key, Texts, flag, integer, texts};
use berth_guest::{
    Context, Eviction, Node, Pressure, RunningKernel, Scheduler, SessionKind, Setting, policy,
};

const IDLE_AFTER: Key<Integer> =
    integer("idle-after-sec", "A kernel that executed nothing for so long counts as idle.")
        .default(300)
        .range(1, 31_536_000);
const SPARE_BUSY: Key<Flag> =
    flag("spare-busy", "Whether kernels at work never go, unless they are preemptible.").default(false);
const KEEP: Key<Texts> = texts("keep", "Owners whose kernels never go for this.").default(&[]);
const GRACE: Key<Integer> =
    integer("grace-sec", "How long a kernel has to end by itself; 0: as long as the agent usually gives.")
        .default(0)
        .range(0, 600);

policy! {
    world: scheduler,
    summary: "Frees the node of idle kernels before those at work",
    settings: [IDLE_AFTER, SPARE_BUSY, KEEP, GRACE],
}

impl Scheduler for Policy {
    fn evict(
        ctx: &Context,
        pressure: &Pressure,
        running: &[RunningKernel],
        _: &Node,
    ) -> Option<Vec<Eviction>> {
        let settings = &ctx.settings;
        let mut victims: Vec<(Rank, u32)> = (0..)
            .zip(running)
            .filter(|(_, kernel)| may_go(settings, kernel) && frees(pressure, kernel))
            .filter_map(|(index, kernel)| Some((rank(settings, pressure, kernel)?, index)))
            .collect();
        victims.sort_unstable();
        let grace = u32::try_from(GRACE.get(settings)).ok().filter(|seconds| *seconds > 0);
        let evict = |(rank, kernel): (Rank, u32)| Eviction {
            grace_ms: grace.map(|seconds| seconds.saturating_mul(1000)),
            ..Eviction::of(kernel, reason(pressure, &rank, &running[kernel as usize]))
        };
        Some(victims.into_iter().map(evict).collect())
    }
}

/// First to last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    at_work: bool,
    kept_if_possible: bool,
    /// The longest idle, or the youngest at work.
    then: u64,
}

fn may_go(settings: &[Setting], kernel: &RunningKernel) -> bool {
    kernel.session_kind != SessionKind::System && !KEEP.get(settings).contains(&kernel.owner)
}

/// Whether its end helps.
fn frees(pressure: &Pressure, kernel: &RunningKernel) -> bool {
    match pressure {
        Pressure::Memory(_) => kernel.memory_used > 0,
        Pressure::Disk(_) => kernel.disk_used > 0,
        Pressure::Pids(_) => kernel.pids_used > 0,
        Pressure::Devices(lost) => kernel.shares.iter().any(|share| lost.contains(&share.device)),
    }
}

/// None: it is spared.
fn rank(settings: &[Setting], pressure: &Pressure, kernel: &RunningKernel) -> Option<Rank> {
    let idle_after_ms = IDLE_AFTER.get(settings).unsigned_abs().saturating_mul(1000);
    let at_work = kernel.idle_ms < idle_after_ms;
    // Whose device is lost cannot be spared.
    let lost = matches!(pressure, Pressure::Devices(_));
    if at_work && !kernel.preemptible && SPARE_BUSY.get(settings) && !lost {
        return None;
    }
    let then = u64::MAX - if at_work { kernel.started_at_ms } else { kernel.idle_ms };
    Some(Rank { at_work, kept_if_possible: !kernel.preemptible, then })
}

fn reason(pressure: &Pressure, rank: &Rank, kernel: &RunningKernel) -> String {
    let short = match pressure {
        Pressure::Memory(_) => "the node runs out of memory",
        Pressure::Disk(_) => "the node runs out of disk space",
        Pressure::Pids(_) => "the node runs out of processes",
        Pressure::Devices(_) => return "a device of it was lost".to_owned(),
    };
    if rank.at_work {
        return short.to_owned();
    }
    let minutes = (kernel.idle_ms / 60_000).to_string();
    [short, ", and the kernel has been idle for ", &minutes, " minutes"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::context;
    use berth_guest::{SettingValue, Share};

    const MINUTE: u64 = 60_000;

    fn kernel(idle_minutes: u64, started_at_ms: u64) -> RunningKernel {
        RunningKernel {
            owner: "alice".to_owned(),
            memory_used: 1 << 30,
            pids_used: 10,
            idle_ms: idle_minutes * MINUTE,
            started_at_ms,
            ..RunningKernel::default()
        }
    }

    fn evicted(given: &[(&str, SettingValue)], pressure: &Pressure, running: &[RunningKernel]) -> Vec<u32> {
        let ctx = context::<Policy>(given);
        let evictions = Policy::evict(&ctx, pressure, running, &Node::default()).unwrap();
        evictions.into_iter().map(|eviction| eviction.kernel).collect()
    }

    #[test]
    fn idle_kernels_go_before_those_at_work_and_preemptible_ones_first() {
        let preemptible = |kernel| RunningKernel { preemptible: true, ..kernel };
        let running = [
            kernel(0, 10),
            kernel(0, 20),
            kernel(90, 0),
            kernel(10, 0),
            preemptible(kernel(6, 0)),
            preemptible(kernel(1, 0)),
        ];
        assert_eq!(evicted(&[], &Pressure::Memory(1), &running), [4, 2, 3, 5, 1, 0]);
        assert_eq!(evicted(&[("spare-busy", true.into())], &Pressure::Memory(1), &running), [4, 2, 3, 5]);
        assert_eq!(
            evicted(&[("idle-after-sec", 3600.into())], &Pressure::Pids(1), &running),
            [2, 4, 5, 1, 0, 3]
        );
    }

    #[test]
    fn who_frees_nothing_stays_and_so_do_system_kernels_and_kept_owners() {
        let running = [
            RunningKernel { memory_used: 0, ..kernel(90, 0) },
            RunningKernel { session_kind: SessionKind::System, ..kernel(90, 0) },
            RunningKernel { owner: "ops".to_owned(), ..kernel(90, 0) },
            kernel(0, 0),
        ];
        let keep: [&str; 1] = ["ops"];
        assert_eq!(evicted(&[("keep", (&keep[..]).into())], &Pressure::Memory(1), &running), [3]);
        assert_eq!(evicted(&[], &Pressure::Disk(1), &running), [0_u32; 0]);
    }

    #[test]
    fn who_lost_its_device_cannot_be_spared() {
        let holds =
            |device| RunningKernel { shares: vec![Share { device, slot: 0, amount: 1 }], ..kernel(0, 0) };
        let pressure = Pressure::Devices(vec![5]);
        assert_eq!(evicted(&[("spare-busy", true.into())], &pressure, &[holds(4), holds(5)]), [1]);
    }
}
