//! The scheduler that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest as _;

use bindings::berth::policy::types::{self, Context, KernelRequest, Node, Refusal, Setting, SettingValue};
use bindings::exports::berth::policy::about::{self, PolicyInfo, SettingInfo};
use bindings::exports::berth::policy::scheduling::{
    self, Choice, Decision, Eviction, Load, Placement, Pressure, RunningKernel,
};

mod bindings {
    #![allow(missing_docs, unsafe_code, reason = "generated from wit/policy.wit")]
    wit_bindgen::generate!({ path: "../../wit", world: "scheduler" });
    use super::Scheduler;
    export!(Scheduler with_types_in self);
}
mod logic;

struct Scheduler;

impl about::Guest for Scheduler {
    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "scheduler".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Places kernels on few NUMA nodes; first come, first served".to_owned(),
            settings: vec![SettingInfo {
                key: logic::STRATEGY.to_owned(),
                default_value: Some(SettingValue::Text("pack".to_owned())),
                help: "`pack` fills devices that are in use, `spread` takes the emptiest.".to_owned(),
            }],
            image_labels: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn check_settings(settings: Vec<Setting>) -> Result<(), Vec<String>> {
        for setting in settings {
            if let (logic::STRATEGY, SettingValue::Text(text)) = (&*setting.key, &setting.value)
                && !matches!(&**text, "pack" | "spread")
            {
                return Err(vec!["strategy: must be `pack` or `spread`".to_owned()]);
            }
        }
        Ok(())
    }
}

impl scheduling::Guest for Scheduler {
    fn place(ctx: Context, request: KernelRequest, node: Node, choice: Choice) -> Result<Placement, Refusal> {
        logic::place(&ctx, &request, &node, &choice)
    }

    fn order(_: Context, waiting: Vec<KernelRequest>, _: Node, _: Load) -> Vec<Decision> {
        logic::order(&waiting)
    }

    fn evict(_: Context, pressure: Pressure, running: Vec<RunningKernel>, _: Node) -> Vec<Eviction> {
        logic::evict(&pressure, &running)
    }
}
