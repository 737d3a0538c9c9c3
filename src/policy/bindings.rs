//! The WIT package as Rust: one set of types for the three worlds.
#![allow(
    missing_docs,
    clippy::all,
    reason = "generated from wit/policy.wit, which carries the documentation"
)]

pub mod slot_reporter {
    wasmtime::component::bindgen!({ path: "wit", world: "slot-reporter", additional_derives: [Clone, PartialEq] });
}
pub mod scheduler {
    wasmtime::component::bindgen!({
        path: "wit", world: "scheduler", additional_derives: [Clone, PartialEq],
        with: {
            "berth:policy/types": super::slot_reporter::berth::policy::types,
            "berth:policy/host": super::slot_reporter::berth::policy::host,
        },
    });
}
pub mod container_config {
    wasmtime::component::bindgen!({
        path: "wit", world: "container-config", additional_derives: [Clone, PartialEq],
        with: {
            "berth:policy/types": super::slot_reporter::berth::policy::types,
            "berth:policy/host": super::slot_reporter::berth::policy::host,
        },
    });
}

pub use container_config::exports::berth::policy::configuring;
pub use scheduler::exports::berth::policy::scheduling;
pub use slot_reporter::berth::policy::{host, types};
pub use slot_reporter::exports::berth::policy::reporting;
