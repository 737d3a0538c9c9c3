//! The node's local time, out of `now-ms` and `utc-offset-minutes`.

use crate::types::Context;

/// A minute of the week by the clock on the node's wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// 0 is Monday.
    pub weekday: u8,
    /// Since midnight, 0 to 1439.
    pub minute: u16,
}

impl Context {
    /// The node's local time.
    #[must_use]
    pub fn local(&self) -> Local {
        let minutes = (self.now_ms / 60_000).saturating_add_signed(i64::from(self.utc_offset_minutes));
        let (days, minute) = (minutes / 1440, minutes % 1440);
        // The epoch began on a Thursday.
        Local {
            weekday: u8::try_from((days + 3) % 7).unwrap_or(0),
            minute: u16::try_from(minute).unwrap_or(0),
        }
    }
}

impl Local {
    /// Reads `22:30` as minutes since midnight; `24:00` is the end of the day.
    #[must_use]
    pub fn minute_of(text: &str) -> Option<u16> {
        let (hours, minutes) = text.split_once(':')?;
        let two = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        (minutes < 60 && hours * 60 + minutes <= 1440).then_some(hours * 60 + minutes)
    }

    /// The weekday before this one.
    #[must_use]
    pub fn yesterday(self) -> u8 {
        (self.weekday + 6) % 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_is_utc_and_the_offset() {
        let at = |now_ms, utc_offset_minutes| {
            let local = Context { now_ms, utc_offset_minutes, ..Context::default() }.local();
            (local.weekday, local.minute)
        };
        assert_eq!(at(0, 0), (3, 0));
        assert_eq!(at(0, 60), (3, 60));
        // 2026-01-05T00:10Z, a Monday.
        assert_eq!(at(1_767_571_800_000, 0), (0, 10));
        assert_eq!(at(1_767_571_800_000, -11), (6, 1439));
        assert_eq!(at(1_767_571_800_000, 9 * 60), (0, 550));
    }

    #[test]
    fn times_of_day_are_read_as_people_write_them() {
        assert_eq!(Local::minute_of("00:00"), Some(0));
        assert_eq!(Local::minute_of("22:30"), Some(1350));
        assert_eq!(Local::minute_of("24:00"), Some(1440));
        for text in ["24:01", "9:30", "12:60", "12", "12:3a", "", "+1:00"] {
            assert_eq!(Local::minute_of(text), None, "{text}");
        }
    }
}
