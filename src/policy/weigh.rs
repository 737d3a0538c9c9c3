//! How many bytes a question puts into a guest, estimated before the call: the third budget's other
//! direction, which wasmtime does not bound. Rust's records are never smaller than their flattened form
//! on wasm32, so the estimate is on the safe side.

use super::bindings::{configuring, reporting, scheduling, types};

/// What a value weighs beyond its own record: texts and lists.
pub trait Weigh {
    /// Bytes behind its pointers.
    fn behind(&self) -> usize;
}

/// Bytes of a list: its records and what is behind them.
pub fn list<T: Weigh>(items: &[T]) -> usize {
    std::mem::size_of_val(items) + items.iter().map(Weigh::behind).sum::<usize>()
}

impl Weigh for String {
    fn behind(&self) -> usize {
        self.len()
    }
}

impl<T: Weigh> Weigh for Option<T> {
    fn behind(&self) -> usize {
        self.as_ref().map_or(0, Weigh::behind)
    }
}

impl<A: Weigh, B: Weigh> Weigh for (A, B) {
    fn behind(&self) -> usize {
        self.0.behind() + self.1.behind()
    }
}

impl<T: Weigh> Weigh for Vec<T> {
    fn behind(&self) -> usize {
        list(self)
    }
}

/// Records: the named fields have something behind them.
macro_rules! weigh {
    ($($record:ty { $($field:ident),* })*) => {
        $(impl Weigh for $record {
            fn behind(&self) -> usize {
                0 $(+ self.$field.behind())*
            }
        })*
    };
}

weigh! {
    types::Refusal { code, message }
    reporting::Offering { slots, withheld }
    reporting::SlotOffer { name, offers }
    reporting::Offer {}
    reporting::Withheld { reason }
    scheduling::Placement { shares, avoid, note }
    scheduling::Decision { verdict }
    scheduling::Eviction { reason }
    configuring::TextFile { target, content }
    types::Context { node_name, settings, facts }
    types::Setting { key, value }
    types::DeviceModel { family, name, partition, attributes }
    types::Device { uuid, fault }
    types::Slot { name }
    types::Share {}
    types::Node { models, devices, slots }
    types::Want {}
    types::KernelRequest {
        kernel_id, session_id, owner, project, cluster_role, image, image_digest, image_labels, wants, attributes
    }
    reporting::Reservation { family }
    reporting::Inventory { models, devices, reserved }
    scheduling::Stock {}
    scheduling::Link {}
    scheduling::Tenant {}
    scheduling::Choice { stock, links, tenants }
    scheduling::Tally { owner, project }
    scheduling::Load { tallies }
    scheduling::RunningKernel { kernel_id, owner, project, shares }
    configuring::Mount { source, target }
    configuring::Ulimit { name }
    configuring::Variable { name, value }
    configuring::Plan { env, mounts, labels, capabilities, ulimits, network, hostname }
}

impl Weigh for u32 {
    fn behind(&self) -> usize {
        0
    }
}

impl Weigh for scheduling::Pressure {
    fn behind(&self) -> usize {
        match self {
            Self::Devices(lost) => lost.behind(),
            Self::Memory(_) | Self::Disk(_) | Self::Pids(_) => 0,
        }
    }
}

impl Weigh for types::SettingValue {
    fn behind(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Texts(texts) => texts.behind(),
            Self::Integer(_) | Self::Decimal(_) | Self::Flag(_) => 0,
        }
    }
}

impl Weigh for scheduling::Verdict {
    fn behind(&self) -> usize {
        match self {
            Self::Start => 0,
            Self::Wait(reason) => reason.behind(),
            Self::Refuse(refusal) => refusal.behind(),
        }
    }
}

impl Weigh for configuring::Edit {
    fn behind(&self) -> usize {
        match self {
            Self::SetEnv(pair)
            | Self::SetLabel(pair)
            | Self::SetSysctl(pair)
            | Self::AddHost(pair)
            | Self::Extra(pair) => pair.behind(),
            Self::UnsetEnv(text)
            | Self::RemoveMount(text)
            | Self::AddCapability(text)
            | Self::DropCapability(text)
            | Self::SetNetwork(text)
            | Self::AddDns(text)
            | Self::AddDevice(text)
            | Self::SetSecurityOption(text) => text.behind(),
            Self::AddMount(mount) => mount.behind(),
            Self::AddFile(file) => file.behind(),
            Self::SetUlimit(ulimit) => ulimit.behind(),
            Self::SetShmSize(_)
            | Self::SetPidsLimit(_)
            | Self::SetCpuLimit(_)
            | Self::SetMemorySwap(_)
            | Self::SetReadOnlyRoot(_)
            | Self::SetOomScore(_) => 0,
        }
    }
}
