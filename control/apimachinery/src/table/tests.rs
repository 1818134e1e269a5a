//! Rows of objects as kubectl shows them.

use serde_json::json;

use super::*;
use crate::resources;

fn cells(group: &str, resource: &str, object: &Value) -> Vec<String> {
    let version = if resource == "horizontalpodautoscalers" { "v2" } else { "v1" };
    let resource = resources::find(group, version, resource).unwrap();
    let now = "2026-01-02T00:00:00Z".parse().unwrap();
    let cells = row(resource, object, now);
    assert_eq!(cells.len(), columns(resource).len());
    cells.iter().map(|cell| cells::scalar(cell, "")).collect()
}

/// Every resource has as many cells as columns, whatever the object holds.
#[test]
fn every_resource_prints_any_object() {
    let odd =
        json!({"metadata": [], "spec": 3, "status": {"conditions": "x", "containerStatuses": [1, null]}, "data": []});
    for resource in resources::all() {
        for object in [&Value::Null, &json!({}), &odd] {
            let row = row(resource, object, Timestamp::UNIX_EPOCH);
            assert_eq!(row.len(), columns(resource).len(), "{}", resource.resource);
        }
        let events = &*resource.resource == "events";
        assert!(events || columns(resource)[0].format == "name", "{}", resource.resource);
    }
}

#[test]
fn durations() {
    let (minute, hour, day, year) = (60, 3600, 86_400, 365 * 86_400);
    let cases = [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (2 * minute + 5, "2m5s"),
        (10 * minute + 5, "10m"),
        (179 * minute, "179m"),
        (3 * hour, "3h"),
        (3 * hour + 61, "3h1m"),
        (8 * hour + minute, "8h"),
        (47 * hour, "47h"),
        (2 * day, "2d"),
        (2 * day + hour, "2d1h"),
        (8 * day + hour, "8d"),
        (729 * day, "729d"),
        (2 * year, "2y"),
        (2 * year + day, "2y1d"),
        (8 * year + day, "8y"),
    ];
    for (seconds, expect) in cases {
        assert_eq!(human_duration(seconds), expect, "{seconds}");
    }
}

fn pod(spec: &Value, status: &Value) -> Value {
    let metadata = json!({"name": "p", "creationTimestamp": "2026-01-01T23:59:00Z"});
    json!({"metadata": metadata, "spec": spec, "status": status})
}

#[test]
fn pods() {
    let one = || json!({"containers": [{"name": "a"}]});
    let state = |state: Value| json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": state}]});
    let with_init = |restart: &str| {
        json!({"containers": [{"name": "a"}],
        "initContainers": [{"name": "i", "restartPolicy": restart}, {"name": "j"}]})
    };
    let init = |status: Value| json!({"phase": "Pending", "initContainerStatuses": [status]});
    let cases = [
        (one(), json!({"phase": "Pending"}), ["0/1", "Pending", "0"]),
        (one(), json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]),
        (
            one(),
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            ["0/1", "SchedulingGated", "0"],
        ),
        (one(), state(json!({"waiting": {"reason": "CrashLoopBackOff"}})), ["0/1", "CrashLoopBackOff", "0"]),
        (one(), state(json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), ["0/1", "Completed", "0"]),
        (one(), state(json!({"terminated": {"exitCode": 3}})), ["0/1", "ExitCode:3", "0"]),
        (one(), state(json!({"terminated": {"signal": 9}})), ["0/1", "Signal:9", "0"]),
        (
            one(),
            json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 2,
                "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T23:50:00Z"}}}]}),
            ["1/1", "Running", "2 (10m ago)"],
        ),
        (
            json!({"containers": [{}, {}]}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
                {"state": {"terminated": {"reason": "Completed"}}}, {"ready": true, "state": {"running": {}}}]}),
            ["1/2", "NotReady", "0"],
        ),
        (with_init("Never"), init(json!({"name": "i", "state": {"running": {}}})), ["0/1", "Init:0/2", "0"]),
        (
            with_init("Never"),
            init(json!({"name": "i", "restartCount": 1, "state": {"waiting": {"reason": "ErrImagePull"}}})),
            ["0/1", "Init:ErrImagePull", "1"],
        ),
        (
            with_init("Never"),
            init(json!({"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}})),
            ["0/1", "Init:Error", "0"],
        ),
        (
            with_init("Always"),
            init(json!({"name": "i", "started": true, "ready": true, "state": {"running": {}}})),
            ["1/2", "Pending", "0"],
        ),
    ];
    for (spec, status, expect) in cases {
        let got = cells("", "pods", &pod(&spec, &status));
        assert_eq!(&got[1..4], expect, "{status}");
        assert_eq!(got[4], "60s");
    }
}

#[test]
fn a_terminating_pod_and_its_wide_columns() {
    let mut pod = pod(
        &json!({"nodeName": "n", "readinessGates": [{"conditionType": "x"}, {"conditionType": "y"}]}),
        &json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "x", "status": "True"}]}),
    );
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let got = cells("", "pods", &pod);
    assert_eq!(got[2], "Terminating");
    assert_eq!(&got[5..], ["10.0.0.1", "n", "<none>", "1/2"]);
    pod["status"]["phase"] = "Succeeded".into();
    assert_eq!(cells("", "pods", &pod)[2], "Succeeded");
}

fn check(cases: Vec<(&str, &str, Value, &str)>) {
    let metadata = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
    for (group, resource, mut object, expect) in cases {
        object["metadata"] = metadata.clone();
        assert_eq!(cells(group, resource, &object).join("|"), expect, "{resource}");
    }
}

#[test]
fn rows() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "x"}});
    let cases = vec![
        (
            "",
            "services",
            json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"},
                "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}}),
            "x|NodePort|10.0.0.1|<none>|80:30080/TCP,53/UDP|24h|a=b",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer"}}),
            "x|LoadBalancer|<none>|<pending>|<none>|24h|<none>",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]},
                "status": {"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "a"}, {"ip": "2.2.2.2"}]}}}),
            "x|LoadBalancer|<none>|2.2.2.2,a,9.9.9.9|<none>|24h|<none>",
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]}]}),
            "x|1.1.1.1:1,[::1]:1,1.1.1.1:2 + 1 more...|24h",
        ),
        (
            "",
            "nodes",
            json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1"}}}),
            "x|Ready,SchedulingDisabled|<none>|24h|v1|10.0.0.1|<none>|<unknown>|<unknown>|<unknown>",
        ),
        (
            "",
            "events",
            json!({"involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "R", "message": " m\n",
                "source": {"component": "c", "host": "h"}, "firstTimestamp": "2026-01-01T23:59:00Z", "count": 3,
                "lastTimestamp": "2026-01-01T23:59:30Z"}),
            "30s|Normal|R|pod/p||c, h|m|60s|3|x",
        ),
        (
            "events.k8s.io",
            "events",
            json!({"regarding": {"kind": "Pod", "name": "p"}, "note": "m", "eventTime": "2026-01-01T23:59:00.000000Z"}),
            "60s|||pod/p|||m|60s|1|x",
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"replicas": 3, "template": template, "selector": selector},
                "status": {"readyReplicas": 2, "updatedReplicas": 1}}),
            "x|2/3|1|0|24h|a,b|i,j|app=x",
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"completions": 1}, "status": {"startTime": "2026-01-01T00:00:00Z",
                "completionTime": "2026-01-01T00:00:09Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            "x|Complete|0/1|9s|24h|||<none>",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "v", "storageClassName": "s"}, "status": {"phase": "Bound",
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
            "x|Bound|v|1Gi|RWO|s|<unset>|24h|<unset>",
        ),
    ];
    check(cases);
}

#[test]
fn more_rows() {
    let cases = vec![
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["1", "2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]}),
            "x|IPv4|80|1,2,3 + 1 more...|24h",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}}),
            "x|Deployment/d|cpu: <unknown>/80%|<unset>|3|0|24h",
        ),
        ("", "configmaps", json!({"data": {"a": "1"}, "binaryData": {"b": "2"}}), "x|2|24h"),
        ("rbac.authorization.k8s.io", "roles", json!({}), "x|2026-01-01T00:00:00Z"),
        ("policy", "poddisruptionbudgets", json!({"spec": {"minAvailable": "50%"}}), "x|50%|N/A|0|24h"),
    ];
    check(cases);
}
