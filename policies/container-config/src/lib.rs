//! The container configuration that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest as _;

use bindings::berth::policy::types::{
    self, Context, KernelRequest, Node, Refusal, Setting, SettingValue, Share,
};
use bindings::exports::berth::policy::about::{self, PolicyInfo, SettingInfo};
use bindings::exports::berth::policy::configuring::{self, Edit, Plan};

mod bindings {
    #![allow(missing_docs, unsafe_code, reason = "generated from wit/policy.wit")]
    wit_bindgen::generate!({ path: "../../wit", world: "container-config" });
    use super::ContainerConfig;
    export!(ContainerConfig with_types_in self);
}
mod logic;

struct ContainerConfig;

impl about::Guest for ContainerConfig {
    fn describe() -> PolicyInfo {
        let setting = |key: &str, default_value: Option<SettingValue>, help: &str| SettingInfo {
            key: key.to_owned(),
            default_value,
            help: help.to_owned(),
        };
        let integer = |number| Some(SettingValue::Integer(number));
        PolicyInfo {
            name: "container-config".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "Adds variables, mounts and limits of the operator".to_owned(),
            settings: vec![
                setting("env.*", None, "Variables to add to every kernel that does not set them itself."),
                setting(
                    logic::MOUNTS,
                    Some(SettingValue::Texts(Vec::new())),
                    "Folders to add to every kernel, `SRC:DST` or `SRC:DST:ro`.",
                ),
                setting(logic::PIDS_LIMIT, integer(logic::PIDS_LIMIT_DEFAULT), "Most processes in a kernel."),
                setting(logic::SHM_SIZE, integer(0), "Bytes of /dev/shm; 0 leaves it as it is."),
                setting(
                    logic::OOM_SCORE,
                    integer(logic::OOM_SCORE_DEFAULT),
                    "How readily a kernel is killed when the node runs out of memory, -1000 to 1000.",
                ),
                setting(
                    logic::THREAD_VARIABLES,
                    Some(SettingValue::Flag(true)),
                    "Whether OMP_NUM_THREADS and the like tell the number of cores.",
                ),
            ],
            image_labels: Vec::new(),
            needs: logic::NEEDS.map(str::to_owned).to_vec(),
        }
    }

    fn check_settings(settings: Vec<Setting>) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        for Setting { key, value } in &settings {
            let mut complain = |problem: &str| problems.push([key, ": ", problem].concat());
            match (&**key, value) {
                (logic::MOUNTS, SettingValue::Texts(texts)) => {
                    for text in texts {
                        if let Err(problem) = logic::parse_mount(text) {
                            complain(&["`", text, "`: ", problem].concat());
                        }
                    }
                }
                (logic::PIDS_LIMIT, SettingValue::Integer(number)) => {
                    complain_if(
                        u64::try_from(*number).map_or(Some("must not be below 0"), logic::pids_limit_problem),
                        complain,
                    );
                }
                (logic::SHM_SIZE, SettingValue::Integer(number)) if *number != 0 => {
                    complain_if(
                        u64::try_from(*number).map_or(Some("must not be below 0"), logic::size_problem),
                        complain,
                    );
                }
                (logic::OOM_SCORE, SettingValue::Integer(number)) => {
                    complain_if(
                        i32::try_from(*number).map_or(Some("is out of range"), logic::oom_score_problem),
                        complain,
                    );
                }
                (key, value) => {
                    if let Some(name) = key.strip_prefix(logic::ENV) {
                        match value {
                            SettingValue::Text(text) => complain_if(
                                logic::variable_problem(name).or_else(|| logic::value_problem(text)),
                                complain,
                            ),
                            _ => complain("must be a text"),
                        }
                    }
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

fn complain_if(problem: Option<&'static str>, mut complain: impl FnMut(&str)) {
    if let Some(problem) = problem {
        complain(problem);
    }
}

impl configuring::Guest for ContainerConfig {
    fn adjust(
        ctx: Context,
        _: KernelRequest,
        node: Node,
        shares: Vec<Share>,
        plan: Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        Ok(logic::adjust(&ctx, &node, &shares, &plan))
    }
}
