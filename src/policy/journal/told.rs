//! Each decision as the journal tells it. Pure.

use serde_json::Value;

use super::json::{Jot as _, object};
use crate::policy::Decision;
use crate::policy::worlds::{Adjust, Order, Place, Report};

/// A decision that can be written down.
pub trait Told: Decision {
    /// The kernels it is about.
    fn kernels(question: &Self::Question) -> Vec<String>;
    /// What was asked, without the context.
    fn question(question: &Self::Question) -> Value;
    /// What was answered, as it was checked and completed.
    fn answer(answer: &Self::Answer) -> Value;
    /// Asked again and again: written only when question or answer differ from the last.
    const ONLY_CHANGES: bool = false;
}

impl Told for Report {
    fn kernels(_: &Self::Question) -> Vec<String> {
        Vec::new()
    }

    fn question(question: &Self::Question) -> Value {
        object([("inventory", question.inventory.json())])
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }

    const ONLY_CHANGES: bool = true;
}

impl Told for Place {
    fn kernels(question: &Self::Question) -> Vec<String> {
        vec![question.request.kernel_id.clone()]
    }

    fn question(question: &Self::Question) -> Value {
        object([
            ("request", question.request.json()),
            ("node", question.node.json()),
            ("choice", question.choice.json()),
        ])
    }

    fn answer(answer: &Self::Answer) -> Value {
        object([("shares", answer.json())])
    }
}

impl Told for Order {
    fn kernels(question: &Self::Question) -> Vec<String> {
        question.waiting.iter().map(|request| request.kernel_id.clone()).collect()
    }

    fn question(question: &Self::Question) -> Value {
        object([
            ("waiting", question.waiting.json()),
            ("node", question.node.json()),
            ("load", question.load.json()),
        ])
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }
}

impl Told for Adjust {
    fn kernels(question: &Self::Question) -> Vec<String> {
        vec![question.request.kernel_id.clone()]
    }

    fn question(question: &Self::Question) -> Value {
        object([
            ("request", question.request.json()),
            ("node", question.node.json()),
            ("shares", question.shares.json()),
            ("plan", question.plan.json()),
            ("grants", question.grants.json()),
        ])
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }
}
