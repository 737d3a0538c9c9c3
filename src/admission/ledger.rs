//! The exact account of what kernels hold: one per slot and device. Pure; it depends on the ids only.
//!
//! A [`Share`] can only be made by [`Ledger::take`] or [`Ledger::restore`] and says once, when it is
//! dropped, that it comes back; [`Ledger::give_back`] then books it. Taking is all or nothing. The
//! offer may shrink below what is held: nothing breaks, there is just nothing free.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{KernelId, SessionId, SlotName};

/// A part of one device that a kernel holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Slot.
    pub slot: SlotName,
    /// Device id, e.g. `3`, `root`.
    pub device: String,
    /// Micro-units or bytes.
    pub amount: u64,
}

/// What is offered of one device under one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub slot: SlotName,
    pub device: String,
    pub offered: u64,
    /// Slots of one group exclude each other on a device while one of them is held.
    pub exclusive_group: Option<u32>,
}

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub kernel: KernelId,
    pub name: String,
    /// None of a kernel that was restored.
    pub session: Option<SessionId>,
    /// None of a kernel that was restored.
    pub owner: Option<String>,
}

/// Names one share, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// How a dropped share tells that it comes back. It must neither block nor fail.
pub(super) type Returns = Arc<dyn Fn(Ticket) + Send + Sync>;

/// What a kernel got. It can only be made by taking it from the ledger, and gives itself back once,
/// when it is dropped.
pub struct Share {
    ticket: Ticket,
    kernel: KernelId,
    /// Sorted by slot and device.
    allocations: Vec<Allocation>,
    returns: Returns,
}

impl Share {
    /// What it is made of, sorted by slot and device.
    #[must_use]
    pub fn allocations(&self) -> &[Allocation] {
        &self.allocations
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("kernel", &self.kernel)
            .field("allocations", &self.allocations)
            .finish_non_exhaustive()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        (self.returns)(self.ticket);
    }
}

/// Why nothing was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TakeError {
    #[error("{asked} of {slot} on device {device} asked, {free} free")]
    NotEnough { slot: SlotName, device: String, asked: u64, free: u64 },
    #[error("device {device} of {slot} is in use as another slot of its group")]
    Excluded { slot: SlotName, device: String },
    #[error("the kernel holds a share already")]
    HoldsAlready,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Account {
    offered: u64,
    held: u64,
    exclusive_group: Option<u32>,
}

#[derive(Debug)]
struct Holding {
    holder: Holder,
    allocations: Vec<Allocation>,
}

/// A slot of a device.
type Key = (SlotName, String);

/// See the module.
pub(super) struct Ledger {
    accounts: BTreeMap<Key, Account>,
    /// Every share that has not come back.
    holdings: BTreeMap<Ticket, Holding>,
    next_ticket: u64,
    returns: Returns,
}

impl Ledger {
    /// An empty ledger; `returns` is told when a share of it is dropped.
    pub fn new(returns: Returns) -> Self {
        Self { accounts: BTreeMap::new(), holdings: BTreeMap::new(), next_ticket: 0, returns }
    }

    /// Replaces what is offered. Accounts that are no longer offered stay as long as they are held.
    pub fn set_offer(&mut self, lines: impl IntoIterator<Item = Line>) {
        for account in self.accounts.values_mut() {
            account.offered = 0;
        }
        for line in lines {
            let account = self.accounts.entry((line.slot, line.device)).or_default();
            account.offered = line.offered;
            account.exclusive_group = line.exclusive_group;
        }
        self.forget_empty();
    }

    /// Takes all of it or nothing.
    pub fn take(&mut self, holder: Holder, allocations: &[Allocation]) -> Result<Share, TakeError> {
        let wanted = merge(allocations);
        if self.holds(holder.kernel) {
            return Err(TakeError::HoldsAlready);
        }
        for (key, asked) in &wanted {
            let (slot, device) = key;
            let account = self.accounts.get(key).cloned().unwrap_or_default();
            let among_themselves = wanted.keys().any(|other| self.excludes(&account, key, other));
            if among_themselves || self.is_excluded(&account, key) {
                return Err(TakeError::Excluded { slot: slot.clone(), device: device.clone() });
            }
            let free = account.offered.saturating_sub(account.held);
            if *asked > free {
                let (slot, device) = key.clone();
                return Err(TakeError::NotEnough { slot, device, asked: *asked, free });
            }
        }
        Ok(self.book(holder, wanted))
    }

    /// Books what a kernel holds already, whether it is offered or not.
    pub fn restore(&mut self, holder: Holder, allocations: &[Allocation]) -> Result<Share, TakeError> {
        if self.holds(holder.kernel) {
            return Err(TakeError::HoldsAlready);
        }
        Ok(self.book(holder, merge(allocations)))
    }

    /// Books that a share has come back. A second time it does nothing.
    pub fn give_back(&mut self, ticket: Ticket) {
        let Some(holding) = self.holdings.remove(&ticket) else { return };
        for Allocation { slot, device, amount } in holding.allocations {
            if let Some(account) = self.accounts.get_mut(&(slot, device)) {
                account.held = account.held.saturating_sub(amount);
            }
        }
        self.forget_empty();
    }

    /// What can be taken of a device under a slot.
    pub fn free(&self, slot: &SlotName, device: &str) -> u64 {
        let key = (slot.clone(), device.to_owned());
        match self.accounts.get(&key) {
            Some(account) if !self.is_excluded(account, &key) => account.offered.saturating_sub(account.held),
            _ => 0,
        }
    }

    /// What kernels hold of a device, over all slots of its family.
    pub fn in_use(&self, family: &str, device: &str) -> u64 {
        let of_device = |key: &Key| key.0.family() == family && key.1 == device;
        self.accounts
            .iter()
            .filter(|(key, _)| of_device(key))
            .fold(0, |sum, (_, account)| sum.saturating_add(account.held))
    }

    /// Slot, device, offered and held of every account, sorted by slot and device.
    pub fn accounts(&self) -> impl Iterator<Item = (&SlotName, &str, u64, u64)> {
        self.accounts
            .iter()
            .map(|((slot, device), account)| (slot, device.as_str(), account.offered, account.held))
    }

    /// Who holds what, oldest share first.
    pub fn holders(&self) -> impl Iterator<Item = (&Holder, &[Allocation])> {
        self.holdings.values().map(|holding| (&holding.holder, holding.allocations.as_slice()))
    }

    fn holds(&self, kernel: KernelId) -> bool {
        self.holdings.values().any(|holding| holding.holder.kernel == kernel)
    }

    fn book(&mut self, holder: Holder, wanted: BTreeMap<Key, u64>) -> Share {
        let mut allocations = Vec::with_capacity(wanted.len());
        for (key, amount) in wanted {
            let account = self.accounts.entry(key.clone()).or_default();
            // Only what is restored can come near the end of the range; what does not fit is not booked.
            let amount = amount.min(u64::MAX - account.held);
            account.held += amount;
            let (slot, device) = key;
            allocations.push(Allocation { slot, device, amount });
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let kernel = holder.kernel;
        self.holdings.insert(ticket, Holding { holder, allocations: allocations.clone() });
        Share { ticket, kernel, allocations, returns: Arc::clone(&self.returns) }
    }

    /// Whether another slot of the account's group is held on the same device.
    fn is_excluded(&self, account: &Account, key: &Key) -> bool {
        account.exclusive_group.is_some()
            && self.accounts.iter().any(|(other, at)| at.held > 0 && self.excludes(account, key, other))
    }

    /// Whether `other` is another slot of the same group on the same device. Device ids are unique in a
    /// family only.
    fn excludes(&self, account: &Account, key: &Key, other: &Key) -> bool {
        account.exclusive_group.is_some()
            && other.0 != key.0
            && other.1 == key.1
            && other.0.family() == key.0.family()
            && self.accounts.get(other).is_some_and(|at| at.exclusive_group == account.exclusive_group)
    }

    fn forget_empty(&mut self) {
        self.accounts.retain(|_, account| account.offered > 0 || account.held > 0);
    }
}

/// One amount per slot and device; sums that leave the range are more than any device has.
fn merge(allocations: &[Allocation]) -> BTreeMap<Key, u64> {
    let mut merged = BTreeMap::<Key, u64>::new();
    for Allocation { slot, device, amount } in allocations {
        if *amount > 0 {
            let sum = merged.entry((slot.clone(), device.clone())).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use proptest::prelude::*;

    use super::*;

    fn ledger() -> (Ledger, Receiver<Ticket>) {
        let (sender, dropped) = channel();
        let returns = Arc::new(move |ticket| {
            let _ = sender.send(ticket);
        });
        (Ledger::new(returns), dropped)
    }

    fn holder() -> Holder {
        Holder { kernel: KernelId::random(), name: "k".to_owned(), session: None, owner: None }
    }

    fn slot(name: &str) -> SlotName {
        name.parse().unwrap()
    }

    fn line(name: &str, device: &str, offered: u64, exclusive_group: Option<u32>) -> Line {
        Line { slot: slot(name), device: device.to_owned(), offered, exclusive_group }
    }

    fn part(name: &str, device: &str, amount: u64) -> Allocation {
        Allocation { slot: slot(name), device: device.to_owned(), amount }
    }

    #[test]
    fn taking_is_all_or_nothing() {
        let (mut ledger, _dropped) = ledger();
        ledger.set_offer([line("cpu", "0", 10, None), line("mem", "root", 5, None)]);
        let error = ledger.take(holder(), &[part("cpu", "0", 10), part("mem", "root", 6)]).unwrap_err();
        assert_eq!(error.to_string(), "6 of mem on device root asked, 5 free");
        assert_eq!(ledger.free(&slot("cpu"), "0"), 10);
        let error = ledger.take(holder(), &[part("cpu", "0", 6), part("cpu", "0", u64::MAX)]).unwrap_err();
        assert!(matches!(error, TakeError::NotEnough { asked: u64::MAX, free: 10, .. }), "{error}");
        let share = ledger
            .take(holder(), &[part("mem", "root", 5), part("cpu", "0", 4), part("cpu", "0", 2)])
            .unwrap();
        assert_eq!(share.allocations(), [part("cpu", "0", 6), part("mem", "root", 5)]);
    }

    #[test]
    fn a_share_comes_back_once() {
        let (mut ledger, dropped) = ledger();
        ledger.set_offer([line("cpu", "0", 10, None)]);
        let share = ledger.take(holder(), &[part("cpu", "0", 7)]).unwrap();
        assert!(dropped.try_recv().is_err());
        drop(share);
        let ticket = dropped.try_recv().unwrap();
        assert!(dropped.try_recv().is_err());
        let other = ledger.take(holder(), &[part("cpu", "0", 3)]).unwrap();
        for _ in 0..2 {
            ledger.give_back(ticket);
            assert_eq!(ledger.free(&slot("cpu"), "0"), 7);
        }
        drop(other);
    }

    #[test]
    fn a_kernel_holds_one_share() {
        let (mut ledger, _dropped) = ledger();
        let holder = holder();
        let _share = ledger.take(holder.clone(), &[]).unwrap();
        assert_eq!(ledger.take(holder.clone(), &[]).unwrap_err(), TakeError::HoldsAlready);
        assert_eq!(ledger.restore(holder, &[]).unwrap_err(), TakeError::HoldsAlready);
    }

    #[test]
    fn an_offer_may_shrink_below_what_is_held() {
        let (mut ledger, dropped) = ledger();
        ledger.set_offer([line("cpu", "0", 10, None)]);
        let share = ledger.take(holder(), &[part("cpu", "0", 7)]).unwrap();
        ledger.set_offer([line("cpu", "0", 3, None)]);
        assert_eq!(ledger.free(&slot("cpu"), "0"), 0);
        ledger.set_offer([]);
        assert_eq!(ledger.accounts().collect::<Vec<_>>(), [(&slot("cpu"), "0", 0, 7)]);
        drop(share);
        ledger.give_back(dropped.try_recv().unwrap());
        assert_eq!(ledger.accounts().count(), 0);
    }

    #[test]
    fn what_is_restored_is_booked_even_if_it_is_not_offered() {
        let (mut ledger, _dropped) = ledger();
        ledger.set_offer([line("cpu", "0", 10, None)]);
        let _gone = ledger.restore(holder(), &[part("cpu", "9", 4), part("cpu", "0", 12)]).unwrap();
        assert_eq!(
            ledger.accounts().collect::<Vec<_>>(),
            [(&slot("cpu"), "0", 10, 12), (&slot("cpu"), "9", 0, 4)]
        );
        let huge = ledger.restore(holder(), &[part("cpu", "9", u64::MAX)]).unwrap();
        assert_eq!(huge.allocations(), [part("cpu", "9", u64::MAX - 4)]);
    }

    #[test]
    fn slots_of_one_group_exclude_each_other_on_a_device() {
        let (mut ledger, dropped) = ledger();
        let group = Some(1);
        ledger.set_offer([
            line("cuda.device", "0", 10, group),
            line("cuda.shares", "0", 10, group),
            line("cuda.shares", "1", 10, group),
            line("cuda.mem", "0", 10, None),
            line("cpu", "0", 10, group),
        ]);
        let both = [part("cuda.device", "0", 1), part("cuda.shares", "0", 1)];
        assert!(matches!(ledger.take(holder(), &both), Err(TakeError::Excluded { .. })));
        let shares = ledger.take(holder(), &[part("cuda.shares", "0", 1)]).unwrap();
        assert_eq!(ledger.free(&slot("cuda.device"), "0"), 0);
        assert!(matches!(
            ledger.take(holder(), &[part("cuda.device", "0", 1)]),
            Err(TakeError::Excluded { .. })
        ));
        // The same slot again, another device, a slot without a group, a device of another family.
        for free in [("cuda.shares", "0"), ("cuda.shares", "1"), ("cuda.mem", "0"), ("cpu", "0")] {
            ledger.take(holder(), &[part(free.0, free.1, 1)]).unwrap_or_else(|e| panic!("{free:?}: {e}"));
        }
        drop(shares);
        while let Ok(ticket) = dropped.try_recv() {
            ledger.give_back(ticket);
        }
        assert_eq!(ledger.free(&slot("cuda.device"), "0"), 10);
    }

    /// One step of a history.
    #[derive(Debug, Clone)]
    enum Step {
        Offer(Vec<(usize, u64)>),
        Take(Vec<(usize, u64)>),
        Restore(Vec<(usize, u64)>),
        Drop(usize),
        /// The task hears of the shares dropped so far.
        Hear,
    }

    const PLACES: [(&str, &str); 5] =
        [("cpu", "0"), ("cpu", "1"), ("mem", "root"), ("cuda.device", "0"), ("cuda.shares", "0")];

    fn step() -> impl Strategy<Value = Step> {
        let parts = || proptest::collection::vec((0..PLACES.len(), 0_u64..8), 0..4);
        prop_oneof![
            1 => parts().prop_map(Step::Offer),
            4 => parts().prop_map(Step::Take),
            1 => parts().prop_map(Step::Restore),
            2 => (0_usize..8).prop_map(Step::Drop),
            2 => Just(Step::Hear),
        ]
    }

    proptest! {
        #[test]
        fn the_sum_of_the_shares_is_what_is_held(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut ledger, dropped) = ledger();
            let mut alive: Vec<Share> = Vec::new();
            let mut unheard: Vec<Vec<Allocation>> = Vec::new();
            let parts = |list: &[(usize, u64)]| -> Vec<Allocation> {
                list.iter().map(|(at, amount)| part(PLACES[*at].0, PLACES[*at].1, *amount)).collect()
            };
            for step in steps {
                match step {
                    Step::Offer(list) => ledger.set_offer(list.iter().map(|(at, amount)| {
                        let group = (*at >= 3).then_some(0);
                        line(PLACES[*at].0, PLACES[*at].1, *amount, group)
                    })),
                    Step::Take(list) => {
                        let wanted = parts(&list);
                        let before: Vec<_> = ledger.accounts().map(|a| (a.0.clone(), a.1.to_owned(), a.3)).collect();
                        match ledger.take(holder(), &wanted) {
                            Ok(share) => {
                                for got in share.allocations() {
                                    let (.., offered, held) = ledger.accounts().find(|a| a.0 == &got.slot && a.1 == got.device).unwrap();
                                    prop_assert!(held <= offered, "{} held of {} offered", held, offered);
                                }
                                let asked: u64 = wanted.iter().map(|a| a.amount).sum();
                                prop_assert_eq!(asked, share.allocations().iter().map(|a| a.amount).sum::<u64>());
                                alive.push(share);
                            }
                            Err(_) => {
                                let after: Vec<_> = ledger.accounts().map(|a| (a.0.clone(), a.1.to_owned(), a.3)).collect();
                                prop_assert_eq!(before, after);
                            }
                        }
                    }
                    Step::Restore(list) => alive.push(ledger.restore(holder(), &parts(&list)).unwrap()),
                    Step::Drop(which) if which < alive.len() => {
                        let share = alive.swap_remove(which);
                        unheard.push(share.allocations().to_vec());
                    }
                    Step::Drop(_) => {}
                    Step::Hear => {
                        let tickets: Vec<_> = dropped.try_iter().collect();
                        prop_assert_eq!(tickets.len(), unheard.len(), "each share once");
                        tickets.into_iter().for_each(|ticket| ledger.give_back(ticket));
                        unheard.clear();
                    }
                }
                let lists = alive.iter().map(Share::allocations).chain(unheard.iter().map(Vec::as_slice));
                let mut sums = BTreeMap::<Key, u64>::new();
                for part in lists.flatten() {
                    *sums.entry((part.slot.clone(), part.device.clone())).or_default() += part.amount;
                }
                let held: BTreeMap<_, _> = ledger
                    .accounts()
                    .filter(|account| account.3 > 0)
                    .map(|account| ((account.0.clone(), account.1.to_owned()), account.3))
                    .collect();
                prop_assert_eq!(held, sums);
                prop_assert_eq!(ledger.holders().count(), alive.len() + unheard.len());
            }
        }
    }
}
