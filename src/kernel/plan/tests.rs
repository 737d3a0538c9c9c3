use super::edits::Settled;
use super::*;
use crate::policy::bindings::configuring::{self, Edit};

fn plan_with(allocations: &[Allocation], layout: Layout, labels: &[(&str, &str)]) -> Plan {
    let kernel: KernelId = "00000000-0000-0000-0000-00000000000a".parse().unwrap();
    let folders = Folders {
        base: "/s/k".into(),
        config: "/s/k/config".into(),
        work: "/s/k/work".into(),
        link: "/st/link/k".into(),
    };
    let image_labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Plan::base(&Inputs {
        agent: &"i-node".parse().unwrap(),
        instance: "00000000-0000-0000-0000-00000000000b".parse().unwrap(),
        kernel,
        session: "00000000-0000-0000-0000-00000000000c".parse().unwrap(),
        name: &"k1".parse().unwrap(),
        image: "registry.example:5000/team/python:3.13",
        image_labels: &image_labels,
        env: &BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        mounts: &[],
        allocations,
        shared_cores: &[0, 1, 2, 3],
        default_memory: 1 << 30,
        runs_as: (1000, 1001),
        folders: &folders,
        runner: Path::new("/st/runner/abc/berth-runner"),
        layout,
        log_max_bytes: 10 << 20,
    })
}

fn allocation(slot: &str, device: &str, amount: u64) -> Allocation {
    Allocation { slot: slot.parse().unwrap(), device: device.to_owned(), amount }
}

#[test]
fn a_kernel_without_shares_uses_all_offered_cores_and_the_default_memory() {
    let spec = plan_with(&[], Layout::Container, &[]).render();
    assert_eq!(spec.cpuset, [0, 1, 2, 3]);
    assert_eq!((spec.memory_limit, spec.memory_swap), (Some(1 << 30), Some(1 << 30)));
    assert_eq!(spec.name, "kernel.python.00000000-0000-0000-0000-00000000000a");
    assert_eq!(spec.entrypoint, ["/opt/kernel/berth-runner"]);
    assert_eq!(spec.command, ["kernel", "--uid", "1000", "--gid", "1001"]);
    assert_eq!(spec.user, "0:0");
    assert_eq!(spec.env["A"], "1");
    assert_eq!(spec.env["LOCAL_USER_ID"], "1000");
    let writable: Vec<&str> =
        spec.mounts.iter().filter(|m| !m.read_only).map(|m| m.target.as_str()).collect();
    assert_eq!(writable, ["/home/work"]);
}

#[test]
fn what_a_kernel_holds_is_what_its_container_gets() {
    let held = [
        allocation("cpu", "3", 1_000_000),
        allocation("cpu", "1", 1_000_000),
        allocation("mem", "root", 64 << 20),
    ];
    let spec =
        plan_with(&held, Layout::Container, &[("ai.backend.envs.corecount", "OMP_NUM_THREADS, X")]).render();
    assert_eq!(spec.cpuset, [1, 3]);
    assert_eq!(spec.memory_limit, Some(64 << 20));
    assert_eq!((spec.env["OMP_NUM_THREADS"].as_str(), spec.env["X"].as_str()), ("2", "2"));
}

#[test]
fn a_kernel_of_the_process_engine_is_told_this_hosts_paths() {
    let spec = plan_with(&[], Layout::Host, &[]).render();
    assert_eq!(spec.entrypoint, ["/st/runner/abc/berth-runner"]);
    assert_eq!(
        spec.command.join(" "),
        "kernel --link /st/link/k --work /s/k/work --config /s/k/config --host --uid 1000 --gid 1001"
    );
    assert!(spec.mounts.iter().all(|mount| mount.source == mount.target));
}

#[test]
fn later_edits_of_one_policy_win_and_contradictions_of_two_are_named() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let mut settled = Settled::new();
    let set = |value: &str| vec![Edit::SetEnv(("P".into(), value.into()))];
    apply(&mut plan, &mut settled, "one", set("1")).unwrap();
    apply(&mut plan, &mut settled, "one", set("2")).unwrap();
    apply(&mut plan, &mut settled, "two", set("2")).unwrap();
    assert_eq!(plan.spec.env["P"], "2");
    let conflict = apply(&mut plan, &mut settled, "three", set("3")).unwrap_err();
    assert_eq!(conflict.to_string(), "policies two and three both set env P, differently");
}

#[test]
fn added_files_are_written_on_the_host_and_mounted_read_only() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let file =
        configuring::TextFile { target: "/etc/pip.conf".into(), content: "[global]".into(), mode: 0o100_644 };
    apply(&mut plan, &mut Settled::new(), "p", vec![Edit::AddFile(file)]).unwrap();
    let mounts = plan.render().mounts;
    let mount = mounts.iter().find(|m| m.target == "/etc/pip.conf").unwrap();
    assert_eq!((mount.source.as_str(), mount.read_only), ("/s/k/config/files/0", true));
    assert_eq!(plan.files[0].mode, 0o644);
}

#[test]
fn edits_replace_what_they_name() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let edits = vec![
        Edit::UnsetEnv("A".into()),
        Edit::DropCapability("SYS_NICE".into()),
        Edit::AddCapability("SYS_PTRACE".into()),
        Edit::SetUlimit(configuring::Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 }),
        Edit::SetPidsLimit(512),
        Edit::AddHost(("db".into(), "10.0.0.1".into())),
        Edit::SetShmSize(1 << 20),
    ];
    apply(&mut plan, &mut Settled::new(), "p", edits).unwrap();
    let spec = plan.render();
    assert!(!spec.env.contains_key("A"));
    assert_eq!(
        (spec.cap_add, spec.cap_drop),
        (vec!["IPC_LOCK".to_owned(), "SYS_PTRACE".into()], vec!["SYS_NICE".to_owned()])
    );
    assert_eq!(spec.ulimits.iter().filter(|l| l.name == "nofile").count(), 1);
    assert_eq!((spec.pids_limit, spec.shm_size), (Some(512), Some(1 << 20)));
    assert_eq!(spec.extra_hosts, ["db:10.0.0.1"]);
}
