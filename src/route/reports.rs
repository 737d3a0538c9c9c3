//! Reports to a kernel's actor: never waited for, coalesced while the actor does not take them.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Report;

/// Ends of runs kept for an actor that takes nothing; older ones are dropped.
const MAX_ENDS: usize = 256;

/// The channel with what did not fit.
#[derive(Debug)]
pub(super) struct Reports {
    sender: mpsc::Sender<Report>,
    /// In order; of the runner's state only the newest.
    kept: VecDeque<Report>,
}

impl Reports {
    pub(super) fn new(sender: mpsc::Sender<Report>) -> Self {
        Self { sender, kept: VecDeque::new() }
    }

    pub(super) fn push(&mut self, report: Report) {
        let of_a_run =
            |report: &Report| matches!(report, Report::RunEnded { .. } | Report::OutputLost { .. });
        if !of_a_run(&report) {
            self.kept.retain(of_a_run);
        } else if self.kept.len() >= MAX_ENDS {
            tracing::warn!("the kernel's actor takes no reports; the oldest is dropped");
            self.kept.pop_front();
        }
        self.kept.push_back(report);
        self.flush();
    }

    /// Sends what can be sent; true when something is left for later.
    pub(super) fn flush(&mut self) -> bool {
        while let Some(report) = self.kept.pop_front() {
            match self.sender.try_send(report) {
                Ok(()) => {}
                Err(TrySendError::Full(report)) => {
                    self.kept.push_front(report);
                    return true;
                }
                Err(TrySendError::Closed(_)) => self.kept.clear(),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::RunId;
    use crate::route::RunEnd;

    #[test]
    fn a_busy_actor_gets_every_end_and_the_newest_state() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut reports = Reports::new(sender);
        let ended = || Report::RunEnded { run: RunId::random(), end: RunEnd::Cancelled };
        let silent = |seconds| Report::Silent(Duration::from_secs(seconds));
        let (first, second) = (ended(), ended());
        for report in [first.clone(), silent(10), second.clone(), silent(20)] {
            reports.push(report);
        }
        let mut seen = Vec::new();
        while let Ok(report) = receiver.try_recv() {
            seen.push(report);
            reports.flush();
        }
        assert_eq!(seen, [first, second, silent(20)]);
    }
}
