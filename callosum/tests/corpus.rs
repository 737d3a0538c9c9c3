//! Replays what the fuzz targets of this package keep (`fuzz/corpus`).

#[path = "../../fuzz/src/heap.rs"]
mod heap;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

mod checks;

use replay::replay;

#[test]
fn headers_hold() {
    replay("callosum_header", checks::header::check);
}

#[test]
fn bodies_hold() {
    replay("callosum_body", checks::body::check);
}

#[test]
fn calls_hold() {
    replay("callosum_call", checks::call::check);
}

#[test]
fn values_hold() {
    replay("callosum_value", checks::value::check);
}

#[test]
fn pickles_hold() {
    replay("callosum_pickle", checks::pickle::check);
}

#[test]
fn replies_hold() {
    replay("callosum_reply", checks::reply::check);
}

#[test]
fn certificates_hold() {
    replay("callosum_certificate", checks::certificate::check);
}
