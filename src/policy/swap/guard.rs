//! The task that looks after what was activated: it writes demotions down, and rolls back what fails on probation.

use std::time::Duration;

use tokio::sync::MutexGuard;

use super::{Act, Books, Member, Order, Slot, StoreError, Swap, SwapError, event};
use crate::policy::probation::Standing;
use crate::policy::rows::Demoted;

/// A probation that has passed is forgotten at the latest so long after.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Swap {
    /// Lets watch who watched before, then looks after the active ones. Ends when the policies do.
    pub async fn guard(self) {
        let mut failures = self.inner.policy.host.failures.subscribe();
        self.resume_shadows().await;
        loop {
            for slot in &self.inner.policy.host.slots {
                let mut books = self.inner.books.lock().await;
                if slot.standing() == Some(Standing::Lost)
                    && let Err(error) = self.end_probation(slot, &mut books).await
                {
                    tracing::error!(world = %slot.world, "what fails on probation could not be rolled back: {error}");
                }
                if let Err(error) = self.save_demotions_of(slot, &mut books).await {
                    tracing::warn!(%error, "a demotion could not be saved; it holds until the agent ends");
                }
            }
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_EVERY, failures.changed()).await {
                return;
            }
        }
    }

    /// What was active before is active again, and the slot says so until an operator acts.
    async fn end_probation(&self, slot: &Slot, books: &mut MutexGuard<'_, Books>) -> Result<(), SwapError> {
        let failed = slot.line().active.clone();
        let Some(policy) = &failed.policy else { return Ok(()) };
        let failures = self.terms().probation.failures;
        let last = policy.record.last_fault().map_or_else(String::new, |fault| {
            format!(", the last: {} ({})", fault.message, fault.fault.code())
        });
        let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times") };
        let who = format!("{} {} ({})", failed.name(), failed.version(), policy.digest.short());
        let reason = format!("{who} failed {times} on probation{last}");
        let order = Order { uid: None, reason: Some(reason.clone()) };
        let swapped = self.roll_back_slot(slot, books, order).await?;
        let back = format!("{} {}", swapped.name, swapped.version);
        tracing::error!(
            world = %slot.world, policy = failed.name(), digest = policy.digest.short(), back,
            "rolled back: {reason}"
        );
        slot.was_rolled_back(format!("{}: rolled back to {back}: {reason}", slot.world));
        Ok(())
    }

    async fn save_demotions_of(
        &self,
        slot: &Slot,
        books: &mut MutexGuard<'_, Books>,
    ) -> Result<(), StoreError> {
        let (line, mut row) = (slot.line(), books.row(slot.world, slot.link));
        let before = row.demoted.len();
        for member in std::iter::once(&line.active).chain(&line.last_good) {
            let Member { policy: Some(policy), .. } = member else { continue };
            let Some(fault) = policy.record.demoted() else { continue };
            if row.demoted.iter().any(|demoted| demoted.digest == policy.digest) {
                continue;
            }
            let reason = Some(fault.message.clone());
            row.demoted.push(Demoted { digest: policy.digest, fault });
            row.note(event(Act::Demoted, member, Order { uid: None, reason }));
        }
        if row.demoted.len() == before {
            return Ok(());
        }
        self.inner.store.put(&row).await?;
        books.keep(row);
        Ok(())
    }
}
