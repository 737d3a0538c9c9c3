//! What `run` and `create` want of a kernel.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::CliError;
use super::output::is_bytes;
use crate::amount;
use crate::control::api::{CreateBody, MountAsk};
use crate::ids::{KernelId, KernelName, SessionId, SlotName};

/// `--wait` without a number: as long as it takes.
const WAIT_FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The options that `run` and `create` have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Wishes {
    /// Name of the kernel [default: a made-up one]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    name: Option<KernelName>,
    /// Image to run [default: as configured, else a runnable one of this node]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Whole cores of its own [default: share all, book none]
    #[arg(long, value_name = "N", value_parser = cores)]
    cpus: Option<u64>,
    /// Memory to book and to be limited to, e.g. 512m, 2g [default: a limit of 1 GiB that is not booked]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    mem: Option<u64>,
    /// Another slot, e.g. cuda.device=1 (may be given more than once)
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = slot)]
    slot: Vec<(SlotName, u64)>,
    /// Environment variable; without `=V` the one of this shell (may be given more than once)
    #[arg(long, value_name = "K[=V]", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Mount a file or folder of this host (may be given more than once)
    #[arg(long, value_name = "SRC:DST[:ro]", value_parser = mount)]
    mount: Vec<Mount>,
    /// Wait until there is room, at most S seconds, instead of being refused
    #[arg(long, value_name = "S", num_args = 0..=1, require_equals = true, value_parser = seconds,
          default_missing_value = "forever")]
    wait: Option<Duration>,
}

/// See [`MountAsk`]; a type of its own because clap wants one that can be cloned and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount(MountAsk);

impl Wishes {
    /// A request for a new kernel.
    pub(super) fn into_body(self, leased: bool) -> Result<CreateBody, CliError> {
        let mut wants = BTreeMap::new();
        let one = |name: &str, amount: Option<u64>| -> Result<_, CliError> {
            let name = name.parse::<SlotName>().map_err(|error| CliError::usage(error.to_string()))?;
            Ok(amount.map(|amount| (name, amount)))
        };
        for (slot, amount) in
            [one("cpu", self.cpus)?, one("mem", self.mem)?].into_iter().flatten().chain(self.slot)
        {
            if wants.contains_key(&slot) {
                return Err(CliError::usage(format!("the slot {slot} is asked for twice")));
            }
            wants.insert(slot, amount);
        }
        Ok(CreateBody {
            kernel: KernelId::random(),
            session: SessionId::random(),
            name: self.name,
            image: self.image,
            wants,
            env: self.env.into_iter().collect(),
            mounts: self.mount.into_iter().map(|Mount(mount)| mount).collect(),
            wait_ms: self.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            leased,
        })
    }
}

fn cores(text: &str) -> Result<u64, String> {
    let whole = text.parse::<u64>().ok().filter(|cores| *cores > 0);
    let whole = whole.ok_or("give a whole number of cores, e.g. 2; without --cpus all cores are shared")?;
    whole.checked_mul(amount::ONE).ok_or_else(|| "that is more than there can be".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    positive(amount::parse_bytes(text).map_err(|error| error.to_string())?)
}

fn positive(amount: u64) -> Result<u64, String> {
    if amount == 0 { Err("must be more than 0".to_owned()) } else { Ok(amount) }
}

fn slot(text: &str) -> Result<(SlotName, u64), String> {
    let (name, amount) = text.split_once('=').ok_or("give NAME=AMOUNT, e.g. cuda.device=1")?;
    let name: SlotName = name.parse().map_err(|error: crate::ids::ParseIdError| error.to_string())?;
    let amount = if is_bytes(&name) {
        amount::parse_bytes(amount).map_err(|error| error.to_string())?
    } else {
        amount::parse_count(amount).map_err(|error| error.to_string())?
    };
    Ok((name, positive(amount)?))
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => match std::env::var(text) {
            Ok(value) => (text, value),
            Err(_) => return Err("is not set in this shell; give K=V".to_owned()),
        },
    };
    if name.is_empty() {
        return Err("has no name before `=`".to_owned());
    }
    Ok((name.to_owned(), value))
}

fn mount(text: &str) -> Result<Mount, String> {
    let (rest, read_only) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, true),
        Some((rest, "rw")) => (rest, false),
        _ => (text, false),
    };
    // From the right: a source may hold colons, a target may not.
    let (source, target) = rest.rsplit_once(':').ok_or("give SRC:DST or SRC:DST:ro")?;
    if source.is_empty() || target.is_empty() {
        return Err("give SRC:DST or SRC:DST:ro".to_owned());
    }
    let source = std::path::absolute(source).map_err(|error| error.to_string())?;
    let source = source.into_os_string().into_string().map_err(|_| "is not UTF-8".to_owned())?;
    Ok(Mount(MountAsk { source, target: target.to_owned(), read_only }))
}

/// Seconds, with decimals.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        return Ok(WAIT_FOREVER);
    }
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration <= WAIT_FOREVER)
        .ok_or_else(|| "give a number of seconds, e.g. 30 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_from_the_right() {
        let check = |text: &str, expected: Option<(&str, &str, bool)>| {
            let found = mount(text).ok().map(|Mount(ask)| ask);
            let expected = expected.map(|(source, target, read_only)| MountAsk {
                source: source.to_owned(),
                target: target.to_owned(),
                read_only,
            });
            assert_eq!(found, expected, "{text:?}");
        };
        check("/a:/b", Some(("/a", "/b", false)));
        check("/a:/b:ro", Some(("/a", "/b", true)));
        check("/a:/b:rw", Some(("/a", "/b", false)));
        check("/a:x:/b:ro", Some(("/a:x", "/b", true)));
        check("/a", None);
        check("/a:ro", None);
        check(":/b", None);
        let Mount(relative) = mount("data:/b").unwrap();
        assert!(relative.source.starts_with('/') && relative.source.ends_with("/data"));
    }

    #[test]
    fn cores_are_whole() {
        assert_eq!(cores("2"), Ok(2 * amount::ONE));
        for text in ["0", "0.5", "-1", "", "99999999999999999"] {
            assert!(cores(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn seconds_may_have_decimals_but_not_be_nonsense() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "-1", "NaN", "inf", "1e300", "5m"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_slot_is_asked_for_once() {
        let twice = Wishes { cpus: Some(1), slot: vec![("cpu".parse().unwrap(), 1)], ..Wishes::default() };
        assert_eq!(twice.into_body(false).unwrap_err().code, "usage");
        let both = Wishes { cpus: Some(5), mem: Some(7), ..Wishes::default() };
        let wants: Vec<_> = both.into_body(true).unwrap().wants.into_iter().collect();
        assert_eq!(wants, [("cpu".parse().unwrap(), 5), ("mem".parse().unwrap(), 7)]);
    }
}
