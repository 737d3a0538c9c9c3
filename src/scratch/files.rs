//! What the agent writes for a kernel to read, in the formats of the reference (contracts: kernel §2.5,
//! manager §6.5).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::admission::Allocation;
use crate::engine::MountSpec;
use crate::ids::SlotName;

use super::{Folders, ScratchError, io_error};

/// `environ.txt`: `K=V` lines. A value with a newline cannot be said in this format and is left to the
/// container's environment, which carries all of them.
#[must_use]
pub fn environ_txt(env: &BTreeMap<String, String>) -> String {
    env.iter()
        .filter(|(_, value)| !value.contains('\n'))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

/// `resource.txt` without its `CID=` line.
#[must_use]
pub fn resource_txt(mounts: &[MountSpec], allocations: &[Allocation]) -> String {
    let mut totals: BTreeMap<&SlotName, u64> = BTreeMap::new();
    let mut shares: BTreeMap<&SlotName, Vec<String>> = BTreeMap::new();
    for allocation in allocations {
        *totals.entry(&allocation.slot).or_default() += allocation.amount;
        let amount = if is_bytes(&allocation.slot) {
            crate::amount::format_bytes(allocation.amount)
        } else {
            crate::amount::format_count(allocation.amount)
        };
        shares.entry(&allocation.slot).or_default().push(format!("{}:{amount}", allocation.device));
    }
    let slots: BTreeMap<&str, String> = totals
        .iter()
        .map(|(slot, total)| {
            let text = if is_bytes(slot) { total.to_string() } else { crate::amount::format_count(*total) };
            (slot.as_str(), text)
        })
        .collect();
    let mounts: Vec<String> = mounts
        .iter()
        .map(|m| format!("{}:{}:{}", m.source, m.target, if m.read_only { "ro" } else { "rw" }))
        .collect();
    let mut text = format!(
        "SCRATCH_SIZE=0m\nMOUNTS={}\nSLOTS={}\nUNIFIED_DEVICES=[]\n",
        mounts.join(","),
        serde_json::to_string(&slots).unwrap_or_default()
    );
    for (slot, shares) in shares {
        text.push_str(&format!("{}_SHARES={}\n", slot.as_str().to_uppercase(), shares.join(",")));
    }
    text
}

/// Of the slots of this node only memory is counted in bytes.
fn is_bytes(slot: &SlotName) -> bool {
    slot.as_str() == "mem"
}

/// Writes both files and their base copies into the kernel's config folder, which the kernel cannot write.
///
/// # Errors
/// When the system refuses.
pub fn write(folders: &Folders, environ: &str, resource: &str) -> Result<(), ScratchError> {
    for (name, text) in [
        ("environ.txt", environ),
        ("environ_base.txt", environ),
        ("resource.txt", resource),
        ("resource_base.txt", resource),
    ] {
        write_file(&folders.config.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Appends `CID=<container id>` to `resource.txt` (contracts: kernel §2.2, after create).
///
/// # Errors
/// When the system refuses.
pub fn append_container_id(folders: &Folders, container: &str) -> Result<(), ScratchError> {
    let path = folders.config.join("resource.txt");
    let mut file = fs::OpenOptions::new().append(true).open(&path).map_err(io_error("open", &path))?;
    writeln!(file, "CID={container}").map_err(io_error("write", &path))
}

/// Writes a file of the config folder by way of a temporary name.
///
/// # Errors
/// When the system refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ScratchError> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("write", path))
}
