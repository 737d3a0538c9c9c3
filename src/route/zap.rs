//! Who may speak to a CURVE socket: the ZeroMQ Authentication Protocol, version 1.0 (RFC 27). Pure.

/// The address that libzmq asks at.
pub(super) const ENDPOINT: &str = "inproc://zeromq.zap.01";
/// The domain that both sides of the reference use (contracts: manager §1.9).
pub(super) const DOMAIN: &str = "local";
const VERSION: &[u8] = b"1.0";
/// What an accepted client is called (contracts: manager §1.9).
const USER: &[u8] = b"manager";

/// A CURVE key as the socket options take it.
pub type Key = [u8; 32];

/// The reply to a request, or none when it is no request that could be replied to; and whether the client was let
/// in.
pub(super) fn reply(request: &[Vec<u8>], allowed: &[Key]) -> Option<(Vec<Vec<u8>>, bool)> {
    let [version, id, domain, _address, _identity, mechanism, credentials @ ..] = request else {
        return None;
    };
    let known = match credentials {
        [key] => allowed.iter().any(|known| known[..] == key[..]),
        _ => false,
    };
    let welcome = &version[..] == VERSION && domain == DOMAIN.as_bytes() && mechanism == b"CURVE" && known;
    let (status, text, user): (&[u8], &[u8], &[u8]) = match welcome {
        true => (b"200", b"OK", USER),
        false => (b"400", b"the key is not one that is let in", b""),
    };
    let frames = [VERSION, &id[..], status, text, user, b""].map(<[u8]>::to_vec).to_vec();
    Some((frames, welcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(domain: &str, mechanism: &str, credentials: &[&[u8]]) -> Vec<Vec<u8>> {
        let fixed = [&b"1.0"[..], b"7", domain.as_bytes(), b"127.0.0.1", b"", mechanism.as_bytes()];
        fixed.iter().chain(credentials).map(|frame| frame.to_vec()).collect()
    }

    fn check(request: &[Vec<u8>], status: &str) {
        let (frames, welcome) = reply(request, &[[1; 32], [2; 32]]).unwrap();
        assert_eq!((&frames[1][..], &frames[2][..]), (&b"7"[..], status.as_bytes()));
        assert_eq!((frames.len(), welcome), (6, status == "200"));
    }

    #[test]
    fn only_a_known_key_in_our_domain_by_curve_is_let_in() {
        check(&request("local", "CURVE", &[&[2; 32]]), "200");
        check(&request("local", "CURVE", &[&[3; 32]]), "400");
        check(&request("local", "CURVE", &[&[2; 31]]), "400");
        check(&request("local", "CURVE", &[&[2; 32], &[2; 32]]), "400");
        check(&request("other", "CURVE", &[&[2; 32]]), "400");
        check(&request("local", "NULL", &[]), "400");
        check(&request("local", "PLAIN", &[&[2; 32]]), "400");
        assert_eq!(reply(&request("local", "CURVE", &[])[..5], &[]), None);
    }
}
