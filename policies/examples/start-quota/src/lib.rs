//! Bounds how many kernels of one owner start at the same time, so that one who submits two hundred does not keep
//! everybody else waiting. Whoever is over the quota waits; the others keep their order of arrival.

use berth_guest::settings::{Integer, Key, Table, integer};
use berth_guest::{Context, Decision, KernelRequest, Load, Node, Refusal, Scheduler, Verdict, policy};

const DEFAULT: Key<Integer> =
    integer("default", "Starts at the same time that an owner may have; 0: none at all.")
        .default(2)
        .range(0, 1000);
const QUOTA: Table<Integer> =
    integer("quota", "The same of single owners: `quota.alice = 8`.").range(0, 1000).table();

policy! {
    world: scheduler,
    summary: "Bounds how many kernels of one owner start at the same time",
    settings: [DEFAULT, QUOTA],
}

impl Scheduler for Policy {
    fn order(ctx: &Context, waiting: &[KernelRequest], _: &Node, load: &Load) -> Vec<Decision> {
        let mut arrivals: Vec<u32> = (0..).take(waiting.len()).collect();
        arrivals.sort_by_key(|index| waiting[*index as usize].requested_at_ms);
        // By owner, those of this answer among them.
        let mut starts: Vec<(&str, u64)> = Vec::new();
        let mut decide = |request: u32| {
            let owner = &*waiting[request as usize].owner;
            let quota = QUOTA.get(&ctx.settings, owner).unwrap_or_else(|| DEFAULT.get(&ctx.settings));
            let quota = u64::try_from(quota).unwrap_or(0);
            let known = starts.iter().position(|entry| entry.0 == owner);
            let at = known.unwrap_or_else(|| {
                starts.push((owner, starting(load, owner)));
                starts.len() - 1
            });
            let count = &mut starts[at].1;
            let verdict = if quota == 0 {
                Verdict::Refuse(Refusal::new(
                    "no-start-quota",
                    [owner, " may start nothing on this node"].concat(),
                ))
            } else if *count < quota {
                *count += 1;
                Verdict::Start
            } else {
                let count = count.to_string();
                Verdict::Wait([owner, " has ", &count, " starts, the quota is ", &quota.to_string()].concat())
            };
            Decision { request, verdict }
        };
        arrivals.into_iter().map(&mut decide).collect()
    }
}

/// All that an owner starts now, in whatever projects.
fn starting(load: &Load, owner: &str) -> u64 {
    let own = load.tallies.iter().filter(|tally| tally.owner == owner);
    own.map(|tally| u64::from(tally.starting)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::{Machine, context};
    use berth_guest::{SettingValue, Tally};

    fn ordered(given: &[(&str, SettingValue)], owners: &[&str], tallies: Vec<Tally>) -> String {
        let machine = Machine::new().cores(4);
        let request = |(at, owner): (u64, &&str)| KernelRequest {
            owner: (*owner).to_owned(),
            requested_at_ms: at,
            ..machine.request(&[("cpu", 1_000_000)])
        };
        let waiting: Vec<KernelRequest> = (0..).zip(owners).map(request).collect();
        let load = Load { tallies, ..Load::default() };
        let decisions = Policy::order(&context::<Policy>(given), &waiting, &machine.node(), &load);
        assert!(
            decisions.iter().map(|decision| decision.request).eq(0..u32::try_from(owners.len()).unwrap())
        );
        decisions
            .iter()
            .map(|decision| match &decision.verdict {
                Verdict::Start => 's',
                Verdict::Wait(_) => 'w',
                Verdict::Refuse(_) => 'r',
            })
            .collect()
    }

    fn tally(owner: &str, project: Option<&str>, starting: u32) -> Tally {
        Tally { owner: owner.to_owned(), project: project.map(str::to_owned), starting, running: 9 }
    }

    #[test]
    fn who_is_over_the_quota_waits_and_the_others_start() {
        assert_eq!(ordered(&[], &["a", "a", "a", "b", "a", "b"], vec![]), "sswsws");
        assert_eq!(ordered(&[], &["a", "a"], vec![tally("a", None, 1)]), "sw");
    }

    #[test]
    fn the_starts_of_all_projects_of_an_owner_count() {
        let tallies = vec![tally("a", Some("x"), 1), tally("a", Some("y"), 1), tally("b", None, 1)];
        assert_eq!(ordered(&[("default", 3.into())], &["a", "a", "b"], tallies), "sws");
    }

    #[test]
    fn single_owners_have_a_quota_of_their_own() {
        let given = [("quota.a", 3.into()), ("quota.c", 0.into()), ("default", 1.into())];
        assert_eq!(ordered(&given, &["a", "a", "a", "a", "b", "b", "c"], vec![]), "ssswswr");
    }
}
