//! The machine's part for agents and clients that come back: what an earlier agent's runs become here, and
//! where a run is whose client returns. Pure, as all of the machine.

use berth_link::PROTOCOL_WITH_RUNS;

use super::{Current, Effect, Machine, Past, Place, Record, Stdin, Timer, Turn};
use crate::ids::RunId;
use crate::route::held::{Held, Piece, run_id};
use crate::route::{Resume, RunEnd, RunnerStatus};

impl Machine {
    /// Where a run is whose client has come back. A run that was never sent can be told from one that
    /// was: the runner takes an earlier agent's tasks from the wire before it answers this one.
    pub(in crate::route) fn place(&self, run: &RunId, resume: &Resume) -> Place {
        if let Some(Past { end, output_bytes, .. }) = self.past(run) {
            return Place::Ended { end: end.clone(), output_bytes: *output_bytes };
        }
        let restarted = resume.incarnation.is_some()
            && self.incarnation.is_some()
            && resume.incarnation != self.incarnation;
        match self.current() {
            Some(current) if current.run == *run => {
                let (stdin_bytes, stdin_room) = (current.stdin.received, current.stdin.room());
                Place::Current { stdin_bytes, stdin_room }
            }
            _ if self.waits(run).is_some() => Place::Waiting,
            _ if matches!(self.turn, Turn::Unknown(_)) => Place::Unsettled,
            _ if restarted => Place::Restarted,
            _ if self.protocol >= PROTOCOL_WITH_RUNS && resume.received_bytes == 0 => Place::Never,
            _ => Place::Unsure,
        }
    }

    /// The first answer: it says whose was held, how the last runs ended, and what runs.
    pub(super) fn settle(&mut self, held: Held, status: &RunnerStatus, effects: &mut Vec<Effect>) {
        self.expected_done = status.tasks_done + u64::from(status.running.is_some());
        let settled = held.settle(status);
        effects.extend((0..settled.strays).map(|_| Effect::Stray));
        let first = status.recent.len() - settled.ended.len();
        let mut pieces = settled.ended.into_iter();
        for (at, task) in status.recent.iter().enumerate() {
            let piece = if at >= first { pieces.next() } else { None };
            let run = run_id(task.run.as_deref()).filter(|run| self.past(run).is_none());
            let end = RunEnd::Finished { exit_code: task.exit_code };
            match (run, piece) {
                (Some(run), Some(piece)) => {
                    self.adopt(run, piece, Stdin::default(), effects);
                    self.end_current(end, Turn::Idle, effects);
                }
                // Its end was told, or nearly: whoever comes back for it gets it once more.
                (Some(run), None) => self.remember(Past { run, end, output_bytes: task.output_bytes }),
                (None, piece) => drop_piece(piece, effects),
            }
        }
        let run = run_id(status.run.as_deref()).filter(|run| self.past(run).is_none());
        match (&status.running, run) {
            (None, _) => self.turn = Turn::Idle,
            (Some(_), None) => {
                drop_piece(Some(settled.current), effects);
                self.turn = Turn::Draining;
            }
            (Some(_), Some(run)) => {
                let stdin = Stdin {
                    open: true,
                    received: status.stdin_bytes,
                    unacknowledged: usize::try_from(status.stdin_held).unwrap_or(usize::MAX),
                };
                self.adopt(run.clone(), settled.current, stdin, effects);
                let after = self.lost_client;
                effects.push(Effect::Arm { run, timer: Timer::LostClient, after });
            }
        }
    }

    /// Takes up an earlier agent's run with what was held of its output.
    fn adopt(&mut self, run: RunId, piece: Piece, stdin: Stdin, effects: &mut Vec<Effect>) {
        let Piece { at, records } = piece;
        effects.push(Effect::Adopt { run: run.clone(), at });
        self.turn =
            Turn::Running(Current { run, stdin, output_bytes: at, tasks: 1, timed: false, timed_out: false });
        for record in records {
            // What the answer counts as held was counted after every acknowledgement before it.
            if matches!(record, Record::Output(_) | Record::Step(..)) {
                self.record(record, effects);
            }
        }
    }
}

/// Records of a task that has no name.
fn drop_piece(piece: Option<Piece>, effects: &mut Vec<Effect>) {
    let records = piece.map_or(0, |piece| piece.records.len());
    effects.extend((0..records).map(|_| Effect::Stray));
}
