//! `berth slots`: what the node offers and who holds it.

use super::Context;
use super::error::CliError;
use super::output::{Output, amount_of, decisions, table, time};
use crate::admission::SlotBook;
use crate::amount;
use crate::control::api::SlotsView;

/// Show what this node offers, what is free and who holds the rest
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  berth slots
  berth slots -o json | jq '.slots[] | {slot, free: (.offered - .held)}'

Amounts in JSON are whole numbers: bytes for memory, millionths for everything that is counted.")]
pub(super) struct Slots {
    #[command(flatten)]
    output: Output,
}

impl Slots {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let slots: SlotsView = context.agent.get("/v1/slots").await?;
        self.output.print(&slots, text)
    }
}

fn text(view: &SlotsView) -> String {
    let rows = view.slots.iter().map(|book| {
        let amount = |amount| amount_of(&book.slot, amount);
        vec![
            book.slot.to_string(),
            amount(book.offered),
            amount(book.offered.saturating_sub(book.held)),
            book.devices.len().to_string(),
            holders(book),
        ]
    });
    let mut text = view.draining.map_or_else(String::new, |draining| {
        format!("drained since {}: no new kernels are taken (`berth undrain`)\n", time(draining.since_ms))
    });
    text += &table(&["SLOT", "OFFERED", "FREE", "DEVICES", "HELD BY"], rows);
    if !view.withheld.is_empty() {
        text += "withheld\n";
    }
    for withheld in &view.withheld {
        let is_memory = withheld.device.starts_with("mem");
        let much = withheld.amount.map_or_else(
            || "all of it".to_owned(),
            |much| if is_memory { amount::format_bytes(much) } else { amount::format_count(much) },
        );
        text += &format!("  {:<24} {much}: {}\n", withheld.device, withheld.reason);
    }
    if let Some(by) = &view.decided_by {
        text += &format!("decided by\n{}", decisions(std::slice::from_ref(by), &[]));
    }
    text
}

fn holders(book: &SlotBook) -> String {
    let holders: Vec<_> = book
        .holders
        .iter()
        .map(|(_, name, held)| format!("{name}={}", amount_of(&book.slot, *held)))
        .collect();
    if holders.is_empty() { "-".to_owned() } else { holders.join(" ") }
}
