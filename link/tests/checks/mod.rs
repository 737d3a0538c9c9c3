//! What holds for any bytes that a runner or an agent may send. The fuzz targets call the same functions
//! (`fuzz/`).

pub mod finished;
pub mod status;
pub mod words;

/// What a byte that came may become at most while it is read.
const PER_BYTE: usize = 256;
/// Errors, and what a list reserves before its elements have come: serde's own limit is 1 MiB.
const SLACK: usize = 1024 * 1024 + 8 * 1024;

/// Fails when more was held than follows from so many bytes.
fn check_held(held: usize, bytes: usize) {
    let most = bytes.saturating_mul(PER_BYTE).saturating_add(SLACK);
    assert!(held <= most, "{held} bytes held for {bytes} that came; at most {most}");
}
