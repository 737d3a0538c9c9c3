//! Settings as typed constants: key, type, help, default and range in one place.
//!
//! ```
//! use berth_guest::settings::{Flag, Integer, Key, Table, flag, integer};
//!
//! const LIMIT: Key<Integer> = integer("limit", "Kernels at a time.").default(4).range(1, 100);
//! const STRICT: Key<Flag> = flag("strict", "Whether to refuse the rest.").default(false);
//! const QUOTA: Table<Integer> = integer("quota", "The same by owner: `quota.alice = 2`.").table();
//! ```
//! `LIMIT.get(&ctx.settings)` is an `i64`, `QUOTA.get(&ctx.settings, "alice")` an `Option<i64>`. The agent fills in
//! the defaults and checks types before a policy is asked, the SDK checks ranges, tables and what has no default;
//! a key without a default must be given by the operator.

use std::marker::PhantomData;

use crate::types::{Setting, SettingValue};

/// A text.
#[derive(Clone, Copy)]
pub struct Text;
/// A whole number.
#[derive(Clone, Copy)]
pub struct Integer;
/// A decimal number, in millionths: `0.25` is 250 000, ready to compare with an amount.
#[derive(Clone, Copy)]
pub struct Decimal;
/// Yes or no.
#[derive(Clone, Copy)]
pub struct Flag;
/// A list of texts.
#[derive(Clone, Copy)]
pub struct Texts;

/// One setting.
#[derive(Clone, Copy)]
pub struct Key<T> {
    spec: Spec,
    kind: PhantomData<T>,
}

/// A table of settings of one type, `quota.alice` and `quota.bob`.
#[derive(Clone, Copy)]
pub struct Table<T> {
    spec: Spec,
    kind: PhantomData<T>,
}

/// What the agent is told of a setting.
#[derive(Clone, Copy)]
pub struct Spec {
    key: &'static str,
    pub(crate) help: &'static str,
    kind: Kind,
    table: bool,
    least: i64,
    most: i64,
    one_of: &'static [&'static str],
}

/// The type, and the default.
#[derive(Clone, Copy)]
enum Kind {
    Text(Option<&'static str>),
    Integer(Option<i64>),
    Decimal(Option<i64>),
    Flag(Option<bool>),
    Texts(Option<&'static [&'static str]>),
}

/// A text setting.
#[must_use]
pub const fn text(key: &'static str, help: &'static str) -> Key<Text> {
    Key::new(key, help, Kind::Text(None))
}

/// A whole number.
#[must_use]
pub const fn integer(key: &'static str, help: &'static str) -> Key<Integer> {
    Key::new(key, help, Kind::Integer(None))
}

/// A decimal number.
#[must_use]
pub const fn decimal(key: &'static str, help: &'static str) -> Key<Decimal> {
    Key::new(key, help, Kind::Decimal(None))
}

/// A switch.
#[must_use]
pub const fn flag(key: &'static str, help: &'static str) -> Key<Flag> {
    Key::new(key, help, Kind::Flag(None))
}

/// A list of texts.
#[must_use]
pub const fn texts(key: &'static str, help: &'static str) -> Key<Texts> {
    Key::new(key, help, Kind::Texts(None))
}

impl<T> Key<T> {
    const fn new(key: &'static str, help: &'static str, kind: Kind) -> Self {
        let spec = Spec { key, help, kind, table: false, least: i64::MIN, most: i64::MAX, one_of: &[] };
        Self { spec, kind: PhantomData }
    }

    const fn with(mut self, kind: Kind) -> Self {
        self.spec.kind = kind;
        self
    }

    /// A table of such settings under this key.
    #[must_use]
    pub const fn table(mut self) -> Table<T> {
        self.spec.table = true;
        Table { spec: self.spec, kind: PhantomData }
    }

    /// For `policy!`.
    #[must_use]
    pub const fn spec(self) -> Spec {
        self.spec
    }
}

impl<T> Table<T> {
    /// For `policy!`.
    #[must_use]
    pub const fn spec(self) -> Spec {
        self.spec
    }
}

impl Key<Text> {
    /// What it is unless the operator says otherwise.
    #[must_use]
    pub const fn default(self, value: &'static str) -> Self {
        self.with(Kind::Text(Some(value)))
    }

    /// The values that it may have.
    #[must_use]
    pub const fn one_of(mut self, values: &'static [&'static str]) -> Self {
        self.spec.one_of = values;
        self
    }
}

impl Key<Integer> {
    /// What it is unless the operator says otherwise.
    #[must_use]
    pub const fn default(self, value: i64) -> Self {
        self.with(Kind::Integer(Some(value)))
    }

    /// The least and the most that it may be.
    #[must_use]
    pub const fn range(mut self, least: i64, most: i64) -> Self {
        (self.spec.least, self.spec.most) = (least, most);
        self
    }
}

impl Key<Decimal> {
    /// What it is unless the operator says otherwise, in millionths.
    #[must_use]
    pub const fn default(self, millionths: i64) -> Self {
        self.with(Kind::Decimal(Some(millionths)))
    }

    /// The least and the most that it may be, in millionths.
    #[must_use]
    pub const fn range(mut self, least: i64, most: i64) -> Self {
        (self.spec.least, self.spec.most) = (least, most);
        self
    }
}

impl Key<Flag> {
    /// What it is unless the operator says otherwise.
    #[must_use]
    pub const fn default(self, value: bool) -> Self {
        self.with(Kind::Flag(Some(value)))
    }
}

impl Key<Texts> {
    /// What it is unless the operator says otherwise.
    #[must_use]
    pub const fn default(self, value: &'static [&'static str]) -> Self {
        self.with(Kind::Texts(Some(value)))
    }
}

/// A type of setting as Rust reads it.
pub trait Reads {
    /// The value.
    type Value<'s>: Default;
    /// Of a setting of that type.
    fn read(value: &SettingValue) -> Option<Self::Value<'_>>;
}

impl Reads for Text {
    type Value<'s> = &'s str;
    fn read(value: &SettingValue) -> Option<&str> {
        if let SettingValue::Text(text) = value { Some(text) } else { None }
    }
}

impl Reads for Integer {
    type Value<'s> = i64;
    fn read(value: &SettingValue) -> Option<i64> {
        if let SettingValue::Integer(number) = value { Some(*number) } else { None }
    }
}

impl Reads for Decimal {
    type Value<'s> = i64;
    /// A table's whole numbers arrive as such: people do not write `2.0`.
    fn read(value: &SettingValue) -> Option<i64> {
        match value {
            SettingValue::Decimal(millionths) => Some(*millionths),
            SettingValue::Integer(whole) => whole.checked_mul(1_000_000),
            _ => None,
        }
    }
}

impl Reads for Flag {
    type Value<'s> = bool;
    fn read(value: &SettingValue) -> Option<bool> {
        if let SettingValue::Flag(flag) = value { Some(*flag) } else { None }
    }
}

impl Reads for Texts {
    type Value<'s> = &'s [String];
    fn read(value: &SettingValue) -> Option<&[String]> {
        if let SettingValue::Texts(texts) = value { Some(texts) } else { None }
    }
}

impl<T: Reads> Key<T> {
    /// Its value. The agent sends every setting, so the zero value of the type is never seen in service.
    #[must_use]
    pub fn get<'s>(&self, settings: &'s [Setting]) -> T::Value<'s> {
        let found = settings.iter().find(|setting| setting.key == self.spec.key);
        found.and_then(|setting| T::read(&setting.value)).unwrap_or_default()
    }
}

impl<T: Reads> Table<T> {
    /// One entry.
    #[must_use]
    pub fn get<'s>(&self, settings: &'s [Setting], name: &str) -> Option<T::Value<'s>> {
        self.iter(settings).find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// All entries, sorted by name.
    pub fn iter<'s>(
        &self,
        settings: &'s [Setting],
    ) -> impl Iterator<Item = (&'s str, T::Value<'s>)> + use<'s, T> {
        let key = self.spec.key;
        settings
            .iter()
            .filter_map(move |setting| Some((name_in_table(&setting.key, key)?, T::read(&setting.value)?)))
    }
}

/// `alice` of `quota.alice` in the table `quota`.
fn name_in_table<'k>(key: &'k str, table: &str) -> Option<&'k str> {
    key.strip_prefix(table)?.strip_prefix('.').filter(|name| !name.is_empty())
}

impl Spec {
    /// As the agent names it.
    pub(crate) fn key(&self) -> String {
        if self.table { [self.key, ".*"].concat() } else { self.key.to_owned() }
    }

    pub(crate) fn default_value(&self) -> Option<SettingValue> {
        match self.kind {
            _ if self.table => None,
            Kind::Text(text) => text.map(|text| SettingValue::Text(text.to_owned())),
            Kind::Integer(number) => number.map(SettingValue::Integer),
            Kind::Decimal(millionths) => millionths.map(SettingValue::Decimal),
            Kind::Flag(flag) => flag.map(SettingValue::Flag),
            Kind::Texts(texts) => {
                texts.map(|texts| SettingValue::Texts(texts.iter().map(|text| (*text).to_owned()).collect()))
            }
        }
    }

    pub(crate) fn names(&self, key: &str) -> bool {
        if self.table { name_in_table(key, self.key).is_some() } else { self.key == key }
    }

    /// What is wrong with a value.
    fn problem(&self, value: &SettingValue) -> Option<String> {
        let number = match (self.kind, value) {
            (Kind::Integer(_), value) => Integer::read(value),
            (Kind::Decimal(_), value) => Decimal::read(value),
            (Kind::Text(_), SettingValue::Text(text)) => {
                let fine = self.one_of.is_empty() || self.one_of.contains(&&**text);
                return (!fine).then(|| {
                    let mut sentence = "must be one of".to_owned();
                    for (index, value) in self.one_of.iter().enumerate() {
                        sentence.push_str(if index == 0 { " " } else { ", " });
                        sentence.push_str(value);
                    }
                    sentence
                });
            }
            (Kind::Flag(_), SettingValue::Flag(_)) | (Kind::Texts(_), SettingValue::Texts(_)) => return None,
            _ => None,
        };
        let Some(number) = number else { return Some(["must be ", self.kind.name()].concat()) };
        if number < self.least {
            return Some(["must not be below ", &self.shown(self.least)].concat());
        }
        (number > self.most).then(|| ["must not be above ", &self.shown(self.most)].concat())
    }

    /// A number as the operator writes it.
    fn shown(&self, number: i64) -> String {
        if !matches!(self.kind, Kind::Decimal(_)) {
            return number.to_string();
        }
        let (whole, millionths) = (number.unsigned_abs() / 1_000_000, number.unsigned_abs() % 1_000_000);
        // With a one before it, so that no zero after the point is lost.
        let digits = (1_000_000 + millionths).to_string();
        let digits = digits.strip_prefix('1').unwrap_or_default().trim_end_matches('0');
        let (sign, point) = (if number < 0 { "-" } else { "" }, if digits.is_empty() { "" } else { "." });
        [sign, &whole.to_string(), point, digits].concat()
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Decimal(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::Texts(_) => "a list of texts",
        }
    }
}

/// Every value of a wrong type or out of range, a sentence each.
pub(crate) fn check(specs: &[Spec], settings: &[Setting]) -> Vec<String> {
    let mut problems = Vec::new();
    for setting in settings {
        let spec = specs.iter().find(|spec| spec.names(&setting.key));
        if let Some(problem) = spec.and_then(|spec| spec.problem(&setting.value)) {
            problems.push([&*setting.key, ": ", &problem].concat());
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Key<Integer> = integer("limit", "").default(4).range(1, 9);
    const SHARE: Key<Decimal> = decimal("share", "").default(250_000).range(10_000, 1_500_000);
    const MODE: Key<Text> = text("mode", "").default("a").one_of(&["a", "b"]);
    const NAMES: Key<Texts> = texts("names", "");
    const QUOTA: Table<Decimal> = decimal("quota", "").range(0, 2_000_000).table();
    const SPECS: [Spec; 5] = [LIMIT.spec(), SHARE.spec(), MODE.spec(), NAMES.spec(), QUOTA.spec()];

    fn setting(key: &str, value: SettingValue) -> Setting {
        Setting { key: key.to_owned(), value }
    }

    #[test]
    fn values_are_read_by_their_type_and_tables_by_name() {
        let settings = [
            setting("limit", SettingValue::Integer(7)),
            setting("names", SettingValue::Texts(vec!["x".to_owned()])),
            setting("quota.alice", SettingValue::Integer(1)),
            setting("quota.bob", SettingValue::Decimal(500_000)),
            setting("quotas", SettingValue::Integer(3)),
        ];
        assert_eq!(LIMIT.get(&settings), 7);
        assert_eq!(NAMES.get(&settings), ["x".to_owned()]);
        assert_eq!(QUOTA.get(&settings, "alice"), Some(1_000_000));
        assert_eq!(QUOTA.get(&settings, "carol"), None);
        let all: Vec<_> = QUOTA.iter(&settings).collect();
        assert_eq!(all, [("alice", 1_000_000), ("bob", 500_000)]);
    }

    #[test]
    fn every_value_out_of_range_or_of_another_type_is_named() {
        let settings = [
            setting("limit", SettingValue::Integer(0)),
            setting("share", SettingValue::Decimal(1_500_001)),
            setting("mode", SettingValue::Text("c".to_owned())),
            setting("names", SettingValue::Flag(true)),
            setting("quota.alice", SettingValue::Integer(3)),
            setting("quota.bob", SettingValue::Text("1".to_owned())),
        ];
        assert_eq!(
            check(&SPECS, &settings),
            [
                "limit: must not be below 1",
                "share: must not be above 1.5",
                "mode: must be one of a, b",
                "names: must be a list of texts",
                "quota.alice: must not be above 2",
                "quota.bob: must be a number",
            ]
        );
        let below = SHARE.range(-1_250_000, 0).spec();
        assert_eq!(
            check(&[below], &[setting("share", SettingValue::Integer(-2))]),
            ["share: must not be below -1.25"]
        );
        let low = [setting("share", SettingValue::Decimal(0)), setting("limit", SettingValue::Integer(9))];
        assert_eq!(check(&SPECS, &low), ["share: must not be below 0.01"]);
    }
}
