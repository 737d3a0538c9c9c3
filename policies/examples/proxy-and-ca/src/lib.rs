//! Tells every kernel the site's proxy and the certificates that it signs with: variables that the usual tools read,
//! and a file of the host, mounted for reading. What a kernel sets itself stays, unless the operator insists.

use berth_guest::settings::{Flag, Key, Text, Texts, flag, text, texts};
use berth_guest::{
    ContainerConfig, Context, Edit, KernelRequest, Mount, MountKind, Node, Plan, Refusal, Setting, Share,
    policy,
};

const HTTP_PROXY: Key<Text> =
    text("http-proxy", "The proxy for http, `http://proxy.example.org:3128`; empty: none.").default("");
const HTTPS_PROXY: Key<Text> =
    text("https-proxy", "The proxy for https; empty: the one for http.").default("");
const NO_PROXY: Key<Texts> = texts("no-proxy", "Hosts, domains and networks that are reached without it.")
    .default(&["localhost", "127.0.0.1", "::1"]);
const CA_BUNDLE: Key<Text> =
    text("ca-bundle", "A file of this host with the site's certificates (PEM); empty: none.").default("");
const CA_TARGET: Key<Text> =
    text("ca-target", "Where kernels find it.").default("/etc/ssl/berth/ca-bundle.pem");
const INSIST: Key<Flag> = flag("insist", "Whether to replace what a kernel sets itself.").default(false);

policy! {
    world: container-config,
    summary: "Tells kernels the proxy and the site's certificates",
    settings: [HTTP_PROXY, HTTPS_PROXY, NO_PROXY, CA_BUNDLE, CA_TARGET, INSIST],
    needs: &["set-env", "add-mount"],
    check: problems,
}

/// What reads a bundle of certificates by a variable: OpenSSL and Go, Python's requests, curl, git, Node, AWS.
const CA_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
];

fn problems(settings: &[Setting]) -> Vec<String> {
    let mut problems = Vec::new();
    for (key, proxy) in [("http-proxy", HTTP_PROXY.get(settings)), ("https-proxy", HTTPS_PROXY.get(settings))]
    {
        // A proxy for https is itself usually spoken to in http.
        let fine = proxy.is_empty() || proxy.starts_with("http://") || proxy.starts_with("https://");
        if !fine || proxy.contains(char::is_whitespace) {
            problems
                .push([key, ": must read like http://proxy.example.org:3128, not `", proxy, "`"].concat());
        }
    }
    if NO_PROXY.get(settings).iter().any(|host| host.is_empty() || host.contains([',', ' '])) {
        problems.push("no-proxy: is a list, one host, domain or network an entry".to_owned());
    }
    let (bundle, target) = (CA_BUNDLE.get(settings), CA_TARGET.get(settings));
    if !bundle.is_empty() && !bundle.starts_with('/') {
        problems.push(["ca-bundle: must be a whole path of this host, not `", bundle, "`"].concat());
    }
    if !target.starts_with('/') {
        problems.push(["ca-target: must be a whole path, not `", target, "`"].concat());
    }
    problems
}

impl ContainerConfig for Policy {
    fn adjust(
        ctx: &Context,
        _: &KernelRequest,
        _: &Node,
        _: &[Share],
        plan: &Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        let settings = &ctx.settings;
        let mut variables: Vec<(&str, String)> = Vec::new();
        let http = HTTP_PROXY.get(settings);
        let https = Some(HTTPS_PROXY.get(settings)).filter(|proxy| !proxy.is_empty()).unwrap_or(http);
        // curl reads only the small `http_proxy`, others only the large ones.
        if !http.is_empty() {
            variables.extend(["http_proxy", "HTTP_PROXY"].map(|name| (name, http.to_owned())));
        }
        if !https.is_empty() {
            variables.extend(["https_proxy", "HTTPS_PROXY"].map(|name| (name, https.to_owned())));
            let without = NO_PROXY.get(settings).join(",");
            variables.extend(["no_proxy", "NO_PROXY"].map(|name| (name, without.clone())));
        }
        let mut edits = Vec::new();
        let (bundle, target) = (CA_BUNDLE.get(settings), CA_TARGET.get(settings));
        if !bundle.is_empty() {
            if let Some(mount) = plan.mounts.iter().find(|mount| mount.target == target) {
                if mount.source != bundle {
                    let message = [
                        "the site's certificates belong at ",
                        target,
                        ", where ",
                        &mount.source,
                        " is mounted",
                    ];
                    return Err(Refusal::new("ca-target-taken", message.concat()));
                }
            } else {
                edits.push(Edit::AddMount(Mount {
                    kind: MountKind::Bind,
                    source: bundle.to_owned(),
                    target: target.to_owned(),
                    read_only: true,
                }));
            }
            variables.extend(CA_VARIABLES.map(|name| (name, target.to_owned())));
        }
        let insist = INSIST.get(settings);
        let is_set = |name: &str| plan.env.iter().any(|variable| variable.name == name);
        let wanted = variables.into_iter().filter(|(name, _)| insist || !is_set(name));
        edits.extend(wanted.map(|(name, value)| Edit::SetEnv((name.to_owned(), value))));
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::{Machine, context, settings};
    use berth_guest::{SettingValue, Variable};

    fn adjusted(given: &[(&str, SettingValue)], plan: &Plan) -> Result<Vec<Edit>, Refusal> {
        let machine = Machine::new().cores(2);
        let request = machine.request(&[("cpu", 1_000_000)]);
        Policy::adjust(&context::<Policy>(given), &request, &machine.node(), &[], plan)
    }

    fn value<'e>(edits: &'e [Edit], name: &str) -> Option<&'e str> {
        edits.iter().find_map(|edit| match edit {
            Edit::SetEnv((found, value)) if found == name => Some(&**value),
            _ => None,
        })
    }

    #[test]
    fn nothing_is_told_where_nothing_is_set() {
        assert_eq!(adjusted(&[], &Plan::default()), Ok(vec![]));
    }

    #[test]
    fn the_proxy_is_told_in_both_spellings_and_https_follows_http() {
        let given = [("http-proxy", "http://p:3128".into())];
        let edits = adjusted(&given, &Plan::default()).unwrap();
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"] {
            assert_eq!(value(&edits, name), Some("http://p:3128"), "{name}");
        }
        assert_eq!(value(&edits, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
    }

    #[test]
    fn a_kernels_own_variables_stay_unless_the_operator_insists() {
        let own = Variable { name: "HTTP_PROXY".to_owned(), value: Some("http://own".to_owned()) };
        let plan = Plan { env: vec![own], ..Plan::default() };
        let given = [("http-proxy", "http://p:3128".into()), ("insist", true.into())];
        assert_eq!(value(&adjusted(&given[..1], &plan).unwrap(), "HTTP_PROXY"), None);
        assert_eq!(value(&adjusted(&given, &plan).unwrap(), "HTTP_PROXY"), Some("http://p:3128"));
    }

    #[test]
    fn certificates_are_mounted_for_reading_and_never_over_something_else() {
        let given = [("ca-bundle", "/etc/site/ca.pem".into())];
        let edits = adjusted(&given, &Plan::default()).unwrap();
        assert!(
            matches!(&edits[0], Edit::AddMount(mount) if mount.read_only && mount.source == "/etc/site/ca.pem")
        );
        assert_eq!(value(&edits, "SSL_CERT_FILE"), Some("/etc/ssl/berth/ca-bundle.pem"));
        let mounted = |source: &str| Mount {
            kind: MountKind::Bind,
            source: source.to_owned(),
            target: "/etc/ssl/berth/ca-bundle.pem".to_owned(),
            read_only: false,
        };
        let plan = Plan { mounts: vec![mounted("/home/alice/ca.pem")], ..Plan::default() };
        assert_eq!(adjusted(&given, &plan).unwrap_err().code, "ca-target-taken");
        let plan = Plan { mounts: vec![mounted("/etc/site/ca.pem")], ..Plan::default() };
        assert!(adjusted(&given, &plan).unwrap().iter().all(|edit| matches!(edit, Edit::SetEnv(_))));
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let hosts: [&str; 1] = ["a,b"];
        let given = [
            ("http-proxy", "proxy:3128".into()),
            ("no-proxy", (&hosts[..]).into()),
            ("ca-bundle", "ca.pem".into()),
            ("ca-target", "".into()),
        ];
        assert_eq!(settings::<Policy>(&given).unwrap_err().len(), 4);
    }
}
