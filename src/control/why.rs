//! Why a kernel is as it is, in plain sentences: from its view and from the journal of decisions. Pure.

use crate::kernel::{KernelView, Phase};
use crate::policy::journal::{ADMISSION, Entry, phrase};
use crate::policy::{CHAIN_CONFLICT, DecidedBy, PolicyFault, Rung, WorldKind};

/// The sentences about kernel `id`, in order. `entries`: what the journal has about it, oldest first.
pub(super) fn sentences(id: &str, view: Option<&KernelView>, entries: &[Entry]) -> Vec<String> {
    let mut told = Vec::new();
    let who = view.map_or_else(|| format!("kernel {id}"), |view| view.name.to_string());
    if view.is_none() {
        told.push(format!("{who} is gone; this is what the journal has about it."));
    }
    let (rehearsed, real): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.dry_run);
    if !rehearsed.is_empty() && real.is_empty() {
        told.push("It was only tried by `berth create --dry-run`; nothing was made.".to_owned());
    }
    let entries = if real.is_empty() { rehearsed } else { real };

    let places: Vec<&Entry> = entries.iter().filter(|entry| entry.function == "place").copied().collect();
    for (at, entry) in places.iter().enumerate() {
        placement(&who, entry, at == 0, &mut told);
    }
    starts(&who, id, &entries, &mut told);
    for entry in entries.iter().filter(|entry| entry.function == "adjust") {
        adjustment(entry, &mut told);
    }
    if let Some(view) = view {
        for by in &view.decisions {
            if !entries.iter().any(|entry| entry.function == by.function && entry.policy == by.policy) {
                told.push(format!(
                    "{} decided `{}`; the journal does not have it (any more).",
                    policy_of(by),
                    by.function
                ));
                fallen(by.world, &by.faults, &mut told);
            }
        }
        ending(view, &mut told);
    }
    if told.is_empty() {
        told.push(format!("nothing has been decided about {who} yet."));
    }
    told
}

/// Where it was placed, what there was, and how long it had waited for room.
fn placement(who: &str, entry: &Entry, first: bool, told: &mut Vec<String>) {
    let free = phrase::free(entry);
    if first && !free.is_empty() {
        told.push(format!("{who} asked for {}.", free.join(" and ")));
    }
    let asked_at = entry.question["request"]["requested-at-ms"].as_u64().unwrap_or(entry.time_ms);
    let waited = entry.time_ms.saturating_sub(asked_at);
    if waited >= 1000 {
        told.push(format!("It had waited {} for room.", seconds(waited)));
    }
    if let Some(refusal) = &entry.refusal {
        let who = match entry.policy == ADMISSION {
            true => "Without asking a policy, admission".to_owned(),
            false => policy(entry),
        };
        told.push(format!("{who} refused to place it: {} ({}).", refusal.message, refusal.code));
        told.push(if refusal.retry_later {
            "It says that asking later may help: `berth create --wait` does so.".to_owned()
        } else {
            format!("Ask for something else, or see `berth policy show {}`.", entry.world)
        });
    } else {
        let note = entry.note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
        told.push(format!(
            "{} placed {who} on {}{note}, in {} µs.",
            policy(entry),
            phrase::placement(entry),
            entry.micros
        ));
    }
    fallen(entry.world, &entry.faults, told);
}

/// How long it waited for a start slot, and why.
fn starts(who: &str, id: &str, entries: &[&Entry], told: &mut Vec<String>) {
    let orders: Vec<(&Entry, phrase::Verdict)> = entries
        .iter()
        .filter(|entry| entry.function == "order")
        .filter_map(|entry| Some((*entry, phrase::verdict(entry, id)?)))
        .collect();
    let (Some((first, _)), Some((last, verdict))) = (orders.first(), orders.last()) else { return };
    let others = first.question["waiting"].as_array().map_or(0, |waiting| waiting.len().saturating_sub(1));
    let starting = first.question["load"]["starting"].as_u64().unwrap_or(0);
    let limit = first.question["load"]["start-limit"].as_u64().unwrap_or(0);
    let around = match others {
        0 => format!("nobody else waited, {starting} of {limit} start slots were taken"),
        _ => format!("{others} more waited, {starting} of {limit} start slots were taken"),
    };
    let mut reasons: Vec<&str> = Vec::new();
    for (_, verdict) in &orders {
        if let phrase::Verdict::Wait(why) = verdict
            && !reasons.contains(&why.as_str())
        {
            reasons.push(why);
        }
    }
    let waited = last.time_ms.saturating_sub(first.time_ms);
    match verdict {
        phrase::Verdict::Start => {
            let how_long =
                if waited < 10 { "at once".to_owned() } else { format!("after {}", seconds(waited)) };
            told.push(format!("{} let {who} start {how_long}: {around}.", policy(last)));
        }
        phrase::Verdict::Wait(_) => {
            told.push(format!(
                "{} has let {who} wait for {} so far: {around}.",
                policy(last),
                seconds(waited)
            ));
        }
        phrase::Verdict::Refuse(why) => {
            told.push(format!("{} refused to start it: {why}.", policy(last)));
            told.push("Make it again when that has changed.".to_owned());
        }
    }
    if !reasons.is_empty() {
        told.push(format!("While it waited the reason was: {}.", reasons.join("; then: ")));
    }
    for (entry, _) in &orders {
        fallen(entry.world, &entry.faults, told);
    }
}

fn adjustment(entry: &Entry, told: &mut Vec<String>) {
    match &entry.refusal {
        Some(refusal) => {
            if refusal.code == CHAIN_CONFLICT {
                told.push(format!("Its container was not made: {} ({}).", refusal.message, refusal.code));
                told.push(
                    "Give one of them other settings in agent.toml, or take it out of the chain.".to_owned(),
                );
                return;
            }
            told.push(format!(
                "{} refused its container: {} ({}).",
                policy(entry),
                refusal.message,
                refusal.code
            ));
            told.push(
                "Ask for a container that it allows, or see `berth policy show container-config`.".to_owned(),
            );
        }
        None => told.push(format!("{} made {} to its container.", policy(entry), phrase::outcome(entry))),
    }
    fallen(entry.world, &entry.faults, told);
}

/// Why rungs above were passed over, once each, and what to do.
fn fallen(world: WorldKind, faults: &[PolicyFault], told: &mut Vec<String>) {
    let before = told.len();
    for fault in faults {
        let digest = fault.digest.map_or(String::new(), |digest| format!(" ({})", digest.short()));
        let sentence = format!("{}{digest} was passed over: {}.", fault.policy, fault.message);
        if !told.contains(&sentence) {
            told.push(sentence);
        }
    }
    if told.len() > before {
        told.push(format!("Mend it and push it again, or `berth policy rollback {world}`."));
    }
}

fn ending(view: &KernelView, told: &mut Vec<String>) {
    let Some(end) = &view.termination else { return };
    if !matches!(view.phase, Phase::Stopping | Phase::Collected | Phase::Gone) {
        return;
    }
    let code = end.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
    let oom = if end.oom { ", out of memory" } else { "" };
    let message = end.message.as_ref().map_or(String::new(), |message| format!(": {message}"));
    told.push(format!("It ended: {}{code}{oom}{message}.", end.reason));
}

fn policy(entry: &Entry) -> String {
    named(&entry.policy, &entry.version, entry.digest.map(|digest| digest.short()), entry.rung)
}

fn policy_of(by: &DecidedBy) -> String {
    named(&by.policy, &by.version, by.digest.map(|digest| digest.short()), by.rung)
}

fn named(policy: &str, version: &str, digest: Option<String>, rung: Rung) -> String {
    match (digest, rung) {
        (None, _) => "The built-in".to_owned(),
        (Some(digest), Rung::LastGood) => format!("The last good policy, {policy} {version} ({digest}),"),
        (Some(digest), _) => format!("{policy} {version} ({digest})"),
    }
}

fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
    }
}

#[cfg(test)]
#[path = "why/tests.rs"]
mod tests;
