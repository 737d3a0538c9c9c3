//! Replays what the fuzz targets of this package keep (`fuzz/corpus`).

#[path = "../../fuzz/src/heap.rs"]
mod heap;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

mod checks;

use replay::replay;

#[test]
fn status_replies_hold() {
    replay("link_status", checks::status::check);
}

#[test]
fn ends_of_tasks_hold() {
    replay("link_finished", checks::finished::check);
}

#[test]
fn words_hold() {
    replay("link_words", checks::words::check);
}
