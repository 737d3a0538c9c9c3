//! What a request would get now, without taking anything: `create --dry-run`.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::ledger::Ledger;
use super::task::Command;
use super::{Allocation, Handle, Refused, Request, question, refusal};
use crate::inventory::Offer;
use crate::policy::worlds::{Place, PlaceQuestion};
use crate::policy::{self, DecidedBy, Purpose};

/// What the policy is to be asked, and the offer that the answer's indices mean.
pub(super) type Question = (PlaceQuestion, Arc<Offer>);

impl Handle {
    /// Asks where the request would be placed, against the books as they are and behind those who wait. Nothing
    /// is taken, and nobody is kept waiting: the policy is asked outside the task.
    ///
    /// # Errors
    /// What [`Handle::place`] would be refused with now.
    pub async fn rehearse(
        &self,
        policy: &policy::Handle,
        request: Request,
    ) -> Result<(Vec<Allocation>, DecidedBy), Refused> {
        let (reply, answer) = oneshot::channel();
        self.submit(Command::Rehearse { request: Box::new(request), reply })?;
        let (asked, offer) = answer.await.unwrap_or_else(|_| Err(refusal::ended()))?;
        let decided = policy.ask_for::<Place>(Purpose::DryRun, 0, asked.clone()).await;
        let refused = |refusal| Refused { refusal, hint: None, by: Some(Box::new(decided.by.clone())) };
        let shares = decided.answer.clone().map_err(refused)?;
        let allocations = question::allocations(&asked, &offer, &shares)
            .map_err(|problem| refusal::not_booked(&problem))?;
        Ok((allocations, decided.by))
    }
}

/// The question for a request, or why it would be refused at once. Pure.
pub(super) fn question<'r>(
    request: &Request,
    offer: Option<&Arc<Offer>>,
    ledger: &Ledger,
    mut waiting: impl Iterator<Item = &'r Request>,
) -> Result<Question, Refused> {
    let offer = offer.ok_or_else(refusal::not_ready)?;
    refusal::check(request, offer)?;
    if let Some(why) = refusal::lacking(request, offer, ledger) {
        return Err(why);
    }
    if let Some(earlier) = waiting.find(|earlier| refusal::compete(earlier, request)) {
        return Err(refusal::behind(request, earlier, offer, ledger));
    }
    Ok((question::place(request, offer, ledger), Arc::clone(offer)))
}
