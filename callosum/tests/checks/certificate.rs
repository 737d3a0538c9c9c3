//! Certificate files.

use callosum::{Certificate, CertificateError};

use super::check_held;
use crate::heap::measured;

/// Keys have their length, a file written of them reads back, and no secret is ever shown.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (read, held) = measured(|| Certificate::parse(text));
    check_held(held, bytes.len());
    let certificate = match read {
        Ok(certificate) => certificate,
        Err(CertificateError::NoPublicKey) => return,
        Err(CertificateError::Twice { line, .. } | CertificateError::Key { line, .. }) => {
            assert!((1..=text.lines().count()).contains(&line));
            return;
        }
    };
    assert_eq!(certificate.public.len(), 40);
    let mut file = format!("curve\n    public-key = \"{}\"\n", certificate.public);
    if let Some(secret) = &certificate.secret {
        assert_eq!(secret.len(), 40);
        assert!(*secret == certificate.public || !format!("{certificate:?}").contains(secret.as_str()));
        file.push_str(&format!("    secret-key = \"{secret}\"\n"));
    }
    assert_eq!(Certificate::parse(&file), Ok(certificate));
}
