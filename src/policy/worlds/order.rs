//! `order`: who starts next.

use super::{Decision, Refusal, WorldKind, scheduler, scheduling, tidy, types};

/// `order`: who starts next.
#[derive(Debug)]
pub struct Order;

/// Who waits and how loaded the node is.
#[derive(Debug, Clone)]
pub struct OrderQuestion {
    /// At most the 64 oldest, oldest first.
    pub waiting: Vec<types::KernelRequest>,
    /// All devices and slots.
    pub node: types::Node,
    /// How loaded the node is.
    pub load: scheduling::Load,
}

impl Decision for Order {
    const WORLD: WorldKind = WorldKind::Scheduler;
    const FUNCTION: &'static str = "order";
    type Question = OrderQuestion;
    type Raw = Vec<scheduling::Decision>;
    /// A verdict for each waiting request, once, in the order to start them.
    type Answer = Vec<scheduling::Decision>;

    fn twin(_: &types::Context, question: &OrderQuestion) -> Result<Self::Raw, Refusal> {
        Ok(scheduler::order(&question.waiting))
    }

    fn check(
        _: &types::Context,
        question: &OrderQuestion,
        raw: Self::Raw,
    ) -> Result<(Self::Answer, Option<String>), String> {
        let mut named = vec![false; question.waiting.len()];
        let mut answer = Vec::with_capacity(question.waiting.len());
        for scheduling::Decision { request, verdict } in raw {
            match named.get_mut(request as usize) {
                None => return Err(format!("decides about request {request}, which does not wait")),
                Some(true) => return Err(format!("decides twice about request {request}")),
                Some(named) => *named = true,
            }
            answer.push(scheduling::Decision { request, verdict: tidy_verdict(verdict) });
        }
        let left_out = scheduler::arrivals(&question.waiting).into_iter();
        let left_out = left_out.filter(|request| !named[*request as usize]);
        answer.extend(
            left_out.map(|request| scheduling::Decision { request, verdict: scheduling::Verdict::Start }),
        );
        Ok((answer, None))
    }
}

fn tidy_verdict(verdict: scheduling::Verdict) -> scheduling::Verdict {
    match verdict {
        scheduling::Verdict::Start => scheduling::Verdict::Start,
        scheduling::Verdict::Wait(reason) => scheduling::Verdict::Wait(tidy(&reason)),
        scheduling::Verdict::Refuse(refusal) => scheduling::Verdict::Refuse(types::Refusal {
            code: tidy(&refusal.code),
            message: tidy(&refusal.message),
            retry_later: refusal.retry_later,
        }),
    }
}
