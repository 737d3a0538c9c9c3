//! What holds for any bytes that a peer may send. One file for each decoder; the fuzz targets
//! call the same functions (`fuzz/`).

pub mod body;
pub mod call;
pub mod certificate;
pub mod header;
pub mod pickle;
pub mod reply;
pub mod value;
pub mod values;

/// What a byte that came may become at most while it is read: in a pickle a node and its place on the stack and in
/// the memo, in vectors that grow by copying.
pub const PER_BYTE: usize = 256;
/// Errors, and what is held for a moment.
pub const SLACK: usize = 8 * 1024;

/// Fails when more was held than follows from so many bytes.
fn check_held(held: usize, bytes: usize) {
    let most = bytes.saturating_mul(PER_BYTE).saturating_add(SLACK);
    assert!(held <= most, "{held} bytes held for {bytes} that came; at most {most}");
}
