//! The guests that come with berth, as checked in under `policies/dist/`.

use super::WorldKind;

/// The component of the shipped policy of `world`.
#[must_use]
pub fn module(world: WorldKind) -> &'static [u8] {
    let _ = world;
    &[]
}
