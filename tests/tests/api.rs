//! The API server as clients see it: both kubectls, and what no good client sends.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails; its scenarios are functions")]

use cluster_tests::{Child, Cluster, Kubectl, KubectlVersion, Lines};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;

/// Method, path, content type, body; the status it gets and what the message says.
type BadRequest<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

const SMALL: &str = include_str!("manifests/small.yaml");
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

#[test]
fn kubectl_old_and_new_find_what_they_know() {
    let Some(cluster) = cluster_tests::cluster("kubectl_old_and_new_find_what_they_know") else { return };
    for version in [KubectlVersion::V1_27, KubectlVersion::V1_33] {
        let kubectl = cluster.kubectl().version(version).unwrap();
        println!("with {version:?}");
        applying(&kubectl);
        applying_on_the_server(&kubectl);
        changing(&kubectl);
        looking(&kubectl, cluster.name());
        asking_who(&kubectl, version);
        kubectl.run(&["delete", "namespace", "small", "--timeout=60s"]).unwrap();
    }
}

fn applying(kubectl: &Kubectl) {
    kubectl.run(&["create", "namespace", "small"]).unwrap();
    let args = ["apply", "--namespace=small", "-f", "-"];
    let dry = kubectl.run_with(&["apply", "--namespace=small", "--dry-run=server", "-f", "-"], SMALL).unwrap();
    assert!(dry.stdout.contains("deployment.apps/small created (server dry run)"), "{dry:?}");
    let missing = kubectl.run_with(&["get", "deployment", "small", "-n", "small"], "").unwrap();
    assert!(missing.stderr.contains(r#"deployments.apps "small" not found"#), "{missing:?}");
    let first = kubectl.run_with(&args, SMALL).unwrap();
    assert_eq!(first.stdout.matches(" created").count(), 3, "{first:?}");
    let second = kubectl.run_with(&args, SMALL).unwrap();
    assert_eq!(second.stdout.matches(" unchanged").count(), 3, "{second:?}");
    kubectl.run(&["rollout", "status", "deployment/small", "-n", "small", "--timeout=90s"]).unwrap();
}

/// The server's apply takes over from the client's, and says who is in whose way.
fn applying_on_the_server(kubectl: &Kubectl) {
    let apply = |more: &[&str], text: &str| {
        let args = [&["apply", "--server-side", "--namespace=small", "-f", "-"], more].concat();
        kubectl.run_with(&args, text).unwrap()
    };
    let taken = apply(&[], SMALL);
    assert_eq!(taken.stdout.matches(" serverside-applied").count(), 3, "{taken:?}");
    let managers = "jsonpath={.metadata.managedFields[?(@.operation==\"Apply\")].manager}";
    let owner =
        kubectl.run(&["get", "deployment", "small", "-n", "small", "--show-managed-fields", "-o", managers]).unwrap();
    // kubectl keeps its annotation under a name of its own.
    assert!(owner.split(' ').any(|owner| owner == "kubectl"), "{owner}");
    let more = SMALL.replace("key: value", "key: other");
    let refused = apply(&["--field-manager=other"], &more);
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl\": .data.key";
    assert!(refused.code == 1 && refused.stderr.contains(conflict), "{refused:?}");
    apply(&["--field-manager=other", "--force-conflicts"], &more);
    let back = apply(&["--force-conflicts"], SMALL);
    assert_eq!((back.code, back.stdout.matches(" serverside-applied").count()), (0, 3), "{back:?}");
}

fn changing(kubectl: &Kubectl) {
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["-n", "small"].iter().chain(args).copied().collect();
        kubectl.run(&all).unwrap()
    };
    // A pod that is running takes labels, and itself again.
    assert!(run(&["label", "pod", "-l", "app=small", "tier=front"]).contains("labeled"));
    assert!(run(&["annotate", "pod", "-l", "app=small", "note=x"]).contains("annotate"));
    for kind in ["pods", "services", "deployments", "configmaps", "endpoints"] {
        let objects = run(&["get", kind, "-l", "!nothing", "-o", "json"]);
        let replaced = kubectl.run_with(&["replace", "-f", "-"], &objects).unwrap();
        assert!(replaced.code == 0 && replaced.stdout.contains(" replaced"), "{kind}: {replaced:?}");
    }
    let patches = [
        (
            "strategic",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}"#,
        ),
        ("merge", r#"{"metadata":{"labels":{"merged":"yes"}}}"#),
        ("json", r#"[{"op":"replace","path":"/spec/revisionHistoryLimit","value":5}]"#),
    ];
    for (kind, patch) in patches {
        assert!(run(&["patch", "deployment", "small", "--type", kind, "-p", patch]).contains(" patched"), "{kind}");
    }
    let deployment: Value = serde_json::from_str(&run(&["get", "deployment", "small", "-o", "json"])).unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["env"][0]["value"], &container["ports"][0]["name"]), (&json!("1"), &json!("http")));
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], 5);
    assert_eq!(deployment["metadata"]["labels"]["merged"], "yes");
    run(&["scale", "deployment/small", "--replicas=1"]);
    assert!(run(&["set", "image", "deployment/small", "web=other:1", "--dry-run=server"]).contains("dry run"));
    run(&["run", "lone", "--image=keelson.dev/web:1", "--restart=Never"]);
    assert!(run(&["delete", "pod", "lone", "--grace-period=0", "--force"]).contains("force deleted"));
    run(&["rollout", "status", "deployment/small", "--timeout=90s"]);
}

fn looking(kubectl: &Kubectl, node: &str) {
    let of_node = format!("spec.nodeName={node},status.phase=Running");
    let cases: &[(&[&str], &str)] = &[
        (&["get", "pods", "-A", "-o", "wide"], "NOMINATED NODE"),
        (&["get", "pods", "-n", "small", "-l", "app in (small),!nothing", "--show-labels"], "pod-template-hash="),
        (&["get", "pods", "-A", "--field-selector", &of_node, "-o", "name"], "pod/small-"),
        (&["get", "nodes", "--field-selector=spec.unschedulable=false", "-o", "name"], node),
        (&["get", "all", "-n", "small"], "replicaset.apps/small-"),
        (&["get", "deployment", "small", "-n", "small", "-o", "jsonpath={.spec.selector.matchLabels.app}"], "small"),
        (&["get", "deployment", "small", "-n", "small", "-o", "yaml"], "progressDeadlineSeconds: 600"),
        (&["get", "configmaps", "-A", "--chunk-size=1"], "kube-system"),
        (&["get", "events", "-n", "small", "--sort-by=.metadata.name"], "ScalingReplicaSet"),
        (&["get", "namespace", "small", "-L", "kubernetes.io/metadata.name"], "METADATA.NAME"),
        (&["wait", "deployment/small", "-n", "small", "--for=condition=Available", "--timeout=60s"], "condition met"),
        (&["describe", "pods", "-n", "small"], "Successfully assigned small/small-"),
        (&["describe", "node", node], "KubeletReady"),
        (&["describe", "deployment", "small", "-n", "small"], "NewReplicaSet:"),
        (&["describe", "service", "small", "-n", "small"], "Endpoints:"),
        (&["describe", "namespace", "small"], "No resource quota."),
        (&["explain", "deployment.spec.strategy"], "Rolling update config params."),
        (&["explain", "pod", "--recursive"], "terminationGracePeriodSeconds"),
        (&["api-resources", "--namespaced=false", "-o", "wide"], "deletecollection"),
        (&["api-resources", "--api-group=apps"], "deploy "),
        (&["api-versions"], "discovery.k8s.io/v1"),
        (&["version"], "v1.36.0+keelson"),
        (&["cluster-info"], "is running at"),
        (&["rollout", "history", "deployment/small", "-n", "small", "--revision=2"], "A:\t1"),
        (&["get", "--raw", "/readyz?verbose"], "[+]bootstrap ok"),
    ];
    for (args, part) in cases {
        let text = kubectl.run(args).unwrap();
        assert!(text.contains(part), "kubectl {args:?} says no '{part}':\n{text}");
    }
    let mut watching = kubectl.spawn(&["get", "configmaps", "-n", "small", "-w", "-o", "name"]).unwrap();
    let lines = Lines::of(watching.inner().stdout.take().unwrap());
    lines.wait_for("configmap/small", Duration::from_secs(30)).unwrap();
    kubectl.run(&["create", "configmap", "late", "-n", "small"]).unwrap();
    lines.wait_for("configmap/late", Duration::from_secs(30)).unwrap();
    for (args, part) in [
        (["get", "pods", "--field-selector=nothing=1"], "field label not supported: nothing"),
        (["get", "pods", "--selector=a===b"], "unable to parse requirement"),
        (["get", "top", "-A"], "the server doesn't have a resource type"),
    ] {
        let refused = kubectl.run_with(&args, "").unwrap();
        assert!(refused.code != 0 && refused.stderr.contains(part), "{refused:?}");
    }
}

fn asking_who(kubectl: &Kubectl, version: KubectlVersion) {
    kubectl.run(&["create", "serviceaccount", "robot", "-n", "small"]).unwrap();
    let robot = "--as=system:serviceaccount:small:robot";
    let token = kubectl.run(&["create", "token", "robot", "-n", "small", "--duration=15m"]).unwrap();
    let with_token = format!("--token={}", token.trim());
    // A client certificate would win over the token.
    let as_robot = |args: &[&str]| {
        let file = std::env::temp_dir().join(format!("keelson-test-robot-{}", std::process::id()));
        let config = kubectl.run(&["config", "view", "--raw", "-o", "json"]).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["users"][0]["user"] = json!({});
        std::fs::write(&file, config.to_string()).unwrap();
        let path = format!("--kubeconfig={}", file.display());
        let all: Vec<&str> = args.iter().copied().chain([&*path, &*with_token]).collect();
        let output = kubectl.run_with(&all, "").unwrap();
        std::fs::remove_file(&file).unwrap();
        output
    };
    let refused = as_robot(&["get", "pods", "-n", "small"]);
    let message = "Error from server (Forbidden): pods is forbidden: User \"system:serviceaccount:small:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"small\"";
    assert_eq!(refused.stderr.trim(), message);
    assert_eq!(kubectl.run_with(&["auth", "can-i", "list", "pods", "-n", "small", robot], "").unwrap().stdout, "no\n");
    kubectl.run(&["create", "role", "look", "-n", "small", "--verb=get,list,watch", "--resource=pods"]).unwrap();
    kubectl
        .run(&["create", "rolebinding", "look", "-n", "small", "--role=look", "--serviceaccount=small:robot"])
        .unwrap();
    assert_eq!(kubectl.run(&["auth", "can-i", "list", "pods", "-n", "small", robot]).unwrap(), "yes\n");
    let allowed = as_robot(&["get", "pods", "-n", "small"]);
    assert_eq!(allowed.code, 0, "{allowed:?}");
    let nobody = kubectl.run_with(&["get", "nodes", "--as=jane"], "").unwrap();
    let message =
        "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    assert!(nobody.stderr.contains(message), "{nobody:?}");
    assert_eq!(kubectl.run(&["auth", "can-i", "*", "*", "-A"]).unwrap(), "yes\n");
    // The older one asks by versions that have ended.
    if version == KubectlVersion::V1_33 {
        assert!(kubectl.run(&["auth", "whoami", "-o", "json"]).unwrap().contains("system:masters"));
    }
    kubectl.run(&["auth", "can-i", "--list", robot]).unwrap();
}

/// HTTPS without a Kubernetes client: curl on the node.
struct Raw<'a> {
    cluster: &'a Cluster,
    certificate: String,
}

/// One request.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    content_type: &'a str,
    body: &'a [u8],
}

impl Raw<'_> {
    /// Sends a request with some further flags; the code and the body, which must be JSON.
    fn send(&self, request: &Request<'_>, flags: &[&str]) -> (u16, Value) {
        let file = self.cluster.data_dir().join("body");
        std::fs::write(&file, request.body).unwrap();
        let mut command = self.cluster.node().command("curl");
        command
            .args(["-sk", "--max-time", "60", "-w", "\n%{http_code}", "-X", request.method])
            .args(flags)
            .arg(format!("https://{}:6443{}", self.cluster.node_ip(), request.path));
        if !request.body.is_empty() {
            command.args(["-H", &format!("Content-Type: {}", request.content_type)]);
            command.args(["--data-binary", &format!("@{}", file.display())]);
        }
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let (body, code) = output.rsplit_once('\n').unwrap();
        let value = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
        (code.parse().unwrap(), value)
    }

    fn admin(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
        self.send(&Request { method, path, content_type, body }, &["--cert", &self.certificate])
    }
}

#[test]
fn bad_input_is_refused_and_the_next_client_is_served() {
    let Some(cluster) = cluster_tests::cluster("bad_input_is_refused_and_the_next_client_is_served") else { return };
    let certificate = cluster.data_dir().join("pki/admin.pem").display().to_string();
    let raw = Raw { cluster: &cluster, certificate };
    bodies(&raw);
    requests(&raw);
    lists_and_watches(&raw);
    strangers(&raw);
    half_open(&cluster);
    let (code, _) = raw.admin("GET", "/livez", JSON, b"");
    assert_eq!(code, 200);
}

/// A refusal is a Status of that code whose message has this text.
fn refused((code, answer): (u16, Value), wanted: u16, part: &str) {
    let message = answer["message"].as_str().unwrap_or_default();
    assert_eq!((code, &answer["kind"], &answer["code"]), (wanted, &json!("Status"), &json!(wanted)), "{answer}");
    assert!(message.contains(part), "'{message}' has no '{part}'");
}

fn bodies(raw: &Raw<'_>) {
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let deep = |open: &str, close: &str| {
        format!(r#"{{"metadata":{{"name":"a"}},"x":{}1{}}}"#, open.repeat(100_000), close.repeat(100_000)).into_bytes()
    };
    let long = format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "a".repeat(254)).into_bytes();
    let pods = "/api/v1/namespaces/default/pods";
    let port = br#"{"metadata":{"name":"x"},"spec":{"containers":[{"name":"a","image":"b","ports":[{"containerPort":"x"}]}]}}"#;
    let cases: &[(&str, &str, &[u8], u16, &str)] = &[
        (MAPS, JSON, b"{", 400, "EOF while parsing"),
        (MAPS, JSON, b"[]", 400, "cannot unmarshal array"),
        (MAPS, JSON, b"null", 400, "ConfigMap"),
        (MAPS, JSON, br#"{"metadata":{"name":"a"},"data":{"x":1}}"#, 400, "field ConfigMap.data of type string"),
        (MAPS, JSON, b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"x\":\"\xff\"}}", 400, "unicode"),
        (MAPS, JSON, &deep("[", "]"), 400, "nested deeper than 100 levels"),
        (MAPS, JSON, &deep(r#"{"a":"#, "}"), 400, "nested deeper than 100 levels"),
        (MAPS, "application/yaml", &deep("[", "]"), 400, "yaml parse error"),
        (MAPS, JSON, &vec![b' '; 3 << 20 | 1], 413, "Request entity too large"),
        (MAPS, "text/plain", b"{}", 415, "application/json, application/yaml"),
        (MAPS, JSON, br#"{"metadata":{}}"#, 422, "name or generateName is required"),
        (MAPS, JSON, br#"{"metadata":{"name":"A_"}}"#, 422, "metadata.name: Invalid value: \"A_\""),
        (MAPS, JSON, &long, 422, "must be no more than 253 bytes"),
        (MAPS, JSON, br#"{"metadata":{"name":"a","namespace":"b"}}"#, 400, "namespace"),
        (MAPS, JSON, br#"{"kind":"Secret","metadata":{"name":"a"}}"#, 400, "cannot be handled as a ConfigMap"),
        (
            "/api/v1/namespaces/none/configmaps",
            JSON,
            br#"{"metadata":{"name":"a"}}"#,
            404,
            "namespaces \"none\" not found",
        ),
        (
            &strict,
            JSON,
            br#"{"metadata":{"name":"a","q":1},"data":{"x":"1","x":"2"},"foo":1}"#,
            400,
            r#"strict decoding error: unknown field "metadata.q", duplicate field "data.x", unknown field "foo""#,
        ),
        (pods, JSON, port, 400, "containers.ports.containerPort of type int32"),
        (pods, JSON, br#"{"metadata":{"name":"x"},"spec":{}}"#, 422, "spec.containers: Required value"),
        (
            "/api/v1/namespaces/default/services",
            JSON,
            br#"{"metadata":{"name":"x"},"spec":{"type":"foo","ports":[{"port":80}]}}"#,
            422,
            r#"spec.type: Unsupported value: "foo": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
    ];
    for (path, content_type, body, code, part) in cases {
        refused(raw.admin("POST", path, content_type, body), *code, part);
    }
    for validation in ["Warn", "Ignore"] {
        let path = format!("{MAPS}?fieldValidation={validation}&dryRun=All");
        let body = br#"{"metadata":{"name":"a"},"data":{"x":"1","x":"2"},"foo":1}"#;
        let (code, made) = raw.admin("POST", &path, JSON, body);
        assert_eq!((code, &made["data"], made.get("foo")), (201, &json!({"x": "2"}), None), "{validation}");
    }
}

fn requests(raw: &Raw<'_>) {
    let ca = format!("{MAPS}/kube-root-ca.crt");
    let merge = "application/merge-patch+json";
    let cases: &[BadRequest<'_>] = &[
        ("GET", "/nope", JSON, b"", 404, "could not find the requested resource"),
        ("GET", "/api/v1/nope", JSON, b"", 404, "could not find the requested resource"),
        ("GET", "/api/v1/namespaces/default/pods/x/nope", JSON, b"", 404, "could not find"),
        ("GET", "/api/v1/namespaces/default/pods/x", JSON, b"", 404, "pods \"x\" not found"),
        ("FOO", MAPS, JSON, b"", 405, "does not allow this method"),
        ("PUT", MAPS, JSON, b"{}", 405, "does not allow this method"),
        ("POST", &ca, JSON, b"{}", 405, "does not allow this method"),
        ("PATCH", &ca, JSON, b"{}", 415, "application/merge-patch+json"),
        ("PATCH", &ca, merge, b"[1]", 400, "not a JSON object"),
        ("PATCH", &ca, merge, br#"{"data":{"a":1}}"#, 422, "field ConfigMap.data of type string"),
        ("PATCH", &ca, "application/json-patch+json", b"{}", 400, "list of operations"),
        ("PATCH", &ca, "application/json-patch+json", br#"[{"op":"test","path":"/data","value":1}]"#, 422, "/data"),
        ("PATCH", &ca, "application/strategic-merge-patch+json", br#"{"data":[1]}"#, 422, "ConfigMap.data"),
        ("DELETE", &ca, JSON, br#"{"gracePeriodSeconds":"x"}"#, 400, "gracePeriodSeconds"),
        ("DELETE", &ca, JSON, br#"{"propagationPolicy":"x"}"#, 422, "propagationPolicy: Unsupported value"),
        ("DELETE", &ca, JSON, br#"{"preconditions":{"uid":"x"}}"#, 409, "does not match the UID in record"),
    ];
    for (method, path, content_type, body, code, part) in cases {
        refused(raw.admin(method, path, content_type, body), *code, part);
    }
    let (code, _) = raw.admin("GET", &ca, JSON, b"");
    assert_eq!(code, 200, "no refused request changed anything");
}

fn lists_and_watches(raw: &Raw<'_>) {
    let cases = [
        ("labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement"),
        ("labelSelector=a+in+(", 400, "unable to parse requirement"),
        ("fieldSelector=foo", 400, "invalid selector"),
        ("fieldSelector=foo%3Dbar", 400, "foo"),
        ("limit=x", 400, "invalid syntax"),
        ("limit=1&continue=zzz", 400, "continue key is not valid"),
        ("resourceVersion=abc", 422, "resourceVersion"),
        ("resourceVersion=0&resourceVersionMatch=Exact", 400, "resourceVersionMatch"),
        ("resourceVersionMatch=Exact", 400, "resourceVersionMatch is forbidden unless"),
        ("resourceVersion=999999999", 504, "Too large resource version"),
        ("watch=1&resourceVersion=abc", 422, "resourceVersion"),
        ("watch=1&labelSelector=a+in+(", 400, "unable to parse requirement"),
        ("watch=1&sendInitialEvents=true", 400, "requires setting resourceVersionMatch"),
    ];
    for (query, code, part) in cases {
        refused(raw.admin("GET", &format!("{MAPS}?{query}"), JSON, b""), code, part);
    }
    // Pages are of one state, and the last has no token.
    let (mut seen, mut token, mut revisions) = (0, String::new(), Vec::new());
    loop {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=20&continue={token}");
        let (code, page) = raw.admin("GET", &path, JSON, b"");
        assert_eq!(code, 200, "{page}");
        seen += page["items"].as_array().unwrap().len();
        revisions.push(page["metadata"]["resourceVersion"].clone());
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut token),
            _ => break,
        }
        assert!(page["metadata"]["remainingItemCount"].as_u64().is_some_and(|left| left > 0));
    }
    assert!(seen > 60 && revisions.len() > 3, "{seen}");
    revisions.dedup();
    assert_eq!(revisions.len(), 1, "{revisions:?}");
    // A stream ends when it was told to, after the marked bookmark.
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let path = format!("{MAPS}?{query}&timeoutSeconds=1&labelSelector=no-such");
    let (code, event) = raw.admin("GET", &path, JSON, b"");
    assert_eq!((code, &event["type"]), (200, &json!("BOOKMARK")), "{event}");
    assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

fn strangers(raw: &Raw<'_>) {
    let ask =
        |path: &str, flags: &[&str]| raw.send(&Request { method: "GET", path, content_type: JSON, body: b"" }, flags);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(ask(path, &[]).0, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", "/metrics", "/openapi/v3"] {
        refused(ask(path, &[]), 403, &format!("User \"system:anonymous\" cannot get path \"{path}\""));
    }
    let message = "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    refused(ask("/api/v1/nodes", &[]), 403, message);
    refused(ask("/api/v1/nodes", &["-H", "Authorization: Bearer x"]), 401, "Unauthorized");
}

/// Clients that connect and say nothing keep nobody waiting.
fn half_open(cluster: &Cluster) {
    let address = format!("{}:6443", cluster.node_ip());
    let silent: Vec<Child> = (0..16)
        .map(|_| {
            let mut command = cluster.node().command("openssl");
            command.args(["s_client", "-quiet", "-connect", &address]);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            Child::spawn(&mut command).unwrap()
        })
        .collect();
    cluster.kubectl().run(&["get", "nodes"]).unwrap();
    drop(silent);
}
