//! The three worlds: questions and answers in the types of `wit/policy.wit`, the checks of each answer,
//! and the twins (design §6). Pure: no I/O, no clock.
//!
//! One file per function of a world. Each implements [`Decision`]:
//!
//! * `twin`: the built-in's answer, by the very source file that the shipped guest is built from;
//! * `check`: whether an answer keeps to what was offered, and its completion: what an answer leaves out
//!   the built-in decides.
//!
//! | function | file | refused by `check` |
//! |---|---|---|
//! | `report` | [`report`] | unknown devices, more than a device has, malformed names, silicon counted twice |
//! | `place` | [`place`] | more than is free, sums that differ from the request, broken quanta, excluded slots together |
//! | `order` | [`order`] | somebody named twice or not waiting |
//! | `evict` | [`evict`] | somebody named twice or not running, a grace period beyond reason |
//! | `adjust` | [`adjust`] | edits that are not granted, impossible values, a target or key twice |

use super::bindings::{configuring, reporting, scheduling, types};
use super::{Decision, Refusal, WorldKind};

pub mod adjust;
pub mod evict;
pub mod grants;
pub mod order;
pub mod place;
pub mod report;

pub use adjust::{Adjust, AdjustQuestion};
pub use evict::{Evict, EvictQuestion};
pub use order::{Order, OrderQuestion};
pub use place::{Place, PlaceQuestion};
pub use report::{Report, ReportQuestion};

// The logic of the shipped guests. They name the WIT's types through this module's imports.
#[path = "../../../policies/container-config/src/logic.rs"]
#[allow(dead_code, reason = "some of it only the guest's settings need")]
mod container_config;
#[path = "../../../policies/scheduler/src/logic.rs"]
mod scheduler;
#[path = "../../../policies/slot-reporter/src/logic.rs"]
mod slot_reporter;

#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(super) mod tests;

/// Longest text of a policy that is kept: reasons, notes, messages.
const TEXT_MAX: usize = 1024;

impl From<types::Refusal> for Refusal {
    fn from(refusal: types::Refusal) -> Self {
        Self { code: tidy(&refusal.code), message: tidy(&refusal.message), retry_later: refusal.retry_later }
    }
}

/// A policy's text as one line of bearable length.
fn tidy(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
