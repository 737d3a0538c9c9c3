//! `cargo xtask guests [--check]`: what cargo alone cannot build.

mod guests;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("guests") => guests::run(&args.collect::<Vec<_>>()),
        _ => anyhow::bail!("usage: cargo xtask guests [--check]"),
    }
}
