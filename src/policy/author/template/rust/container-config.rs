//! Kernels that do not say themselves how they reach the world get the operator's proxy.
//!
//! A policy answers edits, not a container: what it does not edit stays as the agent would make it. The operator
//! must grant the kinds of edit that it `needs`.

use berth_guest::settings::{Key, Text, text};
use berth_guest::{
    ContainerConfig, Context, Edit, KernelRequest, Node, Plan, Refusal, Share, policy,
};

const PROXY: Key<Text> =
    text("proxy", "Proxy of kernels, as http://proxy.example.org:3128; empty: none.").default("");

policy! {
    world: container-config,
    summary: "Tells kernels the operator's proxy",
    settings: [PROXY],
    needs: &["set-env"],
}

impl ContainerConfig for Policy {
    fn adjust(
        ctx: &Context,
        _: &KernelRequest,
        _: &Node,
        _: &[Share],
        plan: &Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        let proxy = PROXY.get(&ctx.settings);
        let missing = ["HTTP_PROXY", "HTTPS_PROXY"]
            .into_iter()
            .filter(|name| !proxy.is_empty() && !plan.env.iter().any(|variable| variable.name == *name));
        Ok(missing.map(|name| Edit::SetEnv((name.to_owned(), proxy.to_owned()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use berth_guest::testing::{Machine, context};

    use super::*;

    #[test]
    fn both_variables_are_set_where_there_is_a_proxy() {
        let machine = Machine::new().cores(1);
        let request = machine.request(&[]);
        let edits = |proxy: &str| {
            let ctx = context::<Policy>(&[("proxy", proxy.into())]);
            Policy::adjust(&ctx, &request, &machine.node(), &[], &Plan::default()).expect("it edits").len()
        };
        assert_eq!((edits("http://proxy:3128"), edits("")), (2, 0));
    }
}
