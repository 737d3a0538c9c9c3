//! The text that Prometheus reads (exposition format 0.0.4), written line by line. Pure.
//!
//! Written here and not by a crate: the numbers are counted by the rooms already, in forms of their own, and what is
//! left is three kinds of lines and the escaping of labels.

use std::fmt::Write as _;

use crate::amount::format_count;

/// `Content-Type` of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of numbers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the agent runs.
    Counter,
    /// As it is now.
    Gauge,
    /// Counts by upper bound, with their sum.
    Histogram,
}

/// A number in its base unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Whole(u64),
    /// Micro-units, microseconds.
    Millionths(u64),
    /// Milliseconds.
    Thousandths(u64),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Millionths(number) => f.write_str(&format_count(number)),
            Self::Thousandths(number) => f.write_str(&format_count(number.saturating_mul(1_000))),
        }
    }
}

/// Name and value of each label.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

/// The text as it grows.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family of it, to which samples are added.
#[derive(Debug)]
pub(super) struct Family<'t> {
    text: &'t mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a family; each only once. `help` is one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// A family of one number without labels.
    pub fn one(&mut self, name: &'static str, kind: Kind, help: &'static str, value: Value) {
        self.family(name, kind, help).sample(&[], value);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    pub fn sample(&mut self, labels: Labels<'_>, value: Value) {
        self.line("", labels, None, value);
    }

    /// One histogram: `buckets` are upper bounds and how many lie between each and the one before; beyond the last
    /// are the rest of `count`.
    pub fn histogram(
        &mut self,
        labels: Labels<'_>,
        buckets: impl Iterator<Item = (Value, u64)>,
        count: u64,
        sum: Value,
    ) {
        let mut up_to = 0_u64;
        for (bound, number) in buckets {
            up_to = up_to.saturating_add(number);
            self.line("_bucket", labels, Some(&bound.to_string()), Value::Whole(up_to));
        }
        self.line("_bucket", labels, Some("+Inf"), Value::Whole(count));
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, Value::Whole(count));
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: Value) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (index, (name, value)) in all.enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if index == 0 { '{' } else { ',' });
            escape(value, self.text);
            self.text.push('"');
        }
        if !labels.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// A label's value: a backslash, a quote and a new line would end it.
fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_label_is_escaped() {
        let mut text = Exposition::default();
        let labels = [("policy", "a\"b\\c\nd"), ("world", "größe")];
        text.family("berth_x_total", Kind::Counter, "X.").sample(&labels, Value::Whole(1));
        assert_eq!(
            text.into_text(),
            "# HELP berth_x_total X.\n# TYPE berth_x_total counter\n\
             berth_x_total{policy=\"a\\\"b\\\\c\\nd\",world=\"größe\"} 1\n"
        );
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut text = Exposition::default();
        let buckets = [(Value::Millionths(25), 2), (Value::Millionths(1_000_000), 3)];
        let mut family = text.family("berth_t_seconds", Kind::Histogram, "T.");
        family.histogram(&[], buckets.into_iter(), 6, Value::Millionths(2_500_000));
        assert_eq!(
            text.into_text().lines().skip(2).collect::<Vec<_>>(),
            [
                "berth_t_seconds_bucket{le=\"0.000025\"} 2",
                "berth_t_seconds_bucket{le=\"1\"} 5",
                "berth_t_seconds_bucket{le=\"+Inf\"} 6",
                "berth_t_seconds_sum 2.5",
                "berth_t_seconds_count 6",
            ]
        );
    }
}
