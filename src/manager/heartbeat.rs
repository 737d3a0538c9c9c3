//! The heartbeat: a thread and a connection of its own, which wait for nothing else (invariant 6; contracts:
//! manager §3.2, §3.3).
//!
//! Every 20 s, and at once when the node's slots or its place in the cluster change, the manager is told what this
//! node is. The first one that Redis takes is followed by `agent_started`, the clean end by `agent_terminated`. A
//! Redis that does not answer costs its time-outs and the next try comes a second later: a manager takes a node
//! for lost after 40 s.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::events::{EndReason, ManagerEvent, StartReason};
use super::info::{Identity, agent_info};
use super::membership::{Joined, now_ms};
use super::messenger::Way;
use crate::agent::NodeStatus;
use crate::ids::AgentId;
use crate::inventory::Offer;
use crate::policy;

/// How often the thread looks whether something changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the thread reads and tells.
#[derive(Debug)]
pub struct Surroundings {
    /// Who this is.
    pub agent: AgentId,
    /// What does not change.
    pub identity: Identity,
    /// `[debug] heartbeat-interval`.
    pub interval: Duration,
    /// Where to report, when that is known.
    pub joined: watch::Receiver<Option<Joined>>,
    /// What the node offers.
    pub offers: watch::Receiver<Option<Offer>>,
    /// Which policies decide.
    pub policy: policy::Handle,
    /// Told how the last heartbeat fared.
    pub status: watch::Sender<NodeStatus>,
}

/// The running thread. Dropping it leaves the cluster: the manager is told once, if Redis answers.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the thread.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(surroundings: Surroundings) -> std::io::Result<Heartbeat> {
    let (stop, stopped) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("heartbeat".to_owned())
        .spawn(move || Beating::new(surroundings).run(&stopped))?;
    Ok(Heartbeat { stop: Some(stop), thread: Some(thread) })
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Full or gone: it is ending already.
            let (Ok(()) | Err(TrySendError::Full(())) | Err(TrySendError::Disconnected(()))) =
                stop.try_send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Beating {
    around: Surroundings,
    way: Way,
    /// Redis took a heartbeat of this process.
    started: bool,
    /// What the last one said; none when Redis did not take it.
    said: Option<String>,
    due: Instant,
    problem: Option<String>,
    withheld: Vec<String>,
}

impl Beating {
    fn new(around: Surroundings) -> Self {
        let (way, due) = (Way::new(around.agent.clone()), Instant::now());
        Self { around, way, started: false, said: None, due, problem: None, withheld: Vec::new() }
    }

    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            self.look();
            match stopped.recv_timeout(LOOK_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let joined = self.around.joined.borrow().clone();
        if let Some(joined) = joined.filter(|_| self.started) {
            let left = self.way.send(&joined, &ManagerEvent::AgentTerminated { reason: EndReason::Shutdown });
            if let Err(error) = left {
                tracing::warn!("the manager was not told of the end, and finds out after 40 s: {error}");
            }
        }
    }

    /// Beats when it is time to.
    fn look(&mut self) {
        let Some(joined) = self.around.joined.borrow().clone() else { return };
        let policies = self.around.policy.list();
        let (info, withheld) = {
            let offer = self.around.offers.borrow();
            agent_info(&self.around.identity, &joined.address, offer.as_ref(), &policies)
        };
        let event = ManagerEvent::AgentHeartbeat { agent_info: Box::new(info) };
        let news = serde_json::to_string(&event).ok();
        if self.said.is_some() && self.said == news && Instant::now() < self.due {
            return;
        }
        self.warn_of(withheld);
        let sent = self.way.send(&joined, &event);
        self.due = Instant::now() + self.around.interval;
        self.said = news.filter(|_| sent.is_ok());
        if sent.is_ok() && !self.started {
            self.started = true;
            let started = ManagerEvent::AgentStarted { reason: StartReason::SelfStarted };
            if let Err(error) = self.way.send(&joined, &started) {
                // A hint only: the heartbeat has made the node ALIVE.
                tracing::debug!("agent_started was not taken: {error}");
            }
        }
        self.tell(sent.err().map(|error| error.to_string()));
    }

    fn warn_of(&mut self, withheld: Vec<String>) {
        if withheld != self.withheld {
            if !withheld.is_empty() {
                tracing::warn!(
                    slots = withheld.join(", "),
                    "no manager knows these slots, so they are not reported; register them there as resource slot types"
                );
            }
            self.withheld = withheld;
        }
    }

    fn tell(&mut self, problem: Option<String>) {
        match (&self.problem, &problem) {
            (was, Some(is)) if was.as_ref() != Some(is) => tracing::warn!("no heartbeat: {is}"),
            (Some(_), None) => tracing::info!("heartbeats are taken again"),
            _ => {}
        }
        let withheld = self.withheld.clone();
        self.around.status.send_modify(|status| {
            if let Some(cluster) = &mut status.cluster {
                if problem.is_none() {
                    cluster.heartbeat_ms = Some(now_ms());
                }
                (cluster.heartbeat_problem, cluster.withheld) = (problem.clone(), withheld);
            }
        });
        self.problem = problem;
    }
}
