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

fn member(link: usize, name: &str) -> Member {
    Member { link, name: name.to_owned() }
}

/// Edits of two policies that touch the same thing; none where they agree, else what both set.
fn check_pair(first: Edit, second: Edit, field: Option<&str>) {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let mut settled = Settled::default();
    apply(&mut plan, &mut settled, &member(0, "one"), vec![first.clone()]).unwrap();
    let found = apply(&mut plan, &mut settled, &member(1, "two"), vec![second.clone()]).err();
    let found = found.map(|conflict| (conflict.first.name, conflict.second.name, conflict.field));
    let expected = field.map(|field| ("one".to_owned(), "two".to_owned(), field.to_owned()));
    assert_eq!(found, expected, "{first:?} and {second:?}");
}

#[test]
fn two_policies_may_say_the_same_and_not_contradict_each_other() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let mount = |source: &str| {
        Edit::AddMount(configuring::Mount {
            kind: configuring::MountKind::Bind,
            source: source.into(),
            target: "/data".into(),
            read_only: true,
        })
    };
    let file = |content: &str| {
        Edit::AddFile(configuring::TextFile { target: "/data".into(), content: content.into(), mode: 0o644 })
    };
    let ulimit = |soft| Edit::SetUlimit(configuring::Ulimit { name: "core".into(), soft, hard: 9 });
    let option = |text: &str| Edit::SetSecurityOption(text.into());
    let cases = [
        (Edit::SetEnv(pair("P", "1")), Edit::SetEnv(pair("P", "2")), "env P"),
        (Edit::SetEnv(pair("P", "1")), Edit::UnsetEnv("P".into()), "env P"),
        (mount("/a"), mount("/b"), "mount /data"),
        (mount("/a"), Edit::RemoveMount("/data".into()), "mount /data"),
        (mount("/a"), file("x"), "mount /data"),
        (file("x"), file("y"), "mount /data"),
        (Edit::SetLabel(pair("l", "1")), Edit::SetLabel(pair("l", "2")), "label l"),
        (Edit::AddCapability("CAP_CHOWN".into()), Edit::DropCapability("CHOWN".into()), "capability CHOWN"),
        (ulimit(1), ulimit(2), "ulimit core"),
        (Edit::SetSysctl(pair("net.a", "1")), Edit::SetSysctl(pair("net.a", "2")), "sysctl net.a"),
        (Edit::SetShmSize(1), Edit::SetShmSize(2), "shm-size"),
        (Edit::SetPidsLimit(1), Edit::SetPidsLimit(2), "pids-limit"),
        (Edit::SetCpuLimit(1), Edit::SetCpuLimit(2), "cpu-limit"),
        (Edit::SetMemorySwap(1), Edit::SetMemorySwap(2), "memory-swap"),
        (Edit::SetNetwork("a".into()), Edit::SetNetwork("b".into()), "network"),
        (Edit::AddHost(pair("h", "::1")), Edit::AddHost(pair("h", "::2")), "host h"),
        (option("apparmor=a"), option("apparmor=b"), "security option apparmor"),
        (option("label=type:a"), option("label=type:b"), "security option label=type"),
        (Edit::SetReadOnlyRoot(true), Edit::SetReadOnlyRoot(false), "read-only-root"),
        (Edit::SetOomScore(1), Edit::SetOomScore(2), "oom-score"),
    ];
    for (first, second, field) in cases {
        check_pair(first.clone(), second.clone(), Some(field));
        check_pair(first.clone(), first, None);
        check_pair(second.clone(), second, None);
    }
    check_pair(option("label=type:a"), option("label=user:b"), None);
    check_pair(Edit::AddDns("::1".into()), Edit::AddDns("::2".into()), None);
}

#[test]
fn what_a_policy_has_put_somewhere_the_next_one_sees_and_may_say_again() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let mut settled = Settled::default();
    let file = configuring::TextFile { target: "/etc/pip.conf".into(), content: String::new(), mode: 0o644 };
    let edits = vec![
        Edit::AddFile(file),
        Edit::UnsetEnv("A".into()),
        Edit::SetEnv(("B".into(), "2".into())),
        Edit::SetLabel(("team".into(), "x".into())),
        Edit::RemoveMount("/gone".into()),
    ];
    apply(&mut plan, &mut settled, &member(0, "one"), edits).unwrap();
    assert_eq!(settled.targets(), ["/etc/pip.conf"]);
    let shown = chain::as_question(&plan);
    assert!(shown.mounts.iter().any(|mount| mount.target == "/etc/pip.conf" && mount.read_only));
    assert!(shown.env.iter().all(|variable| variable.name != "A"));
    assert!(shown.env.iter().any(|variable| variable.name == "B" && variable.value.as_deref() == Some("2")));
    assert!(shown.labels.contains(&("team".to_owned(), "x".to_owned())));
}

#[test]
fn later_edits_of_one_policy_win_and_contradictions_of_two_are_named() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let mut settled = Settled::default();
    let set = |value: &str| vec![Edit::SetEnv(("P".into(), value.into()))];
    apply(&mut plan, &mut settled, &member(0, "one"), set("1")).unwrap();
    apply(&mut plan, &mut settled, &member(0, "one"), set("2")).unwrap();
    apply(&mut plan, &mut settled, &member(1, "two"), set("2")).unwrap();
    assert_eq!(plan.spec.env["P"], "2");
    let before = plan.clone();
    let three = [vec![Edit::UnsetEnv("A".into())], set("3")].concat();
    let conflict = apply(&mut plan, &mut settled, &member(2, "three"), three).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "the container-config policies two (link 1) and three (link 2) both set env P, differently"
    );
    assert_eq!(plan, before, "a contradiction changes nothing");
    // The same module twice is two policies.
    assert!(apply(&mut plan, &mut settled, &member(3, "two"), set("4")).is_err());
}

#[test]
fn added_files_are_written_on_the_host_and_mounted_read_only() {
    let mut plan = plan_with(&[], Layout::Container, &[]);
    let file =
        configuring::TextFile { target: "/etc/pip.conf".into(), content: "[global]".into(), mode: 0o100_644 };
    apply(&mut plan, &mut Settled::default(), &member(0, "p"), vec![Edit::AddFile(file)]).unwrap();
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
    apply(&mut plan, &mut Settled::default(), &member(0, "p"), edits).unwrap();
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
