//! Keeps some cores for the system at night, when backups and scrubs run. By day all are offered. Kernels that
//! run keep their cores: idle ones are kept back first, so that the system gets its cores as soon as it can.

use berth_guest::settings::{Integer, Key, Text, Texts, integer, text, texts};
use berth_guest::{Context, DeviceKind, Inventory, Local, Offering, Setting, SlotReporter, Withheld, policy};

/// As [`Local::weekday`] counts.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const CORES: Key<Integer> =
    integer("cores", "Cores to keep; one is always left to kernels.").default(4).range(1, 4096);
const FROM: Key<Text> = text("from", "When the night begins, by the node's local time.").default("22:00");
const UNTIL: Key<Text> = text("until", "When it ends, on the next day if that is earlier.").default("06:00");
const NIGHTS: Key<Texts> =
    texts("nights", "On the evening of which days: `mon` to `sun`. An empty list: every day.").default(&[]);

policy! {
    world: slot-reporter,
    summary: "Keeps cores for the system at night",
    settings: [CORES, FROM, UNTIL, NIGHTS],
    check: problems,
}

fn problems(settings: &[Setting]) -> Vec<String> {
    let mut problems = Vec::new();
    for (key, value) in [("from", FROM.get(settings)), ("until", UNTIL.get(settings))] {
        if Local::minute_of(value).is_none() {
            problems.push([key, ": must read like 22:00, not `", value, "`"].concat());
        }
    }
    if FROM.get(settings) == UNTIL.get(settings) {
        problems.push("until: must differ from `from`".to_owned());
    }
    let unknown = NIGHTS.get(settings).iter().filter(|day| !DAYS.contains(&&***day));
    problems.extend(unknown.map(|day| ["nights: there is no day `", day, "`, only mon to sun"].concat()));
    problems
}

impl SlotReporter for Policy {
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String> {
        if !is_night(&ctx.settings, ctx.local()) {
            return Ok(Offering::default());
        }
        let mut cores: Vec<(u64, u32)> = inventory
            .all()
            .filter(|(_, device, model)| model.kind == DeviceKind::Cpu && device.works())
            .map(|(index, device, _)| (device.in_use, index))
            .collect();
        // Idle ones first, of these the last.
        cores.sort_unstable_by_key(|&(in_use, index)| (in_use, u32::MAX - index));
        let keep = usize::try_from(CORES.get(&ctx.settings)).unwrap_or(0).min(cores.len().saturating_sub(1));
        let mut kept: Vec<u32> = cores.into_iter().take(keep).map(|(_, index)| index).collect();
        kept.sort_unstable();
        let reason = ["kept for the system until ", UNTIL.get(&ctx.settings)].concat();
        let withheld = kept.into_iter().map(|index| Withheld::whole(index, &*reason)).collect();
        Ok(Offering { withheld, ..Offering::default() })
    }
}

/// A night belongs to the day on which it begins.
fn is_night(settings: &[Setting], now: Local) -> bool {
    let (Some(from), Some(until)) =
        (Local::minute_of(FROM.get(settings)), Local::minute_of(UNTIL.get(settings)))
    else {
        return false;
    };
    let nights = NIGHTS.get(settings);
    let counts =
        |day: u8| nights.is_empty() || nights.iter().any(|night| night == DAYS[usize::from(day) % 7]);
    if from < until {
        return (from..until).contains(&now.minute) && counts(now.weekday);
    }
    (now.minute >= from && counts(now.weekday)) || (now.minute < until && counts(now.yesterday()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::ONE;
    use berth_guest::testing::{Machine, context, settings, utc};

    #[test]
    fn a_night_over_midnight_belongs_to_its_evening() {
        let night = |given: &[(&str, berth_guest::SettingValue)], weekday, text: &str| {
            is_night(
                &context::<Policy>(given).settings,
                Local { weekday, minute: Local::minute_of(text).unwrap() },
            )
        };
        assert!(night(&[], 0, "22:00") && night(&[], 1, "05:59"));
        assert!(!night(&[], 0, "06:00") && !night(&[], 0, "21:59"));
        let friday = [("nights", (&["fri"][..]).into())];
        assert!(night(&friday, 4, "23:00") && night(&friday, 5, "01:00"));
        assert!(!night(&friday, 4, "01:00") && !night(&friday, 5, "23:00"));
        let siesta = [("from", "12:00".into()), ("until", "14:00".into())];
        assert!(night(&siesta, 2, "13:00") && !night(&siesta, 2, "14:00"));
    }

    #[test]
    fn idle_cores_are_kept_first_and_one_is_left() {
        let machine = Machine::new().cores(4).with("cpu", 3, |core| core.in_use = ONE);
        let kept = |cores: i64| {
            let mut ctx = context::<Policy>(&[("cores", cores.into())]);
            ctx.now_ms = utc(2026, 1, 5, 23, 0);
            let offering = Policy::report(&ctx, &machine.inventory()).unwrap();
            offering.withheld.iter().map(|withheld| withheld.device).collect::<Vec<_>>()
        };
        assert_eq!(kept(1), [2]);
        assert_eq!(kept(2), [1, 2]);
        assert_eq!(kept(99), [0, 1, 2]);
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let given =
            [("from", "7".into()), ("until", "7".into()), ("nights", (&["sat", "sunday"][..]).into())];
        let problems = settings::<Policy>(&given).unwrap_err();
        let keys: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        assert_eq!(keys, ["from", "until", "until", "nights"]);
    }
}
