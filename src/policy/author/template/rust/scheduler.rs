//! Batch kernels are spread over the devices, all others packed.
//!
//! A policy says only what it cares about: which devices those are the agent's built-in decides, and also who
//! starts next (`order`) and who must go (`evict`), which this policy does not write.

use berth_guest::settings::{Key, Texts, texts};
use berth_guest::{
    Choice, Context, KernelRequest, Node, Placement, Refusal, Scheduler, Strategy, policy,
};

const SPREAD: Key<Texts> =
    texts("spread", "Kinds of session that are spread over the devices.").default(&["batch"]);

policy! {
    world: scheduler,
    summary: "Spreads batch kernels over the devices, packs all others",
    settings: [SPREAD],
}

impl Scheduler for Policy {
    fn place(ctx: &Context, request: &KernelRequest, _: &Node, _: &Choice) -> Result<Placement, Refusal> {
        let kind = request.session_kind.name();
        if SPREAD.get(&ctx.settings).iter().any(|spread| spread == kind) {
            Ok(Placement::from(Strategy::Spread).noted("spread over the devices"))
        } else {
            Ok(Placement::from(Strategy::Pack))
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_guest::SessionKind;
    use berth_guest::testing::{Machine, context};

    use super::*;

    #[test]
    fn batch_kernels_are_spread() {
        let machine = Machine::new().gpus(2);
        let mut request = machine.request(&[("cuda.device", 1_000_000)]);
        let ctx = context::<Policy>(&[]);
        let choice = machine.choice(&request);
        let rest = |request: &KernelRequest| {
            Policy::place(&ctx, request, &machine.node(), &choice).expect("it is placed").rest
        };
        assert_eq!(rest(&request), Strategy::Pack);
        request.session_kind = SessionKind::Batch;
        assert_eq!(rest(&request), Strategy::Spread);
    }
}
