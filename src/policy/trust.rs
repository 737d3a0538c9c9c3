//! Who vouches for a policy: ed25519 signatures inside the module, and the keys that an operator trusts
//! (`[policy.trust]`).
//!
//! A signature is the last section of a component, a custom one called [`SECTION`]: one byte for the format, the
//! public key, and the signature over the SHA-256 of every byte before the section. So a signed module is one file
//! like any other, whatever is appended after it was signed breaks the signature, and signing again replaces it.
//! What comes with berth needs none. Pure.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmparser::{BinaryReader, BinaryReaderError};

use super::error::Problem;

/// Name of the custom section.
pub const SECTION: &str = "berth:signature";
/// Goes before the digest, so that what signs policies signs nothing else.
const DOMAIN: &[u8] = b"berth policy signature 1\0";
const FORMAT: u8 = 1;
/// Format, public key, signature.
const CONTENT_BYTES: usize = 1 + 32 + 64;
const CUSTOM_SECTION: u8 = 0;
/// Magic and version of a component.
const HEADER_BYTES: usize = 8;
/// First word of a file with a private key.
const KEY_FILE: &str = "berth-policy-key-1";

/// `[policy.trust]`: whether policies have to be signed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Trust {
    /// Refuse what is not signed by one of the keys.
    pub required: bool,
    /// Trusted signers, `NAME:BASE64` each.
    pub keys: Vec<PublicKey>,
}

/// A signer's name and public key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey {
    /// What the operator calls them.
    pub name: String,
    key: [u8; 32],
}

impl PublicKey {
    fn text(key: &[u8; 32]) -> String {
        STANDARD.encode(key)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("{text:?} is no key: {what}; `berth policy keygen` prints one, NAME:BASE64");
        let (name, key) = text.split_once(':').ok_or_else(|| wrong("it has no name before a `:`"))?;
        if !is_name(name) {
            return Err(wrong("its name has 1 to 64 letters, digits, `.`, `_`, `@` and `-`"));
        }
        let key = bytes_of(key).ok_or_else(|| wrong("what follows the `:` is not 32 bytes in base64"))?;
        VerifyingKey::from_bytes(&key).map_err(|_| wrong("these bytes are no ed25519 public key"))?;
        Ok(Self { name: name.to_owned(), key })
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, Self::text(&self.key))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fine)
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// A private key with the name of its owner.
pub struct PrivateKey {
    name: String,
    key: SigningKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}:***)", self.name)
    }
}

impl PrivateKey {
    /// Of 32 random bytes.
    ///
    /// # Errors
    /// When the name is none.
    pub fn new(name: &str, random: [u8; 32]) -> Result<Self, String> {
        if !is_name(name) {
            return Err(format!("{name:?} is no name: give 1 to 64 letters, digits, `.`, `_`, `@` and `-`"));
        }
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(&random) })
    }

    /// Reads what [`Self::file`] writes.
    ///
    /// # Errors
    /// When it is something else.
    pub fn read(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [KEY_FILE, name, key] = words[..] else {
            return Err("it holds no private key of `berth policy keygen`".to_owned());
        };
        let key = bytes_of(key).ok_or("its private key is not 32 bytes in base64")?;
        Self::new(name, key)
    }

    /// The text of its file. A secret.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{KEY_FILE} {} {}\n", self.name, PublicKey::text(&self.key.to_bytes()))
    }

    /// What an operator puts into `[policy.trust] keys`.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key().to_bytes() }
    }

    /// `module` with a signature of this key, in place of the one it may have.
    ///
    /// # Errors
    /// When it is no component, or something was appended after it was signed before.
    pub fn sign(&self, module: &[u8]) -> Result<Vec<u8>, Problem> {
        super::header::read(module)?;
        let body = match find(module)? {
            Found::Nothing => module,
            Found::Signed(signed) => signed.body,
            Found::NotLast => return Err(Problem::BadSignature(NOT_LAST)),
        };
        let signature = self.key.sign(&message(body));
        let mut content = Vec::with_capacity(CONTENT_BYTES);
        content.push(FORMAT);
        content.extend(self.key.verifying_key().as_bytes());
        content.extend(signature.to_bytes());
        let mut signed = body.to_vec();
        append(&mut signed, SECTION, &content);
        Ok(signed)
    }
}

/// Appends a custom section.
fn append(module: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut section = Vec::with_capacity(name.len() + content.len() + 2);
    leb128(name.len(), &mut section);
    section.extend(name.as_bytes());
    section.extend(content);
    module.push(CUSTOM_SECTION);
    leb128(section.len(), module);
    module.extend(section);
}

fn leb128(mut number: usize, into: &mut Vec<u8>) {
    while number > 0x7f {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Who signed a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// Their name, where `[policy.trust]` knows the key.
    pub name: Option<String>,
    /// Their public key in base64.
    pub key: String,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} ({})", self.key),
            None => write!(f, "a key that is not in [policy.trust]: {}", self.key),
        }
    }
}

impl Trust {
    /// What is odd about the section, a sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.required && self.keys.is_empty() {
            problems.push(
                "policy.trust.required is true, but there are no keys: no policy could be loaded but those that come \
                 with berth"
                    .to_owned(),
            );
        }
        for (index, key) in self.keys.iter().enumerate() {
            if self.keys[..index].iter().any(|earlier| earlier.name == key.name || earlier.key == key.key) {
                problems.push(format!("policy.trust.keys names {} twice", key.name));
            }
        }
        problems
    }

    /// Who signed a module; none: nobody. A signature that does not hold is refused whether one is required or not.
    ///
    /// # Errors
    /// `unsigned`, `unknown-signer`, `bad-signature`.
    pub fn judge(&self, module: &[u8]) -> Result<Option<Signer>, Problem> {
        let signed = match find(module)? {
            Found::Nothing if self.required => return Err(Problem::Unsigned),
            Found::Nothing => return Ok(None),
            Found::NotLast => return Err(Problem::BadSignature(NOT_LAST)),
            Found::Signed(signed) => signed,
        };
        signed.verify()?;
        let known = self.keys.iter().find(|known| known.key == signed.key);
        let signer =
            Signer { name: known.map(|known| known.name.clone()), key: PublicKey::text(&signed.key) };
        match known {
            None if self.required => Err(Problem::UnknownSigner(signer.key)),
            _ => Ok(Some(signer)),
        }
    }
}

const NOT_LAST: &str = "something was appended after it was signed";

enum Found<'m> {
    Nothing,
    Signed(Signed<'m>),
    /// There is one, and it is not the end of the module.
    NotLast,
}

struct Signed<'m> {
    /// Everything before the section.
    body: &'m [u8],
    key: [u8; 32],
    signature: [u8; 64],
}

impl Signed<'_> {
    fn verify(&self) -> Result<(), Problem> {
        let key = VerifyingKey::from_bytes(&self.key)
            .map_err(|_| Problem::BadSignature("it names a public key that is none"))?;
        key.verify_strict(&message(self.body), &Signature::from_bytes(&self.signature))
            .map_err(|_| Problem::BadSignature("the module is not what was signed"))
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    [DOMAIN, &*Sha256::digest(body)].concat()
}

/// Looks through the sections of the module itself, not into them. What is no module is another's to refuse.
fn find(module: &[u8]) -> Result<Found<'_>, Problem> {
    let malformed = |error: BinaryReaderError| Problem::Malformed(error.to_string());
    if module.len() < HEADER_BYTES || !module.starts_with(b"\0asm") {
        return Ok(Found::Nothing);
    }
    let mut reader = BinaryReader::new(module, 0);
    reader.read_bytes(HEADER_BYTES).map_err(malformed)?;
    let mut found = Found::Nothing;
    while !reader.eof() {
        let begins = reader.original_position();
        let id = reader.read_u8().map_err(malformed)?;
        let size = reader.read_var_u32().map_err(malformed)?;
        let section = reader.read_bytes(size as usize).map_err(malformed)?;
        if !matches!(found, Found::Nothing) {
            return Ok(Found::NotLast);
        }
        let name = BinaryReader::new(section, 0).read_string().ok();
        if id == CUSTOM_SECTION && name == Some(SECTION) {
            found = Found::Signed(signed(&module[..begins], section)?);
        }
    }
    Ok(found)
}

fn signed<'m>(body: &'m [u8], section: &[u8]) -> Result<Signed<'m>, Problem> {
    let wrong = || Problem::BadSignature("its signature has a form that this agent does not know");
    let content = section.get(1 + SECTION.len()..).ok_or_else(wrong)?;
    let (head, signature) = content.split_at_checked(CONTENT_BYTES - 64).ok_or_else(wrong)?;
    let (&[FORMAT], key) = head.split_at(1) else { return Err(wrong()) };
    Ok(Signed {
        body,
        key: key.try_into().map_err(|_| wrong())?,
        signature: signature.try_into().map_err(|_| wrong())?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::shipped;
    use super::*;
    use crate::policy::WorldKind;

    fn key(name: &str, byte: u8) -> PrivateKey {
        PrivateKey::new(name, [byte; 32]).unwrap()
    }

    fn module() -> &'static [u8] {
        shipped::module(WorldKind::Scheduler)
    }

    fn trust(required: bool, keys: &[&PrivateKey]) -> Trust {
        Trust { required, keys: keys.iter().map(|key| key.public()).collect() }
    }

    #[test]
    fn a_signed_module_is_known_by_its_signer_and_still_a_module() {
        let ops = key("ops", 1);
        let signed = ops.sign(module()).unwrap();
        assert_eq!(signed.len(), module().len() + 2 + 1 + SECTION.len() + CONTENT_BYTES);
        let signer = trust(true, &[&key("other", 2), &ops]).judge(&signed).unwrap().unwrap();
        assert_eq!(signer.name.as_deref(), Some("ops"));
        assert!(wasmparser::Validator::new().validate_all(&signed).is_ok());
        // Signing again replaces the signature: whoever signs last vouches for the same bytes.
        let again = key("other", 2).sign(&signed).unwrap();
        assert_eq!(again.len(), signed.len());
        assert_eq!(ops.sign(&again).unwrap(), signed, "the same key signs the same in the same way");
    }

    #[test]
    fn what_is_not_signed_by_a_known_key_is_refused_where_that_is_required() {
        let (ops, stranger) = (key("ops", 1), key("stranger", 2));
        let by_stranger = stranger.sign(module()).unwrap();
        let code = |trust: &Trust, bytes: &[u8]| trust.judge(bytes).map_err(|problem| problem.code());
        let required = trust(true, &[&ops]);
        assert_eq!(code(&required, module()), Err("unsigned"));
        assert_eq!(code(&required, &by_stranger), Err("unknown-signer"));
        // Not required: it is told, and that is all.
        assert_eq!(code(&Trust::default(), module()), Ok(None));
        let signer = Trust::default().judge(&by_stranger).unwrap().unwrap();
        assert_eq!((signer.name, signer.key), (None, PublicKey::text(&stranger.public().key)));
    }

    #[test]
    fn a_signature_that_does_not_hold_is_always_refused() {
        let ops = key("ops", 1);
        let signed = ops.sign(module()).unwrap();
        for at in [HEADER_BYTES + 40, signed.len() / 2, signed.len() - 1, signed.len() - 80] {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            for trust in [Trust::default(), trust(true, &[&ops])] {
                // A byte of a section's frame makes no module of it.
                let problem = trust.judge(&changed).unwrap_err();
                assert!(
                    matches!(problem, Problem::BadSignature(_) | Problem::Malformed(_)),
                    "{at}: {problem}"
                );
            }
        }
        let mut appended = signed.clone();
        append(&mut appended, "note", b"x");
        let problem = Trust::default().judge(&appended).unwrap_err();
        assert!(problem.to_string().contains("appended after it was signed"), "{problem}");
        assert_eq!(ops.sign(&appended).unwrap_err().code(), "bad-signature");
        let mut unknown = module().to_vec();
        append(&mut unknown, SECTION, &[9; CONTENT_BYTES]);
        assert_eq!(Trust::default().judge(&unknown).unwrap_err().code(), "bad-signature");
    }

    #[test]
    fn keys_are_text_both_ways_and_mistakes_are_told() {
        let ops = key("ops", 1);
        let again = PrivateKey::read(&ops.file()).unwrap();
        assert_eq!(again.public(), ops.public());
        assert!(!format!("{ops:?}").contains(&ops.file()[25..40]), "a private key is never shown");
        let public = ops.public().to_string();
        assert_eq!(PublicKey::try_from(public.clone()), Ok(ops.public()));
        for (text, words) in [
            ("ops", "no name before"),
            ("o ps:AAAA", "its name has"),
            ("ops:AAAA", "not 32 bytes"),
            (&format!(":{}", &public[4..]), "its name has"),
        ] {
            let problem = PublicKey::try_from(text.to_owned()).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
        assert!(PrivateKey::read(&public).is_err());
        assert!(trust(true, &[]).problems()[0].contains("there are no keys"));
        assert_eq!(trust(true, &[&ops, &ops]).problems(), ["policy.trust.keys names ops twice"]);
        assert!(trust(true, &[&ops]).problems().is_empty());
    }
}
