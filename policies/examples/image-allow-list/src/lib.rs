//! Refuses kernels of images that the operator has not named, before any device is taken. An image is named by
//! registry and folder, by repository, or by digest, which no tag can fake.

use berth_guest::settings::{Flag, Key, Texts, flag, texts};
use berth_guest::{
    Choice, Context, KernelRequest, Level, Node, Placement, Refusal, Scheduler, SessionKind, Setting, log,
    policy,
};

const ALLOW: Key<Texts> = texts(
    "allow",
    "`cr.example.org/ml/` is all below it, `cr.example.org/python` all tags of one repository, \
     `cr.example.org/python:3.12` one tag, `cr.example.org/py*` all that begin so.",
)
.default(&[]);
const DIGESTS: Key<Texts> =
    texts("digests", "Images by digest, `sha256:…`, whatever they are called.").default(&[]);
const SYSTEM: Key<Flag> = flag("system", "Whether system sessions may use any image.").default(true);

policy! {
    world: scheduler,
    summary: "Refuses kernels of images that are not on a list",
    settings: [ALLOW, DIGESTS, SYSTEM],
    check: problems,
}

fn problems(settings: &[Setting]) -> Vec<String> {
    let (allow, digests) = (ALLOW.get(settings), DIGESTS.get(settings));
    let mut problems = Vec::new();
    if allow.is_empty() && digests.is_empty() {
        problems.push("allow: is empty, and so is `digests`: no image could be used".to_owned());
    }
    if allow.iter().any(String::is_empty) {
        problems.push("allow: an entry is empty; write `*` if every image is meant".to_owned());
    }
    for digest in digests {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            problems.push(["digests: `", digest, "` is not sha256: and 64 hexadecimal digits"].concat());
        }
    }
    problems
}

impl Scheduler for Policy {
    fn place(ctx: &Context, request: &KernelRequest, _: &Node, _: &Choice) -> Result<Placement, Refusal> {
        let settings = &ctx.settings;
        let exempt = SYSTEM.get(settings) && request.session_kind == SessionKind::System;
        let named = || ALLOW.get(settings).iter().any(|entry| covers(entry, &request.image));
        let pinned =
            || request.image_digest.as_ref().is_some_and(|digest| DIGESTS.get(settings).contains(digest));
        if exempt || named() || pinned() {
            return Ok(Placement::default());
        }
        log(
            Level::Info,
            &[&*request.owner, " asked for ", &request.image, ", which is not on the list"].concat(),
        );
        let message = ["the image ", &request.image, " is not among those that may be used on this node"];
        Err(Refusal::new("image-not-allowed", message.concat()))
    }
}

/// Whether an entry of the list means this image. A repository's name ends where its tag or digest begins, so
/// `cr.example.org/python` does not let `cr.example.org/python-evil` in.
fn covers(entry: &str, image: &str) -> bool {
    if let Some(start) = entry.strip_suffix('*') {
        return image.starts_with(start);
    }
    image.strip_prefix(entry).is_some_and(|rest| {
        // A tag within an entry is whole.
        let tagged = entry.rsplit('/').next().is_some_and(|name| name.contains([':', '@']));
        rest.is_empty() || entry.ends_with('/') || rest.starts_with('@') || (rest.starts_with(':') && !tagged)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::SettingValue;
    use berth_guest::testing::{Machine, context, settings};

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn entries_cover_what_they_say() {
        let check = |entry: &str, image: &str, expected: bool| {
            assert_eq!(covers(entry, image), expected, "{entry} on {image}");
        };
        check("cr.example.org/ml/", "cr.example.org/ml/torch:2.5", true);
        check("cr.example.org/ml/", "cr.example.org/ml-evil/torch", false);
        check("cr.example.org/python", "cr.example.org/python", true);
        check("cr.example.org/python", "cr.example.org/python:3.12", true);
        check("cr.example.org/python", "cr.example.org/python@sha256:00", true);
        check("cr.example.org/python", "cr.example.org/python-evil:3.12", false);
        check("cr.example.org/python", "cr.example.org/python/evil", false);
        check("cr.example.org/python:3.1", "cr.example.org/python:3.12", false);
        check("cr.example.org/python:3.1", "cr.example.org/python:3.1@sha256:00", true);
        check("cr.example.org:5000/python", "cr.example.org:5000/python:3", true);
        check("cr.example.org:5000", "cr.example.org:5000:6000/x", false);
        check("cr.example.org/py*", "cr.example.org/pytorch", true);
        check("*", "anything", true);
        check("python", "cr.example.org/python", false);
    }

    fn placed(
        given: &[(&str, SettingValue)],
        change: impl FnOnce(&mut KernelRequest),
    ) -> Result<Placement, Refusal> {
        let machine = Machine::new().cores(4);
        let mut request = machine.request(&[("cpu", 1_000_000)]);
        change(&mut request);
        Policy::place(&context::<Policy>(given), &request, &machine.node(), &machine.choice(&request))
    }

    #[test]
    fn a_digest_counts_whatever_the_image_is_called() {
        let digests: [&str; 1] = [DIGEST];
        let given = [("digests", (&digests[..]).into()), ("system", false.into())];
        let pinned = placed(&given, |request| request.image_digest = Some(DIGEST.to_owned()));
        assert_eq!(pinned, Ok(Placement::default()));
        let unknown = placed(&given, |_| {}).unwrap_err();
        assert_eq!((&*unknown.code, unknown.retry_later), ("image-not-allowed", false));
        assert!(placed(&given, |request| request.session_kind = SessionKind::System).is_err());
        assert!(placed(&given[..1], |request| request.session_kind = SessionKind::System).is_ok());
    }

    #[test]
    fn a_list_that_lets_nothing_in_is_refused() {
        assert!(settings::<Policy>(&[]).unwrap_err()[0].starts_with("allow: is empty"));
        let digests: [&str; 1] = ["sha256:12"];
        let given = [("digests", (&digests[..]).into())];
        assert!(settings::<Policy>(&given).unwrap_err()[0].contains("64 hexadecimal"));
    }
}
