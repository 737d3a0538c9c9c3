//! ZeroMQ certificate files, as `zmq.auth.create_certificates` writes them (contracts: manager §1.9).
//!
//! ```text
//! #   comments
//!
//! metadata
//! curve
//!     public-key = "40 characters of Z85"
//!     secret-key = "40 characters of Z85"
//! ```

use std::fmt;

/// A CURVE key in Z85 has this many characters.
const KEY_LENGTH: usize = 40;

/// Every character of Z85, in the order of its values (ZeroMQ RFC 32).
const Z85: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// The keys of a certificate file, in Z85, which is how ZeroMQ's options and the heartbeat have them.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Public key.
    pub public: String,
    /// Secret key; `*.key` files have none, `*.key_secret` files do.
    pub secret: Option<String>,
}

/// Why a file is no certificate. Never shows a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// No public key anywhere.
    #[error("it has no public-key: is it a certificate that zmq.auth.create_certificates wrote?")]
    NoPublicKey,
    /// The same key twice.
    #[error("line {line}: there is a {key} already; leave one of them")]
    Twice {
        /// Line in the file, from 1.
        line: usize,
        /// Which key.
        key: &'static str,
    },
    /// A key that is not one.
    #[error(
        "line {line}: {key} must be {KEY_LENGTH} characters of Z85 in quotes; write the certificate anew"
    )]
    Key {
        /// Line in the file, from 1.
        line: usize,
        /// Which key.
        key: &'static str,
    },
}

impl Certificate {
    /// Reads the text of a certificate file. Comments, metadata and keys of other names are passed over.
    ///
    /// # Errors
    /// When there is no public key, or a key is not one or is there twice.
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let (mut public, mut secret) = (None, None);
        for (line, content) in (1..).zip(text.lines().map(str::trim)) {
            if content.starts_with('#') {
                continue;
            }
            let Some((name, value)) = content.split_once('=') else { continue };
            let (key, place) = match name.trim() {
                "public-key" => ("public-key", &mut public),
                "secret-key" => ("secret-key", &mut secret),
                _ => continue,
            };
            if place.is_some() {
                return Err(CertificateError::Twice { line, key });
            }
            let value = unquoted(value.trim()).filter(|value| is_key(value));
            *place = Some(value.ok_or(CertificateError::Key { line, key })?.to_owned());
        }
        Ok(Self { public: public.ok_or(CertificateError::NoPublicKey)?, secret })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("public", &self.public)
            .field("secret", &self.secret.as_ref().map(|_| "***"))
            .finish()
    }
}

/// ZPL has both kinds of quotes.
fn unquoted(value: &str) -> Option<&str> {
    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
}

/// Five characters stand for four bytes; some combinations for more than those hold.
fn is_key(text: &str) -> bool {
    let (groups, rest) = text.as_bytes().as_chunks::<5>();
    text.len() == KEY_LENGTH && rest.is_empty() && groups.iter().all(is_word)
}

fn is_word(group: &[u8; 5]) -> bool {
    let value = group.iter().try_fold(0_u64, |sum, character| {
        let digit = Z85.iter().position(|known| known == character)?;
        Some(sum * 85 + u64::try_from(digit).ok()?)
    });
    value.is_some_and(|value| u32::try_from(value).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As pyzmq 26.4 writes it, with the pair of keys from zmq_curve(7).
    const FILE: &str = r#"#   ****  Generated on 2026-11-25 04:56:12.718281 by pyzmq  ****
#   ZeroMQ CURVE **Secret** Certificate
#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions.

metadata
curve
    public-key = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
    secret-key = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
"#;
    const PUBLIC_FILE: &str = r#"#   ****  Generated on 2026-11-25 04:56:12.718281 by pyzmq  ****
#   ZeroMQ CURVE Public Certificate
#   Exchange securely, or use a secure mechanism to verify the contents
#   of this file after exchange. Store public certificates in your home
#   directory, in the .curve subdirectory.

metadata
curve
    public-key = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
"#;
    const PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";

    fn check(text: &str, expected: Result<(&str, bool), &str>) {
        let read = Certificate::parse(text).map_err(|error| error.to_string());
        let read = read.as_ref().map(|read| (read.public.as_str(), read.secret.is_some()));
        assert_eq!(read.map_err(String::as_str), expected, "{text}");
    }

    #[test]
    fn files_of_pyzmq_are_read() {
        check(FILE, Ok((PUBLIC, true)));
        check(PUBLIC_FILE, Ok((PUBLIC, false)));
        check(&PUBLIC_FILE.replace('\n', "\r\n"), Ok((PUBLIC, false)));
        check(&FILE.replace('"', "'"), Ok((PUBLIC, true)));
        check(&FILE.replace("metadata", "metadata\n    name = \"public-key\""), Ok((PUBLIC, true)));
    }

    #[test]
    fn wrong_files_are_refused_with_the_line_and_what_to_do() {
        check("", Err("it has no public-key: is it a certificate that zmq.auth.create_certificates wrote?"));
        let bad = |line: usize| {
            format!(
                "line {line}: public-key must be 40 characters of Z85 in quotes; write the certificate anew"
            )
        };
        check(&format!("public-key = {PUBLIC}"), Err(&bad(1)));
        check(&format!("curve\n  public-key = \"{PUBLIC}0\""), Err(&bad(2)));
        check(&format!("public-key = \"{}\"", PUBLIC.replace('@', "~")), Err(&bad(1)));
        check(&format!("public-key = \"{}\"", "#".repeat(40)), Err(&bad(1)));
        let twice = format!("public-key = \"{PUBLIC}\"\n").repeat(2);
        check(&twice, Err("line 2: there is a public-key already; leave one of them"));
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", Certificate::parse(FILE).unwrap());
        assert!(shown.contains("***") && !shown.contains("D:)Q"), "{shown}");
    }
}
