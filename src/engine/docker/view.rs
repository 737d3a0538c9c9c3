//! What the engine answers, as values of this room. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum,
    ImageInspect, SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum,
};

use super::client::Session;
use crate::engine::{ContainerState, ContainerView, EngineInfo, EngineKind, ImageView};

/// A line of the container list. It has no pid and cannot tell whether memory ran out; none when the
/// engine left out its id.
pub(super) fn listed(summary: ContainerSummary) -> Option<ContainerView> {
    let state = match summary.state? {
        ContainerSummaryStateEnum::CREATED | ContainerSummaryStateEnum::EMPTY => ContainerState::Created,
        ContainerSummaryStateEnum::RUNNING
        | ContainerSummaryStateEnum::PAUSED
        | ContainerSummaryStateEnum::RESTARTING
        | ContainerSummaryStateEnum::STOPPING => ContainerState::Running,
        ContainerSummaryStateEnum::EXITED
        | ContainerSummaryStateEnum::REMOVING
        | ContainerSummaryStateEnum::DEAD => {
            ContainerState::Exited { code: exit_code(summary.status.as_deref()), oom_killed: false }
        }
    };
    Some(ContainerView {
        id: summary.id?.parse().ok()?,
        name: without_slash(summary.names.unwrap_or_default().first().map(String::as_str)),
        labels: sorted(summary.labels),
        image: summary.image_id.unwrap_or_default(),
        state,
        pid: None,
    })
}

/// One container, whole.
pub(super) fn inspected(container: ContainerInspectResponse) -> Option<ContainerView> {
    let state = container.state.unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let created = matches!(state.status, Some(ContainerStateStatusEnum::CREATED));
    let what = if running {
        ContainerState::Running
    } else if created {
        ContainerState::Created
    } else {
        ContainerState::Exited {
            code: state.exit_code.and_then(|code| i32::try_from(code).ok()),
            oom_killed: state.oom_killed.unwrap_or(false),
        }
    };
    Some(ContainerView {
        id: container.id?.parse().ok()?,
        name: without_slash(container.name.as_deref()),
        image: container.image.unwrap_or_default(),
        labels: sorted(container.config.and_then(|config| config.labels)),
        state: what,
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| running && *pid != 0),
    })
}

/// One image, whole.
pub(super) fn image(image: ImageInspect) -> Option<ImageView> {
    Some(ImageView {
        id: image.id?,
        tags: named(image.repo_tags.unwrap_or_default()),
        labels: sorted(image.config.and_then(|config| config.labels)),
        architecture: image.architecture.unwrap_or_default(),
        size: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
        created: image.created.as_deref().and_then(unix_time).unwrap_or(0),
    })
}

/// What the engine says of itself.
pub(super) fn info(session: &Session, endpoint: &str, info: SystemInfo) -> EngineInfo {
    EngineInfo {
        kind: EngineKind::Docker,
        version: session.version.clone(),
        api_version: Some(session.docker.client_version().to_string()),
        endpoint: endpoint.to_owned(),
        architecture: session.architecture.clone(),
        cgroup_version: match info.cgroup_version {
            Some(SystemInfoCgroupVersionEnum::_1) => Some("1".to_owned()),
            Some(SystemInfoCgroupVersionEnum::_2) => Some("2".to_owned()),
            _ => None,
        },
        live_restore: info.live_restore_enabled,
        unsandboxed: None,
        not_enforced: not_enforced(&info),
    }
}

fn not_enforced(info: &SystemInfo) -> Vec<String> {
    if matches!(info.cgroup_driver, Some(SystemInfoCgroupDriverEnum::NONE)) {
        return vec![
            "No limit of cores, memory or processes is enforced: Docker runs without cgroups.".to_owned(),
        ];
    }
    let missing = [
        (info.memory_limit, "Memory limits are not enforced: the memory cgroup is missing."),
        (info.swap_limit, "Swap is not limited: the system does not account for it (swapaccount=1)."),
        (info.cpu_set, "Kernels are not bound to their cores: the cpuset cgroup is missing."),
        (info.cpu_cfs_quota, "Quotas of CPU time are not enforced: the system has no CFS bandwidth control."),
        (info.pids_limit, "The number of processes is not limited: the pids cgroup is missing."),
    ];
    missing
        .into_iter()
        .filter(|(supported, _)| *supported == Some(false))
        .map(|(_, text)| text.to_owned())
        .collect()
}

/// Names of an image without the engine's stand-in for "no name".
pub(super) fn named(tags: Vec<String>) -> Vec<String> {
    tags.into_iter().filter(|tag| !tag.contains("<none>")).collect()
}

pub(super) fn sorted(labels: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    labels.unwrap_or_default().into_iter().collect()
}

fn without_slash(name: Option<&str>) -> String {
    name.unwrap_or_default().trim_start_matches('/').to_owned()
}

/// The list tells an exit code only in words: `Exited (137) 3 seconds ago`.
fn exit_code(status: Option<&str>) -> Option<i32> {
    status?.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// Seconds since 1970 of an RFC 3339 time such as `2024-05-30T12:07:14.123456789Z`; the fraction is dropped.
fn unix_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), ..] => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'+' { 60 } else { -60 }
        }
        _ => return None,
    };
    // Days of the proleptic Gregorian calendar, with the year beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 719_469;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_from_the_list() {
        assert_eq!(exit_code(Some("Exited (137) 3 seconds ago")), Some(137));
        assert_eq!(exit_code(Some("Dead")), None);
        assert_eq!(exit_code(None), None);
    }

    #[test]
    fn times_are_read_as_seconds() {
        assert_eq!(unix_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_time("2024-02-29T12:34:56.789012345Z"), Some(1_709_210_096));
        assert_eq!(unix_time("2024-02-29T14:34:56+02:00"), Some(1_709_210_096));
        assert_eq!(unix_time("0001-01-01T00:00:00Z"), Some(-62_135_596_800));
        assert_eq!(unix_time(""), None);
        assert_eq!(unix_time("2024-13-01T00:00:00Z"), None);
        assert_eq!(unix_time("2024-02-29T12:34:56+é"), None);
    }

    #[test]
    fn what_an_engine_cannot_enforce_is_said() {
        let engine = SystemInfo { swap_limit: Some(false), cpu_set: Some(true), ..SystemInfo::default() };
        assert_eq!(
            not_enforced(&engine),
            ["Swap is not limited: the system does not account for it (swapaccount=1)."]
        );
        let none =
            SystemInfo { cgroup_driver: Some(SystemInfoCgroupDriverEnum::NONE), ..SystemInfo::default() };
        assert_eq!(not_enforced(&none).len(), 1);
    }
}
