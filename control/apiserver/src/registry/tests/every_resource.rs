//! Every resource that is served, in every version, through every verb it has.

use apimachinery::resources::{self, Resource};

use super::*;

/// A request for a certificate, as its PEM text in base64.
const CERTIFICATE_REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIRk1HNENBUUF3RERFS01BZ0dBMVVFQXd3QlpUQlpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQQpCTUExcHFGdXlKamRrV0d0TFhxZmUvQlhQM05tcXdNaDluVXVxUmpFUlY4N0haR1g5MGY0cW12K2g0UmtCWWtHCjFQMExpSW5Gb1BxajlkbERpOS9WT1kyZ0FEQUtCZ2dxaGtqT1BRUURBZ05IQURCRUFpQWtUa3pFclZlMzdxSjkKK3k5TUN2L0Z4VmNZNlFNWkpZWkVOZm9TaHhDRWl3SWdBOTFyZ09mQ2pmZzU4UHpTSCt2MXV5Z0JUUktJQ2FqeQpuT2pWZC9QcDREdz0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

fn collection(resource: &Resource) -> String {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let namespace = if resource.namespaced { "/namespaces/default" } else { "" };
    format!("{root}{namespace}/{}", resource.resource)
}

/// What a kind needs beside a name to be accepted.
fn minimal(resource: &Resource) -> Value {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}});
    let selected = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, "serviceName": "s"}});
    let job = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    match &*resource.resource {
        "pods" => json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        "podtemplates" => json!({"template": template}),
        "replicationcontrollers" => json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        "daemonsets" | "deployments" | "replicasets" | "statefulsets" => selected,
        "jobs" => json!({"spec": job}),
        "cronjobs" => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
        "controllerrevisions" => json!({"revision": 1, "data": {}}),
        "services" => json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}),
        "events" => json!({"involvedObject": {"namespace": "default"}, "regarding": {"namespace": "default"},
            "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "c", "reportingComponent": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal"}),
        "endpointslices" => json!({"addressType": "IPv4", "endpoints": []}),
        "clusterrolebindings" | "rolebindings" => json!({"roleRef": role, "subjects": []}),
        "clusterroles" | "roles" => json!({"rules": []}),
        "leases" => json!({"spec": {}}),
        "horizontalpodautoscalers" => {
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}})
        }
        "certificatesigningrequests" => {
            json!({"spec": {"request": CERTIFICATE_REQUEST, "signerName": "example.com/s", "usages": ["any"]}})
        }
        "podcertificaterequests" => {
            json!({"spec": {"signerName": "example.com/s", "podName": "p", "podUID": "u", "serviceAccountName": "s",
            "serviceAccountUID": "u", "nodeName": "n", "nodeUID": "u", "pkixPublicKey": "", "proofOfPossession": ""}})
        }
        "clustertrustbundles" => json!({"spec": {"trustBundle": "x"}}),
        "leasecandidates" => {
            json!({"spec": {"leaseName": "l", "binaryVersion": "1.0.0", "strategy": "OldestEmulationVersion"}})
        }
        "runtimeclasses" => json!({"handler": "runc"}),
        "priorityclasses" => json!({"value": 1}),
        "storageclasses" => json!({"provisioner": "example.com/p"}),
        "volumeattachments" => {
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        "persistentvolumes" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/p"}}})
        }
        "persistentvolumeclaims" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        "ingresses" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "ingressclasses" => json!({"spec": {"controller": "example.com/c"}}),
        "servicecidrs" => json!({"spec": {"cidrs": ["10.97.0.0/16"]}}),
        "volumeattributesclasses" => json!({"driverName": "d"}),
        "csidrivers" | "csinodes" => json!({"spec": {"drivers": []}}),
        "csistoragecapacities" => json!({"storageClassName": "s"}),
        "customresourcedefinitions" => {
            json!({"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true}]}})
        }
        "apiservices" => {
            json!({"spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}})
        }
        "flowschemas" => json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}),
        "prioritylevelconfigurations" => json!({"spec": {"type": "Exempt"}}),
        "ipaddresses" => json!({"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}}),
        "deviceclasses" | "resourceclaims" => json!({"spec": {}}),
        "resourceclaimtemplates" => json!({"spec": {"spec": {}}}),
        "resourceslices" => {
            json!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
        }
        "resourcepoolstatusrequests" => json!({"spec": {"driver": "d"}}),
        "devicetaintrules" => json!({"spec": {"taint": {"key": "k", "effect": "NoSchedule"}}}),
        "storageversionmigrations" => json!({"spec": {"resource": {"group": "", "resource": "pods"}}}),
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => json!({"spec": {"policyName": "p"}}),
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => json!({"spec": {}}),
        "podgroups" => json!({"spec": {"schedulingPolicy": {"basic": {}}}}),
        "workloads" => {
            json!({"spec": {"podGroups": [], "podGroupTemplates": [{"name": "t", "schedulingPolicy": {"basic": {}}}]}})
        }
        "secrets" => json!({"type": "Opaque"}),
        _ => json!({}),
    }
}

/// IPAddresses are named by their address.
fn name(resource: &Resource) -> &'static str {
    match &*resource.resource {
        "ipaddresses" => "10.96.0.200",
        "customresourcedefinitions" => "things.example.com",
        "apiservices" => "v1.example.com",
        _ => "every",
    }
}

#[tokio::test]
async fn every_resource_has_every_verb() {
    let api = Api::new().await;
    let mut seen = 0;
    for resource in resources::all() {
        if !resource.has_verb("list") || !resource.has_verb("create") {
            continue;
        }
        seen += 1;
        walk(&api, resource).await;
    }
    assert!(seen > 80, "{seen}");
}

async fn walk(api: &Api, resource: &'static Resource) {
    let (path, name) = (collection(resource), name(resource));
    let what = format!("{} {}", resource.api_version(), resource.resource);
    let mut body = minimal(resource);
    body["metadata"] = json!({"name": name});
    let made = api.post(&path, body).await;
    assert_eq!(made.code, 201, "{what}: {}", made.json);
    let made = made.json;
    assert_eq!(
        (text(&made["kind"]), text(&made["apiVersion"])),
        (resource.kind.to_string(), resource.api_version()),
        "{what}"
    );
    // Clients' types say that it is there from the beginning, but for one.
    let status = resource.subresource("status").is_some() && *resource.resource != *"resourcepoolstatusrequests";
    assert!(!status || made["status"].is_object(), "{what}: {made}");
    let object = format!("{path}/{name}");
    assert_eq!(api.get(&object).await.ok(), made, "{what}");
    let list = api.get(&path).await.ok();
    assert_eq!(
        (text(&list["kind"]), names(&list).contains(&name.to_owned())),
        (resource.list_kind.to_string(), true),
        "{what}"
    );
    let from = text(&list["metadata"]["resourceVersion"]);
    let mut watch = api.watch(&format!("{path}?watch=1&resourceVersion={from}")).await;

    let mut changed = made.clone();
    changed["metadata"]["labels"] = json!({"step": "update"});
    let updated = api.put(&object, &changed).await;
    assert_eq!(updated.code, 200, "{what}: {}", updated.json);
    let patched = api.patch(&object, MERGE, json!({"metadata": {"labels": {"step": "patch"}}})).await;
    assert_eq!(patched.code, 200, "{what}: {}", patched.json);
    assert_eq!(patched.json["metadata"]["labels"]["step"], "patch", "{what}");
    if resource.subresource("status").is_some() {
        let status =
            api.patch(&format!("{object}/status"), MERGE, json!({"metadata": {"annotations": {"a": "b"}}})).await;
        assert_eq!(status.code, 200, "{what}: {}", status.json);
    }
    assert_eq!(api.table(&path).await.ok()["kind"], "Table", "{what}");
    let deleted = api.delete(&object).await;
    assert_eq!(deleted.code, 200, "{what}: {}", deleted.json);
    if api.get(&object).await.code == 200 {
        // Finalizers that the kind sets itself.
        let empty = json!({"metadata": {"finalizers": null}, "spec": {"finalizers": null}});
        let finalize = if resource.subresource("finalize").is_some() { "/finalize" } else { "" };
        if finalize.is_empty() {
            api.patch(&object, MERGE, empty).await.ok();
        } else {
            let mut emptied = api.get(&object).await.ok();
            emptied["spec"]["finalizers"] = json!([]);
            api.put(&format!("{object}/finalize"), &emptied).await.ok();
        }
    }
    assert_eq!(api.get(&object).await.error().0, 404, "{what}");
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "DELETED") {
        let event = watch.next().await.unwrap();
        assert_eq!(text(&event["object"]["kind"]), *resource.kind, "{what}");
        kinds.push(text(&event["type"]));
    }
    assert!(kinds.len() >= 3 && kinds[..kinds.len() - 1].iter().all(|kind| kind == "MODIFIED"), "{what}: {kinds:?}");
    if resource.has_verb("deletecollection") {
        assert_eq!(api.delete(&path).await.code, 200, "{what}");
    }
}
