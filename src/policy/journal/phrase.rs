//! What a record of the journal says, in words. Pure; a record of another version of berth that lacks something
//! is told as far as it goes.

use serde_json::Value;

use super::Entry;
use crate::amount;
use crate::policy::json::Jot as _;

/// What was decided, as a phrase: "cpu: 2, 3; mem: 512 MiB", "2 edits: set-env A, add-mount /data", "refused: …".
#[must_use]
pub fn outcome(entry: &Entry) -> String {
    if let Some(refusal) = &entry.refusal {
        return format!("refused: {} ({})", refusal.message, refusal.code);
    }
    let Some(answer) = &entry.answer else { return "nothing".to_owned() };
    match entry.function.as_str() {
        "place" => placement(entry),
        "order" => {
            let verdicts = array(answer).iter().map(|decision| &decision["verdict"]);
            let mut counts = [(0, "start"), (0, "wait"), (0, "refused")];
            for verdict in verdicts {
                let of =
                    if verdict == "start" { 0 } else { 1 + usize::from(verdict.get("refuse").is_some()) };
                counts[of].0 += 1;
            }
            let said = counts.iter().filter(|(count, _)| *count > 0);
            join(said.map(|(count, what)| format!("{count} {what}")), "nobody waits")
        }
        "adjust" => match array(answer) {
            [] => "no edits".to_owned(),
            [one] => format!("1 edit: {}", edit(one)),
            many => format!("{} edits: {}", many.len(), join(many.iter().map(edit), "")),
        },
        "evict" => join(
            array(answer).iter().map(|eviction| {
                let kernel = at(&entry.question["running"], &eviction["kernel"]);
                format!("{} ({})", text(&kernel["kernel-id"]), text(&eviction["reason"]))
            }),
            "nobody goes",
        ),
        "report" => {
            let slots = array(&answer["slots"]).iter().map(|slot| {
                let total: u64 =
                    array(&slot["offers"]).iter().filter_map(|offer| offer["amount"].as_u64()).sum();
                format!("{} {}", text(&slot["name"]), spell(slot, total))
            });
            let offered = join(slots, "nothing");
            match array(&answer["withheld"]).len() {
                0 => format!("offers {offered}"),
                1 => format!("offers {offered}; withholds 1 device"),
                withheld => format!("offers {offered}; withholds {withheld} devices"),
            }
        }
        _ => answer.to_string(),
    }
}

/// Where a placement put it, slot by slot: "cpu: 2, 3; mem: 512 MiB".
#[must_use]
pub fn placement(entry: &Entry) -> String {
    let node = &entry.question["node"];
    let shares = entry.answer.as_ref().map_or(&[][..], |answer| array(&answer["shares"]));
    let mut slots: Vec<(u64, u64, Vec<String>)> = Vec::new();
    for share in shares {
        let (slot, amount) = (share["slot"].as_u64().unwrap_or(0), share["amount"].as_u64().unwrap_or(0));
        let device = at(&node["devices"], &share["device"]);
        let number = device["number"].as_u64().map_or_else(|| "?".to_owned(), |number| number.to_string());
        match slots.iter_mut().find(|(known, ..)| *known == slot) {
            Some((_, total, numbers)) => {
                *total = total.saturating_add(amount);
                numbers.push(number);
            }
            None => slots.push((slot, amount, vec![number])),
        }
    }
    let told = slots.into_iter().map(|(slot, total, numbers)| {
        let slot = at(&node["slots"], &Value::from(slot));
        match text(&slot["kind"]) {
            "bytes" => format!("{}: {}", text(&slot["name"]), spell(slot, total)),
            // Whole devices are named; of a part its size matters too.
            _ if total == numbers.len() as u64 * amount::ONE => {
                format!("{}: {}", text(&slot["name"]), numbers.join(", "))
            }
            _ => format!("{}: {} of {}", text(&slot["name"]), spell(slot, total), numbers.join(", ")),
        }
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() { "nothing of its own (it shares the cores)".to_owned() } else { told.join("; ") }
}

/// What was asked for and what of it was to be had: "2 cpu (6 of 8 free)".
#[must_use]
pub fn free(entry: &Entry) -> Vec<String> {
    let question = &entry.question;
    let wants = array(&question["request"]["wants"]).iter();
    wants
        .map(|want| {
            let slot = at(&question["node"]["slots"], &want["slot"]);
            let stock = array(&question["choice"]["stock"]).iter().filter(|s| s["slot"] == want["slot"]);
            let (mut free, mut offered) = (0_u64, 0_u64);
            for stock in stock {
                free = free.saturating_add(stock["free"].as_u64().unwrap_or(0));
                offered = offered.saturating_add(stock["offered"].as_u64().unwrap_or(0));
            }
            let asked = want["amount"].as_u64().unwrap_or(0);
            let on = if free == offered { String::new() } else { format!(" of {}", spell(slot, offered)) };
            format!("{} {} ({}{on} free)", spell(slot, asked), text(&slot["name"]), spell(slot, free))
        })
        .collect()
}

/// The verdict of `order` on one kernel: none: to start; else why it has to wait or was refused.
#[must_use]
pub fn verdict(entry: &Entry, kernel: &str) -> Option<Verdict> {
    let waiting = array(&entry.question["waiting"]);
    let index = waiting.iter().position(|request| request["kernel-id"] == kernel)? as u64;
    let decision = array(entry.answer.as_ref()?).iter().find(|decision| decision["request"] == index)?;
    let verdict = &decision["verdict"];
    Some(match (verdict.get("wait"), verdict.get("refuse")) {
        (Some(why), _) => Verdict::Wait(text(why).to_owned()),
        (_, Some(refusal)) => {
            Verdict::Refuse(format!("{} ({})", text(&refusal["message"]), text(&refusal["code"])))
        }
        (None, None) => Verdict::Start,
    })
}

/// See [`verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is among those who may start, as start slots become free.
    Start,
    /// Why not yet.
    Wait(String),
    /// Why not at all.
    Refuse(String),
}

/// One edit by its name and what it is about; values of variables are not told.
#[must_use]
pub fn edit(edit: &Value) -> String {
    let Some((kind, value)) = edit.as_object().and_then(|cases| cases.iter().next()) else {
        return edit.to_string();
    };
    match kind.as_str() {
        "set-env" | "extra" => format!("{kind} {}", text(&value[0])),
        "set-label" | "set-sysctl" | "add-host" => {
            format!("{kind} {}={}", text(&value[0]), text(&value[1]))
        }
        "add-mount" => {
            let read_only = if value["read-only"] == true { " (read-only)" } else { "" };
            match text(&value["kind"]) {
                "tmpfs" => format!("{kind} tmpfs on {}{read_only}", text(&value["target"])),
                _ => format!("{kind} {} on {}{read_only}", text(&value["source"]), text(&value["target"])),
            }
        }
        "add-file" => format!("{kind} {}", text(&value["target"])),
        "set-ulimit" => format!("{kind} {}={}:{}", text(&value["name"]), value["soft"], value["hard"]),
        "set-shm-size" | "set-memory-swap" => {
            format!("{kind} {}", value.as_u64().map_or_else(|| value.to_string(), amount::format_bytes))
        }
        "set-cpu-limit" => {
            format!("{kind} {}", value.as_u64().map_or_else(|| value.to_string(), amount::format_count))
        }
        _ => match value.as_str() {
            Some(text) => format!("{kind} {text}"),
            None => format!("{kind} {value}"),
        },
    }
}

/// The same of an edit that is not in the journal (yet).
#[must_use]
pub fn wit_edit(edit: &crate::policy::bindings::configuring::Edit) -> String {
    self::edit(&edit.json())
}

/// Hours, minutes and seconds in UTC; the day is seldom asked for, and the record has it.
#[must_use]
pub fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The beginning of a kernel's id, enough to tell it from others.
#[must_use]
pub fn short(kernel: &str) -> &str {
    kernel.get(..8).unwrap_or(kernel)
}

pub(in crate::policy) fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(in crate::policy) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

pub(in crate::policy) fn at<'v>(list: &'v Value, index: &Value) -> &'v Value {
    let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
    index.and_then(|index| list.get(index)).unwrap_or(&Value::Null)
}

pub(in crate::policy) fn spell(slot: &Value, amount: u64) -> String {
    if slot["kind"] == "bytes" { amount::format_bytes(amount) } else { amount::format_count(amount) }
}

fn join(parts: impl Iterator<Item = String>, none: &str) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { none.to_owned() } else { parts.join(", ") }
}
