//! Limits that follow the kind of session: how many processes, who is killed first when the node runs out of
//! memory, how much CPU time. What is not set stays as the agent would make it.

use berth_guest::settings::{Decimal, Integer, Key, Table, decimal, integer};
use berth_guest::{
    ContainerConfig, Context, Edit, KernelRequest, Node, Plan, Refusal, SessionKind, Setting, Share, policy,
};

/// The agent takes no less than a hundredth of a core.
const LEAST_CPU: i64 = 10_000;

const PIDS: Table<Integer> =
    integer("pids", "Most processes, by kind of session: `pids.interactive = 1024`.")
        .range(16, 4_194_304)
        .table();
const OOM_SCORE: Table<Integer> =
    integer("oom-score", "Who is killed first, -1000 to 1000: `oom-score.batch = 500`.")
        .range(-1000, 1000)
        .table();
const CPU: Table<Decimal> = decimal(
    "cpu",
    "CPU time in cores, `cpu.interactive = 1.5`; never more than the cores that the kernel holds.",
)
.range(LEAST_CPU, 4096 * 1_000_000)
.table();
const CPU_SHARE: Table<Decimal> =
    decimal("cpu-share", "The same as a part of the cores that the kernel holds: `cpu-share.batch = 0.5`.")
        .range(LEAST_CPU, 1_000_000)
        .table();
const PIDS_PER_CORE: Key<Integer> =
    integer("pids-per-core", "Processes more for each core that the kernel holds, where `pids` is set.")
        .default(0)
        .range(0, 65_536);

policy! {
    world: container-config,
    summary: "Limits processes, memory rank and CPU time by the kind of session",
    settings: [PIDS, PIDS_PER_CORE, OOM_SCORE, CPU, CPU_SHARE],
    needs: &["set-pids-limit", "set-oom-score", "set-cpu-limit"],
    check: problems,
}

fn problems(settings: &[Setting]) -> Vec<String> {
    let known = |name: &str| SessionKind::ALL.iter().any(|kind| kind.name() == name);
    let named = |table: &'static str, name: &str| [table, ".", name].concat();
    let mut problems: Vec<String> = PIDS
        .iter(settings)
        .map(|(name, _)| ("pids", name))
        .chain(OOM_SCORE.iter(settings).map(|(name, _)| ("oom-score", name)))
        .chain(CPU.iter(settings).map(|(name, _)| ("cpu", name)))
        .chain(CPU_SHARE.iter(settings).map(|(name, _)| ("cpu-share", name)))
        .filter(|(_, name)| !known(name))
        .map(|(table, name)| {
            [
                &*named(table, name),
                ": there is no such kind of session (interactive, batch, inference, system)",
            ]
            .concat()
        })
        .collect();
    for (name, _) in CPU.iter(settings).filter(|(name, _)| CPU_SHARE.get(settings, name).is_some()) {
        problems.push([&*named("cpu", name), ": only one of it and cpu-share.", name].concat());
    }
    problems
}

impl ContainerConfig for Policy {
    fn adjust(
        ctx: &Context,
        request: &KernelRequest,
        node: &Node,
        shares: &[Share],
        _: &Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        let (settings, kind) = (&ctx.settings, request.session_kind.name());
        let held = node.held(shares, "cpu");
        let mut edits = Vec::new();
        if let Some(limit) = PIDS.get(settings, kind) {
            let per_core = PIDS_PER_CORE.get(settings).unsigned_abs();
            let more = per_core.saturating_mul(held.div_ceil(berth_guest::ONE));
            // What Linux can count.
            edits.push(Edit::SetPidsLimit(limit.unsigned_abs().saturating_add(more).min(4_194_304)));
        }
        if let Some(score) = OOM_SCORE.get(settings, kind).and_then(|score| i32::try_from(score).ok()) {
            edits.push(Edit::SetOomScore(score));
        }
        let absolute = CPU.get(settings, kind).map(i64::unsigned_abs);
        let part = CPU_SHARE.get(settings, kind).filter(|_| held > 0).map(|part| {
            let part = u128::from(held) * u128::from(part.unsigned_abs()) / 1_000_000;
            u64::try_from(part).unwrap_or(u64::MAX)
        });
        if let Some(limit) = absolute.or(part) {
            let most = if held > 0 { held } else { u64::MAX };
            edits.push(Edit::SetCpuLimit(limit.min(most).max(LEAST_CPU.unsigned_abs())));
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::{Machine, context, settings};
    use berth_guest::{ONE, SettingValue};

    fn adjusted(given: &[(&str, SettingValue)], kind: SessionKind, cores: u32) -> Vec<Edit> {
        let machine = Machine::new().cores(8);
        let request = KernelRequest { session_kind: kind, ..machine.request(&[("cpu", ONE)]) };
        let shares: Vec<Share> = (0..cores).map(|device| Share { device, slot: 0, amount: ONE }).collect();
        let ctx = context::<Policy>(given);
        Policy::adjust(&ctx, &request, &machine.node(), &shares, &Plan::default()).unwrap()
    }

    #[test]
    fn only_the_limits_of_its_kind_are_set() {
        let given = [
            ("pids.batch", 512.into()),
            ("oom-score.batch", 500.into()),
            ("oom-score.system", (-900).into()),
        ];
        assert_eq!(
            adjusted(&given, SessionKind::Batch, 2),
            [Edit::SetPidsLimit(512), Edit::SetOomScore(500)]
        );
        assert_eq!(adjusted(&given, SessionKind::System, 2), [Edit::SetOomScore(-900)]);
        assert_eq!(adjusted(&given, SessionKind::Inference, 2), []);
    }

    #[test]
    fn processes_may_grow_with_the_cores() {
        let given = [("pids.batch", 512.into()), ("pids-per-core", 100.into())];
        assert_eq!(adjusted(&given, SessionKind::Batch, 4), [Edit::SetPidsLimit(912)]);
    }

    #[test]
    fn cpu_time_is_bounded_by_the_cores_that_are_held() {
        let given = [
            ("cpu.batch", SettingValue::Decimal(1_500_000)),
            ("cpu-share.inference", SettingValue::Decimal(250_000)),
        ];
        assert_eq!(adjusted(&given, SessionKind::Batch, 4), [Edit::SetCpuLimit(1_500_000)]);
        assert_eq!(adjusted(&given, SessionKind::Batch, 1), [Edit::SetCpuLimit(ONE)]);
        assert_eq!(adjusted(&given, SessionKind::Batch, 0), [Edit::SetCpuLimit(1_500_000)]);
        assert_eq!(adjusted(&given, SessionKind::Inference, 3), [Edit::SetCpuLimit(750_000)]);
        assert_eq!(adjusted(&given, SessionKind::Inference, 0), []);
        // A whole number in a table arrives as such.
        assert_eq!(
            adjusted(&[("cpu.batch", 2.into())], SessionKind::Batch, 4),
            [Edit::SetCpuLimit(2_000_000)]
        );
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let given = [
            ("pids.bacth", 512.into()),
            ("pids.batch", 3.into()),
            ("cpu.batch", SettingValue::Decimal(1)),
            ("cpu-share.batch", SettingValue::Decimal(500_000)),
        ];
        let problems = settings::<Policy>(&given).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems.contains(&"pids.batch: must not be below 16".to_owned()), "{problems:?}");
        assert!(problems.contains(&"cpu.batch: must not be below 0.01".to_owned()), "{problems:?}");
    }
}
