//! Each decision as the journal tells it. Pure.

use serde_json::Value;

use crate::policy::Decision;
use crate::policy::json::{Jot as _, Read, Wrong, object};
use crate::policy::worlds::{Adjust, Evict, Order, Place, Report};

/// A decision that can be written down.
pub trait Told: Decision {
    /// The kernels it is about.
    fn kernels(question: &Self::Question) -> Vec<String>;
    /// What was asked, without the context.
    fn question(question: &Self::Question) -> Value;
    /// The same from its JSON: a journal's, or one that somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    fn read(question: &Value) -> Result<Self::Question, Wrong>;
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
        question.json()
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        Read::read(question)
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
        question.json()
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        Read::read(question)
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
        question.json()
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        Read::read(question)
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }
}

impl Told for Evict {
    fn kernels(question: &Self::Question) -> Vec<String> {
        question.running.iter().map(|kernel| kernel.kernel_id.clone()).collect()
    }

    fn question(question: &Self::Question) -> Value {
        question.json()
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        Read::read(question)
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
        question.json()
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        Read::read(question)
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }
}
