//! Identifiers, each a type of its own, parsed once at the border.
//!
//! Nothing here depends on another room. Text that comes from a person, a manager or an engine
//! becomes one of these types or is refused with a sentence that says what is wrong.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {problem}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    problem: &'static str,
}

impl ParseIdError {
    fn new(what: &'static str, text: &str, problem: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), problem }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random identifier.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The identifier as a UUID.
            #[must_use]
            pub fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text)
                    .map(Self)
                    .map_err(|_| ParseIdError::new($what, text, "is not a UUID"))
            }
        }
    };
}

uuid_id!(
    /// One kernel: a container (or process) and its runner.
    KernelId,
    "kernel id"
);
uuid_id!(
    /// A session of one or more kernels.
    SessionId,
    "session id"
);
uuid_id!(
    /// One berth state directory. Containers carry it as the label `ai.berth.instance`
    /// (design §4); the reconciler touches only its own.
    InstanceId,
    "instance id"
);

// Shared text: an identifier is copied about more often than it is made.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|problem| ParseIdError::new($what, text, problem))?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// The agent's stable name, `i-<hostname>` by default, at most 64 characters
    /// (contracts: manager §8.2).
    AgentId,
    "agent id",
    |text| match text {
        "" => Err("is empty"),
        t if t.len() > 64 => Err("is longer than 64 bytes"),
        t if !t.bytes().all(|b| b.is_ascii_graphic()) =>
            Err("may only hold printable ASCII without spaces"),
        _ => Ok(()),
    }
);
text_id!(
    /// The engine's name for a container (for the process engine, of its own making).
    ContainerId,
    "container id",
    |text| match text {
        "" => Err("is empty"),
        t if t.len() > 128 => Err("is longer than 128 bytes"),
        t if !t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') =>
            Err("may only hold letters, digits, '-' and '_'"),
        _ => Ok(()),
    }
);
text_id!(
    /// A slot: `<device>` for `cpu` and `mem`, else `<device>.<kind>[:<variant>]`
    /// (contracts: manager §6.1).
    SlotName,
    "slot name",
    |text| match text {
        "" => Err("is empty"),
        t if t.len() > 64 => Err("is longer than 64 bytes"),
        t if !t.as_bytes()[0].is_ascii_lowercase() => Err("must begin with a lower-case letter"),
        t if !t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.:".contains(&b)) =>
            Err("may only hold lower-case letters, digits and -_.:"),
        _ => Ok(()),
    }
);
text_id!(
    /// The name a person gave a kernel. Never a UUID and never something that reads as a flag,
    /// so that a name and an id cannot be confused on a command line.
    KernelName,
    "kernel name",
    |text| match text {
        "" => Err("is empty"),
        t if t.len() > 63 => Err("is longer than 63 bytes"),
        t if t.starts_with('-') => Err("begins with '-' and would read as a flag"),
        t if Uuid::parse_str(t).is_ok() => Err("is a UUID and would read as a kernel id"),
        t if !t.as_bytes()[0].is_ascii_alphanumeric() => Err("must begin with a letter or a digit"),
        t if !t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) =>
            Err("may only hold letters, digits and -_."),
        _ => Ok(()),
    }
);
text_id!(
    /// One run of code in a kernel. Made by the client (design §9), so that it can ask again.
    RunId,
    "run id",
    |text| match text {
        "" => Err("is empty"),
        t if t.len() > 64 => Err("is longer than 64 bytes"),
        t if !t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) =>
            Err("may only hold letters, digits and -_."),
        _ => Ok(()),
    }
);

impl RunId {
    /// A new random run id of 32 hexadecimal characters, as the reference makes them.
    #[must_use]
    pub fn random() -> Self {
        let mut text = [0; 32];
        Self((*Uuid::new_v4().simple().encode_lower(&mut text)).into())
    }
}

impl SlotName {
    /// The part before the first `.`: `cpu`, `mem`, `cuda`.
    #[must_use]
    pub fn family(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }
}

/// How a person names a kernel: by its id or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelRef {
    /// By id.
    Id(KernelId),
    /// By the name given at creation.
    Name(KernelName),
}

impl FromStr for KernelRef {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for KernelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The sha256 of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The first twelve hexadecimal digits, for tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseIdError::new("digest", text, "is not 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_name(text: &str, expected: Option<&str>) {
        let problem = text.parse::<KernelName>().err().map(|e| e.problem.to_owned());
        assert_eq!(problem.as_deref(), expected, "{text:?}");
    }

    #[test]
    fn kernel_names_cannot_be_mistaken_for_flags_or_ids() {
        check_name("k1", None);
        check_name("my-job_2.x", None);
        check_name("--keep", Some("begins with '-' and would read as a flag"));
        check_name("0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10", Some("is a UUID and would read as a kernel id"));
        check_name("", Some("is empty"));
        check_name("a b", Some("may only hold letters, digits and -_."));
        check_name("../x", Some("must begin with a letter or a digit"));
    }

    #[test]
    fn digests_print_what_they_parse() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert!("ba78".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn slot_families_are_the_part_before_the_dot() {
        let slot: SlotName = "cuda.device:1g.5gb-mig".parse().unwrap();
        assert_eq!(slot.family(), "cuda");
        assert!("Cpu".parse::<SlotName>().is_err());
    }
}
