//! The body of `POST /containers/create`, rendered from a [`ContainerSpec`]
//! (contracts: kernel §2.2, where design §5 does not say otherwise). Pure.

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountType, MountVolumeOptions, ResourcesUlimits,
};

use crate::engine::ulimits::{OwnLimit, clamp};
use crate::engine::{ContainerSpec, MountKind, MountSpec};

/// The log is kept in that many files (contracts: kernel §2.2 `LogConfig`).
const LOG_FILES: u64 = 5;

/// Renders the request. `own` tells the agent's own resource limits.
pub(super) fn body(spec: &ContainerSpec, own: OwnLimit) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: Some(spec.entrypoint.clone()),
        cmd: Some(spec.command.clone()),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(spec.labels.clone().into_iter().collect()),
        user: Some(spec.user.clone()),
        working_dir: Some(spec.working_dir.clone()),
        hostname: Some(spec.hostname.clone()),
        tty: Some(false),
        open_stdin: Some(false),
        // The runner ends its children in order on SIGTERM.
        stop_signal: Some("SIGTERM".to_owned()),
        // An image's own HEALTHCHECK would run programs in the kernel behind its user's back.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(host_config(spec, own)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec, own: OwnLimit) -> HostConfig {
    HostConfig {
        // The runner is the container's init.
        init: Some(false),
        privileged: Some(false),
        publish_all_ports: Some(false),
        mounts: some(spec.mounts.iter().map(mount).collect()),
        cpuset_cpus: Some(cpu_list(&spec.cpuset)).filter(|list| !list.is_empty()),
        // From millionths to billionths of a core.
        nano_cpus: spec.cpu_limit.map(|micro| signed(micro.saturating_mul(1000))),
        memory: spec.memory_limit.map(signed),
        memory_swap: spec.memory_limit.map(|memory| signed(spec.memory_swap.unwrap_or(memory))),
        shm_size: spec.shm_size.map(signed),
        pids_limit: spec.pids_limit.map(signed),
        cap_add: some(spec.cap_add.clone()),
        cap_drop: some(spec.cap_drop.clone()),
        ulimits: some(
            spec.ulimits
                .iter()
                .map(|wanted| {
                    let limit = clamp(wanted, own);
                    ResourcesUlimits {
                        name: Some(limit.name),
                        soft: Some(limit.soft),
                        hard: Some(limit.hard),
                    }
                })
                .collect(),
        ),
        log_config: Some(log_config(spec.log_max_bytes)),
        security_opt: some(spec.security_options.clone()),
        readonly_rootfs: Some(spec.read_only_root),
        oom_score_adj: spec.oom_score_adj.map(i64::from),
        network_mode: spec.network.clone(),
        extra_hosts: some(spec.extra_hosts.clone()),
        dns: some(spec.dns.clone()),
        devices: some(spec.devices.iter().map(|device| self::device(device)).collect()),
        sysctls: Some(spec.sysctls.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
            .filter(|sysctls| !sysctls.is_empty()),
        ..HostConfig::default()
    }
}

fn mount(spec: &MountSpec) -> Mount {
    let mut mount = Mount {
        target: Some(spec.target.clone()),
        source: Some(spec.source.clone()),
        read_only: Some(spec.read_only),
        ..Mount::default()
    };
    match spec.kind {
        MountKind::Bind => {
            mount.typ = Some(MountType::BIND);
            mount.bind_options = Some(MountBindOptions::default());
        }
        MountKind::Volume => {
            mount.typ = Some(MountType::VOLUME);
            mount.volume_options = Some(MountVolumeOptions::default());
        }
        MountKind::Tmpfs => {
            mount.typ = Some(MountType::TMPFS);
            // The engine refuses a tmpfs with a source, even an empty one.
            mount.source = None;
        }
    }
    mount
}

/// `HOST[:CONTAINER[:PERMISSIONS]]`, as `docker run --device` reads it.
fn device(text: &str) -> DeviceMapping {
    let mut parts = text.splitn(3, ':');
    let host = parts.next().unwrap_or_default();
    let container = parts.next().filter(|path| !path.is_empty()).unwrap_or(host);
    let permissions = parts.next().filter(|letters| !letters.is_empty()).unwrap_or("rwm");
    DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(permissions.to_owned()),
    }
}

fn log_config(log_max_bytes: u64) -> HostConfigLogConfig {
    let pairs = [
        ("max-size", (log_max_bytes / LOG_FILES).max(1).to_string()),
        ("max-file", LOG_FILES.to_string()),
        ("compress", "false".to_owned()),
    ];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
    }
}

fn cpu_list(cores: &[u32]) -> String {
    let mut cores = cores.to_vec();
    cores.sort_unstable();
    cores.dedup();
    cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Ulimit;

    fn plain() -> ContainerSpec {
        ContainerSpec {
            name: "kernel.python.0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10".into(),
            kernel: "0d9a2d9c-8b5f-4c8e-9d53-8a7d4d5a1f10".parse().unwrap(),
            image: "python:3.13".into(),
            entrypoint: vec!["/opt/kernel/berth-runner".into(), "kernel".into()],
            command: vec!["--uid".into(), "1000".into()],
            env: [("B", "2"), ("A", "x=y")].map(|(k, v)| (k.into(), v.into())).into(),
            user: "0:0".into(),
            working_dir: "/home/work".into(),
            hostname: "main1".into(),
            labels: [("ai.berth.instance".into(), "i".into())].into(),
            mounts: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            ulimits: Vec::new(),
            cpuset: Vec::new(),
            cpu_limit: None,
            memory_limit: None,
            memory_swap: None,
            shm_size: None,
            pids_limit: None,
            network: None,
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            devices: Vec::new(),
            sysctls: [].into(),
            security_options: Vec::new(),
            read_only_root: false,
            oom_score_adj: None,
            log_max_bytes: 10 * 1024 * 1024,
        }
    }

    fn rendered(spec: &ContainerSpec) -> serde_json::Value {
        // Through a value, so that maps come out sorted.
        serde_json::to_value(body(spec, |_| Some(4096))).unwrap()
    }

    #[test]
    fn a_plain_kernel_is_rendered_with_every_default_decided() {
        insta::assert_json_snapshot!(rendered(&plain()), @r#"
        {
          "Cmd": [
            "--uid",
            "1000"
          ],
          "Entrypoint": [
            "/opt/kernel/berth-runner",
            "kernel"
          ],
          "Env": [
            "A=x=y",
            "B=2"
          ],
          "Healthcheck": {
            "Test": [
              "NONE"
            ]
          },
          "HostConfig": {
            "Init": false,
            "LogConfig": {
              "Config": {
                "compress": "false",
                "max-file": "5",
                "max-size": "2097152"
              },
              "Type": "local"
            },
            "Privileged": false,
            "PublishAllPorts": false,
            "ReadonlyRootfs": false
          },
          "Hostname": "main1",
          "Image": "python:3.13",
          "Labels": {
            "ai.berth.instance": "i"
          },
          "OpenStdin": false,
          "StopSignal": "SIGTERM",
          "Tty": false,
          "User": "0:0",
          "WorkingDir": "/home/work"
        }
        "#);
    }

    #[test]
    fn limits_mounts_and_options_are_rendered() {
        let mount = |kind, source: &str, target: &str, read_only| MountSpec {
            kind,
            source: source.into(),
            target: target.into(),
            read_only,
        };
        let spec = ContainerSpec {
            mounts: vec![
                mount(MountKind::Bind, "/s/work", "/home/work", false),
                mount(MountKind::Volume, "v1", "/data", true),
                mount(MountKind::Tmpfs, "", "/tmp", false),
            ],
            cap_add: vec!["SYS_NICE".into()],
            cap_drop: vec!["NET_RAW".into()],
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 1_048_576, hard: 1_048_576 }],
            cpuset: vec![3, 1, 1],
            cpu_limit: Some(1_500_000),
            memory_limit: Some(64 << 20),
            shm_size: Some(1 << 20),
            pids_limit: Some(100),
            network: Some("none".into()),
            extra_hosts: vec!["h:10.0.0.1".into()],
            dns: vec!["10.0.0.2".into()],
            devices: vec!["/dev/fuse".into(), "/dev/a:/dev/b:r".into()],
            sysctls: [("net.core.somaxconn".into(), "1".into())].into(),
            security_options: vec!["no-new-privileges".into()],
            read_only_root: true,
            oom_score_adj: Some(500),
            log_max_bytes: 3,
            ..plain()
        };
        insta::assert_json_snapshot!(rendered(&spec)["HostConfig"], @r#"
        {
          "CapAdd": [
            "SYS_NICE"
          ],
          "CapDrop": [
            "NET_RAW"
          ],
          "CpusetCpus": "1,3",
          "Devices": [
            {
              "CgroupPermissions": "rwm",
              "PathInContainer": "/dev/fuse",
              "PathOnHost": "/dev/fuse"
            },
            {
              "CgroupPermissions": "r",
              "PathInContainer": "/dev/b",
              "PathOnHost": "/dev/a"
            }
          ],
          "Dns": [
            "10.0.0.2"
          ],
          "ExtraHosts": [
            "h:10.0.0.1"
          ],
          "Init": false,
          "LogConfig": {
            "Config": {
              "compress": "false",
              "max-file": "5",
              "max-size": "1"
            },
            "Type": "local"
          },
          "Memory": 67108864,
          "MemorySwap": 67108864,
          "Mounts": [
            {
              "BindOptions": {},
              "ReadOnly": false,
              "Source": "/s/work",
              "Target": "/home/work",
              "Type": "bind"
            },
            {
              "ReadOnly": true,
              "Source": "v1",
              "Target": "/data",
              "Type": "volume",
              "VolumeOptions": {}
            },
            {
              "ReadOnly": false,
              "Target": "/tmp",
              "Type": "tmpfs"
            }
          ],
          "NanoCpus": 1500000000,
          "NetworkMode": "none",
          "OomScoreAdj": 500,
          "PidsLimit": 100,
          "Privileged": false,
          "PublishAllPorts": false,
          "ReadonlyRootfs": true,
          "SecurityOpt": [
            "no-new-privileges"
          ],
          "ShmSize": 1048576,
          "Sysctls": {
            "net.core.somaxconn": "1"
          },
          "Ulimits": [
            {
              "Hard": 4096,
              "Name": "nofile",
              "Soft": 4096
            }
          ]
        }
        "#);
    }

    #[test]
    fn swap_is_memory_and_swap_together_and_only_with_a_memory_limit() {
        let swap = |memory_limit, memory_swap| {
            let body = body(&ContainerSpec { memory_limit, memory_swap, ..plain() }, |_| None);
            body.host_config.unwrap().memory_swap
        };
        assert_eq!(swap(Some(10), None), Some(10));
        assert_eq!(swap(Some(10), Some(30)), Some(30));
        assert_eq!(swap(None, Some(30)), None);
    }
}
