//! `[resource]`: what the node keeps for itself (contracts: manager §6.2).

use crate::amount;

use super::reader::Reader;

/// `[resource]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceSection {
    /// `reserved-cpu`, micro-units. As a member of a cluster one core by default, else none.
    pub reserved_cpu: u64,
    /// `reserved-mem`, bytes. As a member of a cluster 1 GiB by default, else nothing.
    pub reserved_mem: u64,
}

impl ResourceSection {
    pub(super) fn read(reader: &mut Reader, is_member: bool) -> Self {
        let (cpu, mem) = if is_member { ((amount::ONE, "1"), (1 << 30, "1g")) } else { ((0, "0"), (0, "0")) };
        Self {
            reserved_cpu: reader.parsed("resource.reserved-cpu", amount::parse_count, cpu),
            reserved_mem: reader.parsed("resource.reserved-mem", amount::parse_bytes, mem),
        }
    }
}
