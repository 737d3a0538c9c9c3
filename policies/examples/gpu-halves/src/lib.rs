//! Offers GPUs in fractions: `cuda.shares`, in steps of half a GPU unless the operator says otherwise. Whole GPUs
//! may be offered beside that; the two names then exclude each other, on a GPU and in a request.

use berth_guest::settings::{Decimal, Flag, Key, Texts, decimal, flag, texts};
use berth_guest::{
    Context, Device, DeviceKind, Inventory, ONE, Offer, Offering, Setting, SlotKind, SlotOffer, SlotReporter,
    Withheld, policy,
};

const FRACTION: Key<Decimal> =
    decimal("fraction", "The smallest part of a GPU that is given; a whole number of them makes one.")
        .default(500_000)
        .range(10_000, 1_000_000);
const FAMILIES: Key<Texts> =
    texts("families", "Which kinds of accelerator, e.g. `cuda`. An empty list: all.").default(&[]);
const WHOLE: Key<Flag> =
    flag("whole", "Whether whole devices are offered, too, as `<family>.device`.").default(false);

policy! {
    world: slot-reporter,
    summary: "Offers GPUs in fractions",
    settings: [FRACTION, FAMILIES, WHOLE],
    check: divides,
}

fn divides(settings: &[Setting]) -> Vec<String> {
    let fraction = FRACTION.get(settings);
    let fine = fraction < 10_000 || 1_000_000 % fraction == 0;
    if fine {
        Vec::new()
    } else {
        vec!["fraction: a whole number of them must make one, as 0.5 or 0.25".to_owned()]
    }
}

impl SlotReporter for Policy {
    fn report(ctx: &Context, inventory: &Inventory) -> Result<Offering, String> {
        let settings = &ctx.settings;
        let quantum = u64::try_from(FRACTION.get(settings)).unwrap_or(ONE).clamp(1, ONE);
        let wanted = FAMILIES.get(settings);
        let mut answer = Offering::default();
        let mut families: Vec<&str> = Vec::new();
        for model in &inventory.models {
            let chosen = wanted.is_empty() || wanted.contains(&model.family);
            if model.kind == DeviceKind::Accelerator && chosen && !families.contains(&&*model.family) {
                families.push(&model.family);
            }
        }
        for (group, family) in (0..).zip(families) {
            offer_family(inventory, family, group, quantum, WHOLE.get(settings), &mut answer);
        }
        Ok(answer)
    }
}

/// All slots of one family: where one is named the built-in leaves the family alone.
fn offer_family(
    inventory: &Inventory,
    family: &str,
    group: u32,
    quantum: u64,
    whole: bool,
    answer: &mut Offering,
) {
    // A device of which parts are there is offered as its parts.
    let is_parent = |index: u32| inventory.devices.iter().any(|part| part.parent == Some(index));
    let mut shared: Vec<Offer> = Vec::new();
    let mut parts: Vec<SlotOffer> = Vec::new();
    // What the agent reserves comes off the end, as whole devices.
    let mut owed = inventory.reserved(family);
    let mut devices: Vec<_> = inventory
        .all()
        .filter(|(index, device, model)| model.family == family && device.works() && !is_parent(*index))
        .collect();
    while owed > 0
        && let Some((device, _, model)) = devices.pop()
    {
        owed = owed.saturating_sub(model.capacity);
        answer.withheld.push(Withheld::whole(device, "reserved for the system"));
    }
    for (device, known, model) in devices {
        let offer = Offer { device, amount: model.capacity };
        if let (Some(partition), true) = (&model.partition, is_part(known)) {
            // Parts are small enough.
            let name = [family, ".device:", partition].concat();
            match parts.iter_mut().find(|slot| slot.name == name) {
                Some(slot) => slot.offers.push(offer),
                None => parts.push(slot(name, ONE, None, vec![offer])),
            }
        } else {
            shared.push(offer);
        }
    }
    if whole {
        answer.slots.push(slot([family, ".device"].concat(), ONE, Some(group), shared.clone()));
    }
    let group = whole.then_some(group);
    answer.slots.push(slot([family, ".shares"].concat(), quantum, group, shared));
    answer.slots.extend(parts);
}

fn is_part(device: &Device) -> bool {
    device.parent.is_some()
}

fn slot(name: String, quantum: u64, exclusive_group: Option<u32>, offers: Vec<Offer>) -> SlotOffer {
    SlotOffer { name, kind: SlotKind::Count, quantum, exclusive_group, offers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::{Machine, context, model, settings};
    use berth_guest::{DeviceModel, SettingValue};

    fn offered(machine: &Machine, given: &[(&str, SettingValue)]) -> Vec<(String, u64, Option<u32>, usize)> {
        let offering = Policy::report(&context::<Policy>(given), &machine.inventory()).unwrap();
        let told = |slot: SlotOffer| (slot.name, slot.quantum, slot.exclusive_group, slot.offers.len());
        offering.slots.into_iter().map(told).collect()
    }

    #[test]
    fn gpus_are_offered_in_halves_and_nothing_else_is_named() {
        let machine = Machine::new().cores(4).memory(1 << 30).gpus(2);
        assert_eq!(offered(&machine, &[]), [("cuda.shares".to_owned(), 500_000, None, 2)]);
        let none: [&str; 1] = ["rocm"];
        assert_eq!(offered(&machine, &[("families", (&none[..]).into())]), []);
    }

    #[test]
    fn whole_gpus_beside_fractions_exclude_them() {
        let given = [("whole", true.into()), ("fraction", SettingValue::Decimal(250_000))];
        assert_eq!(
            offered(&Machine::new().gpus(2), &given),
            [("cuda.device".to_owned(), ONE, Some(0), 2), ("cuda.shares".to_owned(), 250_000, Some(0), 2)]
        );
    }

    #[test]
    fn parts_of_a_gpu_stay_whole_and_the_gpu_goes_with_them() {
        let part = DeviceModel {
            partition: Some("1g.10gb".to_owned()),
            ..model(DeviceKind::Accelerator, "cuda", "H100 MIG", ONE)
        };
        let mut machine = Machine::new().gpus(2);
        let parent = machine.index("cuda", 0);
        machine = machine.devices(DeviceModel { family: "cuda".to_owned(), ..part }, 1);
        let mut inventory = machine.inventory();
        inventory.devices[2].parent = Some(parent);
        let offering = Policy::report(&context::<Policy>(&[]), &inventory).unwrap();
        let told: Vec<_> = offering
            .slots
            .iter()
            .map(|slot| (&*slot.name, slot.offers.iter().map(|offer| offer.device).collect::<Vec<_>>()))
            .collect();
        assert_eq!(told, [("cuda.shares", vec![1]), ("cuda.device:1g.10gb", vec![2])]);
    }

    #[test]
    fn what_the_agent_reserves_comes_off_the_end() {
        let machine = Machine::new().gpus(3).reserved("cuda", ONE / 2);
        let offering = Policy::report(&context::<Policy>(&[]), &machine.inventory()).unwrap();
        assert_eq!(offering.withheld[0].device, 2);
        assert_eq!(offering.slots[0].offers.len(), 2);
    }

    #[test]
    fn a_fraction_must_divide_one() {
        let problems = |millionths| settings::<Policy>(&[("fraction", SettingValue::Decimal(millionths))]);
        assert!(problems(250_000).is_ok() && problems(1_000_000).is_ok());
        assert!(problems(300_000).unwrap_err()[0].starts_with("fraction:"));
        assert_eq!(problems(0).unwrap_err(), ["fraction: must not be below 0.01"]);
    }
}
