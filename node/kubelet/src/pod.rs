//! Small readers over a typed Pod: names, containers by role, restart rules. Everything else asks through these.

use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec, PodStatus};

/// The action of a rule that restarts not its container alone.
const RESTART_ALL: &str = "RestartAllContainers";

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_STATUS: LazyLock<PodStatus> = LazyLock::new(PodStatus::default);

/// What identifies a pod everywhere on the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodId {
    /// metadata.namespace
    pub(crate) namespace: String,
    /// metadata.name
    pub(crate) name: String,
    /// metadata.uid
    pub(crate) uid: String,
}

impl PodId {
    /// The identity of an API object.
    pub(crate) fn of(pod: &Pod) -> PodId {
        PodId {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// The directory name of the pod's logs: NS_NAME_UID.
    pub(crate) fn log_dir(&self) -> String {
        format!("{}_{}_{}", self.namespace, self.name, self.uid)
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}({})", self.namespace, self.name, self.uid)
    }
}

/// The pod's spec; an empty one where the object has none.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// The pod's status; an empty one where the object has none.
pub(crate) fn status(pod: &Pod) -> &PodStatus {
    pod.status.as_ref().unwrap_or(&NO_STATUS)
}

/// A list field that may be absent.
pub(crate) fn list<T>(field: &Option<Vec<T>>) -> &[T] {
    field.as_deref().unwrap_or_default()
}

/// Init containers, sidecars included, in order.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    list(&spec(pod).init_containers)
}

/// App containers.
pub(crate) fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// All containers: init first.
pub(crate) fn all_containers(pod: &Pod) -> impl DoubleEndedIterator<Item = &Container> {
    init_containers(pod).iter().chain(containers(pod))
}

/// Ephemeral containers, as containers.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let as_container = |ephemeral: &EphemeralContainer| {
        let value = serde_json::to_value(ephemeral).expect("its fields are JSON");
        serde_json::from_value(value).expect("it has a container's fields")
    };
    list(&spec(pod).ephemeral_containers).iter().map(as_container).collect()
}

/// The name of the container whose processes an ephemeral one is to see.
pub(crate) fn debug_target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let ephemeral = list(&spec(pod).ephemeral_containers).iter().find(|c| c.name == name)?;
    ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// The container of this name, of whatever lasting role.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    all_containers(pod).find(|c| c.name == name)
}

/// Whether the container of this name is an init container (sidecars included).
pub(crate) fn is_init(pod: &Pod, name: &str) -> bool {
    init_containers(pod).iter().any(|c| c.name == name)
}

/// A restartable init container.
pub(crate) fn is_sidecar(pod: &Pod, name: &str) -> bool {
    init_containers(pod).iter().any(|c| c.name == name && restartable(c))
}

/// Whether an init container is marked to run beside the app containers.
pub(crate) fn restartable(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// spec.restartPolicy
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// What a container's own rules say of an exit: the action of the first that is about it.
fn restart_rule(container: &Container, exit_code: i32) -> Option<&str> {
    let is_about_it = |rule: &&ContainerRestartRule| {
        let codes = rule.exit_codes.as_ref();
        codes.is_some_and(|codes| list(&codes.values).contains(&exit_code) == (codes.operator == "In"))
    };
    list(&container.restart_policy_rules).iter().find(is_about_it).map(|rule| rule.action.as_str())
}

/// Whether this exit of the container is a reason to begin anew with the whole pod.
pub(crate) fn restarts_all(container: &Container, exit_code: i32) -> bool {
    restart_rule(container, exit_code) == Some(RESTART_ALL)
}

/// Whether there is an exit of a container that is.
pub(crate) fn may_restart_all(pod: &Pod) -> bool {
    all_containers(pod).any(|c| list(&c.restart_policy_rules).iter().any(|rule| rule.action == RESTART_ALL))
}

/// Whether a container that ended with this code runs again by its own and its pod's policy.
pub(crate) fn should_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if restart_rule(container, exit_code).is_some_and(|action| matches!(action, "Restart" | RESTART_ALL)) {
        return true;
    }
    let init = is_init(pod, &container.name);
    let policy = container.restart_policy.as_deref().unwrap_or(restart_policy(pod));
    match policy {
        // An init container that is not a sidecar runs to success once, whatever the pod's policy says.
        "Always" if init && !restartable(container) => exit_code != 0,
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

/// Whether the pod uses the host's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// When the API object was marked for deletion (deletion time minus grace), if it was.
pub(crate) fn deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The grace period that counts: the deletion's where there is one, else the spec's.
pub(crate) fn grace_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .filter(|_| deleting(pod))
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(0)
}

/// When this kubelet first acknowledged the pod.
pub(crate) fn start_time(pod: &Pod) -> Option<Timestamp> {
    status(pod).start_time.as_ref().map(|t| t.0)
}

/// The field path of a container, as events about it carry it.
pub(crate) fn field_path(pod: &Pod, name: &str) -> String {
    let list = match container(pod, name) {
        None => "ephemeralContainers",
        Some(_) if is_init(pod, name) => "initContainers",
        Some(_) => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

/// A hash of what makes a running container outdated when it changes: its name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

/// What back-off knows a container by: another image is another container, and has not failed yet.
pub(crate) fn backoff_key(name: &str, hash: &str) -> String {
    format!("{name}/{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, init: Vec<Container>, app: Vec<Container>) -> Pod {
        let spec = PodSpec {
            restart_policy: Some(policy.into()),
            init_containers: Some(init),
            containers: app,
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    fn named(name: &str, policy: Option<&str>) -> Container {
        Container { name: name.into(), restart_policy: policy.map(Into::into), ..Container::default() }
    }

    #[test]
    fn restart_follows_role_and_policy() {
        // (pod policy, container's own, is init, exit code, restarts)
        let cases = [
            ("Always", None, false, 0, true),
            ("Always", None, false, 1, true),
            ("OnFailure", None, false, 0, false),
            ("OnFailure", None, false, 3, true),
            ("Never", None, false, 3, false),
            ("Always", None, true, 0, false),
            ("Always", None, true, 1, true),
            ("Never", None, true, 1, false),
            ("Never", Some("Always"), true, 0, true),
            ("Never", Some("OnFailure"), false, 1, true),
            ("Always", Some("Never"), false, 1, false),
        ];
        for (policy, own, init, code, expected) in cases {
            let c = named("c", own);
            let (inits, apps) = if init { (vec![c.clone()], vec![]) } else { (vec![], vec![c.clone()]) };
            assert_eq!(should_restart(&pod(policy, inits, apps), &c, code), expected, "{policy} {own:?} {init} {code}");
        }
    }

    #[test]
    fn hash_changes_with_the_image_only() {
        let a = Container { image: Some("a:1".into()), ..named("c", None) };
        let b = Container { image: Some("a:2".into()), ..named("c", None) };
        let with_env = Container { tty: Some(true), ..a.clone() };
        assert_ne!(container_hash(&a), container_hash(&b));
        assert_eq!(container_hash(&a), container_hash(&with_env));
    }
}
