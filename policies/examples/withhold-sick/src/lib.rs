//! Withholds devices that an operator does not trust: by model, by what is wrong with them, by health, or one by
//! one. What fails outright the agent withholds by itself.

use berth_guest::settings::{Flag, Integer, Key, Texts, flag, integer, texts};
use berth_guest::{
    Context, Device, DeviceKind, DeviceModel, Health, Inventory, Offering, Setting, SlotReporter, Withheld,
    policy,
};

const MODELS: Key<Texts> =
    texts("models", "Names of models to withhold; `Tesla K80*` is all that begin so.").default(&[]);
const FAULTS: Key<Texts> =
    texts("faults", "Withhold what has one of these texts in its fault, e.g. `Xid 79`.").default(&[]);
const DEVICES: Key<Texts> =
    texts("devices", "UUIDs of single devices to withhold, for repairs.").default(&[]);
const DEGRADED: Key<Flag> =
    flag("degraded", "Whether to withhold every accelerator that is degraded.").default(false);
const AT_MOST_PERCENT: Key<Integer> = integer(
    "at-most-percent",
    "Should more of a family than this be withheld by health or fault, the last offer stays: then rather the \
     health check is sick.",
)
.default(100)
.range(1, 100);

policy! {
    world: slot-reporter,
    summary: "Withholds devices by model, health, fault or UUID",
    settings: [MODELS, FAULTS, DEVICES, DEGRADED, AT_MOST_PERCENT],
    check: no_empty_text,
}

/// An empty text is in every fault and begins every name.
fn no_empty_text(settings: &[Setting]) -> Vec<String> {
    let lists = [("models", MODELS), ("faults", FAULTS), ("devices", DEVICES)];
    let empty = lists
        .into_iter()
        .filter(|(_, list)| list.get(settings).iter().any(|text| text.trim_matches(['*', ' ']).is_empty()));
    empty.map(|(key, _)| [key, ": an entry is empty, it would mean all devices"].concat()).collect()
}

/// Why a device is withheld.
enum Reason {
    /// The operator names it.
    Chosen(String),
    /// Of how it does.
    Sick(String),
}

impl SlotReporter for Policy {
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String> {
        let reasons: Vec<Option<Reason>> =
            inventory.all().map(|(_, device, model)| reason(&ctx.settings, device, model)).collect();
        too_many(&ctx.settings, inventory, &reasons)?;
        let mut withheld = Vec::new();
        for (index, device, _) in inventory.all() {
            // Parts go with the whole.
            let own = reasons.get(index as usize).and_then(Option::as_ref);
            let reason = own.or_else(|| reasons.get(device.parent? as usize)?.as_ref());
            if let Some(Reason::Chosen(reason) | Reason::Sick(reason)) = reason {
                withheld.push(Withheld::whole(index, &**reason));
            }
        }
        Ok(Offering { withheld, ..Offering::default() })
    }
}

fn reason(settings: &[Setting], device: &Device, model: &DeviceModel) -> Option<Reason> {
    if model.kind != DeviceKind::Accelerator {
        return None;
    }
    if let Some(uuid) = device.uuid.as_ref().filter(|uuid| DEVICES.get(settings).contains(*uuid)) {
        return Some(Reason::Chosen([uuid, " is withheld by the operator"].concat()));
    }
    if MODELS.get(settings).iter().any(|pattern| is_named(&model.name, pattern)) {
        return Some(Reason::Chosen([&model.name, " is withheld by the operator"].concat()));
    }
    let fault = device.fault.as_deref().unwrap_or_default();
    let known = FAULTS.get(settings).iter().any(|text| fault.contains(&**text));
    if known || (DEGRADED.get(settings) && device.health == Health::Degraded) {
        return Some(Reason::Sick(if fault.is_empty() { "degraded" } else { fault }.to_owned()));
    }
    None
}

fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// A health check that finds everything sick at once is not to be believed.
fn too_many(settings: &[Setting], inventory: &Inventory, reasons: &[Option<Reason>]) -> Result<(), String> {
    let at_most = u64::try_from(AT_MOST_PERCENT.get(settings)).unwrap_or(0);
    for (index, model) in inventory.models.iter().enumerate() {
        if inventory.models[..index].iter().any(|earlier| earlier.family == model.family) {
            continue;
        }
        let (mut sick, mut all) = (0_u64, 0_u64);
        for ((_, _, other), reason) in inventory.all().zip(reasons) {
            if other.family == model.family {
                all += 1;
                sick += u64::from(matches!(reason, Some(Reason::Sick(_))));
            }
        }
        if sick * 100 > all * at_most {
            let counts = [&sick.to_string(), " of ", &all.to_string(), " ", &model.family].concat();
            return Err([&*counts, " would be withheld as sick, more than at-most-percent allows"].concat());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::SettingValue;
    use berth_guest::testing::{Machine, context, settings};

    fn list(texts: &[&str]) -> SettingValue {
        texts.into()
    }

    fn withheld(machine: &Machine, given: &[(&str, SettingValue)]) -> Result<Vec<u32>, String> {
        let offering = Policy::report(&context::<Policy>(given), &machine.inventory())?;
        Ok(offering.withheld.into_iter().map(|withheld| withheld.device).collect())
    }

    fn sick(machine: Machine, number: u32) -> Machine {
        machine.with("cuda", number, |gpu| {
            gpu.health = Health::Degraded;
            gpu.fault = Some("Xid 63: row remapping pending".to_owned());
        })
    }

    #[test]
    fn devices_are_withheld_for_each_reason() {
        let machine = sick(Machine::new().cores(2).gpus(4), 1);
        assert_eq!(withheld(&machine, &[]), Ok(vec![]));
        assert_eq!(withheld(&machine, &[("degraded", true.into())]), Ok(vec![3]));
        assert_eq!(withheld(&machine, &[("faults", list(&["Xid 63"]))]), Ok(vec![3]));
        assert_eq!(withheld(&machine, &[("faults", list(&["Xid 79"]))]), Ok(vec![]));
        assert_eq!(withheld(&machine, &[("devices", list(&["GPU-3"]))]), Ok(vec![5]));
        assert_eq!(withheld(&machine, &[("models", list(&["H1*"]))]), Ok(vec![2, 3, 4, 5]));
        assert_eq!(withheld(&machine, &[("models", list(&["H1"]))]), Ok(vec![]));
    }

    #[test]
    fn parts_go_with_the_whole() {
        let mut inventory = sick(Machine::new().gpus(3), 0).inventory();
        inventory.devices[2].parent = Some(0);
        let offering = Policy::report(&context::<Policy>(&[("degraded", true.into())]), &inventory).unwrap();
        assert_eq!(offering.withheld.iter().map(|withheld| withheld.device).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_check_that_finds_too_much_is_not_believed() {
        let machine = sick(sick(Machine::new().gpus(4), 0), 2);
        let given = |percent: i64| [("degraded", true.into()), ("at-most-percent", percent.into())];
        assert_eq!(withheld(&machine, &given(50)), Ok(vec![0, 2]));
        assert!(withheld(&machine, &given(49)).unwrap_err().starts_with("2 of 4 cuda"));
    }

    #[test]
    fn an_entry_that_means_everything_is_refused() {
        let given = [("models", list(&["*"])), ("faults", list(&["Xid 79", ""]))];
        let problems = settings::<Policy>(&given).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
