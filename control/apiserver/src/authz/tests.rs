//! Decisions as tables: RBAC, nodes, escalation, wording.

use bytes::Bytes;
use serde_json::json;

use super::*;

fn authorizer(objects: &[serde_json::Value]) -> Authorizer {
    let authorizer = Authorizer::new();
    let mut rbac = authorizer.rbac.write().unwrap();
    for default in bootstrap::defaults() {
        rbac.apply(default.kind, &default.namespace, &default.name, default.object.to_string().as_bytes()).unwrap();
    }
    for object in objects {
        let kind = match object["kind"].as_str().unwrap() {
            "Role" => Kind::Role,
            "RoleBinding" => Kind::RoleBinding,
            "ClusterRole" => Kind::ClusterRole,
            _ => Kind::ClusterRoleBinding,
        };
        let meta = &object["metadata"];
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        rbac.apply(kind, namespace, meta["name"].as_str().unwrap(), object.to_string().as_bytes()).unwrap();
    }
    drop(rbac);
    authorizer
}

/// `verb[ namespace/]group/resource[/sub][:name]`, or `verb /path`.
fn attributes(text: &'static str) -> Attributes<'static> {
    let (verb, rest) = text.split_once(' ').unwrap();
    if rest.starts_with('/') {
        return Attributes { verb, path: rest, ..Attributes::default() };
    }
    let (rest, name) = rest.split_once(':').unwrap_or((rest, ""));
    let (namespace, rest) = rest.split_once(' ').unwrap_or(("", rest));
    let mut parts = rest.split('/');
    let (group, resource) = (parts.next().unwrap(), parts.next().unwrap());
    let group = if group == "core" { "" } else { group };
    let subresource = parts.next().unwrap_or_default();
    Attributes {
        verb,
        group,
        version: "v1",
        resource,
        subresource,
        namespace,
        name,
        is_resource: true,
        ..Attributes::default()
    }
}

fn check(authorizer: &Authorizer, user: &User, cases: &[(&'static str, bool)]) {
    for (text, expected) in cases {
        assert_eq!(authorizer.allowed(user, &attributes(text)), *expected, "{}: {text}", user.name);
    }
}

#[test]
fn default_roles() {
    let authorizer = authorizer(&[]);
    let everyone = User::new("jane", &[]);
    check(&authorizer, &User::new("root", &[MASTERS]), &[("delete ns core/pods:x", true), ("get /anything", true)]);
    check(
        &authorizer,
        &everyone,
        &[
            ("get /version", true),
            ("get /apis/apps/v1", true),
            ("get /metrics", false),
            ("create authorization.k8s.io/selfsubjectaccessreviews", true),
            ("list ns core/pods", false),
        ],
    );
    let nobody =
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() };
    check(
        &authorizer,
        &nobody,
        &[("get /healthz", true), ("get /version", true), ("get /apis", false), ("get /openid/v1/jwks", false)],
    );
    check(
        &authorizer,
        &User::new("system:kube-scheduler", &[]),
        &[
            ("create ns core/pods/binding:a", true),
            ("watch core/pods", true),
            ("update kube-system coordination.k8s.io/leases:kube-scheduler", true),
            ("update kube-system coordination.k8s.io/leases:other", false),
            ("create ns core/pods", false),
            ("get kube-system core/secrets:a", false),
        ],
    );
    let hpa = crate::auth::tokens::service_account("kube-system", "horizontal-pod-autoscaler", "");
    check(
        &authorizer,
        &hpa,
        &[
            ("update ns apps/deployments/scale:a", true),
            ("update ns apps/deployments:a", false),
            ("get ns x.io/foos/scale:a", true),
        ],
    );
}

#[test]
fn own_roles_and_bindings() {
    let group = "rbac.authorization.k8s.io";
    let authorizer = authorizer(&[
        json!({"kind": "Role", "metadata": {"name": "r", "namespace": "ns"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]},
                      {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/*", "*/log"]}]}),
        json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "ns"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "app"}]}),
        json!({"kind": "RoleBinding", "metadata": {"name": "v", "namespace": "ns"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "Group", "name": "devs"}]}),
        json!({"kind": "ClusterRole", "metadata": {"name": "extra", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}]}),
    ]);
    check(
        &authorizer,
        &User::new("jane", &[]),
        &[
            ("get ns core/secrets:one", true),
            ("get ns core/secrets:two", false),
            ("list ns core/secrets", false),
            ("get other core/secrets:one", false),
            ("get ns core/pods/log:a", true),
            ("get ns core/pods/exec:a", false),
        ],
    );
    check(&authorizer, &crate::auth::tokens::service_account("ns", "app", "u"), &[("get ns core/secrets:one", true)]);
    check(
        &authorizer,
        &User::new("joe", &["devs"]),
        &[
            ("create ns core/pods", true),
            ("get ns example.com/widgets:w", true),
            ("create other core/pods", false),
            ("create ns rbac.authorization.k8s.io/roles", false),
        ],
    );
    authorizer.rbac.write().unwrap().delete(Kind::RoleBinding, "ns", "v");
    check(&authorizer, &User::new("joe", &["devs"]), &[("create ns core/pods", false)]);
}

#[test]
fn nodes_reach_what_their_pods_refer_to() {
    let authorizer = authorizer(&[]);
    let pod = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
        "nodeName": "n1", "serviceAccountName": "app", "imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "ca"}}]}}],
        "containers": [{"name": "a", "envFrom": [{"secretRef": {"name": "env"}}],
                        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "k"}}}]}]}});
    authorizer.nodes.apply_pod("ns", "web", "n1", &Bytes::from(pod.to_string()));
    let volume = json!({"spec": {"claimRef": {"namespace": "ns", "name": "data"}}});
    authorizer.nodes.set_volume("pv1", Some(volume.to_string().as_bytes()));
    let node = User::new("system:node:n1", &[NODES_GROUP]);
    check(
        &authorizer,
        &node,
        &[
            ("get ns core/secrets:env", true),
            ("watch ns core/secrets:pull", true),
            ("get ns core/secrets:other", false),
            ("list ns core/secrets", false),
            ("update ns core/secrets:env", false),
            ("get ns core/configmaps:cfg", true),
            ("get ns core/configmaps:ca", true),
            ("get other core/configmaps:ca", false),
            ("get ns core/persistentvolumeclaims:data", true),
            ("get core/persistentvolumes:pv1", true),
            ("get core/persistentvolumes:pv2", false),
            ("create ns core/serviceaccounts/token:app", true),
            ("create ns core/serviceaccounts/token:other", false),
            ("get ns core/pods:web", true),
            ("get ns core/pods:other", false),
            ("list core/pods", false),
            ("patch ns core/pods/status:web", true),
            ("create core/nodes", true),
            ("patch core/nodes/status:n1", true),
            ("patch core/nodes/status:n2", false),
            ("get core/nodes:n2", false),
            ("update kube-node-lease coordination.k8s.io/leases:n1", true),
            ("update kube-node-lease coordination.k8s.io/leases:n2", false),
            ("create kube-node-lease coordination.k8s.io/leases", true),
            ("update kube-system coordination.k8s.io/leases:n1", false),
            ("list core/services", true),
            ("create ns core/events", true),
            ("delete core/namespaces:ns", false),
        ],
    );
    let own = Attributes { field_selector: "spec.nodeName=n1", ..attributes("watch core/pods") };
    assert!(authorizer.allowed(&node, &own));
    check(&authorizer, &User::new("system:node:n2", &[NODES_GROUP]), &[("get ns core/secrets:env", false)]);
    check(&authorizer, &User::new("system:node:n1", &[]), &[("get ns core/secrets:env", false)]);
    authorizer.nodes.delete_pod("ns", "web", "n1");
    check(&authorizer, &node, &[("get ns core/secrets:env", false)]);
}

#[test]
fn refusals_are_worded_as_upstream() {
    let authorizer = authorizer(&[]);
    let jane = User::new("jane", &[]);
    let cases = [
        (
            "list default core/pods",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "get apps/deployments:x",
            r#"deployments.apps "x" is forbidden: User "jane" cannot get resource "deployments" in API group "apps" at the cluster scope"#,
        ),
        (
            "create ns core/pods/exec:x",
            r#"pods "x" is forbidden: User "jane" cannot create resource "pods/exec" in API group "" in the namespace "ns""#,
        ),
        ("get /metrics", r#"forbidden: User "jane" cannot get path "/metrics""#),
    ];
    for (text, expected) in cases {
        let status = authorizer.authorize(&jane, &attributes(text)).unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (403, expected));
    }
}

/// Who is granted a role that is not there is told of it.
#[test]
fn refusals_name_missing_roles() {
    let binding = |kind: &str, namespace: &str, role_kind: &str, role: &str| {
        json!({"kind": kind, "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"kind": role_kind, "name": role}, "subjects": [{"kind": "User", "name": "jane"}]})
    };
    let authorizer = authorizer(&[
        binding("ClusterRoleBinding", "", "ClusterRole", "gone"),
        binding("ClusterRoleBinding", "", "ClusterRole", "system:basic-user"),
        binding("RoleBinding", "ns", "Role", "gone"),
    ]);
    let jane = User::new("jane", &[]);
    let gone = r#"clusterrole.rbac.authorization.k8s.io "gone" not found"#;
    for (text, expected) in [
        ("list core/nodes", format!("RBAC: {gone}")),
        ("list other core/pods", format!("RBAC: {gone}")),
        ("list ns core/pods", format!(r#"RBAC: [{gone}, role.rbac.authorization.k8s.io "gone" not found]"#)),
    ] {
        assert_eq!(authorizer.decide(&jane, &attributes(text)).reason, expected, "{text}");
    }
}

#[test]
fn nobody_grants_what_they_do_not_hold() {
    let group = "rbac.authorization.k8s.io";
    let authorizer = authorizer(&[json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "ns"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "User", "name": "jane"}]})]);
    let jane = User::new("jane", &[]);
    let role = |verb: &str, resource: &str| json!({"metadata": {"name": "r", "namespace": "ns"}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]});
    let check = |new: &serde_json::Value, old| authorizer.check_escalation(&jane, Kind::Role, "ns", new, old);
    assert!(check(&role("get", "secrets"), None).is_ok());
    let refused = check(&role("create", "nodes"), None).unwrap_err();
    assert!(
        refused.message.ends_with("not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"create\"]}"),
        "{refused}"
    );
    assert!(check(&role("*", "*"), Some(&role("*", "*"))).is_ok(), "unchanged rules");
    let binding = |name: &str| json!({"metadata": {"name": "x", "namespace": "ns"}, "roleRef": {"kind": "ClusterRole", "name": name}});
    let bind = |name: &str| authorizer.check_escalation(&jane, Kind::RoleBinding, "ns", &binding(name), None);
    assert!(bind("view").is_ok());
    assert_eq!(bind("cluster-admin").unwrap_err().code, 403);
    assert_eq!(bind("absent").unwrap_err().code, 404);
}
