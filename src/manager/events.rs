//! Events to the manager, in the JSON form of 26.9 (contracts: manager §3.1, §3.2). Pure.
//!
//! A field that is missing or wrong makes the manager drop an event without a word, so every payload is a type
//! here: what can be built can be read there.

use callosum::ImageRef;
use serde::Serialize;

use crate::ids::AgentId;

use super::info::AgentInfo;

/// What the manager is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ManagerEvent {
    /// Once, when the agent is ready and its first heartbeat is on its way.
    AgentStarted {
        /// Why.
        reason: StartReason,
    },
    /// Every `[debug] heartbeat-interval`.
    AgentHeartbeat {
        /// Everything about the node.
        agent_info: Box<AgentInfo>,
    },
    /// An image is being brought.
    ImagePullStarted {
        /// Its full name.
        image: String,
        /// Who brings it.
        agent_id: String,
        /// Unix time in seconds.
        timestamp: f64,
        /// Its parts, by which the manager knows it together with its architecture.
        image_ref: ImageParts,
    },
    /// It is here; without this no session of it starts (contracts: manager §3.6).
    ImagePullFinished {
        /// Its full name.
        image: String,
        /// Where it is.
        agent_id: String,
        /// Unix time in seconds.
        timestamp: f64,
        /// Why nothing had to be brought.
        msg: Option<&'static str>,
        /// As above.
        image_ref: ImageParts,
    },
    /// It could not be brought; kernels of it are cancelled.
    ImagePullFailed {
        /// Its full name.
        image: String,
        /// Where it is not.
        agent_id: String,
        /// Why.
        msg: String,
        /// As above.
        image_ref: ImageParts,
    },
    /// At the clean end of the agent; kernels run on.
    AgentTerminated {
        /// Why; another one than `agent-restart` makes the node TERMINATED until its next heartbeat.
        reason: EndReason,
    },
}

/// The parts of an image's name, and its architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageParts {
    name: String,
    project: Option<String>,
    tag: String,
    registry: String,
    architecture: String,
    is_local: bool,
}

impl From<&ImageRef> for ImageParts {
    fn from(image: &ImageRef) -> Self {
        Self {
            name: image.name.clone(),
            project: image.project.clone(),
            tag: image.tag.clone(),
            registry: image.registry.clone(),
            architecture: image.architecture.clone(),
            is_local: image.is_local,
        }
    }
}

/// Why an agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartReason {
    /// It was started.
    SelfStarted,
}

/// Why an agent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// It was told to end.
    Shutdown,
}

/// No request of the manager's stands behind what an agent says by itself.
const METADATA: &str = r#"{"request_id":null,"user":null,"triggered_user":null,"traceparent":null}"#;

impl ManagerEvent {
    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AgentStarted { .. } => "agent_started",
            Self::AgentHeartbeat { .. } => "agent_heartbeat",
            Self::ImagePullStarted { .. } => "image_pull_started",
            Self::ImagePullFinished { .. } => "image_pull_finished",
            Self::ImagePullFailed { .. } => "image_pull_failed",
            Self::AgentTerminated { .. } => "agent_terminated",
        }
    }

    /// The fields of a stream entry, for one worker of the manager (contracts: manager §3.1, "Anycast entry").
    ///
    /// # Errors
    /// When a value has no JSON form; none of ours has not.
    pub fn entry(&self, source: &AgentId) -> Result<[(&'static str, String); 4], serde_json::Error> {
        Ok([
            ("name", self.name().to_owned()),
            ("source", source.to_string()),
            ("payload", serde_json::to_string(self)?),
            ("metadata", METADATA.to_owned()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_the_reference_writes() {
        let source: AgentId = "i-lab-py".parse().unwrap();
        let entry = |event: ManagerEvent| {
            event.entry(&source).unwrap().map(|(field, value)| format!("{field}={value}")).join(" ")
        };
        let metadata = r#"metadata={"request_id":null,"user":null,"triggered_user":null,"traceparent":null}"#;
        assert_eq!(
            entry(ManagerEvent::AgentStarted { reason: StartReason::SelfStarted }),
            format!(r#"name=agent_started source=i-lab-py payload={{"reason":"self-started"}} {metadata}"#)
        );
        assert_eq!(
            entry(ManagerEvent::AgentTerminated { reason: EndReason::Shutdown }),
            format!(r#"name=agent_terminated source=i-lab-py payload={{"reason":"shutdown"}} {metadata}"#)
        );
    }
}
