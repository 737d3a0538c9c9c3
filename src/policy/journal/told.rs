//! Each decision as the journal tells it. Pure.

use serde_json::Value;

use crate::policy::Decision;
use crate::policy::json::{Fields, Jot as _, Wrong, object};
use crate::policy::worlds::{
    Adjust, AdjustQuestion, Evict, EvictQuestion, Order, OrderQuestion, Place, PlaceQuestion, Report,
    ReportQuestion,
};

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
        object([("inventory", question.inventory.json())])
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        let mut fields = Fields::of(question)?;
        let question = ReportQuestion { inventory: fields.take("inventory")? };
        fields.end().map(|()| question)
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

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        let mut fields = Fields::of(question)?;
        let question = PlaceQuestion {
            request: fields.take("request")?,
            node: fields.take("node")?,
            choice: fields.take("choice")?,
        };
        fields.end().map(|()| question)
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

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        let mut fields = Fields::of(question)?;
        let question = OrderQuestion {
            waiting: fields.take("waiting")?,
            node: fields.take("node")?,
            load: fields.take("load")?,
        };
        fields.end().map(|()| question)
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
        object([
            ("pressure", question.pressure.json()),
            ("running", question.running.json()),
            ("node", question.node.json()),
        ])
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        let mut fields = Fields::of(question)?;
        let question = EvictQuestion {
            pressure: fields.take("pressure")?,
            running: fields.take("running")?,
            node: fields.take("node")?,
        };
        fields.end().map(|()| question)
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
            ("placed-by-chain", question.placed_by_chain.json()),
        ])
    }

    fn read(question: &Value) -> Result<Self::Question, Wrong> {
        let mut fields = Fields::of(question)?;
        let question = AdjustQuestion {
            request: fields.take("request")?,
            node: fields.take("node")?,
            shares: fields.take("shares")?,
            plan: fields.take("plan")?,
            grants: fields.take("grants")?,
            placed_by_chain: fields.take("placed-by-chain")?,
        };
        fields.end().map(|()| question)
    }

    fn answer(answer: &Self::Answer) -> Value {
        answer.json()
    }
}
