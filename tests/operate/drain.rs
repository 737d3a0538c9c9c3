//! `berth drain` and `berth undrain`.

use crate::agent::{self, until};

#[test]
fn a_drained_node_refuses_new_kernels_over_a_restart_until_it_is_undrained() {
    let Some(mut agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    assert_eq!(agent.ok(&["drain"]), "no new kernels are taken; 1 kernel is left, which may run on\n");
    assert_eq!(agent.json(&["status"])["state"], "draining");
    agent::restart(&mut agent);
    let status = agent.json(&["status"]);
    assert_eq!(
        (status["state"].as_str(), status["drain"]["kernels_left"].as_u64()),
        (Some("draining"), Some(1))
    );
    assert!(agent.ok(&["slots"]).starts_with("drained since "));
    let refused = agent.fails(&["create", "--name", "k2"]);
    assert!(refused.contains("(draining)") && refused.contains("berth undrain"), "{refused}");
    assert_eq!(agent.ok(&["exec", "k1", "--", "echo", "on"]), "on\n", "running kernels go on");
    assert_eq!(agent.ok(&["undrain"]), "new kernels are taken\n");
    agent.ok(&["create", "--name", "k2"]);
    assert_eq!(agent.json(&["status"])["state"], "ready");
}

#[test]
fn what_is_left_at_the_deadline_is_stopped() {
    let Some(agent) = agent::on_process() else { return };
    agent.ok(&["create", "--name", "k1"]);
    let waiting = agent.ok(&["drain", "--wait", "--deadline", "1"]);
    assert_eq!(waiting, "no new kernels are taken; no kernel is left\n");
    until("k1 has ended", || !agent.json(&["inspect", "k1"])["termination"].is_null());
    assert_eq!(agent.json(&["inspect", "k1"])["termination"]["reason"], "agent-termination");
}
