//! What can be wrong with bytes that should be a message.

use crate::pickle::PickleError;

/// Bytes that are not what the wire says they are. The message is for a log: the peer is a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A value ends after the bytes do, or a count promises more values than there are bytes.
    #[error("the message is cut short")]
    Truncated,
    /// More bytes than the value that was to be read.
    #[error("{0} bytes follow the end of the document")]
    Trailing(usize),
    /// The one byte that begins no msgpack value.
    #[error("0xc1 begins no msgpack value")]
    Reserved,
    /// A value of another type than the place takes.
    #[error("{place} must be {wanted}, not {found}")]
    Type {
        /// Where, e.g. `seq of a header`.
        place: &'static str,
        /// What the place takes, with its article.
        wanted: &'static str,
        /// What was there, with its article.
        found: &'static str,
    },
    /// A key that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A string that is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// A message type that the contract does not list.
    #[error("there is no message type {0}")]
    Kind(i64),
    /// A `seq` outside 0..2^32.
    #[error("a sequence number is outside 0..2^32")]
    Sequence,
    /// A header longer than [`HEADER_MAX`](crate::HEADER_MAX).
    #[error("a header of {0} bytes is too long")]
    Header(usize),
    /// Nested deeper than [`DEPTH_MAX`](crate::DEPTH_MAX).
    #[error("values are nested too deeply")]
    Depth,
    /// More than [`VALUES_MAX`](crate::VALUES_MAX) values.
    #[error("there are too many values")]
    Values,
    /// Not a snappy block, or one that promises more than snappy can hold.
    #[error("the body is not a snappy block")]
    Snappy,
    /// A body that would be longer than [`BODY_MAX`](crate::BODY_MAX).
    #[error("a body of {0} bytes is too long")]
    Body(usize),
    /// An extension type that the contract does not list.
    #[error("extension type {0} is not known")]
    Extension(i8),
    /// The payload of an extension type has the wrong length.
    #[error("extension type {0} has a payload of the wrong length")]
    ExtensionLength(i8),
    /// An extension type whose pickle is refused.
    #[error("the pickle of extension type {code} is refused")]
    Pickle {
        /// The extension type.
        code: i8,
        /// Why.
        #[source]
        source: PickleError,
    },
}
