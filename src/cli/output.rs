//! What commands print: tables for people, JSON for programs.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;

use super::error::CliError;
use crate::amount;
use crate::ids::SlotName;
use crate::policy::journal::{Entry, phrase};
use crate::policy::{DecidedBy, Rung, WorldKind};

/// `-o`, where something is printed that programs may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(super) struct Output {
    /// How to print it: for people or for programs
    #[arg(short = 'o', long = "output", value_enum, default_value = "text", value_name = "FORM")]
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

impl Output {
    /// For people.
    pub(super) const TEXT: Self = Self { form: Form::Text };

    /// Whether it is for programs.
    pub(super) fn is_json(self) -> bool {
        self.form == Form::Json
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub(super) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        self.write(value, text, serde_json::to_string_pretty)
    }

    /// Prints one of many values: as JSON on one line, or what `text` makes of it.
    pub(super) fn print_line<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), CliError> {
        self.write(value, text, serde_json::to_string)
    }

    fn write<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
        json: fn(&T) -> serde_json::Result<String>,
    ) -> Result<(), CliError> {
        match self.form {
            Form::Text => print(&text(value)),
            Form::Json => {
                let json = json(value)
                    .map_err(|error| CliError::new(format!("this cannot be written as JSON: {error}")))?;
                print(&(json + "\n"))
            }
        }
    }
}

/// Writes to standard output.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CliError::output(&error))
}

/// A plain table: a line of headings, columns by spaces.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// An amount of a slot, as people write it.
pub(super) fn amount_of(slot: &SlotName, amount: u64) -> String {
    if is_bytes(slot) { amount::format_bytes(amount) } else { amount::format_count(amount) }
}

/// Memory is the one family that is counted in bytes.
pub(super) fn is_bytes(slot: &SlotName) -> bool {
    slot.family() == "mem"
}

/// How long ago, in one number.
pub(super) fn age(since_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let seconds = now.saturating_sub(since_ms.into()) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Seconds until then.
pub(super) fn until(at_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    at_ms.saturating_sub(u64::try_from(now).unwrap_or(u64::MAX)).div_ceil(1000)
}

/// A size, for people: `49.9 MB`.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GB", 1_000_000_000_u64), ("MB", 1_000_000), ("kB", 1000)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10)),
        None => format!("{bytes} B"),
    }
}

/// A time of day in UTC, `2026-11-24 23:10:10Z`, of Unix time in milliseconds.
pub(super) fn time(at_ms: u64) -> String {
    let (days, second) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    // Days since 0000-03-01 of the proleptic Gregorian calendar, in eras of 400 years; the year begins in March.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + turn;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// A world by its name.
pub(super) fn world(world: WorldKind) -> &'static str {
    match world {
        WorldKind::SlotReporter => "slot-reporter",
        WorldKind::Scheduler => "scheduler",
        WorldKind::ContainerConfig => "container-config",
    }
}

/// A policy by name, version and digest.
pub(super) fn policy_name(by: &DecidedBy) -> String {
    match by.digest {
        Some(digest) => format!("{} {} ({})", by.policy, by.version, digest.short()),
        None => format!("{} {}", by.policy, by.version),
    }
}

/// Which rung of the ladder answered.
pub(super) fn rung(rung: Rung) -> &'static str {
    match rung {
        Rung::Active => "active",
        Rung::LastGood => "last good",
        Rung::Builtin => "built-in",
    }
}

/// One line per decision and one per fault before it, indented; what was decided, where the journal (`told`, oldest
/// first) still has it.
pub(super) fn decisions(decisions: &[DecidedBy], told: &[Entry]) -> String {
    let mut text = String::new();
    for by in decisions {
        let entry = told.iter().rfind(|entry| {
            entry.function == by.function && entry.digest == by.digest && entry.micros == by.micros
        });
        let what = format!("{} {}", world(by.world), by.function);
        text += &format!("  {what:<24} ");
        if let Some(entry) = entry {
            text += &format!("{}  [", phrase::outcome(entry));
        }
        text += &format!("{}, {}, {} µs", policy_name(by), rung(by.rung), by.micros);
        if entry.is_some() {
            text.push(']');
        }
        text += &by.note.as_ref().map_or(String::new(), |note| format!(": {note}"));
        text.push('\n');
        for fault in &by.faults {
            text += &format!("  {:<24} passed over {}: {}\n", "", fault.policy, fault.message);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_columns_of_plain_text() {
        let rows = [vec!["k1".to_owned(), "running".to_owned()], vec!["kernel-2".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["NAME", "STATE"], rows), "NAME      STATE\nk1        running\nkernel-2  x\n");
    }

    #[test]
    fn times_are_dates_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(1_709_210_096_789), "2024-02-29 12:34:56Z");
        assert_eq!(time(1_735_689_599_000), "2024-12-31 23:59:59Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00Z");
    }

    #[test]
    fn ages_are_one_number() {
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        assert_eq!(age(now - 5 * 60_000), "5 min");
        assert_eq!(age(now - 3 * 86_400_000), "3 d");
        assert_eq!(age(now + 60_000), "0 s");
    }
}
