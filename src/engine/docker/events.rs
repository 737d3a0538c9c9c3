//! What happens to containers of one instance, as long as somebody listens.
//!
//! ```text
//! connect -> Resync -> Died, OutOfMemory ... -> connection lost -> (wait) -> connect -> Resync ...
//! ```
//! Each subscription asks for what happened since just before its `Resync`: what came earlier is found
//! by looking at everything, what came later is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::client::Client;
use super::error::About;
use crate::engine::{EngineEvent, LABEL_INSTANCE, LABEL_KERNEL_ID};
use crate::ids::InstanceId;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tells events until the receiver is dropped.
pub(super) async fn watch(client: Arc<Client>, instance: InstanceId, listener: mpsc::Sender<EngineEvent>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let told = tokio::select! {
            () = listener.closed() => return,
            told = subscribe(&client, instance, &listener) => told,
        };
        match told {
            Told::Something => pause = FIRST_PAUSE,
            Told::Nothing => {}
        }
        tokio::select! {
            () = listener.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a subscription came about.
enum Told {
    Something,
    Nothing,
}

/// One subscription, to its end.
async fn subscribe(client: &Client, instance: InstanceId, listener: &mpsc::Sender<EngineEvent>) -> Told {
    // Proves that the engine answers, and agrees on a version when it was away.
    let asked = client
        .call("events", client.deadlines.info, About::Engine, |session| async move {
            session.docker.ping().await.map(|_| session)
        })
        .await;
    let session = match asked {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(%error, "engine events cannot be had yet");
            client.forget();
            return Told::Nothing;
        }
    };
    // The engine runs on this node: one clock.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if listener.send(EngineEvent::Resync).await.is_err() {
        return Told::Something;
    }
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), vec!["die".to_owned(), "oom".to_owned()]),
        ("label".to_owned(), vec![format!("{LABEL_INSTANCE}={instance}")]),
    ]);
    let options = EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    let mut stream = session.docker.events(Some(options));
    while let Some(message) = stream.next().await {
        match message {
            Ok(message) => {
                let Some(event) = event(message) else { continue };
                if listener.send(event).await.is_err() {
                    return Told::Something;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "engine events were lost");
                break;
            }
        }
    }
    // It may come back as another version.
    client.forget();
    Told::Something
}

fn event(message: EventMessage) -> Option<EngineEvent> {
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let container = actor.id?.parse().ok()?;
    let kernel = attributes.get(LABEL_KERNEL_ID)?.parse().ok()?;
    match message.action?.as_str() {
        "die" => {
            let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
            Some(EngineEvent::Died { container, kernel, exit_code })
        }
        "oom" => Some(EngineEvent::OutOfMemory { container, kernel }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        serde_json::from_value(serde_json::json!({
            "Type": "container",
            "Action": action,
            "Actor": {"ID": "abc", "Attributes": attributes.iter().copied().collect::<HashMap<_, _>>()},
        }))
        .unwrap()
    }

    #[test]
    fn only_deaths_and_memory_of_kernels_are_told() {
        let kernel = "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10";
        let of = (LABEL_KERNEL_ID, kernel);
        assert_eq!(
            event(message("die", &[of, ("exitCode", "137")])),
            Some(EngineEvent::Died {
                container: "abc".parse().unwrap(),
                kernel: kernel.parse().unwrap(),
                exit_code: Some(137)
            })
        );
        assert!(matches!(event(message("oom", &[of])), Some(EngineEvent::OutOfMemory { .. })));
        assert_eq!(event(message("start", &[of])), None);
        assert_eq!(event(message("die", &[])), None);
        assert_eq!(event(message("die", &[(LABEL_KERNEL_ID, "x")])), None);
    }
}
