//! Events to the manager, in the JSON form of 26.9 (contracts: manager §3.1, §3.2). Pure.
//!
//! A field that is missing or wrong makes the manager drop an event without a word, so every payload is a type
//! here: what can be built can be read there.

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
    /// At the clean end of the agent; kernels run on.
    AgentTerminated {
        /// Why; another one than `agent-restart` makes the node TERMINATED until its next heartbeat.
        reason: EndReason,
    },
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
