//! The run machine of one kernel: `(state, input) -> effects`, no I/O, no clock.
//!
//! ```text
//!  Unknown --idle answer--> Idle --next run--> Running --finished--> Idle
//!     |                                         ^  | cancelled, timed out, client gone
//!     +--busy answer with a run id--------------+  |
//!     +--busy answer without--> Draining <---------+
//!                                  +--finished--> Idle
//! ```
//! Runs wait in one queue and have their turn one after another. The run at the head is the only one
//! that output can belong to: the protocol has no correlation id (contracts: kernel §1.2), so the next
//! task is sent only when the end of the last one was seen. A run that ends here before it ended in the
//! runner leaves the machine `Draining`: what still comes is dropped until `finished`.
//!
//! What comes before the first answer may be of a run that an earlier agent began: it is held, and the
//! answer says whose it is ([`super::held`]). Such a run goes on here as if its client had just been lost.
//! The last ends are remembered, so that a client that comes back late gets its own, and no run is begun
//! twice.

use std::collections::VecDeque;
use std::time::Duration;

use berth_link::{Op, PROTOCOL_WITH_RUNS, STDIN_WINDOW};
use bytes::Bytes;

use super::held::Held;
use super::{Output, RunEnd, RunRequest, RunnerStatus, Task};
use crate::ids::RunId;

mod adoption;
mod vocabulary;

pub(super) use vocabulary::{Effect, Input, Place, Record, Timer};

/// How long a run may take after the interrupt that its timeout sent.
const INTERRUPT_GRACE: Duration = Duration::from_secs(5);
/// Ends that are remembered: more than can happen between a client's loss and its return.
const ENDS_KEPT: usize = 128;
/// Keepalive answers in a row that say "nothing runs" before the end of a task counts as missed. They
/// are ten seconds apart; one alone may have been written before the task was taken up.
const IDLE_ANSWERS: u8 = 2;

/// The runs of one kernel.
#[derive(Debug)]
pub(super) struct Machine {
    turn: Turn,
    waiting: VecDeque<Waiting>,
    incarnation: Option<String>,
    /// What `tasks_done` says when every task that was sent has ended.
    expected_done: u64,
    /// Keepalive answers since the last record that said "nothing runs".
    idle_answers: u8,
    /// What the runner speaks; 0 for the reference's, and before its first answer.
    protocol: u32,
    /// How long a run goes on without its client.
    lost_client: Duration,
    /// The last ends, oldest first.
    ends: VecDeque<Past>,
}

/// A run that has ended.
#[derive(Debug)]
struct Past {
    run: RunId,
    end: RunEnd,
    output_bytes: u64,
}

#[derive(Debug)]
enum Turn {
    /// A task of an earlier agent may run.
    Unknown(Held),
    Idle,
    Running(Current),
    /// The runner works for a run that has ended here, or that this agent never knew.
    Draining,
}

#[derive(Debug)]
struct Current {
    run: RunId,
    stdin: Stdin,
    /// Console bytes so far of the task under way, from its start.
    output_bytes: u64,
    /// Tasks that it was sent as and that have not ended: three for a batch.
    tasks: u64,
    /// Its timeout counts here.
    timed: bool,
    timed_out: bool,
}

#[derive(Debug)]
struct Waiting {
    request: RunRequest,
    /// Standard input that came before the run's turn; at most [`STDIN_WINDOW`] bytes.
    early: Vec<Bytes>,
    stdin: Stdin,
}

#[derive(Debug, Default)]
struct Stdin {
    open: bool,
    /// Bytes taken from the client, from the start.
    received: u64,
    /// Those of them that the runner has not acknowledged yet.
    unacknowledged: usize,
}

impl Stdin {
    fn take(&mut self, bytes: usize) {
        self.received += bytes as u64;
        self.unacknowledged += bytes;
    }

    fn room(&self) -> usize {
        STDIN_WINDOW.saturating_sub(self.unacknowledged)
    }
}

impl Machine {
    /// A machine for a runner of which nothing is known yet.
    pub(super) fn new(lost_client: Duration) -> Self {
        Self {
            turn: Turn::Unknown(Held::default()),
            waiting: VecDeque::new(),
            incarnation: None,
            expected_done: 0,
            idle_answers: 0,
            protocol: 0,
            lost_client,
            ends: VecDeque::new(),
        }
    }

    /// How that run ended, as far as is remembered.
    pub(super) fn end_of(&self, run: &RunId) -> Option<&RunEnd> {
        self.past(run).map(|past| &past.end)
    }

    /// The runner process, as it names itself.
    pub(super) fn incarnation(&self) -> Option<&str> {
        self.incarnation.as_deref()
    }

    /// Whether that run waits or runs here.
    pub(super) fn knows(&self, run: &RunId) -> bool {
        self.current().is_some_and(|c| c.run == *run) || self.waits(run).is_some()
    }

    /// Runs that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the runner has not answered yet: what it does, and for whom, is not known.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self.turn, Turn::Unknown(_))
    }

    /// The run whose turn it is.
    pub(super) fn current_run(&self) -> Option<&RunId> {
        self.current().map(|current| &current.run)
    }

    /// Bytes of standard input that the run may still send.
    pub(super) fn stdin_room(&self, run: &RunId) -> usize {
        let stdin = match self.current() {
            Some(current) if current.run == *run => Some(&current.stdin),
            _ => self.waits(run).map(|at| &self.waiting[at].stdin),
        };
        stdin.map_or(STDIN_WINDOW, Stdin::room)
    }

    /// One step. Effects are appended, so that a caller can reuse one list.
    pub(super) fn step(&mut self, input: Input<'_>, effects: &mut Vec<Effect>) {
        match input {
            Input::Record(record) => self.record(record, effects),
            Input::Submit(request) => {
                let stdin = Stdin { open: request.stdin, ..Stdin::default() };
                self.waiting.push_back(Waiting { request, early: Vec::new(), stdin });
                self.start_next(effects);
            }
            Input::Stdin { run, data } => self.stdin(&run, data, effects),
            Input::StdinEof { run } => self.stdin_eof(&run, effects),
            Input::Answer { run, text } => {
                if self.current().is_some_and(|c| c.run == run) {
                    effects.push(Effect::Send(Op::Input, text.into()));
                }
            }
            Input::Interrupt { run: None } => {
                if !matches!(self.turn, Turn::Idle) {
                    effects.push(Effect::Send(Op::Interrupt, Bytes::new()));
                }
            }
            Input::Interrupt { run: Some(run) } => {
                if self.current().is_some_and(|c| c.run == run) {
                    effects.push(Effect::Send(Op::Interrupt, Bytes::new()));
                } else {
                    self.cancel_waiting(&run, effects);
                }
            }
            Input::Cancel { run } => {
                if !self.cancel_waiting(&run, effects) {
                    self.give_up_current(&run, RunEnd::Cancelled, effects);
                }
            }
            Input::ClientGone { run } => {
                // A run that waited was never sent: a client that comes back has it queued again, so its
                // end is not remembered.
                if !self.give_up_waiting(&run, effects) && self.current().is_some_and(|c| c.run == run) {
                    effects.push(Effect::Arm { run, timer: Timer::LostClient, after: self.lost_client });
                }
            }
            Input::ClientBack { run, timeout } => {
                if let Turn::Running(current) = &mut self.turn
                    && current.run == run
                {
                    effects.push(Effect::Disarm { run: run.clone(), timer: Timer::LostClient });
                    if let (Some(after), false) = (timeout, current.timed) {
                        current.timed = true;
                        effects.push(Effect::Arm { run, timer: Timer::Timeout, after });
                    }
                }
            }
            Input::Timer { run, timer } => self.timer(run, timer, effects),
            Input::Answered { status, keepalive, task_is_its } => {
                self.answered(status, keepalive, task_is_its, effects);
            }
            Input::Detach { reason } => self.end_all(&RunEnd::Detached { reason }, effects),
        }
    }

    fn current(&self) -> Option<&Current> {
        match &self.turn {
            Turn::Running(current) => Some(current),
            _ => None,
        }
    }

    fn past(&self, run: &RunId) -> Option<&Past> {
        self.ends.iter().find(|past| past.run == *run)
    }

    fn remember(&mut self, past: Past) {
        if self.ends.len() >= ENDS_KEPT {
            self.ends.pop_front();
        }
        self.ends.push_back(past);
    }

    fn waits(&self, run: &RunId) -> Option<usize> {
        self.waiting.iter().position(|waiting| waiting.request.run == *run)
    }

    /// Sends the next task if the runner is free for it.
    fn start_next(&mut self, effects: &mut Vec<Effect>) {
        if !matches!(self.turn, Turn::Idle) {
            return;
        }
        let Some(Waiting { request, early, stdin }) = self.waiting.pop_front() else { return };
        let RunRequest { run, task, stdin: announced, timeout } = request;
        let messages = encode(task);
        let tasks = messages.len() as u64;
        for (at, (op, payload)) in messages.into_iter().enumerate() {
            if self.protocol >= PROTOCOL_WITH_RUNS {
                effects.push(Effect::Send(Op::Run, run.as_str().to_owned().into()));
            }
            // The last task is the one that has an input.
            if announced && at as u64 + 1 == tasks {
                effects.push(Effect::Send(Op::Stdin, Bytes::new()));
            }
            effects.push(Effect::Send(op, payload));
        }
        effects.push(Effect::Emit(Output::Started));
        effects.extend(early.into_iter().map(|data| Effect::Send(Op::Stdin, data)));
        if announced && !stdin.open {
            effects.push(Effect::Send(Op::StdinEof, Bytes::new()));
        }
        if let Some(after) = timeout {
            effects.push(Effect::Arm { run: run.clone(), timer: Timer::Timeout, after });
        }
        self.expected_done += tasks;
        self.idle_answers = 0;
        let timed = timeout.is_some();
        self.turn = Turn::Running(Current { run, stdin, output_bytes: 0, tasks, timed, timed_out: false });
    }

    fn stdin(&mut self, run: &RunId, data: Bytes, effects: &mut Vec<Effect>) {
        // An empty payload would announce a standard input (link: Standard input).
        if data.is_empty() {
            return;
        }
        if let Turn::Running(current) = &mut self.turn
            && current.run == *run
        {
            if current.stdin.open {
                current.stdin.take(data.len());
                effects.push(Effect::Send(Op::Stdin, data));
            }
        } else if let Some(at) = self.waits(run)
            && self.waiting[at].stdin.open
        {
            self.waiting[at].stdin.take(data.len());
            self.waiting[at].early.push(data);
        }
    }

    fn stdin_eof(&mut self, run: &RunId, effects: &mut Vec<Effect>) {
        if let Turn::Running(current) = &mut self.turn
            && current.run == *run
        {
            if std::mem::take(&mut current.stdin.open) {
                effects.push(Effect::Send(Op::StdinEof, Bytes::new()));
            }
        } else if let Some(at) = self.waits(run) {
            self.waiting[at].stdin.open = false;
        }
    }

    fn record(&mut self, record: Record, effects: &mut Vec<Effect>) {
        self.idle_answers = 0;
        match (record, &mut self.turn) {
            (record, Turn::Unknown(held)) => held.push(record),
            (Record::Output(output), Turn::Running(current)) => {
                current.output_bytes += output.console_bytes();
                effects.push(Effect::Emit(output));
            }
            (Record::Credit(bytes), Turn::Running(current)) => {
                // An earlier run's late acknowledgement must not widen this one's window.
                let unacknowledged = &mut current.stdin.unacknowledged;
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(*unacknowledged);
                *unacknowledged -= bytes;
                if bytes > 0 {
                    effects.push(Effect::Emit(Output::StdinCredit(bytes as u64)));
                }
            }
            (Record::Step(step, exit_code), Turn::Running(current)) => {
                // The next task of the same run counts anew.
                current.output_bytes = 0;
                current.tasks = current.tasks.saturating_sub(1);
                effects.push(Effect::Emit(Output::StepEnded { step, exit_code }));
            }
            (Record::Finished(exit_code), Turn::Running(_)) => {
                self.end_current(RunEnd::Finished { exit_code }, Turn::Idle, effects);
                self.start_next(effects);
            }
            (Record::Finished(_), Turn::Draining) => {
                self.turn = Turn::Idle;
                self.start_next(effects);
            }
            _ => effects.push(Effect::Stray),
        }
    }

    fn timer(&mut self, run: RunId, timer: Timer, effects: &mut Vec<Effect>) {
        let Turn::Running(current) = &mut self.turn else { return };
        if current.run != run {
            return;
        }
        match timer {
            Timer::Timeout => {
                current.timed_out = true;
                effects.push(Effect::Send(Op::Interrupt, Bytes::new()));
                effects.push(Effect::Arm { run, timer: Timer::Grace, after: INTERRUPT_GRACE });
            }
            Timer::Grace => self.give_up_current(&run, RunEnd::TimedOut, effects),
            Timer::LostClient => self.give_up_current(&run, RunEnd::Cancelled, effects),
        }
    }

    fn answered(
        &mut self,
        status: &RunnerStatus,
        keepalive: bool,
        task_is_its: bool,
        effects: &mut Vec<Effect>,
    ) {
        let idle = status.running.is_none();
        let restarted = self.incarnation.is_some()
            && status.incarnation.is_some()
            && self.incarnation != status.incarnation;
        if status.incarnation.is_some() {
            self.incarnation.clone_from(&status.incarnation);
        }
        self.protocol = status.protocol.unwrap_or(0);
        if restarted {
            if matches!(self.turn, Turn::Running(_)) && task_is_its {
                // The task was sent to this process; only its count of tasks is new.
                let left = self.current().map_or(0, |current| current.tasks);
                self.expected_done = status.tasks_done + left;
                return;
            }
            self.end_all(&RunEnd::RunnerRestarted, effects);
        }
        match &mut self.turn {
            Turn::Unknown(held) => {
                let held = std::mem::take(held);
                self.settle(held, status, effects);
            }
            Turn::Idle => self.expected_done = status.tasks_done,
            // The reference's runner does not say what runs.
            Turn::Running(_) | Turn::Draining if status.protocol.is_none() => {}
            Turn::Running(_) | Turn::Draining if !idle => self.idle_answers = 0,
            Turn::Running(_) | Turn::Draining => {
                self.idle_answers += u8::from(keepalive);
                if self.idle_answers >= IDLE_ANSWERS {
                    self.missed_end(status, effects);
                }
            }
        }
        self.start_next(effects);
    }

    /// The runner does nothing, and the `finished` that should have said so never came.
    fn missed_end(&mut self, status: &RunnerStatus, effects: &mut Vec<Effect>) {
        let told = self.current().and_then(|current| {
            let run = Some(current.run.as_str());
            let task = status.recent.iter().rev().find(|task| task.run.as_deref() == run)?;
            Some((task.exit_code, task.output_bytes.saturating_sub(current.output_bytes)))
        });
        let (end, lost) = match (&status.last, told) {
            (_, Some((exit_code, lost))) => (RunEnd::Finished { exit_code }, Some(lost)),
            (Some(last), None) if status.tasks_done >= self.expected_done => {
                (RunEnd::Finished { exit_code: last.exit_code }, None)
            }
            _ => (RunEnd::Detached { reason: "task-lost".into() }, None),
        };
        if let Turn::Running(current) = &mut self.turn
            && lost != Some(0)
        {
            // 0 where the runner does not say how many.
            let lost = lost.unwrap_or(0);
            current.output_bytes += lost;
            effects.push(Effect::Emit(Output::Lost(lost)));
        }
        self.end_current(end, Turn::Idle, effects);
        self.expected_done = status.tasks_done;
    }

    /// Ends the run at the head, if there is one, and leaves the machine in `next`.
    fn end_current(&mut self, end: RunEnd, next: Turn, effects: &mut Vec<Effect>) {
        if let Turn::Running(current) = std::mem::replace(&mut self.turn, next) {
            let end = match end {
                RunEnd::Finished { .. } if current.timed_out => RunEnd::TimedOut,
                end => end,
            };
            let Current { run, output_bytes, .. } = current;
            self.remember(Past { run: run.clone(), end: end.clone(), output_bytes });
            effects.push(Effect::Ended { run, end });
        }
    }

    /// Ends the run at the head although the runner still works on it.
    fn give_up_current(&mut self, run: &RunId, end: RunEnd, effects: &mut Vec<Effect>) {
        let Turn::Running(current) = &self.turn else { return };
        if current.run != *run {
            return;
        }
        if current.stdin.open {
            // Nobody will send more; a program that reads on would hold the kernel for ever.
            effects.push(Effect::Send(Op::StdinEof, Bytes::new()));
        }
        self.end_current(end, Turn::Draining, effects);
    }

    fn give_up_waiting(&mut self, run: &RunId, effects: &mut Vec<Effect>) -> bool {
        let Some(waiting) = self.waits(run).and_then(|at| self.waiting.remove(at)) else { return false };
        effects.push(Effect::Ended { run: waiting.request.run, end: RunEnd::Cancelled });
        true
    }

    /// As its client wants: remembered.
    fn cancel_waiting(&mut self, run: &RunId, effects: &mut Vec<Effect>) -> bool {
        let found = self.give_up_waiting(run, effects);
        if found {
            self.remember(Past { run: run.clone(), end: RunEnd::Cancelled, output_bytes: 0 });
        }
        found
    }

    fn end_all(&mut self, end: &RunEnd, effects: &mut Vec<Effect>) {
        self.end_current(end.clone(), Turn::Idle, effects);
        for Waiting { request, .. } in std::mem::take(&mut self.waiting) {
            self.remember(Past { run: request.run.clone(), end: end.clone(), output_bytes: 0 });
            effects.push(Effect::Ended { run: request.run, end: end.clone() });
        }
        self.turn = Turn::Unknown(Held::default());
    }
}

/// The messages that a task is sent as, in order.
fn encode(task: Task) -> Vec<(Op, Bytes)> {
    match task {
        Task::Exec(command) => vec![(Op::Exec, command.into())],
        Task::Code(source) => vec![(Op::Code, source.into())],
        // A list of strings has no failure.
        Task::Argv(words) => vec![(Op::Argv, serde_json::to_vec(&words).unwrap_or_default().into())],
        // Always all three (contracts: kernel §1.3); the runner skips the empty ones and answers all the same.
        Task::Batch { clean, build, exec } => {
            vec![(Op::Clean, clean.into()), (Op::Build, build.into()), (Op::Exec, exec.into())]
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod adoption_tests;
