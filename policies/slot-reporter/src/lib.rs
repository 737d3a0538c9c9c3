//! The slot reporter that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest as _;

use bindings::berth::policy::types::{self, Setting, SettingValue};
use bindings::exports::berth::policy::about::{self, PolicyInfo, SettingInfo};
use bindings::exports::berth::policy::reporting::{self, Inventory, Offering};

mod bindings {
    #![allow(missing_docs, unsafe_code, reason = "generated from wit/policy.wit")]
    wit_bindgen::generate!({ path: "../../wit", world: "slot-reporter" });
    use super::SlotReporter;
    export!(SlotReporter with_types_in self);
}
mod logic;

struct SlotReporter;

impl about::Guest for SlotReporter {
    fn describe() -> PolicyInfo {
        let integer = |key: &str, help: &str| SettingInfo {
            key: key.to_owned(),
            default_value: Some(SettingValue::Integer(0)),
            help: help.to_owned(),
        };
        PolicyInfo {
            name: "slot-reporter".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Offers every working core, the memory and whole accelerators".to_owned(),
            settings: vec![
                integer(logic::RESERVE_CPU, "Whole cores that are not offered, the last ones."),
                integer(logic::RESERVE_MEM, "Bytes of memory that are not offered."),
            ],
            image_labels: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn check_settings(settings: Vec<Setting>) -> Result<(), Vec<String>> {
        let problems: Vec<String> = settings
            .iter()
            .filter(|setting| matches!(setting.value, SettingValue::Integer(number) if number < 0))
            .map(|setting| format!("{}: must not be below 0", setting.key))
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl reporting::Guest for SlotReporter {
    fn report(ctx: types::Context, inventory: Inventory) -> Result<Offering, String> {
        Ok(logic::report(&ctx, &inventory))
    }
}
