//! Volumes: PersistentVolume, PersistentVolumeClaim, and the kinds of `storage.k8s.io`.

use std::sync::LazyLock;

use apimachinery::field::{FieldError, Path};
use apimachinery::names;
use apimachinery::quantity::Quantity;
use serde_json::{Value, json};

use super::Strategy;
use super::plain::{Plain, defaults, no_rules};
use super::tools::{Problems, default_to, empty, immutable, keep, map, named, one_of, some, strings, text, within};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The volumes that a PersistentVolume can stand for.
const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// The strategy of StorageClasses.
pub(super) static CLASS: Plain = Plain {
    defaults: LazyLock::new(|| defaults(&[("reclaimPolicy", "\"Delete\""), ("volumeBindingMode", "\"Immediate\"")])),
    immutable: &[
        ("parameters", Some("updates to parameters are forbidden.")),
        ("provisioner", Some("updates to provisioner are forbidden.")),
        ("reclaimPolicy", Some("updates to reclaimPolicy are forbidden.")),
        ("volumeBindingMode", None),
    ],
    validate: |class, problems| {
        provisioner(&Path::new("provisioner"), text(class, "provisioner"), problems);
        one_of(&Path::new("reclaimPolicy"), text(class, "reclaimPolicy"), &["Delete", "Retain"], false, problems);
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of(&Path::new("volumeBindingMode"), text(class, "volumeBindingMode"), &modes, true, problems);
    },
};

/// The strategy of VolumeAttributesClasses.
pub(super) static ATTRIBUTES: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[
        ("driverName", Some("updates to driverName are forbidden.")),
        ("parameters", Some("updates to parameters are forbidden.")),
    ],
    validate: |class, problems| provisioner(&Path::new("driverName"), text(class, "driverName"), problems),
};

/// The strategy of CSIDrivers.
pub(super) static DRIVER: Plain = Plain {
    defaults: LazyLock::new(|| {
        defaults(&[
            ("spec.attachRequired", "true"),
            ("spec.podInfoOnMount", "false"),
            ("spec.storageCapacity", "false"),
            ("spec.fsGroupPolicy", "\"ReadWriteOnceWithFSType\""),
            ("spec.volumeLifecycleModes", "[\"Persistent\"]"),
            ("spec.requiresRepublish", "false"),
            ("spec.seLinuxMount", "false"),
        ])
    }),
    immutable: &[("spec.attachRequired", None), ("spec.volumeLifecycleModes", None)],
    validate: |driver, problems| {
        let (path, spec) = (Path::new("spec"), &driver["spec"]);
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        one_of(&path.child("fsGroupPolicy"), text(spec, "fsGroupPolicy"), &policies, true, problems);
        for mode in strings(spec, "volumeLifecycleModes") {
            one_of(&path.child("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"], true, problems);
        }
    },
};

/// The strategy of CSIStorageCapacities.
pub(super) static CAPACITY: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("storageClassName", None), ("nodeTopology", None)],
    validate: no_rules,
};

/// The strategy of VolumeAttachments.
pub(super) static ATTACHMENT: Plain = Plain {
    defaults: LazyLock::new(Vec::new),
    immutable: &[("spec", None)],
    validate: |attachment, problems| {
        let (path, source) = (Path::new("spec").child("source"), &attachment["spec"]["source"]);
        match (empty(source, "persistentVolumeName"), empty(source, "inlineVolumeSpec")) {
            (true, true) => {
                let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                problems.push(FieldError::required(&path, detail));
            }
            (false, false) => {
                let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                problems.push(FieldError::forbidden(&path, detail));
            }
            _ => {}
        }
    },
};

fn provisioner(path: &Path, name: &str, problems: &mut Problems) {
    if name.is_empty() {
        problems.push(FieldError::required(path, name));
    } else {
        problems.extend(named(path, name, names::is_qualified_name(&name.to_lowercase())));
    }
}

/// Access modes, of which `ReadWriteOncePod` stands alone.
fn access_modes(path: &Path, spec: &Value, missing: &str, problems: &mut Problems) {
    let path = path.child("accessModes");
    let modes: Vec<&str> = strings(spec, "accessModes").collect();
    if modes.is_empty() {
        problems.push(FieldError::required(&path, missing));
    }
    for mode in &modes {
        one_of(&path, mode, &ACCESS_MODES, true, problems);
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        let detail = "may not use ReadWriteOncePod with other access modes";
        problems.push(FieldError::forbidden(&path, detail));
    }
}

fn size(path: &Path, value: &Value, problems: &mut Problems) {
    let amount = value.as_str().and_then(|text| Quantity::parse(text).ok());
    if amount.is_some_and(|amount| amount.is_zero() || amount.is_negative()) {
        problems.push(FieldError::invalid(path, value.clone(), "must be greater than zero"));
    }
}

/// The strategy of PersistentVolumes.
#[derive(Debug)]
pub(super) struct Volume;

impl Strategy for Volume {
    fn defaults(&self, volume: &mut Value) {
        within(volume, "spec", |spec| {
            default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
            default_to(spec, "volumeMode", "Filesystem");
            within(spec, "hostPath", |path| default_to(path, "type", ""));
        });
    }

    fn prepare_create(&self, volume: &mut Value) {
        volume["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": apimachinery::time::now_rfc3339() });
    }

    fn validate(&self, volume: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &volume["spec"]);
        access_modes(&path, spec, "", &mut problems);
        let capacity = path.child("capacity");
        match map(spec, "capacity") {
            None => problems.push(FieldError::required(&capacity, "")),
            Some(amounts) => match amounts.get("storage").filter(|_| amounts.len() == 1) {
                Some(amount) => size(&capacity.key("storage"), amount, &mut problems),
                None => problems.push(FieldError::not_supported(&capacity, spec["capacity"].clone(), &["storage"])),
            },
        }
        match SOURCES.iter().filter(|source| some(spec, source).is_some()).count() {
            0 => problems.push(FieldError::required(&path, "must specify a volume type")),
            1 => {}
            _ => problems.push(FieldError::forbidden(&path, "may not specify more than 1 volume type")),
        }
        if some(spec, "local").is_some() && some(spec, "nodeAffinity").is_none() {
            let detail = "Local volume requires node affinity";
            problems.push(FieldError::required(&path.child("nodeAffinity"), detail));
        }
        let reclaim = text(spec, "persistentVolumeReclaimPolicy");
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(&path.child("persistentVolumeReclaimPolicy"), reclaim, &policies, false, &mut problems);
        volume_mode_and_class(&path, spec, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let (new, old) = (&new["spec"], &old["spec"]);
        if SOURCES.iter().any(|source| some(new, source) != some(old, source)) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            problems.push(FieldError::forbidden(&Path::new("spec").child("persistentvolumesource"), detail));
        }
        immutable(&Path::new("spec"), new, old, "volumeMode", &mut problems);
        problems
    }
}

fn volume_mode_and_class(path: &Path, spec: &Value, problems: &mut Problems) {
    one_of(&path.child("volumeMode"), text(spec, "volumeMode"), &["Block", "Filesystem"], false, problems);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        problems.extend(named(&path.child("storageClassName"), class, names::is_dns1123_subdomain(class)));
    }
}

/// The strategy of PersistentVolumeClaims.
#[derive(Debug)]
pub(super) struct Claim;

impl Strategy for Claim {
    fn defaults(&self, claim: &mut Value) {
        within(claim, "spec", |spec| {
            default_to(spec, "volumeMode", "Filesystem");
            // The two fields say the same unless the reference names a namespace.
            let (source, reference) = (some(spec, "dataSource").cloned(), some(spec, "dataSourceRef").cloned());
            match (source, reference) {
                (Some(source), None) => spec["dataSourceRef"] = source,
                (None, Some(reference)) if empty(&reference, "namespace") => spec["dataSource"] = reference,
                _ => {}
            }
        });
    }

    fn prepare_create(&self, claim: &mut Value) {
        claim["status"] = json!({ "phase": "Pending" });
    }

    fn validate(&self, claim: &Value) -> Problems {
        let mut problems = Vec::new();
        let (path, spec) = (Path::new("spec"), &claim["spec"]);
        access_modes(&path, spec, "at least 1 access mode is required", &mut problems);
        let storage = path.child("resources").key("storage");
        match spec.pointer("/resources/requests/storage") {
            None => problems.push(FieldError::required(&storage, "")),
            Some(amount) => size(&storage, amount, &mut problems),
        }
        volume_mode_and_class(&path, spec, &mut problems);
        problems
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Problems {
        let mut problems = self.validate(new);
        let (path, old) = (Path::new("spec"), &old["spec"]);
        let mut same = new["spec"].clone();
        let bound = !empty(old, "volumeName");
        if bound {
            keep(&mut same, old, "volumeAttributesClassName");
            keep(&mut same, old, "resources");
            shrinks(&path, &new["spec"], old, &mut problems);
        } else {
            // The volume is chosen once, and so is a class that was left open.
            keep(&mut same, old, "volumeName");
            if some(old, "storageClassName").is_none() {
                keep(&mut same, old, "storageClassName");
            }
        }
        if same != *old {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            problems.push(FieldError::forbidden(&path, detail));
        }
        problems
    }
}

fn shrinks(path: &Path, new: &Value, old: &Value, problems: &mut Problems) {
    let amount = |spec: &Value| {
        let text = spec.pointer("/resources/requests/storage")?.as_str()?;
        Quantity::parse(text).ok()
    };
    if let (Some(new), Some(old)) = (amount(new), amount(old))
        && new < old
    {
        let at = path.child("resources").child("requests").child("storage");
        problems.push(FieldError::forbidden(&at, "field can not be less than previous value"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(problems: &Problems) -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims() {
        let mut claim =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        Claim.defaults(&mut claim);
        assert_eq!((claim["spec"]["volumeMode"].as_str(), said(&Claim.validate(&claim))), (Some("Filesystem"), vec![]));
        assert_eq!(
            said(&Claim.validate(&json!({"spec": {"accessModes": ["X"]}}))),
            [
                "spec.accessModes: Unsupported value: \"X\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.resources[storage]: Required value"
            ]
        );
        let mut bound = claim.clone();
        bound["spec"]["volumeName"] = "v".into();
        assert!(Claim.validate_update(&bound, &claim).is_empty(), "binding is allowed");
        let mut grown = bound.clone();
        grown["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        assert!(Claim.validate_update(&grown, &bound).is_empty(), "a bound claim may grow");
        assert_eq!(Claim.validate_update(&bound, &grown).len(), 1, "but not shrink");
        let mut moved = bound.clone();
        moved["spec"]["volumeName"] = "w".into();
        assert!(
            said(&Claim.validate_update(&moved, &bound))[0]
                .starts_with("spec: Forbidden: spec is immutable after creation")
        );
    }

    #[test]
    fn volumes() {
        let volume = |source: Value| {
            let mut volume = json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
            volume["spec"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            Volume.defaults(&mut volume);
            volume
        };
        let host = volume(json!({"hostPath": {"path": "/a"}}));
        assert_eq!(host["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert!(Volume.validate(&host).is_empty());
        assert_eq!(said(&Volume.validate(&volume(json!({})))), ["spec: Required value: must specify a volume type"]);
        assert_eq!(
            said(&Volume.validate_update(&volume(json!({"hostPath": {"path": "/b"}})), &host)),
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
        );
    }
}
