//! What an operator grants to a policy of `container-config`, and what a policy says it needs. Pure.
//!
//! A grant is the name of an edit (`set-env`), or the name and a pattern for its subject
//! (`add-mount:/data/**`, `set-env:HTTP_*`): `*` stands for anything without a `/`, `**` for anything,
//! and `/data/**` is `/data` too. The subject of a mount is its source (a volume's name, `tmpfs`), of
//! the others their name, path or key; of a capability its name without `CAP_`. The host's network needs
//! `set-network:host` by name.
//!
//! Needs are written alike. One with a pattern must be granted whole. One without says "edits of this kind", and
//! is met by any grant of the kind: what is granted of it the check of each answer holds it to. Either side bounds
//! what may be done: an edit that a policy did not say it needs is refused, whatever is granted.

/// Every kind of edit: what the built-in may do.
pub const ALL_EDITS: [&str; 22] = [
    "set-env",
    "unset-env",
    "add-mount",
    "remove-mount",
    "add-file",
    "set-label",
    "add-capability",
    "drop-capability",
    "set-ulimit",
    "set-sysctl",
    "set-shm-size",
    "set-pids-limit",
    "set-cpu-limit",
    "set-memory-swap",
    "set-network",
    "add-host",
    "add-dns",
    "add-device",
    "set-security-option",
    "set-read-only-root",
    "set-oom-score",
    "extra",
];

/// A grant or a need, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule<'r> {
    kind: &'r str,
    /// None: every subject (but the host's network).
    pattern: Option<&'r str>,
}

impl<'r> Rule<'r> {
    fn of(text: &'r str) -> Self {
        let Some((kind, pattern)) = text.split_once(':') else { return Self { kind: text, pattern: None } };
        let bare = match kind {
            "add-capability" | "drop-capability" => pattern.strip_prefix("CAP_").unwrap_or(pattern),
            _ => pattern,
        };
        Self { kind, pattern: Some(bare) }
    }

    fn allows(self, kind: &str, subject: &str) -> bool {
        if self.kind != kind {
            return false;
        }
        match self.pattern {
            // It takes a kernel out of its own network: never by the way.
            pattern if kind == "set-network" && subject == "host" => pattern == Some("host"),
            None => true,
            Some(pattern) => matches(pattern, subject),
        }
    }

    /// Whether it allows all that `need` asks for; of a need without a pattern some of it is enough.
    fn meets(self, need: Self) -> bool {
        match (self.pattern, need.pattern) {
            _ if self.kind != need.kind => false,
            (_, None) => true,
            (_, Some("host")) if need.kind == "set-network" => self.pattern == Some("host"),
            (None, Some(_)) => true,
            (Some(grant), Some(need)) => includes(grant, need),
        }
    }
}

/// Whether one of `grants` allows an edit of this kind on this subject.
pub(super) fn allow(grants: &[String], kind: &str, subject: &str) -> bool {
    grants.iter().any(|grant| Rule::of(grant).allows(kind, subject))
}

/// Needs that nothing granted meets.
#[must_use]
pub fn missing(needs: &[String], grants: &[String]) -> Vec<String> {
    let met = |need: &&String| grants.iter().any(|grant| Rule::of(grant).meets(Rule::of(need)));
    needs.iter().filter(|need| !met(need)).cloned().collect()
}

/// What one may do who says that it needs `needs` and is granted `grants`: no more than either.
#[must_use]
pub fn both(needs: &[String], grants: &[String]) -> Vec<String> {
    let mut both: Vec<String> = Vec::new();
    for need in needs {
        let rule = Rule::of(need);
        let meeting = grants.iter().filter(|grant| Rule::of(grant).meets(rule));
        let allowed = if rule.pattern.is_some() {
            meeting.map(|_| need).take(1).collect()
        } else {
            meeting.collect::<Vec<_>>()
        };
        for rule in allowed {
            if !both.contains(rule) {
                both.push(rule.clone());
            }
        }
    }
    both
}

/// Those that name no edit, or have an empty pattern.
#[must_use]
pub fn unknown(rules: &[String]) -> Vec<String> {
    let known = |text: &&String| {
        let rule = Rule::of(text);
        ALL_EDITS.contains(&rule.kind) && rule.pattern != Some("")
    };
    rules.iter().filter(|rule| !known(rule)).cloned().collect()
}

/// The patterns of grants for the sources of bind mounts: none where every source is granted.
#[must_use]
pub fn mount_patterns(grants: &[String]) -> Option<Vec<&str>> {
    let rules = grants.iter().map(|grant| Rule::of(grant)).filter(|rule| rule.kind == "add-mount");
    rules.map(|rule| rule.pattern).collect()
}

/// A piece of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// `*`
    Within,
    /// `**`
    Anything,
}

impl Piece {
    fn of(pattern: &str) -> Vec<Self> {
        let mut pieces = Vec::with_capacity(pattern.len());
        let mut rest = pattern.as_bytes();
        while let [first, tail @ ..] = rest {
            let (piece, tail) = match (first, tail) {
                (b'*', [b'*', tail @ ..]) => (Self::Anything, tail),
                (b'*', tail) => (Self::Within, tail),
                (byte, tail) => (Self::Byte(*byte), tail),
            };
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }

    /// Whether a wildcard stands for (a part of) `other`, among other things.
    fn absorbs(self, other: Self) -> bool {
        match self {
            Self::Byte(_) => false,
            Self::Within => !matches!(other, Self::Byte(b'/') | Self::Anything),
            Self::Anything => true,
        }
    }
}

/// Whether a pattern covers `text`, in which stars are stars.
pub fn matches(pattern: &str, text: &str) -> bool {
    let whole = || text.bytes().map(Piece::Byte).collect::<Vec<_>>();
    folder_of(pattern) == Some(text) || cover(&Piece::of(pattern), &whole())
}

/// Whether `grant` covers all that `need` does. May say no where patterns are more intricate than people write;
/// never yes wrongly.
fn includes(grant: &str, need: &str) -> bool {
    let covered = cover(&Piece::of(grant), &Piece::of(need)) || folder_of(grant) == Some(need);
    // `/data/**` is `/data` too.
    covered && folder_of(need).is_none_or(|folder| matches(grant, folder))
}

/// `/data` of `/data/**`.
fn folder_of(pattern: &str) -> Option<&str> {
    pattern.strip_suffix("/**").filter(|folder| !folder.contains('*'))
}

fn cover(pattern: &[Piece], text: &[Piece]) -> bool {
    // reached[i]: the pattern so far covers the first i pieces of the text.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for piece in pattern {
        if let Piece::Byte(_) = piece {
            for i in (0..text.len()).rev() {
                reached[i + 1] = reached[i] && text[i] == *piece;
            }
            reached[0] = false;
        } else {
            for i in 0..text.len() {
                reached[i + 1] |= reached[i] && piece.absorbs(text[i]);
            }
        }
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn patterns_cover_what_they_say() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        };
        check("/data/**", "/data", true);
        check("/data/**", "/data/a/b", true);
        check("/data/**", "/database", false);
        check("/data/*", "/data/a", true);
        check("/data/*", "/data/a/b", false);
        check("/data/*/x", "/data/a/x", true);
        check("HTTP_*", "HTTP_PROXY", true);
        check("HTTP_*", "XHTTP_PROXY", false);
        check("**", "/anything/at/all", true);
        check("", "", true);
        check("", "x", false);
    }

    #[test]
    fn a_need_with_a_pattern_must_be_granted_whole() {
        let check = |grant: &str, need: &str, expected: bool| {
            let (grants, needs) = (texts(&[grant]), texts(&[need]));
            assert_eq!(missing(&needs, &grants).is_empty(), expected, "{grant} for {need}");
        };
        check("add-mount", "add-mount:/data/**", true);
        check("add-mount:/data/**", "add-mount:/data/**", true);
        check("add-mount:/data/**", "add-mount:/data/x/**", true);
        check("add-mount:/data/**", "add-mount:/data", true);
        check("add-mount:/data/x/**", "add-mount:/data/**", false);
        check("add-mount:/data/*", "add-mount:/data/**", false);
        check("add-mount:/*/**", "add-mount:/data/**", false);
        check("set-env:HTTP_*", "set-env:HTTP_PROXY", true);
        check("set-env:HTTP_PROXY", "set-env:HTTP_*", false);
        check("set-env:*", "set-env:HTTP_*", true);
        check("set-env", "unset-env", false);
        // Some of it is enough where no pattern is named; each edit is checked when it is made.
        check("add-mount:/data/**", "add-mount", true);
        check("add-capability:CAP_SYS_PTRACE", "add-capability:SYS_PTRACE", true);
        check("set-network", "set-network:host", false);
        check("set-network:**", "set-network:host", false);
        check("set-network:host", "set-network:host", true);
    }

    #[test]
    fn what_may_be_done_is_no_more_than_either_side_says() {
        let needs = texts(&["set-env:HTTP_*", "add-mount"]);
        let grants = texts(&["set-env", "add-mount:/data/**", "add-mount:/opt/ca", "set-network"]);
        assert_eq!(both(&needs, &grants), ["set-env:HTTP_*", "add-mount:/data/**", "add-mount:/opt/ca"]);
        assert_eq!(both(&needs, &texts(&["set-env:NO_PROXY"])), [""; 0]);
        let both = both(&needs, &grants);
        assert!(allow(&both, "set-env", "HTTP_PROXY") && !allow(&both, "set-env", "PATH"));
        assert!(!allow(&both, "set-network", "bridge"), "it did not say that it needs that");
    }

    #[test]
    fn what_names_no_edit_is_found() {
        let rules = texts(&["set-env", "set-evn", "add-mount:", "add-mount:/data/**"]);
        assert_eq!(unknown(&rules), ["set-evn", "add-mount:"]);
        assert_eq!(mount_patterns(&texts(&["add-mount:/data/**", "set-env"])), Some(vec!["/data/**"]));
        assert_eq!(mount_patterns(&texts(&["add-mount:/data/**", "add-mount"])), None);
    }
}
