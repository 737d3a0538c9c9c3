//! The admission task: it owns the ledger, the requests that wait for a place, and the start queue.
//!
//! Every step is short: a message is booked, then [`Task::advance`] decides what can be decided. The
//! policy's answers are futures beside the queues, at most one `place` and one `order` at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::ledger::{Holder, Ledger, TakeError, Ticket};
use super::question::{self, Starting};
use super::queue::{Number, Outcome, StartQueue, Verdict};
use super::{
    Allocation, Config, Placed, Queues, Refused, Request, Share, SlotBook, StartPermit, books, refusal,
    rehearse,
};
use crate::failpoint;
use crate::ids::KernelId;
use crate::inventory::Offer;
use crate::policy::bindings::{scheduling, types};
use crate::policy::worlds::{Order, OrderQuestion, Place, PlaceQuestion};
use crate::policy::{self, Decided, Purpose, Refusal};
use crate::pulse::{Beats, PROGRESS_WITHIN};

/// How often a placement is asked for again when its answer could not be booked: the offer changed
/// while the policy was thinking.
const ATTEMPTS: u32 = 3;

type PlaceAnswer = Decided<Vec<types::Share>>;
type OrderAnswer = Decided<Vec<scheduling::Decision>>;

/// How the scheduler is asked: by the policy host, in tests by a scheduler of theirs.
pub(super) trait Ask: Send + Sync + 'static {
    fn place(&self, question: PlaceQuestion) -> BoxFuture<'static, PlaceAnswer>;
    fn order(&self, question: OrderQuestion) -> BoxFuture<'static, OrderAnswer>;
    /// Nobody is asked: this is the answer, for the record.
    fn refused(&self, question: PlaceQuestion, refusal: &policy::Refusal, purpose: Purpose);
}

impl Ask for policy::Handle {
    fn place(&self, question: PlaceQuestion) -> BoxFuture<'static, PlaceAnswer> {
        let host = self.clone();
        Box::pin(async move { host.ask::<Place>(question).await })
    }

    fn order(&self, question: OrderQuestion) -> BoxFuture<'static, OrderAnswer> {
        let host = self.clone();
        Box::pin(async move { host.ask::<Order>(question).await })
    }

    fn refused(&self, question: PlaceQuestion, refusal: &policy::Refusal, purpose: Purpose) {
        self.refused_by_admission::<Place>(question, refusal.clone(), purpose);
    }
}

type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// What the task can be asked.
#[derive(Debug)]
pub(super) enum Command {
    Place {
        number: Number,
        request: Box<Request>,
        wait: Option<Duration>,
        reply: Reply<Placed>,
    },
    Permit {
        number: Number,
        request: Box<Request>,
        reply: Reply<(StartPermit, policy::DecidedBy)>,
    },
    Restore {
        kernel: KernelId,
        name: String,
        allocations: Vec<Allocation>,
        reply: Reply<Share>,
    },
    /// See [`super::rehearse`].
    Rehearse {
        request: Box<Request>,
        reply: Reply<rehearse::Question>,
    },
    Books {
        reply: oneshot::Sender<Vec<SlotBook>>,
    },
    Queues {
        reply: oneshot::Sender<Queues>,
    },
}

/// What is said by dropping something; it must neither block nor fail.
#[derive(Debug)]
pub(super) enum Note {
    ShareBack(Ticket),
    PermitBack(Number),
    /// Nobody waits for the answer to this call any more.
    CallOver(Number),
}

/// See the module.
pub(super) struct Task<A> {
    config: Config,
    ask: A,
    notes: mpsc::UnboundedSender<Note>,
    ledger: Ledger,
    offer: Option<Arc<Offer>>,
    /// Requests without a place, by arrival.
    pending: BTreeMap<Number, Pending>,
    placing: Option<Placing>,
    starts: StartQueue<Waiter, Starting>,
    ordering: Option<Ordering>,
    /// Counts what may change a policy's mind: room that came back, a new offer, time.
    changes: u64,
    ask_again_at: Instant,
    beats: Beats,
}

struct Pending {
    request: Box<Request>,
    arrived: Instant,
    wait: Option<Duration>,
    reply: Reply<Placed>,
    /// Why it has no place yet; none before it was looked at.
    last: Option<Refused>,
    /// The policy said "later" when [`Task::changes`] was at this.
    tried: Option<u64>,
    attempts: u32,
}

struct Placing {
    number: Number,
    pending: Pending,
    question: PlaceQuestion,
    /// The offer that the question was made of: answers are indices into it.
    offer: Arc<Offer>,
    changes: u64,
    answer: BoxFuture<'static, PlaceAnswer>,
}

struct Waiter {
    request: Box<Request>,
    reply: Reply<(StartPermit, policy::DecidedBy)>,
}

struct Ordering {
    asked: Vec<Number>,
    answer: BoxFuture<'static, OrderAnswer>,
}

/// What to do with a pending request.
enum Step {
    Refuse(Refused),
    Wait(Refused),
    Ask,
}

impl<A: Ask> Task<A> {
    pub fn new(config: Config, ask: A, notes: mpsc::UnboundedSender<Note>, beats: Beats) -> Self {
        let back = notes.clone();
        let returns = Arc::new(move |ticket| {
            // Fails only without a task, and then there is no ledger to give anything back to.
            let _ = back.send(Note::ShareBack(ticket));
        });
        Self {
            starts: StartQueue::new(config.start_limit),
            ask_again_at: Instant::now(),
            config,
            ask,
            notes,
            ledger: Ledger::new(returns),
            offer: None,
            pending: BTreeMap::new(),
            placing: None,
            ordering: None,
            changes: 0,
            beats,
        }
    }

    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut notes: mpsc::UnboundedReceiver<Note>,
        mut offers: watch::Receiver<Option<Offer>>,
    ) {
        let first = offers.borrow_and_update().clone();
        self.take_offer(first);
        let mut offers_open = true;
        loop {
            self.beats.beat();
            self.advance();
            let wake_at = self.wake_at();
            // Without anything to do it still shows that it lives.
            let shown_by = Instant::now() + PROGRESS_WITHIN;
            let wake_at = wake_at.map_or(shown_by, |at| at.min(shown_by));
            // By priority: what came back before anything is decided about it, answers before new
            // questions, commands before the clock. Every branch is cancel-safe: channels keep what was not
            // received, answers stay in `self`.
            tokio::select! {
                biased;
                Some(note) = notes.recv() => self.hear(note),
                answer = answer_of(self.placing.as_mut().map(|placing| &mut placing.answer)) => {
                    self.finish_placing(answer);
                }
                answer = answer_of(self.ordering.as_mut().map(|ordering| &mut ordering.answer)) => {
                    self.finish_ordering(answer);
                }
                changed = offers.changed(), if offers_open => {
                    offers_open = changed.is_ok();
                    let offer = offers.borrow_and_update().clone();
                    self.take_offer(offer);
                }
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    // Whoever dropped a share before this command was sent finds its room free.
                    while let Ok(note) = notes.try_recv() {
                        self.hear(note);
                    }
                    self.obey(command);
                }
                () = tokio::time::sleep_until(wake_at) => self.look_at_the_clock(),
            }
        }
    }

    fn hear(&mut self, note: Note) {
        match note {
            Note::ShareBack(ticket) => {
                self.ledger.give_back(ticket);
                self.changes += 1;
                self.starts.stir();
            }
            Note::PermitBack(number) => self.starts.give_back(number),
            Note::CallOver(number) => {
                self.pending.remove(&number);
                self.starts.cancel(number);
            }
        }
    }

    fn take_offer(&mut self, offer: Option<Offer>) {
        // An offer never goes away; without a new one the last stays.
        let Some(offer) = offer else { return };
        self.ledger.set_offer(question::lines(&offer));
        self.offer = Some(Arc::new(offer));
        self.changes += 1;
        self.starts.stir();
    }

    fn obey(&mut self, command: Command) {
        if !self.somebody_waits() {
            self.ask_again_at = Instant::now() + self.config.ask_again_every;
        }
        match command {
            Command::Place { number, request, wait, reply } => {
                failpoint::reach("admission-step");
                let arrived = Instant::now();
                let pending = Pending { request, arrived, wait, reply, last: None, tried: None, attempts: 0 };
                self.pending.insert(number, pending);
            }
            Command::Permit { number, request, reply } => {
                self.starts.push(number, Waiter { request, reply });
            }
            Command::Restore { kernel, name, allocations, reply } => {
                let holder = Holder { kernel, name: name.clone(), session: None, owner: None };
                let share = self.ledger.restore(holder, &allocations);
                // A share that nobody receives is dropped here and comes back.
                let _ = reply.send(share.map_err(|_| refusal::already_booked(&name)));
            }
            Command::Rehearse { request, reply } => {
                let waiting = self.pending.values().map(|pending| &*pending.request);
                let question = rehearse::question(&request, self.offer.as_ref(), &self.ledger, waiting);
                if let Err(refused) = &question {
                    self.record(&request, refused, Purpose::DryRun);
                }
                let _ = reply.send(question);
            }
            Command::Books { reply } => {
                let _ = reply.send(books::books(self.offer.as_deref(), &self.ledger));
            }
            Command::Queues { reply } => {
                let _ = reply.send(Queues {
                    placing: self.pending.len() + usize::from(self.placing.is_some()),
                    waiting: self.starts.waiting().count(),
                    starting: self.starts.starting().count(),
                    start_limit: self.starts.limit(),
                });
            }
        }
    }

    /// Decides whatever can be decided now.
    fn advance(&mut self) {
        self.place_next();
        self.refuse_overdue();
        self.order_next();
    }

    /// Looks at the pending requests by arrival, up to the first that the policy is to be asked about.
    fn place_next(&mut self) {
        let Some(offer) = self.offer.clone() else { return };
        if self.placing.is_some() {
            return;
        }
        let mut ahead: Vec<Number> = Vec::new();
        let numbers: Vec<Number> = self.pending.keys().copied().collect();
        for number in numbers {
            let Some(mut pending) = self.pending.remove(&number) else { continue };
            if pending.reply.is_closed() {
                continue;
            }
            match self.step(&pending, &offer, &ahead) {
                Step::Refuse(refused) => {
                    self.record(&pending.request, &refused, Purpose::Real);
                    let _ = pending.reply.send(Err(refused));
                }
                Step::Wait(why) => {
                    pending.last = Some(why);
                    self.pending.insert(number, pending);
                    ahead.push(number);
                }
                Step::Ask => {
                    let question = question::place(&pending.request, &offer, &self.ledger);
                    let answer = self.ask.place(question.clone());
                    let changes = self.changes;
                    self.placing = Some(Placing { number, pending, question, offer, changes, answer });
                    return;
                }
            }
        }
    }

    /// A refusal without a policy is in the journal, too, so that it can be told why later.
    fn record(&self, request: &Request, refused: &Refused, purpose: Purpose) {
        if let (Some(offer), None) = (&self.offer, &refused.by) {
            let question = question::place(request, offer, &self.ledger);
            self.ask.refused(question, &refused.refusal, purpose);
        }
    }

    fn step(&self, pending: &Pending, offer: &Offer, ahead: &[Number]) -> Step {
        let request = &pending.request;
        if let Err(refused) = refusal::check(request, offer) {
            return Step::Refuse(refused);
        }
        let earlier = ahead
            .iter()
            .filter_map(|number| self.pending.get(number))
            .find(|earlier| refusal::compete(&earlier.request, request));
        // What is not free is said first: it is what the user can do something about.
        let no_room = refusal::lacking(request, offer, &self.ledger).or_else(|| {
            earlier.map(|earlier| refusal::behind(request, &earlier.request, offer, &self.ledger))
        });
        match (no_room, &pending.last) {
            (Some(why), _) if pending.wait.is_some() => Step::Wait(why),
            (Some(why), _) => Step::Refuse(why),
            (None, Some(last)) if pending.tried == Some(self.changes) => Step::Wait(last.clone()),
            (None, _) => Step::Ask,
        }
    }

    fn finish_placing(&mut self, decided: PlaceAnswer) {
        let Some(placing) = self.placing.take() else { return };
        let Placing { number, mut pending, question, offer, changes, .. } = placing;
        if pending.reply.is_closed() {
            return;
        }
        let Decided { answer, by, .. } = decided;
        let shares = match answer {
            Ok(shares) => shares,
            Err(refusal) => {
                let again = refusal.retry_later && pending.wait.is_some();
                let refused = Refused { refusal, hint: None, by: Some(Box::new(by)) };
                if again {
                    pending.tried = Some(changes);
                    pending.last = Some(refused);
                    self.pending.insert(number, pending);
                } else {
                    let _ = pending.reply.send(Err(refused));
                }
                return;
            }
        };
        let Request { kernel, session, name, owner, .. } = (*pending.request).clone();
        let holder = Holder { kernel, name, session: Some(session), owner: Some(owner) };
        let taken = question::allocations(&question, &offer, &shares).and_then(|parts| {
            match self.ledger.take(holder, &parts) {
                Err(TakeError::HoldsAlready) => Ok(Err(refusal::already_booked(&pending.request.name))),
                taken => taken.map(Ok).map_err(|error| error.to_string()),
            }
        });
        match taken {
            Ok(taken) => {
                // A share that nobody receives is dropped here and comes back.
                let _ = pending.reply.send(taken.map(|share| Placed { share, by }));
            }
            Err(problem) => {
                tracing::warn!(kernel = %kernel, policy = by.policy, "a placement could not be booked: {problem}");
                pending.attempts += 1;
                if pending.attempts < ATTEMPTS {
                    self.pending.insert(number, pending);
                } else {
                    let refused = Refused { by: Some(Box::new(by)), ..refusal::not_booked(&problem) };
                    let _ = pending.reply.send(Err(refused));
                }
            }
        }
    }

    fn refuse_overdue(&mut self) {
        let now = Instant::now();
        let overdue: Vec<Number> = self
            .pending
            .iter()
            .filter(|(_, pending)| self.deadline(pending).is_some_and(|deadline| deadline <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in overdue {
            let Some(pending) = self.pending.remove(&number) else { continue };
            let refused = match (pending.wait, pending.last) {
                (Some(wait), Some(last)) => refusal::timed_out(wait, last),
                _ => refusal::not_ready(),
            };
            self.record(&pending.request, &refused, Purpose::Real);
            let _ = pending.reply.send(Err(refused));
        }
    }

    /// When its patience ends; none: never, or it has not been looked at yet.
    fn deadline(&self, pending: &Pending) -> Option<Instant> {
        let patience = match (&self.offer, &pending.last) {
            (None, _) => self.config.ready_within.max(pending.wait.unwrap_or_default()),
            (Some(_), Some(_)) => pending.wait?,
            (Some(_), None) => return None,
        };
        pending.arrived.checked_add(patience)
    }

    fn order_next(&mut self) {
        // Who waits for a start has a place, so there has been an offer.
        let Some(offer) = self.offer.clone() else { return };
        if self.ordering.is_some() || !self.starts.is_due() {
            return;
        }
        let starting: Vec<Starting> = self.starts.starting().cloned().collect();
        let waiting: BTreeSet<KernelId> = self.starts.waiting().map(|waiter| waiter.request.kernel).collect();
        let limit = self.starts.limit();
        let (numbers, requests): (Vec<Number>, Vec<&Request>) =
            self.starts.ask().into_iter().map(|(number, waiter)| (number, &*waiter.request)).unzip();
        let question = question::order(&requests, &waiting, &starting, limit, &offer, &self.ledger);
        self.ordering = Some(Ordering { asked: numbers, answer: self.ask.order(question) });
    }

    fn finish_ordering(&mut self, decided: OrderAnswer) {
        let Some(Ordering { asked, .. }) = self.ordering.take() else { return };
        let Decided { answer, by, .. } = decided;
        let verdicts: Vec<(Number, Verdict<Refusal>)> = match answer {
            Ok(decisions) => decisions.into_iter().filter_map(|decision| verdict(&asked, decision)).collect(),
            // `order` cannot refuse as a whole; should a host say so, starts go by arrival.
            Err(_) => asked.into_iter().map(|number| (number, Verdict::Start)).collect(),
        };
        let starting =
            |waiter: &Waiter| Starting { kernel: waiter.request.kernel, owner: waiter.request.owner.clone() };
        for (waiter, outcome) in self.starts.apply(verdicts, starting) {
            let answer = match outcome {
                Outcome::Started(number) => {
                    Ok((StartPermit { number, notes: self.notes.clone() }, by.clone()))
                }
                Outcome::Refused(refusal) => {
                    Err(Refused { refusal, hint: None, by: Some(Box::new(by.clone())) })
                }
            };
            // A permit that nobody receives is dropped here and comes back.
            let _ = waiter.reply.send(answer);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let again = self.somebody_waits().then_some(self.ask_again_at);
        self.pending.values().filter_map(|pending| self.deadline(pending)).chain(again).min()
    }

    fn somebody_waits(&self) -> bool {
        !self.pending.is_empty() || self.starts.waiting().next().is_some()
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.somebody_waits() && self.ask_again_at <= now {
            self.ask_again_at = now + self.config.ask_again_every;
            self.changes += 1;
            self.starts.stir();
        }
    }
}

/// The verdict on one of those who were asked about.
fn verdict(asked: &[Number], decision: scheduling::Decision) -> Option<(Number, Verdict<Refusal>)> {
    let number = *asked.get(usize::try_from(decision.request).ok()?)?;
    let verdict = match decision.verdict {
        scheduling::Verdict::Start => Verdict::Start,
        scheduling::Verdict::Wait(_) => Verdict::Wait,
        scheduling::Verdict::Refuse(types::Refusal { code, message, retry_later }) => {
            Verdict::Refuse(Refusal { code, message, retry_later })
        }
    };
    Some((number, verdict))
}

/// Waits for an answer; without a question for ever.
async fn answer_of<T>(answer: Option<&mut BoxFuture<'static, T>>) -> T {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}
