//! A node with a scheduler of the tests' own, and shorthands for what is asked of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::super::*;
use crate::amount::ONE;
use crate::inventory::{Device, Inventory, OfferedSlot};
use crate::policy::bindings::{scheduling, types};
use crate::policy::worlds::{OrderQuestion, PlaceQuestion};
use crate::policy::{Decided, Rung, WorldKind};

pub(super) const GIB: u64 = 1 << 30;
pub(super) const LONG: Option<Duration> = Some(Duration::from_secs(3600));
pub(super) const AT_ONCE: Option<Duration> = None;

pub(super) type PlaceVerdict = Result<Vec<types::Share>, Refusal>;

/// What the scheduler says; by default the first stock that is large enough, and everybody starts.
#[derive(Default)]
pub(super) struct Script {
    /// Answers to the next `place` questions, before the default applies.
    pub(super) say: Mutex<Vec<PlaceVerdict>>,
    /// Every `place` question so far.
    pub(super) placed: Mutex<Vec<PlaceQuestion>>,
    pub(super) ordered: Mutex<Vec<OrderQuestion>>,
    /// Codes of what was refused without a question.
    pub(super) recorded: Mutex<Vec<String>>,
    /// Answers to the next `order` questions.
    pub(super) verdicts: Mutex<Vec<Vec<scheduling::Decision>>>,
    /// `place` does not answer before this is notified.
    pub(super) gate: Mutex<Option<Arc<Notify>>>,
}

#[derive(Clone, Default)]
pub(super) struct Scheduler(pub(super) Arc<Script>);

pub(super) fn by(function: &str) -> DecidedBy {
    DecidedBy {
        world: WorldKind::Scheduler,
        function: function.to_owned(),
        policy: "test".to_owned(),
        version: "1".to_owned(),
        digest: None,
        rung: Rung::Active,
        faults: Vec::new(),
        micros: 0,
        note: None,
    }
}

pub(super) fn greedy(question: &PlaceQuestion) -> PlaceVerdict {
    let mut shares = Vec::new();
    for want in &question.request.wants {
        let mut left = want.amount;
        for stock in question.choice.stock.iter().filter(|stock| stock.slot == want.slot) {
            let amount = left.min(stock.free);
            left -= amount;
            if amount > 0 {
                shares.push(types::Share { device: stock.device, slot: stock.slot, amount });
            }
        }
        assert_eq!(left, 0, "asked only when there is room");
    }
    Ok(shares)
}

impl task::Ask for Scheduler {
    fn place(&self, question: PlaceQuestion) -> BoxFuture<'static, Decided<Vec<types::Share>>> {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            let gate = script.gate.lock().unwrap().clone();
            script.placed.lock().unwrap().push(question.clone());
            if let Some(gate) = gate {
                gate.notified().await;
            }
            let mut say = script.say.lock().unwrap();
            let answer = if say.is_empty() { greedy(&question) } else { say.remove(0) };
            Decided { answer, by: by("place"), granted: Default::default() }
        })
    }

    fn order(&self, question: OrderQuestion) -> BoxFuture<'static, Decided<Vec<scheduling::Decision>>> {
        let script = Arc::clone(&self.0);
        Box::pin(async move {
            let mut verdicts = script.verdicts.lock().unwrap();
            let answer = if verdicts.is_empty() {
                let start = |request| decision(request, scheduling::Verdict::Start);
                (0..u32::try_from(question.waiting.len()).unwrap()).map(start).collect()
            } else {
                verdicts.remove(0)
            };
            script.ordered.lock().unwrap().push(question);
            Decided { answer: Ok(answer), by: by("order"), granted: Default::default() }
        })
    }

    fn refused(&self, _: PlaceQuestion, refusal: &policy::Refusal, _: policy::Purpose) {
        self.0.recorded.lock().unwrap().push(refusal.code.clone());
    }
}

pub(super) fn decision(request: u32, verdict: scheduling::Verdict) -> scheduling::Decision {
    scheduling::Decision { request, verdict }
}

/// So many cores, 4 GiB of memory and one GPU as two slots that exclude each other.
pub(super) fn offer(cores: u32) -> Offer {
    let model = |kind, family: &str, capacity| types::DeviceModel {
        kind,
        family: family.to_owned(),
        name: family.to_owned(),
        memory_bytes: 0,
        processing_units: 0,
        capacity,
        partition: None,
        attributes: Vec::new(),
    };
    let device = |model, number: u32, id: &str| Device {
        model,
        number,
        id: id.to_owned(),
        numa_node: Some(0),
        health: types::Health::Healthy,
    };
    let mut devices: Vec<_> = (0..cores).map(|core| device(0, core, &core.to_string())).collect();
    let memory = devices.len();
    devices.push(device(1, 0, "root"));
    devices.push(device(2, 0, "0"));
    let slot = |name: &str, kind, quantum, exclusive_group, offers| OfferedSlot {
        name: name.parse().unwrap(),
        kind,
        quantum,
        exclusive_group,
        offers,
    };
    let gpu = || vec![(memory + 1, ONE)];
    Offer {
        inventory: Arc::new(Inventory {
            models: vec![
                model(types::DeviceKind::Cpu, "cpu", ONE),
                model(types::DeviceKind::Memory, "mem", 4 * GIB),
                model(types::DeviceKind::Accelerator, "cuda", ONE),
            ],
            devices,
            facts: Vec::new(),
        }),
        slots: vec![
            slot("cpu", types::SlotKind::Count, ONE, None, (0..memory).map(|core| (core, ONE)).collect()),
            slot("mem", types::SlotKind::Bytes, 1, None, vec![(memory, 4 * GIB)]),
            slot("cuda.device", types::SlotKind::Unique, ONE, Some(1), gpu()),
            slot("cuda.shares", types::SlotKind::Count, ONE / 10, Some(1), gpu()),
        ],
        withheld: Vec::new(),
        by: by("report"),
    }
}

pub(super) fn request(name: &str, wants: &[(&str, u64)]) -> Request {
    Request {
        kernel: KernelId::random(),
        session: SessionId::random(),
        name: name.to_owned(),
        owner: "1000".to_owned(),
        image: "python".to_owned(),
        image_labels: Vec::new(),
        wants: wants.iter().map(|(slot, amount)| (slot.parse().unwrap(), *amount)).collect(),
        requested_at_ms: 1,
    }
}

pub(super) struct Node {
    pub(super) handle: Handle,
    pub(super) offers: watch::Sender<Option<Offer>>,
    pub(super) script: Arc<Script>,
}

impl Node {
    pub(super) fn with(config: Config, offer: Option<Offer>) -> Self {
        let scheduler = Scheduler::default();
        let offers = watch::Sender::new(offer);
        let handle = start_with(config, scheduler.clone(), offers.subscribe());
        Self { handle, offers, script: scheduler.0 }
    }

    pub(super) fn new(cores: u32) -> Self {
        Self::with(Config::default(), Some(offer(cores)))
    }

    pub(super) async fn placed(&self, name: &str, wants: &[(&str, u64)]) -> Placed {
        let placed = self.handle.place(request(name, wants), AT_ONCE).await;
        placed.unwrap_or_else(|refused| panic!("{name}: {refused}"))
    }

    /// Code, message and hint of what must be refused.
    pub(super) async fn refused(
        &self,
        wants: &[(&str, u64)],
        wait: Option<Duration>,
    ) -> (String, String, String) {
        let refused = self.handle.place(request("new", wants), wait).await.unwrap_err();
        (refused.refusal.code, refused.refusal.message, refused.hint.unwrap_or_default())
    }

    /// Sends a request that must wait.
    pub(super) async fn waits<'a>(
        &'a self,
        name: &str,
        wants: &[(&str, u64)],
        wait: Option<Duration>,
    ) -> Waiting<'a> {
        let mut waiting: Waiting = Box::pin(self.handle.place(request(name, wants), wait));
        assert!(waiting.as_mut().now_or_never().is_none(), "{name} was answered at once");
        self.handle.books().await;
        waiting
    }

    pub(super) async fn held(&self) -> BTreeMap<String, u64> {
        let books = self.handle.books().await;
        books.into_iter().filter(|b| b.held > 0).map(|b| (b.slot.to_string(), b.held)).collect()
    }

    pub(super) fn questions(&self) -> usize {
        self.script.placed.lock().unwrap().len()
    }
}

pub(super) type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Placed, Refused>> + Send + 'a>>;

pub(super) fn refusal(code: &str, retry_later: bool) -> Refusal {
    Refusal { code: code.to_owned(), message: format!("{code} says the policy"), retry_later }
}

pub(super) fn said(code: &str, message: &str, hint: &str) -> (String, String, String) {
    (code.to_owned(), message.to_owned(), hint.to_owned())
}
