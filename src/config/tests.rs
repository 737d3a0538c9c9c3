use super::*;

fn load_text(text: &str, overrides: &Overrides, env: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    inspect_from(overrides, Some(path.clone()), |name| {
        env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    })
    .and_then(|(config, report)| accepted(config, &report))
    .map_err(|error| error.to_string().replace(&path.display().to_string(), "agent.toml"))
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines() {
    let text = "[agent]\nid = \"a b\"\n\n[lifecycle]\nstart-limit = 0\nlease_sec = \"soon\"\n\n[container-logs]\nmax-length = \"10x\"\n";
    let told = load_text(text, &Overrides::default(), &[]).unwrap_err();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines.iter().any(|l| l.starts_with("agent.toml:2: agent.id:")), "{told}");
    assert!(
        lines.iter().any(|l| l.starts_with("agent.toml:5: lifecycle.start-limit: should be from 1 to 64")),
        "{told}"
    );
    assert!(lines.iter().any(|l| l.starts_with("agent.toml:6: lifecycle.lease-sec:")), "{told}");
    assert!(lines.iter().any(|l| l.starts_with("agent.toml:9: container-logs.max-length:")), "{told}");
}

#[test]
fn flags_win_over_environment_and_environment_over_the_file() {
    let text = "[container]\nscratch-root = \"/file\"\n[standalone]\nstate_dir = \"/state\"\n";
    let none = Overrides::default();
    let read = |overrides: &Overrides, env: &[(&str, &str)]| {
        load_text(text, overrides, env).unwrap().container.scratch_root.unwrap()
    };
    assert_eq!(read(&none, &[]), PathBuf::from("/file"));
    assert_eq!(read(&none, &[("BACKEND_SCRATCH_ROOT", "/env")]), PathBuf::from("/env"));
    let flags = Overrides { scratch_root: Some("/flag".into()), ..Overrides::default() };
    assert_eq!(read(&flags, &[("BACKEND_SCRATCH_ROOT", "/env")]), PathBuf::from("/flag"));
    assert_eq!(load_text(text, &none, &[]).unwrap().standalone.state_dir, PathBuf::from("/state"));
}

#[test]
fn a_member_of_a_cluster_is_made_by_its_etcd() {
    let member = |text: &str, overrides: &Overrides| load_text(text, overrides, &[]).unwrap().cluster;
    assert!(member("", &Overrides::default()).is_none());
    let flags = Overrides { etcd_addr: Some("10.0.0.1:2379".into()), ..Overrides::default() };
    let cluster = member("", &flags).unwrap();
    assert_eq!(
        (cluster.etcd[0].to_string().as_str(), cluster.namespace.as_str()),
        ("10.0.0.1:2379", "local")
    );
    assert_eq!(cluster.rpc_listen.to_string(), "0.0.0.0:6001");
    let text = "[etcd]\naddr = [{ host = \"a\", port = 1 }, \"b:2\"]\nuser = \"u\"\npassword = \"p\"\n\
                [agent]\nadvertised_rpc_addr = \"node:6001\"\nregion = \"here\"\n\
                [container]\nbind-host = \"0.0.0.0\"\n";
    let cluster =
        member(text, &Overrides { namespace: Some("prod".into()), ..Overrides::default() }).unwrap();
    let etcd: Vec<String> = cluster.etcd.iter().map(ToString::to_string).collect();
    assert_eq!((etcd.join(" ").as_str(), cluster.namespace.as_str()), ("a:1 b:2", "prod"));
    assert_eq!(cluster.rpc_advertised.unwrap().to_string(), "node:6001");
    assert_eq!(cluster.public_host, None, "nobody reaches 0.0.0.0");
    assert!(!format!("{:?}", cluster.user).contains("\"p\""));
    // A node without a manager keeps nothing for itself.
    assert_eq!(load_text("", &Overrides::default(), &[]).unwrap().resource.reserved_cpu, 0);
    assert_eq!(load_text("[etcd]\n", &flags, &[]).unwrap().resource.reserved_mem, 1 << 30);
    let private = Overrides { private: true, ..Overrides::default() };
    assert!(member("[etcd]\nnamespace = \"local\"\n", &private).is_none());
}

#[test]
fn mistakes_in_what_makes_a_member_are_told() {
    let told = |text: &str| load_text(text, &Overrides::default(), &[]).unwrap_err();
    assert!(told("[etcd]\naddr = \"nowhere\"\n").contains("HOST:PORT"));
    assert!(told("[etcd]\naddr = \"0.0.0.0:1\"\n").contains("that can be connected to"));
    assert!(told("[etcd]\nuser = \"u\"\n").contains("needs etcd.password"));
    assert!(told("[etcd]\n[debug]\nheartbeat-interval = 40\n").contains("counts as lost"));
    assert!(told("[etcd]\n[agent]\nscaling-group = \"x\"\n").contains("initial-resource-group-name"));
    assert!(told("[etcd]\n[agent]\nadvertised-rpc-addr = \":1\"\n").contains("can connect to"));
}

#[test]
fn unknown_keys_warn_with_the_nearest_known_one() {
    let text = "[lifecycle]\nstart-limt = 3\n[agent]\nregion = \"x\"\n";
    let warnings: Vec<String> = load_text(text, &Overrides::default(), &[])
        .unwrap()
        .warnings
        .iter()
        .map(|warning| warning[warning.find("agent.toml").unwrap_or(0)..].to_owned())
        .collect();
    assert_eq!(
        warnings,
        [
            "agent.toml:2: lifecycle.start-limt is not known; did you mean lifecycle.start-limit?",
            "these keys have no effect here: agent.region",
        ]
    );
}

#[test]
fn the_policy_section_is_the_hosts_own() {
    let text = "[policy]\nthreads = 0\n[policy.scheduler.settings]\nstrategy = \"spread\"\n";
    let told = load_text(text, &Overrides::default(), &[]).unwrap_err();
    assert!(told.starts_with("agent.toml:1: policy: policy.threads is 0"), "{told}");
    let config = load_text("[policy]\ndeadline-ms = 40\n", &Overrides::default(), &[]).unwrap();
    assert_eq!(config.policy.deadline_ms, 40);
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_line() {
    let told = load_text("[agent]\nid = \"a\"\nid = \n", &Overrides::default(), &[]).unwrap_err();
    assert!(told.starts_with("agent.toml:3 is not valid TOML: "), "{told}");
}

#[test]
fn every_value_is_known_with_what_set_it() {
    let text = "[lifecycle]\nstart_limit = 7\n[policy.scheduler.settings]\nstrategy = \"spread\"\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides {
        state_dir: Some("/flag".into()),
        socket: Some("/s".into()),
        debug: true,
        builtin_policies: true,
        ..Overrides::default()
    };
    let env = [("BERTH_ENGINE", "process"), ("BERTH_SOCKET", "/s")];
    let (_, report) = inspect_from(&overrides, Some(path.clone()), |name| {
        env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
    .unwrap();
    let shown = |key: &str| {
        let found = report.effective.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("no {key}"));
        let origin = found.origin.to_string().replace(&path.display().to_string(), "agent.toml");
        (found.value.to_string(), origin)
    };
    let expect = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(shown("lifecycle.start-limit"), expect("7", "agent.toml:2"));
    assert_eq!(shown("lifecycle.lease-sec"), expect("30", "default"));
    assert_eq!(shown("standalone.state-dir"), expect("\"/flag\"", "--state-dir"));
    assert_eq!(shown("standalone.engine"), expect("\"process\"", "BERTH_ENGINE"));
    assert_eq!(shown("standalone.memory-limit"), expect("\"1g\"", "default"));
    assert_eq!(shown("standalone.image"), expect("null", "default"));
    assert_eq!(shown("control.socket"), expect("\"/s\"", "BERTH_SOCKET"));
    assert_eq!(shown("debug.enabled"), expect("true", "--debug"));
    assert_eq!(shown("policy.scheduler.source"), expect("\"builtin\"", "--policy"));
    assert_eq!(shown("policy.scheduler.settings.strategy"), expect("\"spread\"", "agent.toml:4"));
    assert_eq!(shown("policy.deadline-ms"), expect("20", "default"));
}
