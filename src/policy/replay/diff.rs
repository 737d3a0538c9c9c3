//! What a candidate would have decided otherwise: for which kernel, when, both answers, and why. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::{Report, Who, who};
use super::{Came, Decider, Said};
use crate::amount;
use crate::policy::bindings::types::Setting;
use crate::policy::journal::Entry;
use crate::policy::journal::phrase::{self, array, at, short, spell, text as word};
use crate::policy::json::Jot as _;
use crate::policy::{PolicyFault, WorldKind};

/// Entries of a list that are told one by one in a line.
const MOST_IN_A_LINE: usize = 8;

/// One decision that is another one now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Number of the entry in the journal.
    pub seq: u64,
    /// When it was decided, Unix time in milliseconds.
    pub time_ms: u64,
    /// The world.
    pub world: WorldKind,
    /// Which member of the world's chain, from 0.
    #[serde(default)]
    pub link: usize,
    /// The function.
    pub function: String,
    /// Ids of the kernels it is about.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// Nothing came of it then either.
    #[serde(default)]
    pub dry_run: bool,
    /// What was decided.
    pub then: Side,
    /// What is decided now.
    pub now: Side,
    /// What of it differs, a phrase each.
    #[serde(default)]
    pub details: Vec<String>,
    /// Why, as far as it can be told.
    pub why: String,
}

/// One of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Side {
    /// By whom.
    pub by: Who,
    /// In words.
    pub text: String,
    /// As it is; none where the call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// How the call failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<PolicyFault>,
}

/// The change, where there is one.
pub(in crate::policy) fn change_by(entry: &Entry, decider: &Decider, came: &Came) -> Option<Change> {
    let settings = match decider {
        Decider::Module(policy) => &policy.settings[..],
        Decider::Builtin(settings) => settings,
    };
    change(entry, &who(decider), settings, came)
}

/// The same. `settings`: those that the one who decides now has.
pub(super) fn change(entry: &Entry, by: &Who, settings: &[Setting], came: &Came) -> Option<Change> {
    let (now, details) = match came {
        Came::Same | Came::Skipped(_) => return None,
        Came::Different(said) => {
            let now = Entry {
                answer: said.answer.clone(),
                refusal: said.refusal.clone(),
                note: said.note.clone(),
                ..entry.clone()
            };
            let text = outcome(&now);
            let details = match (entry.function.as_str(), text == outcome(entry)) {
                // Of one kernel the two phrases say all, unless they are the same.
                ("place", false) => Vec::new(),
                ("order", _) if entry.kernels.len() == 1 => Vec::new(),
                _ => details(entry, &now),
            };
            (Side { by: by.clone(), text, said: Some(said.clone()), fault: None }, details)
        }
        Came::Failed(fault) => {
            let text = format!("fails ({})", fault.fault.code());
            (Side { by: by.clone(), text, said: None, fault: Some(fault.clone()) }, Vec::new())
        }
    };
    let then = Side {
        by: Who { policy: entry.policy.clone(), version: entry.version.clone(), digest: entry.digest },
        text: outcome(entry),
        said: Some(Said::of(entry)),
        fault: None,
    };
    let why = why(entry, &then, &now, settings);
    Some(Change {
        seq: entry.seq,
        time_ms: entry.time_ms,
        world: entry.world,
        link: entry.link,
        function: entry.function.clone(),
        kernels: entry.kernels.clone(),
        dry_run: entry.dry_run,
        then,
        now,
        details,
        why,
    })
}

/// The decision as a phrase; of `order` and `evict` with the kernels, which the journal's own phrase only counts.
fn outcome(entry: &Entry) -> String {
    match (entry.function.as_str(), &entry.answer) {
        ("order", Some(answer)) => {
            let waiting = &entry.question["waiting"];
            let verdicts = array(answer).iter().map(|decision| {
                let kernel = at(waiting, &decision["request"]);
                format!("{} {}", short(word(&kernel["kernel-id"])), verdict(&decision["verdict"]))
            });
            listed(verdicts.collect(), "nobody waits")
        }
        ("evict", Some(answer)) => {
            let gone = array(answer).iter().map(|eviction| {
                let kernel = at(&entry.question["running"], &eviction["kernel"]);
                format!("{} goes ({})", short(word(&kernel["kernel-id"])), word(&eviction["reason"]))
            });
            listed(gone.collect(), "nobody goes")
        }
        _ => phrase::outcome(entry),
    }
}

fn verdict(verdict: &Value) -> String {
    match (verdict.get("wait"), verdict.get("refuse")) {
        (Some(why), _) => format!("waits ({})", word(why)),
        (_, Some(refusal)) => format!("is refused ({})", word(&refusal["message"])),
        (None, None) => "starts".to_owned(),
    }
}

fn listed(mut parts: Vec<String>, none: &str) -> String {
    let more = parts.len().saturating_sub(MOST_IN_A_LINE);
    parts.truncate(MOST_IN_A_LINE);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    if parts.is_empty() { none.to_owned() } else { parts.join(", ") }
}

/// What differs between two answers to one question.
fn details(then: &Entry, now: &Entry) -> Vec<String> {
    let (Some(was), Some(is)) = (&then.answer, &now.answer) else { return Vec::new() };
    match then.function.as_str() {
        "report" => offered(&then.question["inventory"], was, is),
        "place" => placed(&then.question["node"], was, is),
        "adjust" => edits(was, is),
        "order" => {
            moved(&then.question["waiting"], "request", was, is, |decision| verdict(&decision["verdict"]))
        }
        "evict" => moved(&then.question["running"], "kernel", was, is, |_| "goes".to_owned()),
        _ => Vec::new(),
    }
}

/// Which slots have another amount, on which devices, and what is withheld otherwise.
fn offered(inventory: &Value, was: &Value, is: &Value) -> Vec<String> {
    let mut slots: BTreeMap<&str, [Option<&Value>; 2]> = BTreeMap::new();
    for (side, answer) in [was, is].into_iter().enumerate() {
        for slot in array(&answer["slots"]) {
            slots.entry(word(&slot["name"])).or_default()[side] = Some(slot);
        }
    }
    let mut told = Vec::new();
    for (name, [was, is]) in slots {
        let total = |slot: Option<&Value>| match slot {
            None => "not offered".to_owned(),
            Some(slot) => {
                let amounts = array(&slot["offers"]).iter().filter_map(|offer| offer["amount"].as_u64());
                spell(slot, amounts.fold(0, u64::saturating_add))
            }
        };
        if was == is {
            continue;
        }
        let devices = |slot: Option<&Value>| -> Vec<(u64, u64)> {
            let offers = slot.map_or(&[][..], |slot| array(&slot["offers"]));
            let pair = |offer: &Value| Some((offer["device"].as_u64()?, offer["amount"].as_u64()?));
            offers.iter().filter_map(pair).collect()
        };
        let (before, after) = (devices(was), devices(is));
        let mut parts = Vec::new();
        for (what, some, others) in [("without", &before, &after), ("with", &after, &before)] {
            let gone = some.iter().filter(|(device, _)| !others.iter().any(|(other, _)| other == device));
            let numbers: Vec<String> = gone.map(|(device, _)| number(inventory, *device)).collect();
            if !numbers.is_empty() {
                parts.push(format!("{what} {}", listed(numbers, "")));
            }
        }
        let others = before
            .iter()
            .filter(|(device, amount)| after.iter().any(|(other, now)| other == device && now != amount));
        let changed: Vec<String> = others.map(|(device, _)| number(inventory, *device)).collect();
        if !changed.is_empty() {
            parts.push(format!("another amount of {}", listed(changed, "")));
        }
        if parts.is_empty() {
            parts.push("another kind, step or group".to_owned());
        }
        told.push(format!("{name}: {} -> {} ({})", total(was), total(is), parts.join("; ")));
    }
    for (word_for, some, others) in [("no longer withheld", was, is), ("withheld now", is, was)] {
        let others = array(&others["withheld"]);
        for entry in array(&some["withheld"]).iter().filter(|entry| !others.contains(entry)) {
            let device = entry["device"].as_u64().unwrap_or(u64::MAX);
            told.push(format!("{word_for}: {} ({})", number(inventory, device), word(&entry["reason"])));
        }
    }
    told
}

/// A device by its family and number.
fn number(node: &Value, device: u64) -> String {
    let device = at(&node["devices"], &Value::from(device));
    let family = word(&at(&node["models"], &device["model"])["family"]);
    device["number"].as_u64().map_or_else(|| "?".to_owned(), |number| format!("{family} {number}"))
}

/// Which slots lie on other devices.
fn placed(node: &Value, was: &Value, is: &Value) -> Vec<String> {
    let devices = |answer: &Value, slot: u64| -> Vec<String> {
        let shares = array(&answer["shares"]).iter().filter(|share| share["slot"].as_u64() == Some(slot));
        let whole = shares.map(|share| {
            let device = number(node, share["device"].as_u64().unwrap_or(u64::MAX));
            (device, share["amount"].as_u64().unwrap_or(0))
        });
        let slot = at(&node["slots"], &Value::from(slot));
        let told = whole.map(|(device, amount)| match amount {
            amount::ONE => device,
            amount => format!("{} of {device}", spell(slot, amount)),
        });
        told.collect()
    };
    let mut told = Vec::new();
    for (index, slot) in array(&node["slots"]).iter().enumerate() {
        let (before, after) = (devices(was, index as u64), devices(is, index as u64));
        if before != after {
            let name = word(&slot["name"]);
            told.push(format!("{name}: {} -> {}", listed(before, "nothing"), listed(after, "nothing")));
        }
    }
    told
}

/// Edits that are missing now, those that are new, and those of another value; values of variables are not told.
fn edits(was: &Value, is: &Value) -> Vec<String> {
    let (was, is) = (array(was), array(is));
    let missing: Vec<String> = was.iter().filter(|edit| !is.contains(edit)).map(phrase::edit).collect();
    let new: Vec<String> = is.iter().filter(|edit| !was.contains(edit)).map(phrase::edit).collect();
    let gone = missing.iter().filter(|edit| !new.contains(edit)).map(|edit| format!("- {edit}"));
    let come = new.iter().map(|edit| match missing.contains(edit) {
        true => format!("~ {edit}, another value"),
        false => format!("+ {edit}"),
    });
    let told: Vec<String> = gone.chain(come).collect();
    if told.is_empty() { vec!["the same edits in another order".to_owned()] } else { told }
}

/// Kernels of a list whose place or fate is another one.
fn moved(
    kernels: &Value,
    key: &str,
    was: &Value,
    is: &Value,
    fate: impl Fn(&Value) -> String,
) -> Vec<String> {
    let find = |answer: &Value, index: usize| {
        let place = array(answer).iter().position(|one| one[key].as_u64() == Some(index as u64))?;
        Some((place + 1, fate(&array(answer)[place])))
    };
    let mut told = Vec::new();
    for (index, kernel) in array(kernels).iter().enumerate() {
        let (before, after) = (find(was, index), find(is, index));
        if before == after {
            continue;
        }
        let say = |found: Option<(usize, String)>| {
            found.map_or_else(
                || "is not named".to_owned(),
                |(place, fate)| format!("{fate} as number {place}"),
            )
        };
        told.push(format!("{}: {} -> {}", short(word(&kernel["kernel-id"])), say(before), say(after)));
    }
    told
}

/// The candidate's own words, else what it was given otherwise, else that it is another one.
fn why(entry: &Entry, then: &Side, now: &Side, settings: &[Setting]) -> String {
    if let Some(fault) = &now.fault {
        return fault.message.clone();
    }
    let said = now.said.as_ref();
    let mut reasons = Vec::new();
    if let Some(refusal) = said.and_then(|said| said.refusal.as_ref()) {
        reasons.push(format!("it says: {}", refusal.message));
    } else if let Some(note) = said.and_then(|said| said.note.as_ref()) {
        reasons.push(format!("it says: {note}"));
    }
    let other_settings = settings_that_differ(&entry.context["settings"], settings);
    let same_policy = then.by.policy == now.by.policy;
    if same_policy && !other_settings.is_empty() {
        reasons.push(other_settings.join("; "));
    }
    if reasons.is_empty() || !same_policy {
        reasons.push(match () {
            () if !same_policy => format!("{} decides instead of {}", called(&now.by), called(&then.by)),
            () if then.by.digest != now.by.digest => {
                format!("another build of {}: {} instead of {}", now.by.policy, name(&now.by), name(&then.by))
            }
            () if entry.agent != env!("CARGO_PKG_VERSION") => {
                format!("berth {} decided what it left out then", entry.agent)
            }
            () => "the same policy, settings and question: this answer cannot be reproduced".to_owned(),
        });
    }
    reasons.join("; ")
}

/// "strategy was \"pack\", is \"spread\"".
fn settings_that_differ(then: &Value, now: &[Setting]) -> Vec<String> {
    let now: BTreeMap<String, Value> =
        now.iter().map(|setting| (setting.key.clone(), setting.value.json())).collect();
    let then: BTreeMap<String, Value> = array(then)
        .iter()
        .map(|setting| (word(&setting["key"]).to_owned(), setting["value"].clone()))
        .collect();
    let keys: std::collections::BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let show = |value: Option<&Value>| {
        let inner = value.and_then(Value::as_object).and_then(|cases| cases.iter().next());
        match inner {
            None => "not given".to_owned(),
            Some((kind, value)) if kind == "decimal" => {
                let millionths = value.as_i64().unwrap_or(0);
                let sign = if millionths < 0 { "-" } else { "" };
                format!("{sign}{}", amount::format_count(millionths.unsigned_abs()))
            }
            Some((_, value)) => value.to_string(),
        }
    };
    keys.into_iter()
        .filter(|key| then.get(*key) != now.get(*key))
        .map(|key| format!("setting {key} was {}, is {}", show(then.get(key)), show(now.get(key))))
        .collect()
}

fn called(who: &Who) -> &str {
    if who.digest.is_some() { &who.policy } else { "the built-in" }
}

fn name(who: &Who) -> String {
    match who.digest {
        Some(digest) => format!("{} {} ({})", who.policy, who.version, digest.short()),
        None => format!("the built-in {}", who.version),
    }
}

/// The whole of it for people: changes by world and function, at most `most` of each, and one line that counts.
#[must_use]
pub fn text(report: &Report, most: usize) -> String {
    let mut groups: BTreeMap<(WorldKind, usize, &str), Vec<&Change>> = BTreeMap::new();
    for change in &report.changes {
        groups.entry((change.world, change.link, &change.function)).or_default().push(change);
    }
    let mut text = String::new();
    for ((world, link, function), changes) in groups {
        let link = if link > 0 { format!(" {link}") } else { String::new() };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{world}{link} {function}: {}", count(changes.len() as u64, "change"));
        for change in changes.iter().take(most) {
            text += &one(change);
        }
        let more = changes.len().saturating_sub(most);
        if more > 0 {
            let _ = writeln!(text, "  and {more} more; `-o json` has all");
        }
    }
    if report.not_told > 0 {
        let _ = writeln!(text, "{} more are counted and not kept", report.not_told);
    }
    for gone in &report.gone {
        let _ = writeln!(text, "not here: {}", name(gone));
    }
    text + &summary(report) + "\n"
}

/// One change, indented.
#[must_use]
pub fn one(change: &Change) -> String {
    let mut text = String::new();
    let kernels = match &change.kernels[..] {
        [] => "node".to_owned(),
        [only] => format!("kernel {}", short(only)),
        [first, rest @ ..] => format!("kernel {} and {} more", short(first), rest.len()),
    };
    let dry_run = if change.dry_run { ", a dry run" } else { "" };
    let when = phrase::time_of_day(change.time_ms);
    let _ = writeln!(text, "  {kernels}, {when}, number {}{dry_run}", change.seq);
    let _ = writeln!(text, "    then  {}  [{}]", change.then.text, name(&change.then.by));
    let _ = writeln!(text, "    now   {}  [{}]", change.now.text, name(&change.now.by));
    for detail in &change.details {
        let _ = writeln!(text, "          {detail}");
    }
    let _ = writeln!(text, "    why   {}", change.why);
    text
}

/// "256 decisions replayed: 250 the same, 3 differ, 1 fails (deadline), 2 skipped (busy machine)".
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    if report.same > 0 {
        parts.push(format!("{} the same", report.same));
    }
    match report.different {
        0 => {}
        1 => parts.push("1 differs".to_owned()),
        some => parts.push(format!("{some} differ")),
    }
    for (fault, times) in &report.failed {
        let verb = if *times == 1 { "fails" } else { "fail" };
        parts.push(format!("{times} {verb} ({})", fault.code()));
    }
    let skipped: u64 = report.skipped.values().sum();
    if skipped > 0 {
        let why = report.skipped.iter().map(|(skip, times)| match report.skipped.len() {
            1 => skip.words().to_owned(),
            _ => format!("{times} {}", skip.words()),
        });
        parts.push(format!("{skipped} skipped ({})", why.collect::<Vec<_>>().join(", ")));
    }
    if report.not_reached > 0 {
        parts.push(format!("{} not reached in time", report.not_reached));
    }
    let replayed = count(report.replayed + report.not_reached, "decision");
    match parts.is_empty() {
        true => "no decisions to replay".to_owned(),
        false => format!("{replayed} replayed: {}", parts.join(", ")),
    }
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
