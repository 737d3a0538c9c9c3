//! Questions to a runner that have one reply each: completions, services, applications (contracts: kernel §1.6,
//! §1.9). Pure: the clock is an argument.
//!
//! Replies have no id, only a type, so at most one question of a type is open. One that was given up may still be
//! answered: the first replies after it are taken as its own and dropped, until it is too old to be answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use berth_link::{MessageType, Op};
use bytes::Bytes;

/// How long a list of services may take (contracts: kernel §1.6).
const APPS: Duration = Duration::from_secs(10);
/// How long a service may take to start: more than the runner waits for it (contracts: kernel §1.6).
const SERVICE: Duration = Duration::from_secs(35);

/// A question of another room to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inquiry {
    /// Which services there are; empty: all (op `get-apps`).
    Apps(String),
    /// Start a service; the payload as the contract has it (op `start-service`).
    StartService(Bytes),
    /// Start a model service (op `start-model-service`); how long depends on its health check.
    StartModelService {
        /// As the contract has it.
        payload: Bytes,
        /// How long to wait for the reply.
        patience: Duration,
    },
}

/// What a runner is told and does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A process of the kernel was killed for memory (op `event`).
    OutOfMemory,
    /// Stop that service (op `shutdown-service`).
    ShutdownService(String),
}

impl Notice {
    pub(super) fn into_message(self) -> (Op, Bytes) {
        match self {
            Self::OutOfMemory => (Op::Event, Bytes::from_static(br#"{"type": "oom", "data": {}}"#)),
            Self::ShutdownService(name) => {
                (Op::ShutdownService, serde_json::Value::from(name).to_string().into())
            }
        }
    }
}

impl Inquiry {
    pub(super) fn into_parts(self) -> (Kind, Bytes, Duration) {
        match self {
            Self::Apps(name) => (Kind::Apps, name.into(), APPS),
            Self::StartService(payload) => (Kind::Service, payload, SERVICE),
            Self::StartModelService { payload, patience } => (Kind::ModelService, payload, patience),
        }
    }
}

/// Questions of one type that may wait behind the open one.
const MAX_WAITING: usize = 128;

/// A type of reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Completion,
    Apps,
    Service,
    ModelService,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Completion, Self::Apps, Self::Service, Self::ModelService];

    /// The type that a message is a reply of.
    pub(super) fn of(message: MessageType) -> Option<Self> {
        match message {
            MessageType::Completion => Some(Self::Completion),
            MessageType::AppsResult => Some(Self::Apps),
            MessageType::ServiceResult => Some(Self::Service),
            MessageType::ModelServiceResult => Some(Self::ModelService),
            _ => None,
        }
    }

    fn op(self) -> Op {
        match self {
            Self::Completion => Op::Complete,
            Self::Apps => Op::GetApps,
            Self::Service => Op::StartService,
            Self::ModelService => Op::StartModelService,
        }
    }
}

/// The questions of one kernel; `W` is who waits for the reply.
#[derive(Debug)]
pub(super) struct Inquiries<W> {
    queues: [Queue<W>; 4],
}

#[derive(Debug)]
struct Queue<W> {
    open: Option<Open<W>>,
    waiting: VecDeque<Question<W>>,
    /// When each question that was given up may be answered until.
    owed: VecDeque<Instant>,
}

#[derive(Debug)]
struct Question<W> {
    who: W,
    payload: Bytes,
    patience: Duration,
}

#[derive(Debug)]
struct Open<W> {
    who: Option<W>,
    until: Instant,
    patience: Duration,
}

/// What is to be sent now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) op: Op,
    pub(super) payload: Bytes,
}

/// There are too many already; the caller comes back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full<W>(pub(super) W);

impl<W> Default for Inquiries<W> {
    fn default() -> Self {
        Self {
            queues: Kind::ALL.map(|_| Queue { open: None, waiting: VecDeque::new(), owed: VecDeque::new() }),
        }
    }
}

impl<W> Inquiries<W> {
    fn queue(&mut self, kind: Kind) -> &mut Queue<W> {
        &mut self.queues[kind as usize]
    }

    /// Asks, at once or when the question before it is over. `patience` counts from the sending.
    pub(super) fn ask(
        &mut self,
        kind: Kind,
        who: W,
        payload: Bytes,
        patience: Duration,
        now: Instant,
    ) -> Result<Option<Send>, Full<W>> {
        let queue = self.queue(kind);
        if queue.waiting.len() >= MAX_WAITING {
            return Err(Full(who));
        }
        queue.waiting.push_back(Question { who, payload, patience });
        Ok(queue.next(kind, now))
    }

    /// A reply came: whose it is, and what is to be sent next. None: nobody's.
    pub(super) fn replied(&mut self, kind: Kind, now: Instant) -> (Option<W>, Option<Send>) {
        let queue = self.queue(kind);
        queue.owed.retain(|until| *until > now);
        if queue.owed.pop_front().is_some() {
            return (None, None);
        }
        let who = queue.open.take().and_then(|open| open.who);
        (who, queue.next(kind, now))
    }

    /// When to call [`Self::expire`] next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.open.as_ref()).map(|open| open.until).min()
    }

    /// Gives up questions that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<W>, Vec<Send>) {
        let (mut over, mut sends) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let queue = self.queue(kind);
            if let Some(open) = queue.open.take_if(|open| open.until <= now) {
                // As late as it may have been asked for, its reply may come once more.
                queue.owed.push_back(now + open.patience);
                over.extend(open.who);
                sends.extend(queue.next(kind, now));
            }
        }
        (over, sends)
    }

    /// Whoever waits and is not wanted any more; a reply on its way is still known as his.
    pub(super) fn forget(&mut self, unwanted: impl Fn(&W) -> bool) {
        for queue in &mut self.queues {
            queue.waiting.retain(|question| !unwanted(&question.who));
            if let Some(open) = &mut queue.open
                && open.who.as_ref().is_some_and(&unwanted)
            {
                open.who = None;
            }
        }
    }

    /// The runner has gone and will answer nothing: everybody who waits.
    pub(super) fn drain(&mut self) -> Vec<W> {
        let mut over = Vec::new();
        for queue in &mut self.queues {
            queue.owed.clear();
            over.extend(queue.open.take().and_then(|open| open.who));
            over.extend(queue.waiting.drain(..).map(|question| question.who));
        }
        over
    }
}

impl<W> Queue<W> {
    fn next(&mut self, kind: Kind, now: Instant) -> Option<Send> {
        if self.open.is_some() {
            return None;
        }
        let Question { who, payload, patience } = self.waiting.pop_front()?;
        self.open = Some(Open { who: Some(who), until: now + patience, patience });
        Some(Send { op: kind.op(), payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn ask(asked: &mut Inquiries<u32>, who: u32, now: Instant) -> Option<Bytes> {
        let payload = Bytes::from(who.to_string());
        asked.ask(Kind::Completion, who, payload, PATIENCE, now).unwrap().map(|send| send.payload)
    }

    #[test]
    fn one_question_of_a_type_is_open_and_others_wait() {
        let (mut asked, now) = (Inquiries::default(), Instant::now());
        assert_eq!(ask(&mut asked, 1, now), Some("1".into()));
        assert_eq!(ask(&mut asked, 2, now), None);
        let service = asked.ask(Kind::Service, 3, "{}".into(), PATIENCE, now).unwrap().unwrap();
        assert_eq!((service.op, asked.next_deadline()), (Op::StartService, Some(now + PATIENCE)));
        let (who, next) = asked.replied(Kind::Completion, now);
        assert_eq!((who, next.map(|send| send.payload)), (Some(1), Some("2".into())));
        assert_eq!(asked.replied(Kind::Completion, now), (Some(2), None));
        assert_eq!(asked.replied(Kind::Completion, now), (None, None));
        assert_eq!(asked.replied(Kind::Service, now).0, Some(3));
    }

    #[test]
    fn a_late_reply_never_reaches_the_next_caller() {
        let (mut asked, now) = (Inquiries::default(), Instant::now());
        ask(&mut asked, 1, now);
        ask(&mut asked, 2, now);
        let later = now + PATIENCE;
        let (over, sends) = asked.expire(later);
        assert_eq!((over, sends.len()), (vec![1], 1));
        assert_eq!(asked.replied(Kind::Completion, later), (None, None), "it was the first one's");
        assert_eq!(asked.replied(Kind::Completion, later).0, Some(2));
    }

    #[test]
    fn a_reply_that_never_comes_is_not_waited_for_for_ever() {
        let (mut asked, now) = (Inquiries::default(), Instant::now());
        ask(&mut asked, 1, now);
        asked.expire(now + PATIENCE);
        let later = now + 3 * PATIENCE;
        ask(&mut asked, 2, later);
        assert_eq!(asked.replied(Kind::Completion, later).0, Some(2));
    }

    #[test]
    fn who_gave_up_gets_nothing_and_a_runner_that_went_ends_all() {
        let (mut asked, now) = (Inquiries::default(), Instant::now());
        (1..=3).for_each(|who| drop(ask(&mut asked, who, now)));
        asked.forget(|who| *who != 3);
        assert_eq!(asked.replied(Kind::Completion, now).0, None, "the first one's, who is gone");
        assert_eq!(asked.drain(), [3]);
        assert!(asked.drain().is_empty());
        for who in 0..=MAX_WAITING as u32 {
            assert!(asked.ask(Kind::Apps, who, Bytes::new(), PATIENCE, now).is_ok());
        }
        assert_eq!(asked.ask(Kind::Apps, 7, Bytes::new(), PATIENCE, now), Err(Full(7)));
    }
}
