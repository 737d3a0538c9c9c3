//! Replays what the fuzz targets of this package keep (`fuzz/corpus`).

#[path = "../src/kernel/driver_frame.rs"]
mod driver_frame;
#[path = "../../fuzz/src/heap.rs"]
mod heap;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../src/zmtp/session.rs"]
mod session;

mod checks;

#[test]
fn connections_hold() {
    replay::replay("runner_zmtp", checks::zmtp::check);
}

#[test]
fn frames_of_drivers_hold() {
    replay::replay("runner_driver", checks::driver::check);
}
