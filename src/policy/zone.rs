//! The node's time zone, for `context.utc-offset-minutes`: a policy sees local time, summer time included.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The zone that `TZ` names, else that of `/etc/localtime`, else UTC. It is read once: an agent that is to follow a
/// change of the node's zone is restarted.
#[derive(Debug)]
pub(super) struct Zone(TimeZone);

impl Zone {
    pub fn of_node() -> Self {
        Self(TimeZone::try_system().unwrap_or_else(|error| {
            tracing::info!(%error, "the node's time zone is not known: policies are told UTC");
            TimeZone::UTC
        }))
    }

    /// What to add to UTC for local time at a moment; 0 for moments that no calendar has.
    pub fn utc_offset_minutes(&self, unix_ms: u64) -> i32 {
        let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        moment.map_or(0, |moment| self.0.to_offset(moment).seconds().div_euclid(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summer_time_counts_from_the_very_minute() {
        let zone = Zone(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
        // 2026-03-29T01:00Z and 2026-10-25T01:00Z.
        let (spring, autumn) = (1_774_746_000_000, 1_792_890_000_000);
        assert_eq!(zone.utc_offset_minutes(spring - 1), 60);
        assert_eq!(zone.utc_offset_minutes(spring), 120);
        assert_eq!(zone.utc_offset_minutes(autumn - 1), 120);
        assert_eq!(zone.utc_offset_minutes(autumn), 60);
    }

    #[test]
    fn offsets_need_not_be_whole_hours() {
        let zone = |text: &str| Zone(TimeZone::posix(text).unwrap()).utc_offset_minutes(1_767_571_800_000);
        assert_eq!(zone("NPT-5:45"), 345);
        assert_eq!(zone("NST3:30"), -210);
        assert_eq!(Zone(TimeZone::UTC).utc_offset_minutes(u64::MAX), 0);
    }
}
