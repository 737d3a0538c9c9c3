//! The start queue: who waits for a start permit and how many starts are going on. Pure.
//!
//! The scheduler policy orders; this file sees to it that never more than `limit` permits are out and
//! that whoever is not named keeps its place, by arrival.

use std::collections::BTreeMap;

/// How many waiting requests a policy is asked about at once, the oldest first (`wit/policy.wit`).
const ASKED_AT_ONCE: usize = 64;

/// Names one who waits, or one permit: permits are given to who has waited under that number.
pub(super) type Number = u64;

/// What is to become of one who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict<R> {
    Start,
    Wait,
    Refuse(R),
}

/// An outcome to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome<R> {
    /// A permit is out under that number.
    Started(Number),
    Refused(R),
}

/// `W` is what is kept of one who waits, `S` of one who starts.
#[derive(Debug)]
pub(super) struct StartQueue<W, S> {
    limit: usize,
    /// By arrival: numbers only grow.
    waiting: BTreeMap<Number, W>,
    starting: BTreeMap<Number, S>,
    /// Something has happened since the policy was asked.
    due: bool,
}

impl<W, S> StartQueue<W, S> {
    /// An empty queue with so many permits, at least one.
    pub fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        Self { limit, waiting: BTreeMap::new(), starting: BTreeMap::new(), due: false }
    }

    pub fn push(&mut self, number: Number, waiter: W) {
        self.waiting.insert(number, waiter);
        self.due = true;
    }

    /// Takes out one who no longer waits.
    pub fn cancel(&mut self, number: Number) {
        self.due |= self.waiting.remove(&number).is_some();
    }

    /// A permit came back. A second time it does nothing.
    pub fn give_back(&mut self, number: Number) {
        self.due |= self.starting.remove(&number).is_some();
    }

    /// Something outside happened that may change the policy's mind.
    pub fn stir(&mut self) {
        self.due = true;
    }

    /// Whether the policy is to be asked now.
    pub fn is_due(&self) -> bool {
        self.due && !self.waiting.is_empty() && self.starting.len() < self.limit
    }

    /// Those to ask about, oldest first. What happens from now on makes the queue due again.
    pub fn ask(&mut self) -> Vec<(Number, &W)> {
        self.due = false;
        self.waiting.iter().take(ASKED_AT_ONCE).map(|(number, waiter)| (*number, waiter)).collect()
    }

    /// Follows the policy's verdicts, in their order. `start` makes the entry of one who starts.
    /// Numbers that no longer wait, and starts beyond the limit, are passed over: these go on waiting.
    pub fn apply<R>(
        &mut self,
        verdicts: impl IntoIterator<Item = (Number, Verdict<R>)>,
        start: impl Fn(&W) -> S,
    ) -> Vec<(W, Outcome<R>)> {
        let mut outcomes = Vec::new();
        for (number, verdict) in verdicts {
            let outcome = match verdict {
                Verdict::Wait => continue,
                Verdict::Start if self.starting.len() >= self.limit => continue,
                Verdict::Start => Outcome::Started(number),
                Verdict::Refuse(refusal) => Outcome::Refused(refusal),
            };
            let Some(waiter) = self.waiting.remove(&number) else { continue };
            if let Outcome::Started(_) = outcome {
                self.starting.insert(number, start(&waiter));
            }
            outcomes.push((waiter, outcome));
        }
        outcomes
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiting.values()
    }

    pub fn starting(&self) -> impl Iterator<Item = &S> {
        self.starting.values()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(limit: u32, waiters: u64) -> StartQueue<u64, u64> {
        let mut queue = StartQueue::new(limit);
        (0..waiters).for_each(|number| queue.push(number, number));
        queue
    }

    fn started(outcomes: Vec<(u64, Outcome<()>)>) -> Vec<u64> {
        outcomes.into_iter().map(|(waiter, _)| waiter).collect()
    }

    #[test]
    fn permits_go_out_in_the_order_of_the_answer_up_to_the_limit() {
        let mut queue = queue(2, 4);
        assert_eq!(queue.ask().len(), 4);
        let verdicts = [3, 1, 0, 2].map(|number| (number, Verdict::Start));
        assert_eq!(started(queue.apply(verdicts, |w| *w)), [3, 1]);
        assert!(!queue.is_due());
        queue.give_back(3);
        queue.give_back(3);
        assert!(queue.is_due());
        assert_eq!(queue.ask().into_iter().map(|(number, _)| number).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(started(queue.apply([(0, Verdict::Start), (2, Verdict::Start)], |w| *w)), [0]);
    }

    #[test]
    fn waiting_is_not_asked_about_again_until_something_happens() {
        let mut queue = queue(4, 2);
        queue.ask();
        assert_eq!(queue.apply::<()>([(0, Verdict::Wait), (1, Verdict::Wait)], |w| *w), []);
        assert!(!queue.is_due());
        queue.stir();
        assert!(queue.is_due());
        queue.ask();
        let outcomes = queue.apply([(0, Verdict::Refuse("no"))], |w| *w);
        assert_eq!(outcomes, [(0, Outcome::Refused("no"))]);
    }

    #[test]
    fn a_policy_is_asked_about_the_oldest_only() {
        let mut queue = queue(1, 100);
        let asked = queue.ask();
        assert_eq!((asked.len(), asked[0].0, asked[63].0), (64, 0, 63));
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_the_limit_holds(
            limit in 1_u32..5,
            steps in proptest::collection::vec((0_u8..4, 0_u64..12), 1..80),
        ) {
            let mut queue = StartQueue::<u64, u64>::new(limit);
            let (mut next, mut waiting, mut starting) = (0, Vec::new(), Vec::new());
            for (step, which) in steps {
                match step {
                    0 => {
                        queue.push(next, next);
                        waiting.push(next);
                        next += 1;
                    }
                    1 => {
                        queue.cancel(which);
                        waiting.retain(|number| *number != which);
                    }
                    2 => {
                        queue.give_back(which);
                        starting.retain(|number| *number != which);
                    }
                    _ => {
                        let verdicts = [(which, Verdict::<()>::Start), (which, Verdict::Start), (which / 2, Verdict::Start)];
                        for number in started(queue.apply(verdicts, |w| *w)) {
                            waiting.retain(|waiter| *waiter != number);
                            starting.push(number);
                        }
                    }
                }
                prop_assert_eq!(queue.waiting().copied().collect::<Vec<_>>(), waiting.clone());
                starting.sort_unstable();
                prop_assert_eq!(queue.starting().copied().collect::<Vec<_>>(), starting.clone());
                prop_assert!(starting.len() <= queue.limit());
            }
        }
    }
}
