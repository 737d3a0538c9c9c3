//! What a runner sent before its first answer: the output of an earlier agent's runs. Pure.
//!
//! A runner's messages are in one order, and an agent sends a task only when the one before it has ended.
//! So of what came before the first answer, all after the last `finished` belongs to the task that the
//! answer says runs now, and each `finished` with what is before it to one of the tasks that ended last.

use std::collections::VecDeque;

use super::machine::Record;
use super::{Output, RunnerStatus};
use crate::ids::RunId;

/// What may be held; beyond it the oldest counts as lost. More than a runner keeps (4 MiB), so that an
/// honest one loses nothing here.
const HELD_MAX: usize = 8 << 20;
/// What a record costs beside its payload.
const RECORD_COST: usize = 128;

/// Records in the order they came.
#[derive(Debug, Default)]
pub(super) struct Held {
    records: VecDeque<Record>,
    cost: usize,
}

/// What is known of whose the held records are.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Of the tasks that ended, as many as there are here, the last of [`RunnerStatus::recent`].
    pub(super) ended: Vec<Piece>,
    /// Of the task that runs.
    pub(super) current: Piece,
    /// Records of nobody.
    pub(super) strays: usize,
}

/// Held records of one task.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Piece {
    /// Console bytes of the task before the first of these records.
    pub(super) at: u64,
    /// Without the `finished`.
    pub(super) records: Vec<Record>,
}

impl Held {
    /// Keeps a record.
    pub(super) fn push(&mut self, record: Record) {
        self.cost += cost(&record);
        self.records.push_back(record);
        while self.cost > HELD_MAX
            && let Some(oldest) = self.records.pop_front()
        {
            self.cost -= cost(&oldest);
        }
    }

    /// Says whose everything is, by the answer that came behind it.
    pub(super) fn settle(self, status: &RunnerStatus) -> Settled {
        let mut pieces = vec![Vec::new()];
        for record in self.records {
            match (record, pieces.last_mut()) {
                (Record::Finished(_), _) => pieces.push(Vec::new()),
                (record, Some(piece)) => piece.push(record),
                (_, None) => {}
            }
        }
        let current = pieces.pop().unwrap_or_default();
        // More ends than the runner remembers tasks are those of nobody.
        let unknown = pieces.len().saturating_sub(status.recent.len());
        let mut strays = pieces.drain(..unknown).map(|piece| piece.len() + 1).sum();
        let tasks = &status.recent[status.recent.len() - pieces.len()..];
        let ended = pieces.into_iter().zip(tasks).map(|(piece, task)| Piece::of(piece, task.output_bytes));
        let ended = ended.collect();
        let current = if status.running.is_some() {
            Piece::of(current, status.output_bytes)
        } else {
            strays += current.len();
            Piece::default()
        };
        Settled { ended, current, strays }
    }
}

impl Piece {
    /// The last records of a task that has written `total` console bytes.
    fn of(records: Vec<Record>, total: u64) -> Self {
        // A batch is one run of several tasks, and the count is that of the last of them.
        let of_last = records.rsplit(|record| matches!(record, Record::Step(..))).next().unwrap_or_default();
        let here: u64 = of_last.iter().map(console_bytes).sum();
        Self { at: total.saturating_sub(here), records }
    }
}

/// Console bytes of a record: what `output_bytes` of a runner counts.
fn console_bytes(record: &Record) -> u64 {
    match record {
        Record::Output(output) => output.console_bytes(),
        Record::Credit(_) | Record::Step(..) | Record::Finished(_) => 0,
    }
}

fn cost(record: &Record) -> usize {
    let payload = match record {
        Record::Output(
            Output::Stdout(data) | Output::Stderr(data) | Output::Log(data) | Output::Media(data),
        ) => data.len(),
        _ => 0,
    };
    payload + RECORD_COST
}

/// The id of a run as a runner tells it.
pub(super) fn run_id(word: Option<&str>) -> Option<RunId> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use berth_link::EndedTask;

    use super::*;

    fn out(text: &str) -> Record {
        Record::Output(Output::Stdout(text.to_owned().into()))
    }

    fn held(records: impl IntoIterator<Item = Record>) -> Held {
        let mut held = Held::default();
        records.into_iter().for_each(|record| held.push(record));
        held
    }

    fn status(ended: &[u64], current: Option<u64>) -> RunnerStatus {
        RunnerStatus {
            running: current.map(|_| "exec".into()),
            output_bytes: current.unwrap_or(0),
            recent: ended
                .iter()
                .map(|&output_bytes| EndedTask { output_bytes, ..Default::default() })
                .collect(),
            ..Default::default()
        }
    }

    fn piece(at: u64, records: &[&str]) -> Piece {
        Piece { at, records: records.iter().map(|text| out(text)).collect() }
    }

    #[test]
    fn records_belong_to_the_tasks_that_ended_last_and_to_the_one_that_runs() {
        let records = || [out("ab"), Record::Finished(0), out("c"), out("d"), Record::Finished(1), out("e")];
        let settled = held(records()).settle(&status(&[9, 2, 5], Some(1)));
        assert_eq!(settled.ended, [piece(0, &["ab"]), piece(3, &["c", "d"])]);
        assert_eq!((settled.current, settled.strays), (piece(0, &["e"]), 0));
        let settled = held(records()).settle(&status(&[2], None));
        assert_eq!(settled.ended, [piece(0, &["c", "d"])]);
        assert_eq!((settled.current, settled.strays), (Piece::default(), 3));
    }

    #[test]
    fn beyond_the_bound_the_oldest_counts_as_lost() {
        let chunk = "x".repeat(1 << 20);
        let settled = held((0..20).map(|_| out(&chunk))).settle(&status(&[], Some(30 << 20)));
        let kept = settled.current.records.len();
        assert!((6..=8).contains(&kept), "{kept}");
        assert_eq!(settled.current.at, (30 - kept as u64) << 20);
    }

    #[test]
    fn a_runner_that_counts_wrong_does_no_harm() {
        assert_eq!(held([out("abc")]).settle(&status(&[], Some(1))).current.at, 0);
    }
}
