//! The guests that come with berth, as checked in under `policies/dist/`.
//!
//! `cargo xtask guests` makes them from `policies/` and writes down how in `policies/BUILD.toml`.

use super::WorldKind;

/// The component of the shipped policy of `world`.
#[must_use]
pub fn module(world: WorldKind) -> &'static [u8] {
    match world {
        WorldKind::SlotReporter => include_bytes!("../../policies/dist/slot-reporter.wasm"),
        WorldKind::Scheduler => include_bytes!("../../policies/dist/scheduler.wasm"),
        WorldKind::ContainerConfig => include_bytes!("../../policies/dist/container-config.wasm"),
    }
}

/// Whether it is one of them.
pub(super) fn is_one(module: &[u8]) -> bool {
    super::WORLDS.into_iter().any(|world| self::module(world) == module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;

    #[test]
    fn the_modules_are_those_that_the_build_record_names() {
        let record = include_str!("../../policies/BUILD.toml");
        for world in [WorldKind::SlotReporter, WorldKind::Scheduler, WorldKind::ContainerConfig] {
            let module = module(world);
            let line = format!("sha256 = \"{}\"\nbytes = {}\n", Digest::of(module), module.len());
            assert!(record.contains(&line), "{world:?}: run `cargo xtask guests`, BUILD.toml lacks\n{line}");
        }
    }
}
