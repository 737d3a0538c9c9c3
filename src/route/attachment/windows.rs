//! Clients that poll: their calls, and the windows that hold output for them.

use std::time::Duration;

use super::{Attachment, Context, MAX_WAITING, What};
use crate::ids::RunId;
use crate::route::door::{Answer, Caller, Execute, Mode};
use crate::route::flow::Outlet;
use crate::route::machine::Input;
use crate::route::results::{Batch, Stop};
use crate::route::window::{Waiting, Window};
use crate::route::{Output, RouteError, RunEnd, RunRequest};

/// Windows of ended runs that are kept for their clients; the oldest goes when there are more.
const MAX_KEPT: usize = 64;

/// A call that came before the runner's first answer.
#[derive(Debug)]
pub(super) struct Held {
    caller: Caller,
    turn: Execute,
}

/// Where a polled run is.
enum Found {
    /// It has a window, perhaps since just now.
    Window,
    /// Another client has its output.
    Taken,
    /// It ended, and this is all that is left of it.
    Past(RunEnd),
    /// It is not known here.
    Nowhere,
}

impl Attachment {
    /// A turn of a run whose client polls. The call is answered when there is output that stops it, or when it
    /// has waited long enough.
    pub(in crate::route) fn execute(&mut self, caller: Caller, turn: Execute, cx: &mut Context<'_>) {
        // Whether that run is under way already is not known before the first answer.
        if self.machine.is_unsettled() {
            if self.held.len() >= MAX_WAITING {
                return cx.answer(caller, Answer::Failed(RouteError::Busy));
            }
            return self.held.push(Held { caller, turn });
        }
        let Execute { run, mode, api_version, flush } = turn;
        let found = run.as_ref().map_or(Found::Nowhere, |run| self.find(run, cx));
        let run = run.unwrap_or_else(RunId::random);
        let begun = match (found, mode) {
            (Found::Taken, _) => Err(RouteError::RunExists(run.clone())),
            (Found::Window, Mode::Input(text)) => self.checked(Input::Answer { run: run.clone(), text }, cx),
            (Found::Window, Mode::Begin(_) | Mode::Continue) => Ok(()),
            // A client may use an id again when it knows the end of the run before.
            (Found::Past(_) | Found::Nowhere, Mode::Begin(task)) => {
                let timeout = cx.config.polled_run_limit;
                let request = RunRequest { run: run.clone(), task, stdin: false, timeout };
                let outlet = Outlet::Window(Box::new(Window::new(cx.inbox, run.clone())));
                self.submit(request, outlet, cx)
            }
            (Found::Past(end), Mode::Continue | Mode::Input(_)) => {
                let mut window = Window::new(cx.inbox, run.clone());
                window.push(Output::Started);
                window.push(Output::Ended(end));
                self.keep(window);
                Ok(())
            }
            (Found::Nowhere, Mode::Continue | Mode::Input(_)) => Err(RouteError::RunUnknown(run.clone())),
        };
        match begun {
            Ok(()) => self.wait(&run, Waiting { caller, api_version, flush, timer: None }, cx),
            Err(error) => cx.answer(caller, Answer::Failed(error)),
        }
    }

    /// Calls that came before the runner's first answer.
    pub(super) fn take_up_held(&mut self, cx: &mut Context<'_>) {
        for Held { caller, turn } in std::mem::take(&mut self.held) {
            self.execute(caller, turn, cx);
        }
    }

    /// Tells everybody who waits for the runner's first answer that there will be none.
    pub(super) fn fail_held(&mut self, error: &RouteError, cx: &mut Context<'_>) {
        for Held { caller, .. } in self.held.drain(..) {
            cx.answer(caller, Answer::Failed(error.clone()));
        }
    }

    /// Finds a run's window. The output of one that lost its client, or that an earlier agent began, becomes
    /// a window's.
    fn find(&mut self, run: &RunId, cx: &mut Context<'_>) -> Found {
        if self.window(run).is_some() {
            return Found::Window;
        }
        let live = self.outlets.iter().position(|(of, _)| of == run);
        let Some(tap) = self.unpark(run, cx) else {
            return match (live, self.machine.end_of(run)) {
                (Some(_), _) => Found::Taken,
                (None, Some(end)) => Found::Past(end.clone()),
                (None, None) => Found::Nowhere,
            };
        };
        let mut window = Window::new(cx.inbox, run.clone());
        if tap.position() > 0 {
            // What an earlier agent had read, it may have handed out.
            window.push(Output::Lost(0));
        }
        let Some((_, outlet)) = live.and_then(|at| self.outlets.get_mut(at)) else {
            window.push(Output::Started);
            tap.into_records(|output| window.push(output));
            self.keep(window);
            return Found::Window;
        };
        outlet.flush();
        tap.into_records(|output| window.push(output));
        window.push(Output::Started);
        *outlet = Outlet::Window(Box::new(window));
        self.step(Input::ClientBack { run: run.clone(), timeout: None }, cx);
        Found::Window
    }

    /// The window of a run that waits, runs, or has ended without its client knowing.
    fn window(&mut self, run: &RunId) -> Option<&mut Window> {
        let live = self.outlets.iter_mut().find_map(|(of, outlet)| match outlet {
            Outlet::Window(window) if of == run => Some(&mut **window),
            _ => None,
        });
        live.or_else(|| self.kept.iter_mut().find(|window| window.run() == run))
    }

    /// Keeps what is left of an ended run.
    pub(super) fn keep(&mut self, window: Window) {
        if self.kept.len() >= MAX_KEPT {
            tracing::warn!(kernel = %self.kernel, "output of a run that nobody polls any more is dropped");
            self.kept.remove(0);
        }
        self.kept.push(window);
    }

    /// Has a call wait for output of a run.
    fn wait(&mut self, run: &RunId, waiting: Waiting, cx: &mut Context<'_>) {
        let Some(window) = self.window(run) else { return };
        let (before, unpolled) = (window.waiting.replace(waiting), window.unpolled.take());
        if let Some(key) = unpolled {
            cx.timers.disarm(key);
        }
        if let Some(Waiting { caller, api_version, timer, .. }) = before {
            // Its client asks anew, so it waits no more for this one; it must not take the output along.
            if let Some(key) = timer {
                cx.timers.disarm(key);
            }
            let batch = Batch {
                run: run.clone(),
                api_version,
                carried: Default::default(),
                items: Vec::new(),
                stop: Stop::Patience,
            };
            cx.answer(caller, Answer::Output(batch));
        }
        self.arm_flush(run, cx);
        self.serve(run, false, cx);
    }

    /// Lets the patience of the call that waits count, once the run's turn has come.
    pub(super) fn arm_flush(&mut self, run: &RunId, cx: &mut Context<'_>) {
        let Some(window) = self.window(run).filter(|window| window.has_started()) else { return };
        let Some(Waiting { flush: Some(flush), timer: None, .. }) = window.waiting else { return };
        let key = self.arm(What::Flush(run.clone()), flush, cx);
        if let Some(waiting) = self.window(run).and_then(|window| window.waiting.as_mut()) {
            waiting.timer = key;
        }
    }

    /// Answers the call that waits for output of a run, when it has to wait no longer or its patience is over.
    pub(super) fn serve(&mut self, run: &RunId, patience_over: bool, cx: &mut Context<'_>) {
        let Some(window) = self.window(run) else { return };
        if !patience_over && !window.is_ready() {
            return;
        }
        let Some(Waiting { caller, api_version, timer, .. }) = window.waiting.take() else { return };
        if let Some(key) = timer {
            cx.timers.disarm(key);
        }
        let never_begun = !window.has_started();
        let (batch, last) = window.take(api_version);
        match &batch.stop {
            // Nothing of it was carried out, which a result could not say.
            Stop::Ended(end) if never_begun => {
                let error = RouteError::NeverBegun { run: run.clone(), end: end.clone() };
                cx.answer(caller, Answer::Failed(error));
            }
            _ => cx.answer(caller, Answer::Output(batch)),
        }
        if last {
            self.kept.retain(|window| window.run() != run);
        } else {
            let key = self.arm(What::Unpolled(run.clone()), cx.config.unpolled, cx);
            if let Some(window) = self.window(run) {
                window.unpolled = key;
            }
        }
    }

    /// Answers the call for the run at the head, if it has to wait no longer.
    pub(super) fn serve_current(&mut self, cx: &mut Context<'_>) {
        if let Some((run, Outlet::Window(window))) = self.outlets.front_mut()
            && window.waiting.is_some()
            && window.is_ready()
        {
            let run = run.clone();
            self.serve(&run, false, cx);
        }
    }

    /// Nobody has polled a run for long: it goes on without its oldest output, or is forgotten.
    pub(super) fn unpolled(&mut self, run: &RunId) {
        self.kept.retain(|window| window.run() != run || window.waiting.is_some());
        if let Some(window) = self.window(run).filter(|window| window.waiting.is_none()) {
            window.abandon();
        }
    }

    /// A run with a window has ended.
    pub(super) fn ended_window(&mut self, mut window: Window, end: RunEnd, cx: &mut Context<'_>) {
        let run = window.run().clone();
        window.push(Output::Ended(end));
        self.keep(window);
        self.serve(&run, false, cx);
    }

    /// A caller gives its call up. Only that: its run goes on, unless it was still to begin.
    pub(super) fn cancel_turn(&mut self, caller: Caller, cx: &mut Context<'_>) {
        self.held.retain(|held| held.caller != caller);
        let waits = |window: &Window| window.waiting.as_ref().is_some_and(|call| call.caller == caller);
        let live = self.outlets.iter().find_map(|(_, outlet)| match outlet {
            Outlet::Window(window) if waits(window) => Some(&**window),
            _ => None,
        });
        let Some(run) = live.map(|window| window.run().clone()) else { return };
        let Some(window) = self.window(&run) else { return };
        if let Some(key) = window.waiting.take().and_then(|call| call.timer) {
            cx.timers.disarm(key);
        }
        if window.has_started() {
            let key = self.arm(What::Unpolled(run.clone()), cx.config.unpolled, cx);
            if let Some(window) = self.window(&run) {
                window.unpolled = key;
            }
        } else {
            self.step(Input::Cancel { run: run.clone() }, cx);
            // Nobody asks how it ended.
            self.kept.retain(|window| *window.run() != run);
        }
    }

    /// Timers of windows.
    pub(super) fn window_timers(&self) -> Vec<crate::route::timers::Key> {
        let live = self.outlets.iter().filter_map(|(_, outlet)| match outlet {
            Outlet::Window(window) => Some(&**window),
            Outlet::Stream(_) => None,
        });
        live.chain(&self.kept)
            .flat_map(|window| {
                window.waiting.as_ref().and_then(|call| call.timer).into_iter().chain(window.unpolled)
            })
            .collect()
    }
}

/// How long the first answer of a runner is waited for by a call.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(30);
