//! Whose turn it is: kernels that want attention, each once, in the order in which they first wanted it. Pure.
//!
//! A kernel that has more after its turn goes to the end. So between wanting attention and having it lies at most one
//! turn of every other kernel, however much the others have to say.

use std::collections::VecDeque;

/// The list.
#[derive(Debug, Default)]
pub(super) struct Attention {
    queue: VecDeque<usize>,
    listed: Vec<bool>,
}

impl Attention {
    /// Puts a kernel on the list, unless it is on it.
    pub(super) fn want(&mut self, slot: usize) {
        if self.listed.len() <= slot {
            self.listed.resize(slot + 1, false);
        }
        if !std::mem::replace(&mut self.listed[slot], true) {
            self.queue.push_back(slot);
        }
    }

    /// Takes the first one from it; for its turn.
    pub(super) fn next(&mut self) -> Option<usize> {
        let slot = self.queue.pop_front()?;
        self.listed[slot] = false;
        Some(slot)
    }

    /// Kernels on the list.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Takes a kernel off the list that is no more.
    pub(super) fn forget(&mut self, slot: usize) {
        if let Some(listed) = self.listed.get_mut(slot)
            && std::mem::take(listed)
        {
            self.queue.retain(|listed| *listed != slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nobody_waits_longer_than_one_turn_of_each_other(
            steps in proptest::collection::vec((0usize..6, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let mut attention = Attention::default();
            // Turns that others had since a kernel wanted one.
            let mut waiting: HashMap<usize, Vec<usize>> = HashMap::new();
            for (slot, goes, has_more) in steps {
                if goes {
                    attention.forget(slot);
                    waiting.remove(&slot);
                } else {
                    attention.want(slot);
                    waiting.entry(slot).or_default();
                }
                prop_assert_eq!(attention.len(), waiting.len());
                let Some(turn) = attention.next() else { continue };
                let before = waiting.remove(&turn);
                let mut others = before.expect("only who wants a turn has one");
                let turns = others.len();
                others.sort_unstable();
                others.dedup();
                prop_assert_eq!(others.len(), turns, "somebody had two turns meanwhile");
                for others in waiting.values_mut() {
                    others.push(turn);
                }
                if has_more {
                    attention.want(turn);
                    waiting.entry(turn).or_default();
                }
            }
        }
    }
}
