//! What an archive is, by its first bytes: images as `docker save` writes them, or a root file system. Pure.

use std::io::Read as _;

use crate::engine::ArchiveKind;

/// The most that has to be seen of an archive: a header of a tar, and of a gzip file before it.
pub const HEAD: usize = 64 * 1024;

/// Header of one file of a tar (POSIX ustar).
const HEADER: usize = 512;

/// Why it is no archive that an image can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no tar archive{0}")]
pub struct NotAnArchive(&'static str);

/// What an archive that begins with `head` holds. `head` is [`HEAD`] bytes, or all there is.
///
/// # Errors
/// When it is neither a tar nor one packed by gzip.
pub fn kind(head: &[u8]) -> Result<ArchiveKind, NotAnArchive> {
    let unpacked;
    let header = if head.starts_with(&[0x1f, 0x8b]) {
        let mut first = Vec::new();
        let mut unpacking = flate2::read::GzDecoder::new(head).take(HEADER as u64);
        // What is missing behind the head is an error of its own; what came before it counts.
        let _ = unpacking.read_to_end(&mut first);
        unpacked = first;
        unpacked.as_slice()
    } else {
        head
    };
    let Some(header) = header.get(..HEADER) else { return Err(NotAnArchive("")) };
    if !has_checksum(header) {
        return Err(NotAnArchive(match head {
            [0xfd, b'7', b'z', b'X', b'Z', ..] => ": it is packed by xz; unpack it first (xz -d)",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => ": it is packed by zstd; unpack it first (zstd -d)",
            [b'B', b'Z', b'h', ..] => ": it is packed by bzip2; unpack it first (bunzip2)",
            [b'P', b'K', ..] => ": it is a zip file",
            _ => ", nor one packed by gzip",
        }));
    }
    let name = header.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name.get(..100.min(name.len())).unwrap_or_default()).unwrap_or_default();
    Ok(if is_of_docker_save(name) { ArchiveKind::Saved } else { ArchiveKind::Root })
}

/// The sum of all bytes, those of the sum itself counted as spaces.
fn has_checksum(header: &[u8]) -> bool {
    let sum = |at: usize, byte: u8| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(byte) };
    let counted: u32 = header.iter().enumerate().map(|(at, byte)| sum(at, *byte)).sum();
    let field = header.get(148..156).unwrap_or_default();
    let digits: String =
        field.iter().map(|byte| char::from(*byte)).filter(|c| ('0'..='7').contains(c)).collect();
    u32::from_str_radix(&digits, 8) == Ok(counted)
}

/// How an archive of images begins: the older form with a folder per layer, the newer with one of blobs.
fn is_of_docker_save(name: &str) -> bool {
    let name = name.strip_prefix("./").unwrap_or(name);
    let first = name.split('/').next().unwrap_or_default();
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match first {
        "manifest.json" | "index.json" | "oci-layout" | "repositories" => true,
        "blobs" => name.ends_with('/') || name.contains("sha256"),
        first => is_digest(first.strip_suffix(".json").unwrap_or(first)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn tar(name: &str) -> Vec<u8> {
        let mut header = vec![0; HEADER];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[257..262].copy_from_slice(b"ustar");
        sign(&mut header);
        header.resize(4 * HEADER, 0);
        header
    }

    /// Writes a header's sum.
    fn sign(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn check(name: &str, expected: ArchiveKind) {
        let tar = tar(name);
        assert_eq!(kind(&tar), Ok(expected), "{name}");
        let packed = gzip(&tar);
        assert_eq!(kind(&packed), Ok(expected), "{name}, packed");
        // Only the beginning has arrived, or all that is asked for.
        assert_eq!(kind(&tar[..HEADER]), Ok(expected));
    }

    #[test]
    fn archives_are_told_apart_by_their_first_file() {
        let digest = "0a".repeat(32);
        check(&format!("{digest}/"), ArchiveKind::Saved);
        check(&format!("{digest}/layer.tar"), ArchiveKind::Saved);
        check(&format!("{digest}.json"), ArchiveKind::Saved);
        check("blobs/", ArchiveKind::Saved);
        check("blobs/sha256/", ArchiveKind::Saved);
        check("oci-layout", ArchiveKind::Saved);
        check("manifest.json", ArchiveKind::Saved);
        check("./", ArchiveKind::Root);
        check("bin/", ArchiveKind::Root);
        check("./bin/busybox", ArchiveKind::Root);
        check("blobs.txt", ArchiveKind::Root);
    }

    #[test]
    fn what_is_no_archive_is_said_with_what_it_is() {
        let said = |bytes: &[u8]| kind(bytes).unwrap_err().to_string();
        assert_eq!(said(b""), "this is no tar archive");
        assert_eq!(said(&[b'x'; 4096]), "this is no tar archive, nor one packed by gzip");
        assert_eq!(said(&gzip(&[b'x'; 4096])), "this is no tar archive, nor one packed by gzip");
        let mut xz = vec![0xfd, b'7', b'z', b'X', b'Z', 0];
        xz.resize(1024, 1);
        assert_eq!(said(&xz), "this is no tar archive: it is packed by xz; unpack it first (xz -d)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_archive_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2 * HEADER), is_packed: bool,
        ) {
            if is_packed {
                bytes.splice(..0, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
            }
            let _ = kind(&bytes);
        }

        #[test]
        fn any_signed_header_is_the_same_when_packed_and_when_cut(
            mut header in proptest::collection::vec(any::<u8>(), HEADER), cut in 0..HEADER,
        ) {
            // Else it would be a packed one itself.
            header[0] &= 0x0f;
            sign(&mut header);
            let packed = gzip(&header);
            prop_assert!(kind(&header).is_ok());
            prop_assert_eq!(kind(&packed), kind(&header));
            prop_assert!(kind(&header[..cut]).is_err());
            let _ = kind(&packed[..cut.min(packed.len())]);
        }
    }
}
