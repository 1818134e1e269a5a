//! A pod's resources change while it runs.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerResizePolicy, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::allocation::Pending;

fn limited(cpu: &str, memory: &str) -> Option<ResourceRequirements> {
    let limits = [("cpu", cpu), ("memory", memory)].map(|(name, amount)| (name.to_owned(), Quantity(amount.into())));
    Some(ResourceRequirements { limits: Some(BTreeMap::from(limits)), ..ResourceRequirements::default() })
}

impl Scene {
    async fn resize(&mut self, cpu: &str, memory: &str) {
        let spec = self.pod.spec.as_mut().unwrap();
        spec.containers[0].resources = limited(cpu, memory);
        self.pod.metadata.generation = Some(self.pod.metadata.generation.unwrap_or(1) + 1);
        self.tell(Message::Pod(Arc::new(self.pod.clone()), None)).await;
    }
}

fn resources(view: &View) -> Option<ResourceRequirements> {
    view.pod.status.as_ref()?.container_statuses.as_ref()?[0].resources.clone()
}

/// The reason and message of a condition that is met.
fn condition(view: &View, kind: &str) -> Option<(String, String)> {
    let conditions = view.pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

fn start(policy: Option<&str>) -> Scene {
    let policy = policy
        .map(|policy| vec![ContainerResizePolicy { resource_name: "memory".into(), restart_policy: policy.into() }]);
    let limited = Container { resources: limited("1", "64Mi"), resize_policy: policy, ..container("a") };
    Scene::start(PodSpec { containers: vec![limited], restart_policy: Some("OnFailure".into()), ..PodSpec::default() })
}

#[tokio::test]
async fn a_running_container_gets_its_new_limits() {
    let mut scene = start(None);
    scene.running("a-0").await;
    scene.resize("2", "32Mi").await;
    let resized =
        |view: &View| resources(view) == limited("2", "32Mi") && condition(view, "PodResizeInProgress").is_none();
    scene.until("resized", resized).await;
    assert!(scene.runtime.calls().contains(&format!("update a-0 200000 {}", 32 << 20)));
    assert_eq!(scene.starts(), ["a-0"]);
    let told = scene.events.0.lock().unwrap().clone();
    assert!(told.ends_with(&["ResizeStarted".to_owned(), "ResizeCompleted".to_owned()]), "{told:?}");
}

#[tokio::test]
async fn memory_in_use_is_not_taken_away() {
    let mut scene = start(None);
    scene.running("a-0").await;
    scene.resize("1", "4Mi").await;
    let view =
        scene.until("an error", |view| condition(view, "PodResizeInProgress").is_some_and(|c| c.0 == "Error")).await;
    let message = condition(&view, "PodResizeInProgress").unwrap().1;
    assert_eq!(message, "attempting to set container \"a\" memory limit (4194304) below current usage (8388608)");
    assert_eq!(resources(&view), limited("1", "64Mi"), "the status tells what it has");
    scene.resize("1", "64Mi").await;
    scene.until("taken back", |view| condition(view, "PodResizeInProgress").is_none()).await;
    assert!(!scene.runtime.calls().iter().any(|call| call.starts_with("update")));
}

#[tokio::test]
async fn a_container_restarts_for_its_memory_where_its_policy_says_so() {
    let mut scene = start(Some("RestartContainer"));
    scene.running("a-0").await;
    for (memory, id) in [("128Mi", "a-1"), ("64Mi", "a-2")] {
        scene.resize("1", memory).await;
        // The fake's containers end with 0, which by the pod's policy would be for good.
        scene.running(id).await;
        let resized =
            |view: &View| resources(view) == limited("1", memory) && condition(view, "PodResizeInProgress").is_none();
        scene.until("resized", resized).await;
    }
    assert_eq!(scene.starts(), ["a-0", "a-1", "a-2"], "and nothing held it back");
}

#[tokio::test]
async fn what_cannot_be_given_is_told() {
    let mut scene = start(None);
    scene.running("a-0").await;
    let pending = Pending { reason: "Deferred", message: "no room".into() };
    scene.tell(Message::Pod(Arc::new(scene.pod.clone()), Some(pending))).await;
    let view = scene.until("pending", |view| condition(view, "PodResizePending").is_some()).await;
    assert_eq!(condition(&view, "PodResizePending"), Some(("Deferred".into(), "no room".into())));
    assert_eq!(condition(&view, "PodResizeInProgress"), None);
}
