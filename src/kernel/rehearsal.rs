//! `create --dry-run`: what a kernel would be, asked of the same policies on the same books. Nothing is taken,
//! made or started, and nothing is left; the journal marks the decisions.

use serde::{Deserialize, Serialize};

use super::plan::chain;
use super::registry::{Kernels, made_up_name};
use super::shared::now_ms;
use super::{CreateRequest, KernelError, steps};
use crate::admission::Allocation;
use crate::engine::MountSpec;
use crate::ids::KernelName;
use crate::policy::journal::phrase;
use crate::policy::{DecidedBy, Purpose};

/// What would be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Its name; a made-up one may be another when it is made.
    pub name: KernelName,
    /// Image reference.
    pub image: String,
    /// Engine: `docker`, `process`.
    pub engine: String,
    /// What it would hold.
    pub allocations: Vec<Allocation>,
    /// Core numbers that it might use.
    pub cpuset: Vec<u32>,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// uid and gid of its processes.
    pub runs_as: (u32, u32),
    /// Its mounts, with those that the agent and the policies add.
    pub mounts: Vec<MountSpec>,
    /// Names of its variables; values may be secrets.
    pub env: Vec<String>,
    /// Files that policies add.
    pub files: Vec<String>,
    /// What policies would change, in order.
    pub edits: Vec<EditBy>,
    /// Who decided what, in order.
    pub decisions: Vec<DecidedBy>,
    /// What would not be isolated or enforced for it, a sentence each.
    pub not_enforced: Vec<String>,
}

/// An edit and who makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditBy {
    /// The policy.
    pub policy: String,
    /// E.g. `set-env HTTP_PROXY`; values of variables are not told.
    pub edit: String,
}

impl Kernels {
    /// What `request` would become now. It never waits for room.
    ///
    /// # Errors
    /// What a creation would be refused with.
    pub async fn rehearse(&self, request: CreateRequest) -> Result<Rehearsal, KernelError> {
        let shared = &self.inner.shared;
        if let Some(name) = &request.name {
            self.name_is_free(name)?;
        }
        let name = request.name.clone().unwrap_or_else(|| made_up_name(request.kernel));
        let image = steps::choose_image(shared, &request).await?;
        let question = steps::admission_request(&request, &name, &image, now_ms());
        let placed = shared.admission.rehearse(&shared.policy, question.clone()).await;
        let (allocations, by) = placed.map_err(|refused| {
            let by = refused.by.clone();
            said_by(refused.into(), by.as_deref())
        })?;
        // Admission had an offer, so there is one.
        let offer = shared.offers.borrow().clone().ok_or_else(|| {
            KernelError::new("not-ready", "the node does not know yet what it offers")
                .hint("try again in a moment")
        })?;
        let runs_as = shared.runs_as(request.caller);
        let mut plan = steps::plan(shared, &request, &name, &image, &allocations, runs_as, &offer);
        let purpose = Purpose::DryRun;
        let said = chain::run(&shared.policy, purpose, &mut plan, &question, &offer, &allocations)
            .await
            .map_err(|(refusal, by)| said_by(refusal.into(), Some(&by)))?;
        let (mut decisions, mut edits) = (vec![by], Vec::new());
        for link in said {
            edits.extend(
                link.edits
                    .iter()
                    .map(|edit| EditBy { policy: link.by.policy.clone(), edit: phrase::wit_edit(edit) }),
            );
            decisions.push(link.by);
        }
        let spec = plan.spec;
        Ok(Rehearsal {
            name,
            image: spec.image,
            engine: shared.engine.kind().as_str().to_owned(),
            allocations,
            cpuset: spec.cpuset,
            memory_limit: spec.memory_limit,
            runs_as,
            mounts: spec.mounts,
            env: spec.env.into_keys().collect(),
            files: plan.files.into_iter().map(|file| file.target).collect(),
            edits,
            decisions,
            not_enforced: shared.engine_info.not_enforced.clone(),
        })
    }
}

/// The same with who says so.
fn said_by(error: KernelError, by: Option<&DecidedBy>) -> KernelError {
    match by {
        Some(by) => KernelError {
            message: format!(
                "{} (says {} {}, asked to {})",
                error.message, by.policy, by.version, by.function
            ),
            ..error
        },
        None => error,
    }
}
