//! What holds for any bytes that a peer of the runner may send. The fuzz targets call the same functions
//! (`fuzz/`).

pub mod driver;
pub mod zmtp;
