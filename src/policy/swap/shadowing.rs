//! Policies that watch: started, ended, and started again with the agent.

use super::{
    Act, Chosen, Event, Order, Slot, Step, Steps, Swap, SwapError, WorldKind, event, journal,
    member_of_chain, slot_of,
};
use crate::policy::error::Problem;
use crate::policy::rows::ShadowRow;
use crate::policy::shadow::{Shadow, ShadowView};

impl Swap {
    /// Lets a policy watch, in place of who watched before. It stays over restarts of the agent, and counts from
    /// then on.
    pub(super) async fn shadow(
        &self,
        slot: &Slot,
        chosen: Chosen,
        order: Order,
        steps: &Steps,
    ) -> Result<ShadowView, SwapError> {
        steps.tell(Step::Loading);
        let member = self.member(slot.world, slot.link, chosen.clone()).await?;
        if steps.is_gone() {
            return Err(SwapError::Gone);
        }
        let mut books = self.inner.books.lock().await;
        let mut row = books.row(slot.world, slot.link);
        row.shadow = Some(ShadowRow { chosen, since_ms: journal::now_ms(), uid: order.uid });
        row.note(event(Act::Shadowed, &member, order));
        let shadow = self.watch(slot, &member).await?;
        self.inner.store.put(&row).await?;
        let view = shadow.view();
        if let Some(before) = slot.shadow_by(Some(shadow)) {
            before.stop();
        }
        books.keep(row);
        tracing::info!(world = %slot.world, policy = view.who.policy, "watches from now on");
        Ok(view)
    }

    async fn watch(&self, slot: &Slot, member: &super::Member) -> Result<std::sync::Arc<Shadow>, SwapError> {
        let journal = self.journal().await?;
        let follower = journal.follow().map_err(|error| SwapError::Journal(error.to_string()))?;
        let made = (self.inner.policy.host.bench(), member.decider());
        let turn = std::sync::Arc::clone(&self.inner.replaying);
        Shadow::start((slot.world, slot.link), made, follower, turn)
            .map_err(|error| Problem::Sandbox(format!("no thread for the shadow: {error}")).into())
    }

    /// Lets nobody watch any more. Returns what they saw, one per slot.
    ///
    /// # Errors
    /// When nobody watches.
    pub async fn end_shadows(
        &self,
        world: Option<WorldKind>,
        link: Option<usize>,
        order: Order,
    ) -> Result<Vec<ShadowView>, SwapError> {
        if let Some(world) = world
            && link.is_some()
        {
            let link = member_of_chain(&self.inner.policy, world, link)?;
            slot_of(&self.inner.policy, world, link)?;
        }
        let mut ended = Vec::new();
        let mut books = self.inner.books.lock().await;
        for slot in &self.inner.policy.host.slots {
            let meant =
                world.is_none_or(|world| world == slot.world) && link.is_none_or(|link| link == slot.link);
            let mut row = books.row(slot.world, slot.link);
            let Some(was) = row.shadow.take_if(|_| meant) else { continue };
            let view = slot.view().shadow;
            let who = view.as_ref().map(|view| &view.who);
            row.note(Event {
                at_ms: journal::now_ms(),
                uid: order.uid,
                act: Act::ShadowEnded,
                choice: was.chosen.choice,
                name: who.map_or_else(|| "?".to_owned(), |who| who.policy.clone()),
                version: who.map_or_else(String::new, |who| who.version.clone()),
                digest: who.and_then(|who| who.digest),
                reason: order.reason.clone(),
            });
            self.inner.store.put(&row).await?;
            if let Some(shadow) = slot.shadow_by(None) {
                shadow.stop();
            }
            ended.extend(view);
            books.keep(row);
        }
        let whose = world.map_or_else(|| "any world".to_owned(), |world| world.to_string());
        if ended.is_empty() { Err(SwapError::NoShadow(whose)) } else { Ok(ended) }
    }

    /// Who watched when an earlier process of the agent ended watches again.
    pub(super) async fn resume_shadows(&self) {
        for slot in &self.inner.policy.host.slots {
            let row = self.inner.books.lock().await.row(slot.world, slot.link);
            let Some(shadow) = row.shadow else { continue };
            let watching = async {
                let member = self.member(slot.world, slot.link, shadow.chosen).await?;
                self.watch(slot, &member).await
            };
            match watching.await {
                Ok(shadow) => drop(slot.shadow_by(Some(shadow))),
                Err(error) => {
                    tracing::error!(world = %slot.world, "the policy that watched does not watch any more: {error}");
                }
            }
        }
    }
}
