//! `[policy]` read again while the agent runs (SIGHUP): the same transaction, one slot after the other.

use std::sync::{Arc, PoisonError};

use super::activate::Wish;
use super::{Act, Chosen, Line, Member, Order, Slot, Steps, Swap, SwapError, Terms, slot};
use crate::policy::config::{Config, PolicyConfig};
use crate::policy::error::Problem;
use crate::policy::replay::diff;
use crate::policy::{Source, WORLDS};

impl Swap {
    /// Takes what `[policy]` says now. What would decide otherwise is taken only with `accept-diff-on-reload`; else,
    /// and where it does not load, the slot stays as it is and [`super::Handle::problems`] says why and what next.
    pub async fn reload(&self, config: Config) {
        let _one_after_another = self.inner.reloading.lock().await;
        *self.inner.terms.write().unwrap_or_else(PoisonError::into_inner) = Terms::of(&config);
        let mut told = Vec::new();
        if let Some(sentence) = self.inner.policy.host.needs_restart(&config) {
            told.push(sentence);
        }
        for world in WORLDS {
            let there = self.inner.policy.host.chain(world).count();
            let chain = config.chain(world);
            if chain.len() != there {
                told.push(format!(
                    "agent.toml has {} policies for {world} now and the agent runs with {there}: restart it",
                    chain.len()
                ));
                continue;
            }
            for (slot, section) in self.inner.policy.host.chain(world).zip(chain) {
                let outcome = self.reload_slot(slot, section, config.accept_diff_on_reload).await;
                let problem = outcome.err().map(|error| sentence(slot, &error));
                if let Some(problem) = &problem {
                    tracing::error!(world = %slot.world, link = slot.link, "agent.toml was read again: {problem}");
                }
                slot.hold_back(problem);
            }
        }
        self.reloaded((!told.is_empty()).then(|| told.join("; ")));
        tracing::info!("[policy] of agent.toml was read again");
    }

    /// The file could not be read again: everything stays as it is.
    pub fn not_reloaded(&self, problem: &str) {
        tracing::error!("agent.toml could not be read again, everything stays as it is: {problem}");
        let sentence = format!(
            "agent.toml could not be read again, everything stays as it is: {problem}; mend it and send SIGHUP again"
        );
        self.reloaded(Some(sentence));
    }

    fn reloaded(&self, told: Option<String>) {
        *self.inner.policy.host.reloaded.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    async fn reload_slot(
        &self,
        slot: &Slot,
        section: &PolicyConfig,
        accept_diff: bool,
    ) -> Result<(), SwapError> {
        let before = slot.line();
        let configured = self.configured(slot, section.clone()).await?;
        let same = before.configured.decides_as(&configured) && *before.config == *section;
        if same && (before.active.chosen != Chosen::CONFIGURED || before.active.decides_as(&configured)) {
            return Ok(());
        }
        // What it is from now on, for whatever is activated later; who is active is decided below.
        let line = Line {
            configured: configured.clone(),
            config: Arc::new(section.clone()),
            config_fault: None,
            ..(*before).clone()
        };
        {
            let _books = self.inner.books.lock().await;
            if !Arc::ptr_eq(&before, &slot.line()) {
                return Err(SwapError::Overtaken(slot.world));
            }
            slot.swap(line);
        }
        let chosen = before.active.chosen.clone();
        let member = match chosen == Chosen::CONFIGURED {
            true => configured,
            // Its settings or grants may be those of the section.
            false => self.member(slot.world, slot.link, chosen.clone()).await?,
        };
        if before.active.decides_as(&member) {
            return Ok(());
        }
        let report = self.differs(slot, &member, &Steps::default()).await?;
        if !report.is_empty() && !accept_diff {
            return Err(SwapError::Differ(Box::new(report)));
        }
        let base = slot.line();
        let reason = Some(format!("agent.toml was read again; {}", diff::summary(&report)));
        let order = Order { uid: None, reason };
        let wish = Wish { chosen, accept_diff, act: Act::Reloaded, order };
        self.make_active(slot, (&base, member), wish, Some(report)).await.map(drop)
    }

    async fn configured(&self, slot: &Slot, section: PolicyConfig) -> Result<Member, SwapError> {
        let (policy, world) = (self.inner.policy.clone(), slot.world);
        self.off_thread(move || {
            let loaded = match (&policy.host.wasm, &section.source) {
                (_, Source::Builtin) => None,
                (None, _) => return Err(Problem::BuiltinsOnly.into()),
                (Some(wasm), _) => slot::load_tested(&wasm.sandbox, world, &section)?,
            };
            Ok(Member::new(Chosen::CONFIGURED, loaded, &section))
        })
        .await
    }
}

fn sentence(slot: &Slot, error: &SwapError) -> String {
    let world = slot.world;
    let link = if slot.link > 0 { format!(" --link {}", slot.link) } else { String::new() };
    let next = match error {
        SwapError::Differ(_) => format!(
            "`berth policy activate --configured {world}{link} --accept-diff` takes it, without --accept-diff it \
             shows the changes; or set accept-diff-on-reload in [policy]"
        ),
        SwapError::Module(_) => "mend it and send the agent SIGHUP again".to_owned(),
        other => other.hint(),
    };
    format!("{world}: what agent.toml says now is not active: {error}: {next}")
}
